"""FCN inference with an engine.

C classes, H W image height and width, h w height and width of the network's input.
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
"""Name of the part."""

SIZES = 4
"""Number of image sizes for which the upsampling matrices are cached."""

BLOCK_ROWS = 32
"""Rows of pixels whose scores are computed together, so that they fit into the CPU cache."""

RowScores = Callable[[int, int], Tensor]
"""Function from (top, bottom) to the scores (C, bottom - top, W) of these rows; the next call may overwrite them."""


class PixelScores(NamedTuple):
    """Class maps and probabilities of one image."""

    class_maps: list[np.ndarray]
    """(H, W) uint8, one for each head."""
    probabilities: np.ndarray | None
    """(C, H, W) float16, probabilities of the first head; None if not requested."""


class SegmenterRunner:
    """Run the convolutions of an FCN with an engine; upsampling and argmax run in torch.

    Args:
        net: the network; its backbone may be a `BackboneSpec` if the engine has the compiled layers.
        engine: engine that runs the convolutions.
    """

    def __init__(self, net: FCN, engine: Engine) -> None:
        self.net, self.engine = net, engine
        depth = net.backbone.depth_preprocessing
        self.channels = 3 + (0 if depth is None else len(depth.mean))
        self._matrices = lru_cache(SIZES)(upsampling_matrices)
        self.coarse_scores = engine.compile(CoarseScores(net), torch.zeros(2, self.channels, 64, 96), name=SCORES)

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Compile for images of these sizes (h, w)."""
        self.coarse_scores.warmup(*((1, self.channels, *self.net.backbone.padded_size(*size)) for size in sizes))

    @torch.inference_mode()
    def __call__(
        self,
        inputs: Tensor,
        input_sizes: Sequence[tuple[int, int]],
        sizes: Sequence[tuple[int, int]],
        *,
        probabilities: bool = False,
    ) -> list[PixelScores]:
        """Classify the pixels of a batch.

        Args:
            inputs: preprocessed and padded images (N, 3, h, w).
            input_sizes: size (h, w) of each image before padding.
            sizes: size (H, W) of each class map.
            probabilities: whether to compute class probabilities.
        """
        head_scores = self.coarse_scores(inputs)
        return [
            self._decode([scores[n : n + 1] for scores in head_scores], *image_sizes, probabilities)
            for n, image_sizes in enumerate(zip(input_sizes, sizes, strict=True))
        ]

    def _decode(
        self, head_scores: list[Tensor], input_size: tuple[int, int], size: tuple[int, int], probabilities: bool
    ) -> PixelScores:
        row_scores = [
            self._row_scores(head, scores, input_size, size)
            for head, scores in zip(heads(self.net), head_scores, strict=True)
        ]
        classes, kept = class_map(
            row_scores[0],
            size,
            null_background=self.net.null_background,
            probabilities=self.net.probabilities if probabilities else None,
        )
        class_maps = [classes, *(class_map(rows, size)[0] for rows in row_scores[1:])]
        return PixelScores([plane.cpu().numpy() for plane in class_maps], None if kept is None else kept.cpu().numpy())

    def _row_scores(
        self, head: FCNHead, scores: Tensor, input_size: tuple[int, int], size: tuple[int, int]
    ) -> RowScores:
        """Return the scores of rows of pixels; learned upsampling runs at the size of the network's input."""
        matrices = self._matrices(head, (scores.shape[-2], scores.shape[-1]), input_size, size)
        if matrices is None:
            return by_resizing(head.upsample_scores(scores, input_size)[0], size)
        return by_matrices(scores[0], *matrices)


def by_matrices(scores: Tensor, rows: Tensor, columns: Tensor) -> RowScores:
    """Upsample coarse scores (C, h, w) with a matrix for the rows (H, h) and one for the columns (W, w)."""
    across = scores @ columns.T.to(scores.device)
    rows = rows.to(scores.device)
    nonzero = rows.ne(0).byte()
    first = nonzero.argmax(dim=1).tolist()
    last = (rows.shape[1] - 1 - nonzero.flip(1).argmax(dim=1)).tolist()

    # One buffer for all blocks: the allocator does not reuse freed ones.
    pixels = across.new_empty(len(across), min(BLOCK_ROWS, len(rows)), across.shape[-1])

    def block(top: int, bottom: int) -> Tensor:
        near = slice(min(first[top:bottom]), max(last[top:bottom]) + 1)  # the few cells that contribute to these rows
        weights = rows[top:bottom, near].expand(len(across), -1, -1)
        out = pixels if bottom - top == pixels.shape[1] else None
        return torch.bmm(weights, across[:, near], out=out)

    return block


def by_resizing(scores: Tensor, size: tuple[int, int]) -> RowScores:
    """Resize scores (C, h, w) to (H, W) by bilinear interpolation."""
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
    """Return the most probable classes (H, W) uint8 and optionally the probabilities (C, H, W) float16.

    Args:
        scores: computes the scores of any rows of pixels.
        size: (H, W) of the class map.
        null_background: whether class 0 has a score of 0 everywhere and is missing in `scores`.
        probabilities: function from scores (C, ...) to probabilities.
    """
    blocks, kept = [], []
    for top in range(0, size[0], BLOCK_ROWS):
        pixels = scores(top, min(top + BLOCK_ROWS, size[0]))
        if null_background:
            pixels = F.pad(pixels, (0, 0, 0, 0, 1, 0))
        blocks.append(best_classes(pixels))
        if probabilities is not None:
            kept.append(probabilities(pixels).half())
    return torch.cat(blocks), torch.cat(kept, dim=1) if kept else None


def best_classes(scores: Tensor) -> Tensor:
    """Return the class with the highest score, (C, h, w) -> (h, w) uint8; the first class wins ties.

    On CPUs a running maximum over the classes is several times faster than torch's argmax over the first axis.
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
