"""A sample of a data set: an image and its labels.

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
    """One image and its labels, which may be missing."""

    name: str
    """Name of the image file without suffix, unique in its data set."""
    image: Tensor
    """(3, H, W) uint8, RGB."""
    class_map: Tensor | None = None
    """(H, W) uint8, class indices, 255 = void."""
    objects: ObjectAnnotations | None = None
    """The annotated objects."""
    geometric_map: Tensor | None = None
    """(H, W) uint8, class indices of a second set of classes, such as SIFT Flow's geometric ones; 255 = void."""
    depth: Tensor | None = None
    """(D, H, W) float32, depth in metres (D = 1) or HHA (D = 3); NaN where unknown."""
    path: Path | None = None
    """The image file; None for a generated image."""
