"""A network that classifies pixels, run by an engine.

C classes, H W pixels of the photo, h w of the image as the network sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.inference.engines import Engine
from upscore.models.fcn.fcn import FCN, FCNHead
from upscore.models.fcn.inference_parts import CoarseScores, heads, upsampling_matrices

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
        net: whose backbone may be known by its facts alone where the engine has its convolutions already.
        engine: what runs them.
    """

    def __init__(self, net: FCN, engine: Engine) -> None:
        self.net, self.engine = net, engine
        depth = net.backbone.depth_preprocessing
        self.channels = 3 + (0 if depth is None else len(depth.mean))
        self._matrices = lru_cache(SIZES)(upsampling_matrices)
        self.coarse_scores = engine.compile(CoarseScores(net), torch.zeros(2, self.channels, 64, 96), name=SCORES)

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Be ready for images of these sizes (h, w)."""
        self.coarse_scores.warmup(*((1, self.channels, *self.net.backbone.padded_size(*size)) for size in sizes))

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

    def _row_scores(self, head: FCNHead, scores: Tensor, seen: tuple[int, int], size: tuple[int, int]) -> RowScores:
        """Of the pixels of a photo; a learned upsampling is done at the size that the network saw."""
        matrices = self._matrices(head, (scores.shape[-2], scores.shape[-1]), seen, size)
        if matrices is None:
            return by_resizing(head.upsample_scores(scores, seen)[0], size)
        return by_matrices(scores[0], *matrices)


ROWS_AT_ONCE = 32
"""Rows of a photo whose scores exist at the same time: few enough for a processor's cache."""

RowScores = Callable[[int, int], Tensor]
"""(top, bottom) -> the scores (C, bottom - top, W) of these rows of pixels, which the next call may overwrite."""


def by_matrices(scores: Tensor, rows: Tensor, columns: Tensor) -> RowScores:
    """Coarse scores (C, h, w), and what each cell adds to each row (H, h) and column (W, w) of pixels."""
    across = scores @ columns.T.to(scores.device)
    rows = rows.to(scores.device)
    touched = rows.ne(0).byte()
    first = touched.argmax(dim=1).tolist()
    last = (rows.shape[1] - 1 - touched.flip(1).argmax(dim=1)).tolist()

    # one for all blocks, for the allocator does not find freed ones again
    pixels = across.new_empty(len(across), min(ROWS_AT_ONCE, len(rows)), across.shape[-1])

    def block(top: int, bottom: int) -> Tensor:
        near = slice(min(first[top:bottom]), max(last[top:bottom]) + 1)  # the few that touch these rows, side by side
        weights = rows[top:bottom, near].expand(len(across), -1, -1)
        out = pixels if bottom - top == pixels.shape[1] else None
        return torch.bmm(weights, across[:, near], out=out)

    return block


def by_resizing(scores: Tensor, size: tuple[int, int]) -> RowScores:
    """Scores (C, h, w), resized to H x W bilinearly."""
    height, width = size
    cells = scores.shape[-2]

    def rows(top: int, bottom: int) -> Tensor:
        block = scores[:, top:bottom]
        if cells != height:
            position = ((torch.arange(top, bottom, device=scores.device) + 0.5) * cells / height - 0.5).clamp(
                0, cells - 1
            )
            above = position.floor().long()
            weight = (position - above)[:, None].to(scores.dtype)
            block = torch.lerp(scores[:, above], scores[:, (above + 1).clamp(max=cells - 1)], weight)
        if width == scores.shape[-1]:
            return block
        return F.interpolate(block[None], size=(bottom - top, width), mode="bilinear", align_corners=False)[0]

    return rows


def class_map(
    scores: RowScores,
    size: tuple[int, int],
    *,
    null_background: bool = False,
    probabilities: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The most probable classes (H, W) uint8 and, by a function of scores, their probabilities (C, H, W) float16.

    Args:
        scores: of any rows of pixels.
        size: (H, W).
        null_background: class 0 has a score of 0 everywhere, and is not in `scores`.
        probabilities: from scores (C, ...) to probabilities.
    """
    blocks, kept = [], []
    for top in range(0, size[0], ROWS_AT_ONCE):
        pixels = scores(top, min(top + ROWS_AT_ONCE, size[0]))
        if null_background:
            pixels = F.pad(pixels, (0, 0, 0, 0, 1, 0))
        blocks.append(best_classes(pixels))
        if probabilities is not None:
            kept.append(probabilities(pixels).half())
    return torch.cat(blocks), torch.cat(kept, dim=1) if kept else None


def best_classes(scores: Tensor) -> Tensor:
    """The class with the highest score, (C, h, w) -> (h, w) uint8; of equal ones the first.

    On a CPU a running maximum class by class, several times faster than torch's argmax over the first axis.
    """
    if scores.device.type != "cpu":
        return scores.max(dim=0).indices.to(torch.uint8)
    planes = scores.numpy()
    highest, classes = planes[0].copy(), np.zeros(planes.shape[1:], np.uint8)
    higher = np.empty(classes.shape, bool)
    candidate = higher.view(np.uint8)
    for number, plane in enumerate(planes[1:], start=1):
        np.greater(plane, highest, out=higher)
        np.multiply(candidate, np.uint8(number), out=candidate)
        np.maximum(classes, candidate, out=classes)
        np.maximum(highest, plane, out=highest)
    return torch.from_numpy(classes)
