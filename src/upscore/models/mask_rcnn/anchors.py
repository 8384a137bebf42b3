"""Anchor generation for the region proposal network (Faster R-CNN section 3.1; FPN section 4.1).

A anchors per cell; a level's map has h x w cells. Boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

ASPECTS = (0.5, 1.0, 2.0)


class AnchorGenerator(nn.Module):
    """Anchors of fixed sizes and aspect ratios, centred at the top left corner of each cell.

    Args:
        sizes: the anchor sizes of each level, square roots of the areas in pixels.
        strides: the stride of each level.
        aspects: aspect ratios, height over width.
        rounded: round the corners of anchors, relative to the corner of the cell, to whole pixels.
        aspects_outer: order the anchors of a cell by aspect ratio first, then by size; False: by size first.
        fitted: the step between cells is the side of the finest map times its stride, divided by the side of the map
            and rounded down (torchvision). It is smaller than the stride for maps whose side was rounded up.
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
        """A, the number of anchors per cell."""
        return len(self.sizes[0]) * len(self.aspects)

    def forward(self, map_sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Return the anchors (h * w * A, 4) float32 of each level with map size (h, w), in row-major order of cells."""
        return [
            self._level(cell.to(device), steps, size)
            for cell, steps, size in zip(map(self._cell, self.sizes), self._steps(map_sizes), map_sizes, strict=True)
        ]

    def at(self, map_sizes: Sequence[tuple[int, int]], level: int, indices: Tensor) -> Tensor:
        """Return anchors (..., 4) of a level, given their indices (...) in the output of `forward` for it."""
        cell = self._cell(self.sizes[level]).to(indices.device)
        down, right = self._steps(map_sizes)[level]
        position = indices // len(cell)
        width = map_sizes[level][1]
        x, y = position % width * right, position // width * down
        return torch.stack([x, y, x, y], dim=-1) + cell[indices % len(cell)]

    def _steps(self, map_sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return the vertical and horizontal distance of neighbouring cells of each level in pixels."""
        if not self.fitted:
            return [(stride, stride) for stride in self.strides]
        height, width = (side * self.strides[0] for side in map_sizes[0])
        return [(height // h, width // w) for h, w in map_sizes]

    def _cell(self, sizes: Sequence[float]) -> Tensor:
        """Return the anchors (A, 4) of a cell at the origin."""
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
