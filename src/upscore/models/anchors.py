"""Anchors: the boxes that proposals start from (Faster R-CNN section 3.1; FPN section 4.1).

A anchors per cell, L levels, h w cells of a level's map. Boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

ASPECTS = (0.5, 1.0, 2.0)


class Anchors(nn.Module):
    """Boxes of fixed sizes and aspects around the corner of every cell.

    Args:
        sizes: for each level its sizes, the square roots of the areas, in pixels.
        strides: of the levels.
        aspects: heights over widths.
        rounded: corners relative to the cell's are rounded to whole pixels.
        aspects_outer: a cell's anchors go through the sizes of one aspect first, then through the next.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        strides: Sequence[int],
        *,
        aspects: Sequence[float] = ASPECTS,
        rounded: bool = False,
        aspects_outer: bool = False,
    ) -> None:
        super().__init__()
        assert len(sizes) == len(strides)
        self.sizes, self.strides, self.aspects = sizes, list(strides), aspects
        self.rounded, self.aspects_outer = rounded, aspects_outer

    @property
    def per_cell(self) -> int:
        """A."""
        return len(self.sizes[0]) * len(self.aspects)

    def forward(self, map_sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Each level's (h, w) -> its anchors (h * w * A, 4), float32, by rows, columns, and within a cell."""
        return [
            self._level(cell.to(device), stride, size)
            for cell, stride, size in zip(map(self._cell, self.sizes), self.strides, map_sizes, strict=True)
        ]

    def _cell(self, sizes: Sequence[float]) -> Tensor:
        """The (A, 4) anchors about the origin."""
        order = product(self.aspects, sizes) if self.aspects_outer else product(sizes, self.aspects)
        aspects_first = torch.tensor(list(order), dtype=torch.float32, device="cpu")
        aspect, size = aspects_first.unbind(1) if self.aspects_outer else aspects_first.flip(1).unbind(1)
        half = 0.5 * torch.stack([size / aspect.sqrt(), size * aspect.sqrt()], dim=1)
        corners = torch.cat([-half, half], dim=1)
        return corners.round() if self.rounded else corners

    @staticmethod
    def _level(cell: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
        height, width = size
        y, x = torch.meshgrid(
            torch.arange(height, device=cell.device) * stride,
            torch.arange(width, device=cell.device) * stride,
            indexing="ij",
        )
        corners = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
        return (corners + cell).view(-1, 4)
