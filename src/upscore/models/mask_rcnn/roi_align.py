"""RoIAlign over the levels of a feature pyramid (Mask R-CNN section 3), with a fast CPU implementation.

N images, R regions, C channels, P x P bins per region, S samples per bin and axis; a map has h x w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.models.mask_rcnn.presets import Preset


def to_table(maps: Sequence[Tensor]) -> Tensor:
    """Concatenate maps (N, C, h, w) to a table with a row for each cell, (sum of N * h * w, C).

    Rows are ordered by map, image, row and column. Without gradients, maps that are adjacent in memory in this order,
    as those of `from_table`, are not copied.
    """
    tables = [features.permute(0, 2, 3, 1).flatten(0, 2) for features in maps]
    if torch.is_grad_enabled() or not _adjacent(tables):
        return torch.cat(tables)
    return tables[0].as_strided((sum(map(len, tables)), tables[0].shape[1]), tables[0].stride())


def from_table(table: Tensor, images: int, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the maps of a table as views, given their heights and widths; the inverse of `to_table`."""
    parts = table.split([images * height * width for height, width in sizes])
    return [
        part.view(images, height, width, -1).permute(0, 3, 1, 2)
        for part, (height, width) in zip(parts, sizes, strict=True)
    ]


def _adjacent(tables: Sequence[Tensor]) -> bool:
    """Whether the tables are contiguous and adjacent in memory."""
    first = tables[0]
    offset = first.storage_offset()
    for table in tables:
        same_memory = table.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same_memory or not table.is_contiguous() or table.storage_offset() != offset:
            return False
        offset += table.numel()
    return True


Pooling = Literal["align", "pool", "warp"]
"""align: coordinates are not rounded (RoIAlign). pool: box and bins are rounded to cells, and the maximum is taken
(RoIPool). warp: the box is rounded, the bins are not (RoIWarp). Mask R-CNN table 2c."""

CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224
"""Boxes of 224 x 224 pixels, the image size of ImageNet classifiers, are assigned to level 4, that of C4 networks (FPN
equation 1)."""


class RoIPooler(nn.Module):
    """Pool each region from the pyramid level that corresponds to its size.

    Args:
        size: P.
        strides: strides of the maps from fine to coarse.
        preset: rules of sampling and of the assignment to levels.
        pooling: RoIAlign, or one of its predecessors for comparison.
    """

    def __init__(self, size: int, strides: Sequence[int], preset: Preset, pooling: Pooling = "align") -> None:
        super().__init__()
        self.size, self.strides, self.preset, self.pooling = size, list(strides), preset, pooling

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pool the boxes (R_i, 4) of each image from the maps: (sum of R_i, C, P, P), in order of boxes."""
        maps = maps[: len(self.strides)]
        rois = torch.cat(list(boxes))
        images = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)])
        levels = assign_levels(rois, self.strides, self.preset)
        if self.pooling == "align" and self.preset.samples and maps[0].device.type == "cpu":
            return gather_roi_align(
                maps, images, rois, levels, self.strides, self.size, self.preset.samples, self.preset.aligned
            )
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], self.size, self.size)
        for level, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
            members = (levels == level).nonzero()[:, 0]
            if len(members):
                regions = torch.cat([images[members, None].to(rois.dtype), rois[members]], dim=1)
                pooled = pooled.index_copy(0, members, self._pool(features, regions, 1 / stride).to(pooled.dtype))
        return pooled

    def _pool(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        from torchvision.ops import (
            roi_align,
            roi_pool,
        )  # imported here because it is slow to import and rarely needed at inference

        features = features.float()
        if self.pooling == "pool":
            return roi_pool(features, regions, self.size, scale)
        aligned = self.preset.aligned
        if self.pooling == "warp":
            cells = (regions[:, 1:] * scale).round()
            regions, scale, aligned = torch.cat([regions[:, :1], cells], dim=1), 1.0, False
        return roi_align(features, regions, self.size, scale, self.preset.samples or -1, aligned)


def assign_levels(boxes: Tensor, strides: Sequence[int], preset: Preset) -> Tensor:
    """Return the index into `strides`, (R,), of the level of each box (R, 4) (FPN equation 1)."""
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sizes = (widths * heights).clamp(min=0).sqrt() / CANONICAL_SIZE
    if preset.level_epsilon == "inside":
        levels = torch.floor(CANONICAL_LEVEL + torch.log2(sizes + 1e-8))
    else:
        levels = torch.floor(CANONICAL_LEVEL + torch.log2(sizes) + 1e-6)
    finest, coarsest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    return (levels.clamp(finest, coarsest) - finest).long()


def gather_roi_align(
    maps: Sequence[Tensor],
    images: Tensor,
    boxes: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    samples: int,
    aligned: bool,
) -> Tensor:
    """Compute RoIAlign over all levels at once; several times faster than torchvision's on a CPU.

    A bin is a weighted sum of 4 S^2 cells, which `embedding_bag` computes on the table of all cells.

    Args:
        maps: maps (N, C, h, w) from fine to coarse.
        images: (R,), the index of each region's image.
        boxes: (R, 4).
        levels: (R,), the index of each region's map.
        strides: the stride of each map.
        size: P.
        samples: S.
        aligned: see `Preset.aligned`.

    Returns:
        (R, C, P, P), channels last in memory.
    """
    channels = maps[0].shape[1]
    table = to_table(maps)
    heights, widths, starts, start = [], [], [], 0
    for features in maps:
        heights.append(features.shape[2])
        widths.append(features.shape[3])
        starts.append(start)
        start += features.shape[0] * features.shape[2] * features.shape[3]
    height, width, first = (torch.tensor(values, device=boxes.device)[levels] for values in (heights, widths, starts))
    scale = (1 / torch.tensor(strides, dtype=boxes.dtype, device=boxes.device))[levels, None]
    x1, y1, x2, y2 = (boxes * scale - (0.5 if aligned else 0.0)).unbind(1)

    low_y, high_y, weight_y, inside_y = _axis(y1, y2, height, size, samples, aligned)
    low_x, high_x, weight_x, inside_x = _axis(x1, x2, width, size, samples, aligned)
    # (R, P * S, 2): the two rows or columns around each sample, and their weights
    rows = torch.stack([low_y, high_y], dim=-1) * width[:, None, None]
    columns = torch.stack([low_x, high_x], dim=-1)
    row_weights = torch.stack([1 - weight_y, weight_y], dim=-1) * (inside_y / samples)[..., None]
    column_weights = torch.stack([1 - weight_x, weight_x], dim=-1) * (inside_x / samples)[..., None]
    corner = first + images * height * width

    per_axis = (len(boxes), size, 2 * samples)
    rows, row_weights = (corner[:, None, None] + rows.view(per_axis)), row_weights.view(per_axis)
    columns, column_weights = columns.view(per_axis), column_weights.view(per_axis)
    cells = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    bag = (2 * samples) ** 2
    pooled = F.embedding_bag(
        cells.reshape(-1, bag), table, per_sample_weights=weights.reshape(-1, bag).to(table.dtype), mode="sum"
    )
    return pooled.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def _axis(
    start: Tensor, end: Tensor, cells: Tensor, size: int, samples: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cells below and above each of the P * S samples of an axis, the weight above, and if it is inside."""
    length = end - start
    if not aligned:
        length = length.clamp(min=1)
    steps = (torch.arange(size * samples, device=start.device, dtype=start.dtype) + 0.5) / (size * samples)
    position = start[:, None] + steps * length[:, None]
    last = (cells - 1)[:, None]
    inside = (position >= -1) & (position <= cells[:, None])
    position = position.clamp(min=0)
    low = torch.minimum(position.long(), last)
    high = torch.minimum(low + 1, last)
    return low, high, torch.where(low < last, position - low, 0.0), inside.to(start.dtype)
