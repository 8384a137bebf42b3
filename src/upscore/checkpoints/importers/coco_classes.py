"""COCO's class names and category ids, in the two orders that published detectors use."""

from __future__ import annotations

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN


def coco_by_id() -> list[str]:
    """Return the names of the category ids 1 to 90; unused ids have names such as "unused 12"."""
    categories: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [f"unused {number}" if name == "N/A" else name for number, name in enumerate(categories) if number]


def coco() -> list[str]:
    """Return the 80 class names of COCO, by ascending category id."""
    return [name for name in coco_by_id() if not name.startswith("unused ")]


def name_classes(net: MaskRCNN, names: list[str]) -> None:
    """Set the class names and the category ids of an imported network.

    Args:
        net: the network.
        names: COCO's class names. If their number differs from that of the network's classes, the classes are named
            class_0, class_1 etc., without category ids.
    """
    if net.num_classes != len(names):
        net.classes = [f"class_{index}" for index in range(net.num_classes)]
        return
    numbers = {name: number for number, name in enumerate(coco_by_id(), start=1)}
    net.classes, net.category_ids = names, [numbers[name] for name in names]
