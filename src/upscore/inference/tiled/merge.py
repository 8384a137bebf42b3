"""Merge detections from overlapping tiles into objects of the whole image.

N detections in all tiles, P pairs of detections, m side of a RoI mask.

Detections that a tile border cuts are parts. Two parts from different tiles whose masks agree in the overlap of the
tiles belong to one object, and so do the connected components of such pairs over any number of tiles. The parts of an
object are merged into one RoI mask unless one tile contains the object completely. Finally, an object is suppressed if
objects of its class with higher scores cover more than half of it, as in `InstanceResult.mask_nms`; this removes
objects that two tiles contain completely.

Only detections with overlapping boxes are compared, and masks are rasterised only inside their boxes.
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
"""Smallest IoU, inside the overlap of two tiles, at which a part and another detection are the same object."""

SAME_SHARE = 0.75
"""Smallest fraction of the smaller of two parts covered by the other at which they are the same object, for parts of
very different sizes."""

MAX_SIDE = 448
"""Largest side of a merged RoI mask, in cells."""

BUCKET = 256
"""Side in pixels of the grid cells that index the boxes."""


@dataclass(slots=True, kw_only=True)
class TileDetections:
    """Detections of all tiles, in pixel coordinates of the whole image."""

    objects: InstanceResult
    tiles: np.ndarray
    """(N,) int64, index in `windows` of the tile of each detection."""
    cut: np.ndarray
    """(N,) bool, whether a border of its tile cuts the detection."""
    windows: Sequence[Window]
    """Windows of the tiles in the image."""


def merge(detections: TileDetections) -> InstanceResult:
    """Merge the detections of all tiles into objects of the whole image, sorted by descending score."""
    objects, tiles, is_part = _merge_groups(detections)
    # Parts without a counterpart come last, so that any object that covers them suppresses them.
    order = np.lexsort((-objects.scores, is_part))
    kept = _suppress_duplicates(objects[order], tiles[order])
    return kept[np.argsort(-kept.scores, kind="stable")]


def overlapping_pairs(boxes: np.ndarray) -> np.ndarray:
    """Return the sorted pairs i < j of overlapping boxes (N, 4), as (P, 2) int64; uses a grid of buckets."""
    first, last = np.floor(boxes[:, :2] / BUCKET).astype(np.int64), np.floor(boxes[:, 2:] / BUCKET).astype(np.int64)
    spans = last - first + 1
    counts = spans.prod(1)
    owners = np.repeat(np.arange(len(boxes)), counts)
    nth = np.arange(len(owners)) - np.repeat(counts.cumsum() - counts, counts)
    columns, rows = first[owners, 0] + nth % spans[owners, 0], first[owners, 1] + nth // spans[owners, 0]
    order = np.lexsort((owners, columns, rows))
    starts = np.flatnonzero((np.diff(rows[order]) != 0) | (np.diff(columns[order]) != 0)) + 1
    pairs = [np.zeros((0, 2), np.int64)]
    for members in np.split(owners[order], starts):
        near = boxes[members]
        overlap = (near[:, None, :2] < near[:, 2:]).all(2) & (near[:, None, 2:] > near[:, :2]).all(2)
        pairs.append(members[np.argwhere(np.triu(overlap, 1))])
    return np.unique(np.concatenate(pairs), axis=0)


def merge_parts(detections: TileDetections, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge the parts of one object into a box (4,) float32 and a RoI mask (m, m) float16.

    The mask has the cell size of the finest part, limited by `MAX_SIDE`. Where tiles overlap, their masks are averaged
    with the distance from the tile's border as weight, since masks are worst near borders.

    Args:
        detections: detections of all tiles.
        members: indices of the parts of the object.
    """
    boxes = detections.objects.boxes[members].astype(np.float64)
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    sides = np.array([len(detections.objects.masks[k]) for k in members])
    cell = ((boxes[:, 2:] - boxes[:, :2]) / sides[:, None]).min(0)
    side = min(MAX_SIDE, math.ceil(((high - low) / cell).max() - 1e-6))
    in_cells = (boxes - np.tile(low, 2)) / np.tile(high - low, 2) * side
    columns, rows = (low[:, None] + (np.arange(side) + 0.5) * ((high - low) / side)[:, None]).astype(np.float32)
    total, weights = np.zeros((side, side), np.float32), np.full((side, side), 1e-6, np.float32)
    for tile in np.unique(detections.tiles[members]):
        tile_mask = np.zeros((side, side), np.float32)
        for k, box in zip(members, in_cells, strict=True):
            if detections.tiles[k] == tile:
                _add(tile_mask, detections.objects.masks[k], box)
        top, left, height, width = detections.windows[tile]
        weight = _border_distance(rows, top, height)[:, None] * _border_distance(columns, left, width)
        total += weight * tile_mask
        weights += weight
    return np.concatenate([low, high]).astype(np.float32), (total / weights).astype(np.float16)


def _add(plane: np.ndarray, mask: np.ndarray, box: np.ndarray) -> None:
    """Paste a RoI mask into a plane in place, with the maximum of both at each point."""
    part, top, left = paste_soft(mask, box, plane.shape, "exact")
    region = plane[top : top + part.shape[0], left : left + part.shape[1]]
    np.maximum(region, part, out=region)


def _border_distance(positions: np.ndarray, start: int, length: int) -> np.ndarray:
    """Return the distances of positions from the nearer end of an interval, 0 outside of it."""
    return np.maximum(np.minimum(positions - start, start + length - positions), 0)


def _merge_groups(detections: TileDetections) -> tuple[InstanceResult, np.ndarray, np.ndarray]:
    """Return the objects after merging, the tile of each (-1: several tiles) and whether it is an unmerged part."""
    objects = detections.objects
    single: list[int] = []
    merged: list[np.ndarray] = []
    for members in _groups(detections):
        parts, others = members[detections.cut[members]], members[~detections.cut[members]]
        visible = [k for k in parts if not _mostly_hidden(objects, k, others)]
        if len(visible) + len(others) > 1 and visible:
            merged.append(np.append(others, visible))
        else:
            single += [*others, *visible]
    kept = np.array(single, np.int64)
    boxes, masks = zip(*(merge_parts(detections, members) for members in merged), strict=True) if merged else ((), ())
    best = np.array([members[objects.scores[members].argmax()] for members in merged], np.int64)
    result = objects[np.concatenate([kept, best])]
    result.boxes[len(kept) :] = np.array(boxes).reshape(-1, 4)
    result.masks = [*result.masks[: len(kept)], *masks]
    tiles = np.append(detections.tiles[kept], np.full(len(best), -1))
    return result, tiles, np.append(detections.cut[kept], np.zeros(len(best), bool))


def _groups(detections: TileDetections) -> Iterator[np.ndarray]:
    """Yield the indices of the detections of each object: connected components of agreeing pairs."""
    pairs = overlapping_pairs(detections.objects.boxes)
    first, second = pairs.T
    labels = detections.objects.labels
    pairs = pairs[
        (detections.tiles[first] != detections.tiles[second])
        & (labels[first] == labels[second])
        & (detections.cut[first] | detections.cut[second])
    ]
    same = pairs[np.array([_agree(detections, i, j) for i, j in pairs], bool)]
    count = len(labels)
    links = coo_matrix((np.ones(len(same), bool), (same[:, 0], same[:, 1])), shape=(count, count))
    groups = connected_components(links, directed=False)[1]
    order = np.argsort(groups, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if count else []


def _agree(detections: TileDetections, i: int, j: int) -> bool:
    """Return whether two detections have the same mask in the overlap of their tiles."""
    shared = intersection(detections.windows[detections.tiles[i]], detections.windows[detections.tiles[j]])
    if shared is None:
        return False
    first, second = detections.objects.crop_in(i, shared), detections.objects.crop_in(j, shared)
    both = np.count_nonzero(first & second)
    first_area, second_area = np.count_nonzero(first), np.count_nonzero(second)
    if both >= SAME_IOU * max(1, first_area + second_area - both):
        return True
    # Only for two parts: a complete object may reach into the overlap with a tip that another object covers.
    return bool(detections.cut[i] and detections.cut[j] and both >= SAME_SHARE * max(1, min(first_area, second_area)))


def intersection(one: Window, other: Window) -> Window | None:
    """Return the intersection of two windows, or None if they are disjoint."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - top
    width = min(one.left + one.width, other.left + other.width) - left
    return Window(top, left, height, width) if height > 0 and width > 0 else None


def _suppress_duplicates(objects: InstanceResult, tiles: np.ndarray) -> InstanceResult:
    """Remove objects that earlier objects of their class, from other tiles, cover by more than half."""
    first, second = overlapping_pairs(objects.boxes).T
    same_class = objects.labels[first] == objects.labels[second]
    first, second = first[same_class], second[same_class]
    order = np.argsort(second, kind="stable")
    first, second = first[order], second[order]
    kept = np.ones(len(objects), bool)
    for k in np.unique(second[(tiles[first] != tiles[second]) | (tiles[first] < 0)]):
        earlier = first[np.searchsorted(second, k) : np.searchsorted(second, k, "right")]
        kept[k] = not _mostly_hidden(objects, k, earlier[kept[earlier]])
    return objects[np.flatnonzero(kept)]


def _mostly_hidden(objects: InstanceResult, k: int, others: np.ndarray) -> bool:
    """Return whether other objects cover more than half of an object's pixels."""
    crop, top, left = objects.crop(k)
    own = Window(top, left, *crop.shape)
    hidden = np.zeros_like(crop)
    for other in others:
        hidden |= objects.crop_in(other, own)
    return bool(2 * np.count_nonzero(crop & hidden) > np.count_nonzero(crop))
