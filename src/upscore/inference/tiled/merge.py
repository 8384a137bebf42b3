"""Objects that were found in overlapping tiles become objects of the whole image.

N objects found in all tiles together, P pairs of them; m the side of a mask in RoI form. IoU: intersection over union.

Finds that a tile's border cuts are parts. Two of them from different tiles that agree on the pixels which both tiles
see belong to one object; so do those in a chain of such pairs, over any number of tiles. The parts of an object are
united in RoI form, unless one tile has it whole. Finally objects are suppressed of which better ones of their class
cover more than half, as `InstanceResult.mask_nms` does: an object that two tiles have whole.

Only neighbours are compared, and only their own boxes' pixels are made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from upscore.data.io.rasters import Window
from upscore.results import InstanceResult
from upscore.results.mask_paste import paste_soft

SAME_IOU = 0.5
"""In the pixels that two tiles share, from which on a part and another find are one object."""

SAME_SHARE = 0.75
"""The share of the smaller of two parts in the other, from which on they are one: a prong and the whole fork."""

MAX_SIDE = 448
"""Cells along a side of a united mask at most."""

BUCKET = 256
"""Pixels along a side of the squares by which neighbours are looked up."""


@dataclass(slots=True, kw_only=True)
class TileDetections:
    """What was found in all tiles, in the coordinates of the whole image."""

    objects: InstanceResult
    tiles: np.ndarray
    """(N,) int64, the position in `windows` of the tile that it was found in."""
    cut: np.ndarray
    """(N,) bool, whether a border of that tile cuts it."""
    windows: Sequence[Window]
    """The tiles."""


def merge(finds: TileDetections) -> InstanceResult:
    """The objects of the whole image, the best first: each once, and in one piece."""
    objects, tiles, lone = _united(finds)
    # a part without a counterpart gives way to whatever hides it, with a better score or not
    order = np.lexsort((-objects.scores, lone))
    kept = _distinct(objects[order], tiles[order])
    return kept[np.argsort(-kept.scores, kind="stable")]


def meeting(boxes: np.ndarray) -> np.ndarray:
    """(P, 2) int64, the pairs i < j of boxes (N, 4) that overlap, in order; found by the squares they lie in."""
    first, last = np.floor(boxes[:, :2] / BUCKET).astype(np.int64), np.floor(boxes[:, 2:] / BUCKET).astype(np.int64)
    spans = last - first + 1
    counts = spans.prod(1)
    owners = np.repeat(np.arange(len(boxes)), counts)
    nth = np.arange(len(owners)) - np.repeat(counts.cumsum() - counts, counts)
    columns, rows = first[owners, 0] + nth % spans[owners, 0], first[owners, 1] + nth // spans[owners, 0]
    order = np.lexsort((owners, columns, rows))
    starts = np.flatnonzero((np.diff(rows[order]) != 0) | (np.diff(columns[order]) != 0)) + 1
    found = [np.zeros((0, 2), np.int64)]
    for some in np.split(owners[order], starts):
        near = boxes[some]
        overlap = (near[:, None, :2] < near[:, 2:]).all(2) & (near[:, None, 2:] > near[:, :2]).all(2)
        found.append(some[np.argwhere(np.triu(overlap, 1))])
    return np.unique(np.concatenate(found), axis=0)


def unite(finds: TileDetections, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box (4,) and the mask (m, m) float16 of one object, from those of its parts.

    A cell of the mask is as small as the smallest of the parts' cells, as far as `MAX_SIDE` allows. Where several tiles
    see it, each counts by how far it is from that tile's borders, near which masks are worst.
    """
    boxes = finds.objects.boxes[members].astype(np.float64)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    sides = np.array([len(finds.objects.masks[k]) for k in members])
    cell = ((boxes[:, 2:] - boxes[:, :2]) / sides[:, None]).min(0)
    side = min(MAX_SIDE, math.ceil(((high - low) / cell).max() - 1e-6))
    in_cells = (boxes - np.tile(low, 2)) / np.tile(high - low, 2) * side
    columns, rows = (low[:, None] + (np.arange(side) + 0.5) * ((high - low) / side)[:, None]).astype(np.float32)
    total, weights = np.zeros((side, side), np.float32), np.full((side, side), 1e-6, np.float32)
    for tile in np.unique(finds.tiles[members]):
        seen = np.zeros((side, side), np.float32)
        for k, box in zip(members, in_cells, strict=True):
            if finds.tiles[k] == tile:
                _add(seen, finds.objects.masks[k], box)
        top, left, height, width = finds.windows[tile]
        weight = _depth(rows, top, height)[:, None] * _depth(columns, left, width)
        total += weight * seen
        weights += weight
    return np.concatenate([low, high]).astype(np.float32), (total / weights).astype(np.float16)


def _add(plane: np.ndarray, mask: np.ndarray, box: np.ndarray) -> None:
    """Put a mask over a plane, the surer of both at each point."""
    part, top, left = paste_soft(mask, box, plane.shape, "exact")
    here = plane[top : top + part.shape[0], left : left + part.shape[1]]
    np.maximum(here, part, out=here)


def _depth(positions: np.ndarray, start: int, length: int) -> np.ndarray:
    """How far from the ends of a stretch positions are, 0 outside."""
    return np.maximum(np.minimum(positions - start, start + length - positions), 0)


def _united(finds: TileDetections) -> tuple[InstanceResult, np.ndarray, np.ndarray]:
    """Objects after the union of parts; the tile of each, -1 of several; whether it is a part nevertheless."""
    objects = finds.objects
    whole: list[int] = []
    united: list[np.ndarray] = []
    for members in _groups(finds):
        parts, others = members[finds.cut[members]], members[~finds.cut[members]]
        left = [k for k in parts if not _mostly_hidden(objects, k, others)]
        if len(left) + len(others) > 1 and left:
            united.append(np.append(others, left))
        else:
            whole += [*others, *left]
    kept = np.array(whole, np.int64)
    boxes, masks = zip(*(unite(finds, members) for members in united), strict=True) if united else ((), ())
    best = np.array([members[objects.scores[members].argmax()] for members in united], np.int64)
    everything = objects[np.concatenate([kept, best])]
    everything.boxes[len(kept) :] = np.array(boxes).reshape(-1, 4)
    everything.masks = [*everything.masks[: len(kept)], *masks]
    tiles = np.append(finds.tiles[kept], np.full(len(best), -1))
    return everything, tiles, np.append(finds.cut[kept], np.zeros(len(best), bool))


def _groups(finds: TileDetections) -> Iterator[np.ndarray]:
    """The positions of the finds of each object."""
    pairs = meeting(finds.objects.boxes)
    first, second = pairs.T
    labels = finds.objects.labels
    pairs = pairs[
        (finds.tiles[first] != finds.tiles[second])
        & (labels[first] == labels[second])
        & (finds.cut[first] | finds.cut[second])
    ]
    same = pairs[np.array([_agree(finds, i, j) for i, j in pairs], bool)]
    count = len(labels)
    links = coo_matrix((np.ones(len(same), bool), (same[:, 0], same[:, 1])), shape=(count, count))
    groups = connected_components(links, directed=False)[1]
    order = np.argsort(groups, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if count else []


def _agree(finds: TileDetections, i: int, j: int) -> bool:
    """Whether two finds have the same pixels where both tiles see them."""
    shared = intersection(finds.windows[finds.tiles[i]], finds.windows[finds.tiles[j]])
    if shared is None:
        return False
    mine, other = finds.objects.crop_in(i, shared), finds.objects.crop_in(j, shared)
    both = np.count_nonzero(mine & other)
    pixels, others = np.count_nonzero(mine), np.count_nonzero(other)
    if both >= SAME_IOU * max(1, pixels + others - both):
        return True
    # a whole object may have but its tip here, which another's outline covers
    return bool(finds.cut[i] and finds.cut[j] and both >= SAME_SHARE * max(1, min(pixels, others)))


def intersection(one: Window, other: Window) -> Window | None:
    """The window that two windows share, if they do."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - top
    width = min(one.left + one.width, other.left + other.width) - left
    return Window(top, left, height, width) if height > 0 and width > 0 else None


def _distinct(objects: InstanceResult, tiles: np.ndarray) -> InstanceResult:
    """Without those of which earlier ones of their class hide more than half; each tile's own are distinct already."""
    first, second = meeting(objects.boxes).T
    alike = objects.labels[first] == objects.labels[second]
    first, second = first[alike], second[alike]
    order = np.argsort(second, kind="stable")
    first, second = first[order], second[order]
    kept = np.ones(len(objects), bool)
    for k in np.unique(second[(tiles[first] != tiles[second]) | (tiles[first] < 0)]):
        earlier = first[np.searchsorted(second, k) : np.searchsorted(second, k, "right")]
        kept[k] = not _mostly_hidden(objects, k, earlier[kept[earlier]])
    return objects[np.flatnonzero(kept)]


def _mostly_hidden(objects: InstanceResult, k: int, others: np.ndarray) -> bool:
    """Whether over half of an object's pixels are those of others."""
    crop, top, left = objects.crop(k)
    own = Window(top, left, *crop.shape)
    hidden = np.zeros_like(crop)
    for other in others:
        hidden |= objects.crop_in(other, own)
    return bool(2 * np.count_nonzero(crop & hidden) > np.count_nonzero(crop))
