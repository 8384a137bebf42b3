"""Merging of the parts of objects that tile borders cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk, line, polygon
from torch import Tensor

from upscore.data.io.rasters import Window
from upscore.inference.tiled.detection import Tiling, collect_detections, detect_in_tile, detect_objects
from upscore.inference.tiled.merge import TileDetections, merge, merge_parts, overlapping_pairs
from upscore.results import InstanceResult

TILING = Tiling(tile_size=128, overlap=32)
"""Tiles start at 0, 96, 192, ...; strips are 96 to 128, 192 to 224, ..."""


class IdRaster:
    """Raster whose pixel values are object numbers, which `detect` finds like a perfect network."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self.height, self.width = ids.shape
        self.reads: list[Window] = []

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        self.reads.append(Window(top, left, height, width))
        part = torch.from_numpy(self.ids[top : top + height, left : left + width].copy())
        return part.to(torch.uint8).expand(3, -1, -1)


def shares(pixels: int, cells: int) -> np.ndarray:
    """Return (cells, pixels) float32, the fraction of each cell that lies in each pixel, along one axis."""
    start, pixel = np.arange(cells)[:, None] * pixels / cells, np.arange(pixels)
    stop = start + pixels / cells
    shared = np.minimum(stop, pixel + 1) - np.maximum(start, pixel)
    return (np.maximum(shared, 0) * cells / pixels).astype(np.float32)


def detect(tile: Tensor, *, side: int = 28) -> InstanceResult:
    """Return each connected region of a number in a tile, like a network with perfect masks."""
    boxes, masks, scores, labels = [], [], [], []
    for number in np.unique(tile[0].numpy()):
        patches, count = ndimage.label(tile[0].numpy() == number, np.ones((3, 3)))
        for patch, region in enumerate(ndimage.find_objects(patches) if number else [], start=1):
            rows, columns = region
            pixels = patches[region] == patch
            masks.append(shares(pixels.shape[0], side) @ pixels @ shares(pixels.shape[1], side).T)
            boxes.append((columns.start, rows.start, columns.stop, rows.stop))
            scores.append(0.9 - 0.001 * int(number) - 0.1 * (count > 1))
            labels.append(int(number) // 200)
    return InstanceResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        masks=masks,
        size=(tile.shape[-2], tile.shape[-1]),
        classes=["thing"],
    )[np.argsort(-np.array(scores), kind="stable")]


def matches(ids: np.ndarray, objects: InstanceResult) -> list[float]:
    """Return the IoU of each number in `ids` with the best object; check that their numbers are equal."""
    numbers = np.unique(ids[ids > 0])
    assert len(objects) == len(numbers)
    whole = Window(0, 0, *ids.shape)
    pixels = [objects.crop_in(k, whole) for k in range(len(objects))]
    return [max((p & (ids == n)).sum() / (p | (ids == n)).sum() for p in pixels) for n in numbers]


def id_map(objects: InstanceResult, side: int = 512) -> np.ndarray:
    """Return the label map, composed of windows."""
    ids = np.full(objects.size, -1)

    for window in Tiling(tile_size=side, overlap=1).windows(objects.size):
        part = objects.label_map(window)
        assert part.shape == (window.height, window.width)
        ids[window.top : window.top + window.height, window.left : window.left + window.width] = part
    return ids


def drawn(shape: tuple[int, int], *shapes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    ids = np.zeros(shape, np.int64)
    for number, (rows, columns) in enumerate(shapes, start=1):
        ids[rows, columns] = number
    return ids


def rectangle(top: int, left: int, bottom: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[top:bottom, left:right]
    return rows.ravel(), columns.ravel()


def thick_line(points: list[tuple[int, int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of a polyline."""
    plane = np.zeros((600, 600), bool)
    for (r1, c1), (r2, c2) in pairwise(points):
        plane[line(r1, c1, r2, c2)] = True
    return np.nonzero(ndimage.binary_dilation(plane, iterations=width // 2))


@pytest.mark.parametrize(
    ("ids", "parts"),
    [
        (drawn((128, 224), disk((60, 110), 50)), 2),  # two halves
        (drawn((128, 320), rectangle(40, 10, 80, 310)), 3),  # three tiles in a row
        (drawn((224, 224), disk((112, 112), 60)), 4),  # at the corner of four tiles
        (drawn((416, 416), disk((208, 208), 190)), 16),  # every tile
        (drawn((128, 224), disk((60, 112), 10)), 1),  # smaller than the overlap of the tiles
        (drawn((128, 224), rectangle(40, 96, 80, 128)), 1),  # as wide as the overlap
        (drawn((416, 416), thick_line([(5, 5), (400, 390)], 12)), 5),  # along the diagonal
    ],
    ids=["halves", "three", "corner", "sixteen", "small", "strip", "diagonal"],
)
def test_the_parts_of_one_object_are_merged(ids: np.ndarray, parts: int) -> None:
    raster = IdRaster(ids)
    windows = TILING.windows(ids.shape)
    detections = collect_detections([detect_in_tile(raster, window, detect, TILING) for window in windows], TILING)
    assert len(detections.objects) >= parts
    assert detections.cut.sum() >= (parts if parts > 1 else 0)
    merged = merge(detections)
    assert matches(ids, merged)[0] > 0.93
    assert merged.scores[0] == detections.objects.scores.max()
    rows, columns = np.nonzero(ids)
    box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert np.abs(merged.boxes[0] - box).max() < 1e-3


def test_an_object_that_one_tile_contains_is_unchanged() -> None:
    ids = drawn((128, 224), disk((60, 112), 10), disk((30, 40), 12), disk((90, 180), 9))
    found = detect(torch.from_numpy(ids).to(torch.uint8).expand(3, -1, -1))
    merged = detect_objects(IdRaster(ids), detect, TILING)
    assert np.array_equal(merged.boxes, found.boxes)
    assert np.array_equal(merged.scores, found.scores)
    assert np.array_equal(np.array(merged.masks), np.array(found.masks, np.float16))


def test_touching_objects_are_not_merged() -> None:
    ids = drawn((224, 224), rectangle(20, 20, 60, 200), rectangle(60, 20, 100, 200), rectangle(100, 90, 200, 140))
    assert min(matches(ids, detect_objects(IdRaster(ids), detect, TILING))) > 0.95


def test_objects_of_different_classes_are_not_merged() -> None:
    ids = np.zeros((128, 224), np.int64)
    ids[40:80, 20:112], ids[40:80, 112:200] = 150, 250
    merged = detect_objects(IdRaster(ids), detect, TILING)
    assert sorted(merged.labels) == [0, 1]
    assert min(matches(ids, merged)) > 0.95


def test_an_object_with_several_parts_in_one_tile_is_merged() -> None:
    prongs = [rectangle(10 + 40 * k, 10, 30 + 40 * k, 180) for k in range(3)]
    rows, columns = (np.concatenate(parts) for parts in zip(*prongs, rectangle(10, 150, 110, 180), strict=True))
    ids = drawn((128, 224), (rows, columns))
    assert matches(ids, detect_objects(IdRaster(ids), detect, TILING))[0] > 0.93


def test_empty_images_and_tiles() -> None:
    assert len(detect_objects(IdRaster(np.zeros((300, 300), np.int64)), detect, TILING)) == 0
    one = drawn((300, 300), disk((250, 250), 20))  # most tiles are empty
    assert matches(one, detect_objects(IdRaster(one), detect, TILING))[0] > 0.95


def test_an_image_smaller_than_a_tile() -> None:
    ids = drawn((50, 70), disk((20, 20), 15), rectangle(0, 40, 50, 70))
    assert min(matches(ids, detect_objects(IdRaster(ids), detect, TILING))) > 0.95


@settings(max_examples=12, deadline=None)
@given(
    blobs=st.lists(
        st.tuples(st.integers(0, 420), st.integers(0, 300), st.integers(5, 150), st.integers(0, 1 << 30)),
        min_size=1,
        max_size=8,
    ),
    tile=st.sampled_from([128, 150, 224]),
    overlap=st.sampled_from([32, 48, 64]),
)
def test_random_shapes(blobs: list[tuple[int, int, int, int]], tile: int, overlap: int) -> None:
    """Each of several random connected shapes is detected exactly once."""
    ids = np.zeros((420, 300), np.int64)
    for number, (row, column, radius, seed) in enumerate(blobs, start=1):
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        distance = radius * np.random.default_rng(seed).uniform(0.6, 1, 24)
        pixels = polygon(row + distance * np.sin(angles), column + distance * np.cos(angles), ids.shape)
        if not ids[pixels].any():
            ids[pixels] = number
    for number in np.unique(ids[ids > 0]):  # the border may cut a shape into several pieces, or leave only a few pixels
        patches, count = ndimage.label(ids == number, np.ones((3, 3)))
        if count > 1 or (patches > 0).sum() < 60:
            ids[ids == number] = 0
    merged = detect_objects(IdRaster(ids), detect, Tiling(tile_size=tile, overlap=overlap))
    if len(np.unique(ids)) > 1:
        assert min(matches(ids, merged)) > 0.85
    else:
        assert len(merged) == 0


def filled_objects(*boxes: tuple[float, float, float, float], side: int = 28) -> InstanceResult:
    """Return objects that fill their boxes."""
    return InstanceResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, len(boxes)).astype(np.float32),
        labels=np.zeros(len(boxes), np.int64),
        masks=[np.ones((side, side), np.float16) for _ in boxes],
        size=(40000, 40000),
        classes=["thing"],
    )


def parts_of_tiles(windows: list[Window], *boxes: tuple[float, float, float, float]) -> TileDetections:
    """Return one part in each tile."""
    count = len(boxes)
    return TileDetections(
        objects=filled_objects(*boxes), tiles=np.arange(count), cut=np.ones(count, bool), windows=windows
    )


def test_a_merged_mask_has_the_resolution_of_its_parts() -> None:
    both = np.array([0, 1])
    windows = [Window(0, 0, 60, 28), Window(0, 14, 60, 70)]
    box, mask = merge_parts(parts_of_tiles(windows, (0, 0, 28, 56), (14, 0, 70, 56)), both)
    assert box.tolist() == [0, 0, 70, 56]
    assert mask.shape == (70, 70)
    assert (mask >= 0.5).all()
    windows = [Window(0, 0, 60, 28), Window(0, 20, 60, 40000)]
    assert merge_parts(parts_of_tiles(windows, (0, 0, 28, 28), (20, 0, 30000, 28)), both)[1].shape == (448, 448)


def test_masks_are_weighted_by_the_distance_from_the_tile_border() -> None:
    windows = [Window(0, 0, 128, 128), Window(0, 96, 128, 128)]
    detections = parts_of_tiles(windows, (10, 40, 128, 96), (96, 40, 210, 96))
    detections.objects.masks[0][14:, 26:] = 0  # the lower half is missing near the border of the tile
    detections.objects.masks[1][14:, :2] = 1
    detections.objects.masks[1][:4, 6:8] = 0  # a hole beyond the overlap
    merged = merge(detections)
    assert len(merged) == 1
    pixels = merged.crop_in(0, Window(41, 11, 54, 195))
    assert not pixels[1:5, 111:115].any()
    pixels[:10, 105:122] = True
    assert pixels.all()


def test_overlapping_pairs() -> None:
    generator = np.random.default_rng(0)
    corner, extent = generator.uniform(-50, 3000, (400, 2)), generator.exponential(60, (400, 2))
    extent[:5] *= 30
    boxes = np.concatenate([corner, corner + extent], 1)
    overlap = (boxes[:, None, :2] < boxes[:, 2:]).all(2) & (boxes[:, None, 2:] > boxes[:, :2]).all(2)
    assert np.array_equal(overlapping_pairs(boxes), np.argwhere(np.triu(overlap, 1)))
    assert overlapping_pairs(np.zeros((0, 4))).shape == (0, 2)


def test_label_maps_of_windows_equal_that_of_the_whole_image() -> None:
    boxes = [(3.0, 4.0, 90.5, 60.2), (50.0, 30.0, 140.0, 150.0), (0.0, 0.0, 200.0, 190.0), (60.2, 60.3, 61.1, 90.0)]
    for rule in ("exact", "legacy"):
        objects = filled_objects(*boxes)
        objects.size, objects.mask_paste = (190, 200), rule
        objects.masks = [np.random.default_rng(k).random((28, 28)).astype(np.float16) for k in range(len(boxes))]
        bitmasks = objects.bitmasks()
        expected = np.where(bitmasks.any(0), bitmasks.argmax(0) + 1, 0)
        assert np.array_equal(id_map(objects, 64), expected)
        assert np.array_equal(objects.label_map(), expected)
