"""Maps as a table, which regions are gathered from: a row for each cell, with its C channels side by side.

N images, h x w cells of a map.
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
    """Maps (N, C, h, w) -> the cells of all of them (sum of N * h * w, C), map by map, image by image, row by row.

    Without gradients, nothing is copied where the maps lie so in memory already, as those of `from_table` do.
    """
    tables = [features.permute(0, 2, 3, 1).flatten(0, 2) for features in maps]
    if torch.is_grad_enabled() or not _adjacent(tables):
        return torch.cat(tables)
    return tables[0].as_strided((sum(map(len, tables)), tables[0].shape[1]), tables[0].stride())


def from_table(table: Tensor, images: int, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The reverse of `to_table`, for maps of these heights and widths; views."""
    parts = table.split([images * height * width for height, width in sizes])
    return [
        part.view(images, height, width, -1).permute(0, 3, 1, 2)
        for part, (height, width) in zip(parts, sizes, strict=True)
    ]


def _adjacent(tables: Sequence[Tensor]) -> bool:
    """Whether each begins in memory where the one before ends."""
    first = tables[0]
    at = first.storage_offset()
    for table in tables:
        same_memory = table.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same_memory or not table.is_contiguous() or table.storage_offset() != at:
            return False
        at += table.numel()
    return True


Pooling = Literal["align", "pool", "warp"]
"""align: nothing is rounded; pool: the box and its bins are rounded to cells, then the maximum (RoIPool); warp: the box
is rounded, its bins are not (RoIWarp). Table 2c."""

CANONICAL_LEVEL, CANONICAL_SIZE = 4, 224
"""A box of ImageNet's size belongs to the level that ImageNet's classifiers end on in C4 networks (FPN, equation 1)."""


class RoIPooler(nn.Module):
    """Takes each region from the level of the pyramid that suits its size.

    Args:
        size: P.
        strides: of the maps, from fine to coarse.
        preset: how RoIAlign samples, and which level a box of a borderline size takes.
        pooling: RoIAlign, or one of its predecessors for comparison.
    """

    def __init__(self, size: int, strides: Sequence[int], preset: Preset, pooling: Pooling = "align") -> None:
        super().__init__()
        self.size, self.strides, self.preset, self.pooling = size, list(strides), preset, pooling

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps from fine to coarse, and each image's boxes (R_i, 4) -> (sum of R_i, C, P, P), in the order of boxes."""
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
            at = (levels == level).nonzero()[:, 0]
            if len(at):
                regions = torch.cat([images[at, None].to(rois.dtype), rois[at]], dim=1)
                pooled = pooled.index_copy(0, at, self._pool(features, regions, 1 / stride).to(pooled.dtype))
        return pooled

    def _pool(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        from torchvision.ops import roi_align, roi_pool  # slow to import, and seldom needed at inference

        features = features.float()
        if self.pooling == "pool":
            return roi_pool(features, regions, self.size, scale)
        aligned = self.preset.aligned
        if self.pooling == "warp":
            cells = (regions[:, 1:] * scale).round()
            regions, scale, aligned = torch.cat([regions[:, :1], cells], dim=1), 1.0, False
        return roi_align(features, regions, self.size, scale, self.preset.samples or -1, aligned)


def assign_levels(boxes: Tensor, strides: Sequence[int], preset: Preset) -> Tensor:
    """(R, 4) -> (R,) the position in `strides` of the level that each box is pooled from (FPN, equation 1)."""
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
    """RoIAlign over all levels at once, as weighted sums of cells: on a CPU several times faster than torchvision's.

    A bin is the sum of 4 S^2 cells with weights, which is what an embedding bag computes; its rows are the cells of all
    images and levels, one below the other, each with its C channels side by side.
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
    # (R, P * S, 2): the two rows, or columns, that a sample lies between, and their weights
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
    """Where the P * S samples of an axis lie: the cells below and above, the upper one's weight, and whether inside."""
    length = end - start
    if not aligned:
        length = length.clamp(min=1)
    steps = (torch.arange(size * samples, device=start.device, dtype=start.dtype) + 0.5) / (size * samples)
    at = start[:, None] + steps * length[:, None]
    last = (cells - 1)[:, None]
    inside = (at >= -1) & (at <= cells[:, None])
    at = at.clamp(min=0)
    low = torch.minimum(at.long(), last)
    high = torch.minimum(low + 1, last)
    return low, high, torch.where(low < last, at - low, 0.0), inside.to(start.dtype)
