"""Patchwise training as a sampled loss (FCN section 3.4): most of a photo's labels are taken away at random.

H W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from upscore.labels import VOID
from upscore.structures import Sample

CELL = 32
"""Side, in pixels, of what is kept or taken away as a whole: a cell of the coarsest map."""


def keep_patches(sample: Sample, share: float, seed: int) -> Sample:
    """Keep the labels of each cell of `CELL` x `CELL` pixels with the probability `share`; the others become void."""
    if share == 1 or sample.class_map is None:
        return sample
    height, width = sample.class_map.shape
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(-(-height // CELL), -(-width // CELL), generator=generator) < share
    pixels = kept.repeat_interleave(CELL, 0)[:height].repeat_interleave(CELL, 1)[:, :width]
    surfaces = sample.geometric_map
    return replace(
        sample,
        class_map=sample.class_map.masked_fill(~pixels, VOID),
        geometric_map=None if surfaces is None else surfaces.masked_fill(~pixels, VOID),
    )
