"""The names and category ids of COCO's classes, in the two orders that detectors have them in."""

from __future__ import annotations

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN


def coco_by_id() -> list[str]:
    """The 90 names of category ids 1 to 90; ids that COCO does not use are called "unused 12" and so on."""
    categories: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [f"unused {number}" if name == "N/A" else name for number, name in enumerate(categories) if number]


def coco() -> list[str]:
    """The 80 names that are used, in ascending order of their ids."""
    return [name for name in coco_by_id() if not name.startswith("unused ")]


def name_classes(net: MaskRCNN, names: list[str]) -> None:
    """Give an imported network COCO's names and category ids if it has as many classes as `names`.

    Otherwise its classes are called class_0 and so on.
    """
    if net.num_classes != len(names):
        net.classes = [f"class_{index}" for index in range(net.num_classes)]
        return
    numbers = {name: number for number, name in enumerate(coco_by_id(), start=1)}
    net.classes, net.category_ids = names, [numbers[name] for name in names]
