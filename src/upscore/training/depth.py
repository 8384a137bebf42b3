"""How the depth of a data set is spread, for the network that is to see it.

D channels, H W pixels.
"""

from __future__ import annotations

import torch

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.models.preprocessing import IMAGENET, DepthPreprocessing, Preprocessing, in_scale

SAMPLES = 200
"""At most so many, evenly spread over the data set, are looked at."""


def fitting_depth(dataset: Dataset, colours: Preprocessing) -> DepthPreprocessing:
    """What brings depth to the mean 0, and to the spread that pixels of photos have behind their preprocessing.

    Convolutions made for photos then see neither much weaker nor much stronger edges. IMAGENET's standard deviation is
    taken for that of photos.

    Raises:
        UserError: a sample has no depth, or all depth is the same.
    """
    count = min(SAMPLES, len(dataset))
    total: torch.Tensor | float = 0.0  # (3, D): how many pixels are known, their sum, that of their squares
    for number in range(count):
        sample = dataset[number * len(dataset) // count]
        if sample.depth is None:
            raise UserError(f"{sample.name} has no depth, which --depth needs of every photo")
        depth = in_scale(sample.depth.double())
        known = depth.isfinite()
        depth = depth.where(known, 0)
        total = total + torch.stack([known, depth, depth**2]).sum((-2, -1))
    pixels, sums, squares = torch.as_tensor(total)
    mean = sums / pixels.clamp(min=1)
    std = (squares / pixels.clamp(min=1) - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise UserError("the depth is the same everywhere, or unknown: there is nothing in it to learn from")
    factor = sum(colours.std) / sum(IMAGENET.std)
    return DepthPreprocessing(mean=tuple(mean.tolist()), std=tuple((factor * std).tolist()))
