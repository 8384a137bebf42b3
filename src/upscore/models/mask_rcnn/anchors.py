"""AnchorGenerator: the boxes that proposals start from (Faster R-CNN section 3.1; FPN section 4.1).

A anchors per cell, L levels, h w cells of a level's map. Boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

ASPECTS = (0.5, 1.0, 2.0)


class AnchorGenerator(nn.Module):
    """Boxes of fixed sizes and aspects around the corner of every cell.

    Args:
        sizes: for each level its sizes, the square roots of the areas, in pixels.
        strides: of the levels.
        aspects: heights over widths.
        rounded: corners relative to the cell's are rounded to whole pixels.
        aspects_outer: a cell's anchors go through the sizes of one aspect first, then through the next.
        fitted: cells are spread over the input as the finest map covers it, with whole pixels between them; a map that
            was rounded up then has a smaller stride than its own (torchvision).
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        strides: Sequence[int],
        *,
        aspects: Sequence[float] = ASPECTS,
        rounded: bool = False,
        aspects_outer: bool = False,
        fitted: bool = False,
    ) -> None:
        super().__init__()
        assert len(sizes) == len(strides)
        self.sizes, self.strides, self.aspects = sizes, list(strides), aspects
        self.rounded, self.aspects_outer, self.fitted = rounded, aspects_outer, fitted

    @property
    def anchors_per_cell(self) -> int:
        """A."""
        return len(self.sizes[0]) * len(self.aspects)

    def forward(self, map_sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Each level's (h, w) -> its anchors (h * w * A, 4), float32, by rows, columns, and within a cell."""
        return [
            self._level(cell.to(device), steps, size)
            for cell, steps, size in zip(map(self._cell, self.sizes), self._steps(map_sizes), map_sizes, strict=True)
        ]

    def at(self, map_sizes: Sequence[tuple[int, int]], level: int, which: Tensor) -> Tensor:
        """Some anchors of a level, by their positions in what `forward` gives for it: (...) -> (..., 4)."""
        cell = self._cell(self.sizes[level]).to(which.device)
        down, right = self._steps(map_sizes)[level]
        position = which // len(cell)
        width = map_sizes[level][1]
        x, y = position % width * right, position // width * down
        return torch.stack([x, y, x, y], dim=-1) + cell[which % len(cell)]

    def _steps(self, map_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Each level's pixels from a cell to the next, down and to the right."""
        if not self.fitted:
            return [(stride, stride) for stride in self.strides]
        height, width = (side * self.strides[0] for side in map_sizes[0])
        return [(height // h, width // w) for h, w in map_sizes]

    def _cell(self, sizes: Sequence[float]) -> Tensor:
        """The (A, 4) anchors about the origin."""
        order = product(self.aspects, sizes) if self.aspects_outer else product(sizes, self.aspects)
        pairs = torch.tensor(list(order), dtype=torch.float32, device="cpu")
        aspect, size = pairs.unbind(1) if self.aspects_outer else pairs.flip(1).unbind(1)
        half = 0.5 * torch.stack([size / aspect.sqrt(), size * aspect.sqrt()], dim=1)
        corners = torch.cat([-half, half], dim=1)
        return corners.round() if self.rounded else corners

    @staticmethod
    def _level(cell: Tensor, steps: tuple[int, int], size: tuple[int, int]) -> Tensor:
        (down, right), (height, width) = steps, size
        y, x = torch.meshgrid(
            torch.arange(height, device=cell.device) * down,
            torch.arange(width, device=cell.device) * right,
            indexing="ij",
        )
        corners = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
        return (corners + cell).view(-1, 4)
