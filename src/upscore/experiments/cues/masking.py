"""Masking of images: hide the background, the foreground, or everything but the shape of the foreground.

H W pixels.

Pixels are masked when a sample is read, before it is resized or cropped, so that hidden colours are not mixed into
visible pixels. Colour augmentation is off, because it would change the fill colour from image to image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.data.sample import Sample
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.models.preprocessing import Preprocessing

Color = tuple[int, int, int]
"""RGB, 0..255."""

SHAPE: Color = (255, 255, 255)
"""Colour of the foreground where only its shape is visible."""


def mean_color(preprocessing: Preprocessing) -> Color:
    """Return the fill colour of hidden pixels: the 8-bit colour nearest to the mean that preprocessing subtracts."""
    red, green, blue = (min(255, max(0, round(value))) for value in preprocessing.mean)
    return red, green, blue


def masked(
    sample: Sample, is_foreground: Tensor, *, keep_foreground: bool, keep_background: bool, fill: Color
) -> Sample:
    """Return the sample with its foreground, its background or both hidden; labels other than the class map are
    dropped.

    Void pixels belong to neither and are hidden with either. Where both are hidden, the image has two colours: `SHAPE`
    for the foreground and `fill` elsewhere.

    Args:
        is_foreground: (256,) bool, for each value of a class map; False for void.

    Raises:
        UserError: the sample has no class map.
    """
    class_map = sample.class_map
    if class_map is None:
        raise UserError(f"{sample.name} has no class map, which masking needs")
    sample = replace(sample, objects=None, geometric_map=None, depth=None)
    if keep_foreground and keep_background:
        return sample
    foreground = is_foreground[class_map.long()]
    shown = ~foreground & (class_map != VOID) if keep_background else foreground
    image = sample.image if keep_foreground or keep_background else _plane(SHAPE)
    sample.image = torch.where(shown, image, _plane(fill))
    return sample


def _plane(color: Color) -> Tensor:
    """(3, 1, 1) uint8."""
    return torch.tensor(color, dtype=torch.uint8).view(3, 1, 1)


class MaskedDataset:
    """Data set whose samples are masked by `masked`; `foreground` holds the indices of the foreground classes."""

    def __init__(
        self, dataset: Dataset, foreground: Sequence[int], *, keep_foreground: bool, keep_background: bool, fill: Color
    ) -> None:
        self.classes = dataset.classes
        self.dataset = dataset
        self.is_foreground = torch.zeros(256, dtype=torch.bool)
        self.is_foreground[list(foreground)] = True
        self.keep_foreground, self.keep_background, self.fill = keep_foreground, keep_background, fill

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return masked(
            self.dataset[index],
            self.is_foreground,
            keep_foreground=self.keep_foreground,
            keep_background=self.keep_background,
            fill=self.fill,
        )
