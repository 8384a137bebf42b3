"""A sample: an image and its labels.

H W pixels, D channels of depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from upscore.annotations import ObjectAnnotations

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True, kw_only=True)
class Sample:
    """One photo and, where they are known, its labels."""

    name: str
    """The file's stem, unique in its set."""
    image: Tensor
    """(3, H, W) uint8, RGB."""
    class_map: Tensor | None = None
    """(H, W) uint8, a class index, or 255 for void."""
    objects: ObjectAnnotations | None = None
    """The objects in it, where they are labelled one by one."""
    geometric_map: Tensor | None = None
    """(H, W) uint8, the class of each pixel by a second set of classes (SIFT Flow's geometric ones), 255 for void."""
    depth: Tensor | None = None
    """(D, H, W) float32, what a depth camera adds: one channel of metres, or three of HHA; NaN where unknown."""
    path: Path | None = None
    """Where the photo was read from; None for a generated one."""
