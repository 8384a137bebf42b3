"""What the data has beside photos and classes, for networks that are to use it: a second label map, and depth."""

from __future__ import annotations

from collections.abc import Mapping

from upscore.data.datasets import Dataset, depth_channels, geometric_classes
from upscore.errors import UserError
from upscore.models.build import Option


def with_counts(options: Mapping[str, Option], dataset: Dataset) -> dict[str, Option]:
    """Options of training -> of `build`: how many geometric classes, how many channels of depth.

    Raises:
        UserError: the data has none.
    """
    counted = {name: option for name, option in options.items() if name != "geometric"}
    if options.get("geometric"):
        if not (classes := geometric_classes(dataset)):
            raise UserError("--geometric: this data has no second label map (scenes and SIFT Flow have): leave it out")
        counted["geometric_classes"] = len(classes)
    if "depth" in options:
        if not (channels := depth_channels(dataset)):
            raise UserError(f"--depth {options['depth']}: this data has photos alone, no depth: leave it out")
        counted["depth_channels"] = channels
    return counted
