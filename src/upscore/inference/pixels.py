"""A network that classifies pixels, run by an engine.

C classes, H W pixels of the photo, h w of the image as the network sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from upscore.inference.class_maps import RowScores, by_matrices, by_resizing, class_map
from upscore.inference.engines import Engine
from upscore.models.fcn import FCN, Skips
from upscore.models.fcn_parts import CoarseScores, heads, pixel_matrices

SCORES = "coarse_scores"
"""The part's name."""

SIZES = 4
"""Of photos, for which the way from scores to pixels is kept."""


class PixelScores(NamedTuple):
    """What a network says of the pixels of one image."""

    class_maps: list[np.ndarray]
    """Of each head, (H, W) uint8."""
    probabilities: np.ndarray | None
    """(C, H, W) float16 of the first head; None where they were not asked for."""


class PixelClassifier:
    """The convolutions by the engine, the rest here.

    Args:
        net: whose trunk may be known by its facts alone where the engine has its convolutions already.
        engine: what runs them.
    """

    def __init__(self, net: FCN, engine: Engine) -> None:
        self.net, self.engine = net, engine
        depth = net.trunk.depth_preprocessing
        self.channels = 3 + (0 if depth is None else len(depth.mean))
        self._matrices = lru_cache(SIZES)(pixel_matrices)
        self.coarse_scores = engine.compile(CoarseScores(net), torch.zeros(2, self.channels, 64, 96), name=SCORES)

    def expect(self, *sizes: tuple[int, int]) -> None:
        """Be ready for images of these sizes (h, w)."""
        self.coarse_scores.expect(*((1, self.channels, *self.net.trunk.padded_size(*size)) for size in sizes))

    @torch.inference_mode()
    def __call__(
        self,
        inputs: Tensor,
        seen: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
        *,
        probabilities: bool = False,
    ) -> list[PixelScores]:
        """Classify the pixels of a batch.

        Args:
            inputs: preprocessed and padded images (N, 3, h, w).
            seen: each one's size (h, w) before it was padded.
            sizes: the size (H, W) of each one's class map.
            probabilities: compute class probabilities too.
        """
        scores_of_heads = self.coarse_scores(inputs)
        return [
            self._decode([scores[n : n + 1] for scores in scores_of_heads], *of_image, probabilities)
            for n, of_image in enumerate(zip(seen, sizes, strict=True))
        ]

    def _decode(
        self, scores_of_heads: list[Tensor], seen: tuple[int, int], size: tuple[int, int], probabilities: bool
    ) -> PixelScores:
        of_heads = [
            self._row_scores(head, scores, seen, size)
            for head, scores in zip(heads(self.net), scores_of_heads, strict=True)
        ]
        classes, kept = class_map(
            of_heads[0],
            size,
            null_background=self.net.null_background,
            probabilities=self.net.probabilities if probabilities else None,
        )
        class_maps = [classes, *(class_map(rows, size)[0] for rows in of_heads[1:])]
        return PixelScores([plane.cpu().numpy() for plane in class_maps], None if kept is None else kept.cpu().numpy())

    def _row_scores(self, head: Skips, scores: Tensor, seen: tuple[int, int], size: tuple[int, int]) -> RowScores:
        """Of the pixels of a photo; a learned upsampling is done at the size that the network saw."""
        matrices = self._matrices(head, (scores.shape[-2], scores.shape[-1]), seen, size)
        if matrices is None:
            return by_resizing(head.upscored(scores, seen)[0], size)
        return by_matrices(scores[0], *matrices)
