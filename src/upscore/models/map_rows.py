"""Maps as a table, which regions are gathered from: a row for each cell, with its C channels side by side.

N images, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
