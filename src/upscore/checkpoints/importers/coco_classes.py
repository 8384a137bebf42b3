"""What COCO's classes are called, in the two orders in which detectors have them."""

from __future__ import annotations

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights


def coco_by_id() -> list[str]:
    """The 90 names of category ids 1 to 90; ids that COCO does not use are called "unused 12" and so on."""
    categories: list[str] = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [f"unused {number}" if name == "N/A" else name for number, name in enumerate(categories) if number]


def coco() -> list[str]:
    """The 80 names that are used, in ascending order of their ids."""
    return [name for name in coco_by_id() if not name.startswith("unused ")]


def coco_or_numbered(count: int, names: list[str]) -> list[str]:
    """COCO's names where there are as many classes, otherwise class_0 and so on."""
    return names if count == len(names) else [f"class_{index}" for index in range(count)]
