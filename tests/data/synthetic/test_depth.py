"""How shapes lie in space: labels and depth that follow from the scene and say nothing of a class."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from upscore.data.datasets import depth_channels, geometric_classes, subset
from upscore.data.synthetic.depth import GEOMETRIC_CLASSES, Layer, depth_map, geometric_map
from upscore.data.synthetic.scenes import SceneDataset

IDS = np.zeros((40, 60), np.int32)
IDS[5:35, 5:45] = 1
IDS[10:20, 10:20] = 2
IDS[5:15, 50:60] = 3
PLATES = [
    Layer(25.0, 20.0, 25.0, 3.0, np.array([1200])),
    Layer(15.0, 15.0, 7.0, 3.0, np.array([0, 100])),
    Layer(55.0, 10.0, 7.0, 3.0, np.array([95, 5])),  # too little of the first for it to rest on
]


def without_noise(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr("upscore.data.synthetic.depth.NOISE", 0.0)
    monkeypatch.setattr("upscore.data.synthetic.depth._punch", lambda *_: None)
    return depth_map(np.random.default_rng(0), IDS, PLATES)


def test_what_rests_on_another_is_stacked() -> None:
    surfaces = geometric_map(IDS, PLATES)
    assert [GEOMETRIC_CLASSES[surfaces[at]] for at in ((0, 0), (30, 30), (15, 15), (10, 55))] == [
        "ground",
        "lying",
        "stacked",
        "lying",
    ]
    assert surfaces.dtype == np.uint8


def test_each_plate_is_a_plane_nearer_than_what_it_lies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = without_noise(monkeypatch)
    y, x = np.mgrid[:40, :60]
    planes = []
    for number in range(4):
        inside = number == IDS
        points = np.stack([np.ones(inside.sum()), x[inside], y[inside]], 1)
        plane, *_ = np.linalg.lstsq(points, depth[inside], rcond=None)
        assert np.allclose(points @ plane, depth[inside], atol=1e-5)
        planes.append(plane)
    below = [0, 0, 1, 0]
    for number in range(1, 4):
        inside = number == IDS
        points = np.stack([np.ones(inside.sum()), x[inside], y[inside]], 1)
        clearance = points @ planes[below[number]] - depth[inside]
        assert clearance.min() > 0.5 * 3 * 2.4 / 40


def test_noise_and_holes_leave_thin_shapes_visible() -> None:
    """At the outline of a bar, depth changes by more than the noise."""
    steps, noises = [], []
    for sample in SceneDataset(40, seed=3):
        assert sample.depth is not None
        assert sample.class_map is not None
        depth, labels = sample.depth[0].numpy(), sample.class_map.numpy()
        bars = np.isin(labels, [6, 7])
        around = ndimage.binary_dilation(bars, iterations=2) & (labels == 0)
        if bars.any() and around.any():
            steps.append(np.nanmedian(depth[around]) - np.nanmedian(depth[bars]))
        ground = np.where(labels == 0, depth, np.nan)
        noises.append(np.nanstd(np.diff(ground, axis=1)) / np.sqrt(2))
        assert 0 < np.isnan(depth).mean() < 0.1
    assert np.median(steps) > 4 * np.median(noises) > 0


def test_depth_says_nothing_of_the_class_by_itself() -> None:
    """How far shapes stand off the ground beside them is about the same for all classes."""
    rises: dict[int, list[float]] = {}
    for sample in SceneDataset(250, seed=1, size=(96, 96)):
        assert sample.depth is not None
        assert sample.class_map is not None
        assert sample.geometric_map is not None
        assert sample.objects is not None
        depth, ground = sample.depth[0].numpy(), (sample.class_map == 0).numpy()
        for number in range(len(sample.objects)):
            mask = sample.objects.bitmask(number).numpy()
            around = ndimage.binary_dilation(mask, iterations=3) & ground
            if around.sum() > 20 and int(sample.geometric_map[torch.from_numpy(mask)][0]) == 1:
                rise = float(np.nanmedian(depth[around]) - np.nanmedian(depth[mask]))
                rises.setdefault(int(sample.objects.labels[number]), []).append(rise)
    medians = [np.median(rises[label]) for label in range(7)]
    spread = np.median([np.std(values) for values in rises.values()])
    assert np.ptp(medians) < spread


def test_scenes_have_both_for_all_pixels() -> None:
    scenes = SceneDataset(30, size=(64, 96))
    counts = np.zeros(3, int)
    for sample in scenes:
        assert sample.depth is not None
        assert sample.geometric_map is not None
        assert sample.class_map is not None
        assert (sample.depth.shape, sample.depth.dtype) == ((1, 64, 96), torch.float32)
        assert (sample.geometric_map.shape, sample.geometric_map.dtype) == ((64, 96), torch.uint8)
        assert torch.equal(sample.geometric_map == 0, sample.class_map == 0)
        counts += np.bincount(sample.geometric_map.flatten(), minlength=3)
    assert (counts > 0).all()
    assert (geometric_classes(scenes), depth_channels(scenes)) == (GEOMETRIC_CLASSES, 1)
    part = subset(scenes, [3, 1])
    assert (geometric_classes(part), depth_channels(part)) == (GEOMETRIC_CLASSES, 1)


def test_they_follow_from_seed_and_index_and_leave_the_photo_alone() -> None:
    one, other = SceneDataset(2, seed=4)[1], SceneDataset(500, seed=4)[1]
    assert one.depth is not None
    assert other.depth is not None
    assert one.geometric_map is not None
    assert other.geometric_map is not None
    assert torch.equal(one.depth.nan_to_num(), other.depth.nan_to_num())
    assert torch.equal(one.geometric_map, other.geometric_map)
    assert one.class_map is not None
    photo = hashlib.sha256(one.image.numpy().tobytes() + one.class_map.numpy().tobytes()).hexdigest()
    assert photo.startswith("873ca3e81d04d1dc")
