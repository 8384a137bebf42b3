"""The things that travel between rooms: samples go in, predictions come out.

H, W: height and width in pixels; C: classes; N: objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from upscore.instance_overlay import instance_overlay
from upscore.instances import Instances
from upscore.objects import Objects
from upscore.rendering import overlay

if TYPE_CHECKING:
    from PIL import Image
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
    objects: Objects | None = None
    """The objects in it, where they are labelled one by one."""
    geometric_map: Tensor | None = None
    """(H, W) uint8, the class of each pixel by a second set of classes (SIFT Flow's geometric ones), 255 for void."""
    depth: Tensor | None = None
    """(D, H, W) float32, what a depth camera adds: one channel of metres, or three of HHA; NaN where unknown."""
    path: Path | None = None
    """Where the photo was read from; None for a generated one."""


@dataclass(slots=True, kw_only=True)
class Prediction:
    """What a network says of one photo, at the photo's own size."""

    class_map: np.ndarray | None = None
    """(H, W) uint8, the most probable class of each pixel; None from a network that finds objects."""
    instances: Instances | None = None
    """The N objects found; None from a network that classifies pixels."""
    classes: list[str]
    """The C class names; a class's index is its position."""
    geometric_map: np.ndarray | None = None
    """(H, W) uint8, the most probable class of each pixel by a second set of classes; None from a network of one."""
    geometric_classes: list[str] = field(default_factory=list)
    """Their names."""
    image: np.ndarray | None = field(default=None, repr=False)
    """(H, W, 3) uint8, the photo itself."""
    scores: np.ndarray | None = field(default=None, repr=False)
    """(C, H, W) float16, class probabilities; only where they were asked for."""

    def overlay(self, opacity: float = 0.55) -> Image.Image:
        """The photo under its classes' colours, or with each object in its own; a legend names what occurs.

        Raises:
            ValueError: the prediction was made without keeping the photo.
        """
        image = self._photo()
        if self.instances is not None:
            return instance_overlay(image, self.instances, self.classes, opacity=opacity)
        assert self.class_map is not None, "a prediction holds classes of pixels, or objects"
        return overlay(image, self.class_map, self.classes, opacity=opacity)

    def geometric_overlay(self, opacity: float = 0.55) -> Image.Image:
        """As `overlay`, of the geometric classes.

        Raises:
            ValueError: there are none, or the prediction was made without keeping the photo.
        """
        if self.geometric_map is None:
            raise ValueError("this prediction has no geometric classes, which a network with two heads gives")
        return overlay(self._photo(), self.geometric_map, self.geometric_classes, opacity=opacity)

    def _photo(self) -> np.ndarray:
        if self.image is None:
            raise ValueError("this prediction has no image to draw on: set `prediction.image`")
        return self.image
