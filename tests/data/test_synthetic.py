"""Generated scenes: images, labels, objects, geometric maps and depth."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from upscore.data.datasets import depth_channels, geometric_classes, subset
from upscore.data.synthetic import (
    GEOMETRIC_CLASSES,
    MAX_OBJECTS,
    SHAPES,
    Layer,
    SceneDataset,
    _Canvas,
    _draw,
    _renumbered,
    depth_map,
    geometric_map,
)
from upscore.errors import UserError

IDS = np.zeros((40, 60), np.int32)
IDS[5:35, 5:45] = 1
IDS[10:20, 10:20] = 2
IDS[5:15, 50:60] = 3
LAYERS = [
    Layer(25.0, 20.0, 25.0, 3.0, np.array([1200])),
    Layer(15.0, 15.0, 7.0, 3.0, np.array([0, 100])),
    Layer(55.0, 10.0, 7.0, 3.0, np.array([95, 5])),  # too small an overlap to lie on the first
]


def without_noise(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr("upscore.data.synthetic.NOISE", 0.0)
    monkeypatch.setattr("upscore.data.synthetic._remove_pixels", lambda *_: None)
    return depth_map(np.random.default_rng(0), IDS, LAYERS)


def test_shapes_on_other_shapes_are_stacked() -> None:
    classes = geometric_map(IDS, LAYERS)
    assert [GEOMETRIC_CLASSES[classes[position]] for position in ((0, 0), (30, 30), (15, 15), (10, 55))] == [
        "ground",
        "lying",
        "stacked",
        "lying",
    ]
    assert classes.dtype == np.uint8


def test_each_layer_is_a_plane_above_the_layer_below(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_thin_shapes_are_visible_in_noisy_depth() -> None:
    """Depth changes by more than the noise at the outline of a bar."""
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


def test_depth_does_not_depend_on_the_class() -> None:
    """The height of shapes above the background is about the same for all classes."""
    heights: dict[int, list[float]] = {}
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
                height = float(np.nanmedian(depth[around]) - np.nanmedian(depth[mask]))
                heights.setdefault(int(sample.objects.labels[number]), []).append(height)
    medians = [np.median(heights[label]) for label in range(7)]
    spread = np.median([np.std(values) for values in heights.values()])
    assert np.ptp(medians) < spread


def test_scenes_have_depth_and_geometric_maps() -> None:
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


def test_depth_depends_on_seed_and_index_and_does_not_change_the_image() -> None:
    one, other = SceneDataset(2, seed=4)[1], SceneDataset(500, seed=4)[1]
    assert one.depth is not None
    assert other.depth is not None
    assert one.geometric_map is not None
    assert other.geometric_map is not None
    assert torch.equal(one.depth.nan_to_num(), other.depth.nan_to_num())
    assert torch.equal(one.geometric_map, other.geometric_map)
    assert one.class_map is not None
    pixels = hashlib.sha256(one.image.numpy().tobytes() + one.class_map.numpy().tobytes()).hexdigest()
    assert pixels.startswith("873ca3e81d04d1dc")


def digest(sample):
    maps = (sample.image, sample.class_map, sample.objects.id_map)
    return hashlib.sha256(b"".join(values.numpy().tobytes() for values in maps)).hexdigest()


def test_sample_types_and_names():
    scenes = SceneDataset(13, size=(48, 72))
    sample = scenes[12]
    assert len(scenes) == 13
    assert scenes.classes == ["background", *SHAPES]
    assert sample.name == "scene_00012"
    assert (sample.image.shape, sample.image.dtype) == ((3, 48, 72), torch.uint8)
    assert (sample.class_map.shape, sample.class_map.dtype) == ((48, 72), torch.uint8)
    assert (sample.objects.id_map.shape, sample.objects.id_map.dtype) == ((1, 48, 72), torch.int32)
    assert sample.image.is_contiguous()


def test_iteration_ends_and_negative_indices_count_from_the_end():
    scenes = SceneDataset(3, size=(32, 32))
    assert [sample.name for sample in scenes] == ["scene_00000", "scene_00001", "scene_00002"]
    assert digest(scenes[-1]) == digest(scenes[2])
    with pytest.raises(IndexError):
        scenes[3]


def test_objects_are_numbered_consecutively_and_have_one_class_each():
    hiding = SceneDataset(3000, size=(32, 32))[2301]  # one of its shapes is hidden completely
    for sample in [hiding, *SceneDataset(60, seed=5, size=(96, 96))]:
        numbers = sample.objects.id_map[0].unique()
        count = int(numbers.max())
        assert 1 <= count <= MAX_OBJECTS
        assert numbers[numbers > 0].tolist() == list(range(1, count + 1))
        assert torch.equal(sample.objects.id_map[0] > 0, sample.class_map > 0)
        for number in range(1, count + 1):
            assert len(sample.class_map[sample.objects.id_map[0] == number].unique()) == 1
            label = sample.objects.labels[number - 1]  # without the background
            assert (sample.class_map[sample.objects.bitmask(number - 1)] == label + 1).all()


def test_every_class_occurs_about_equally_often():
    labels = []
    for sample in SceneDataset(150, size=(64, 64)):
        numbers = sample.objects.id_map[0].unique()
        labels += [int(sample.class_map[sample.objects.id_map[0] == number][0]) for number in numbers[numbers > 0]]
    shares = np.bincount(labels, minlength=len(SHAPES) + 1)[1:] / len(labels)
    assert shares.min() > 0.08
    assert shares.max() < 0.22


def drawn_alone(label, radius=30.0):
    """Return the mask of the first shape of a class that is completely inside a 160x160 canvas."""
    for seed in range(10_000):
        empty = np.zeros((160, 160), np.uint8)
        canvas = _Canvas(np.full((160, 160, 3), 128, np.float32), empty, empty.astype(np.int32), (1.0, 0.0))
        _draw(np.random.default_rng(seed), canvas, 1, radius)
        border = np.concatenate([canvas.class_map[[0, -1]].ravel(), canvas.class_map[:, [0, -1]].ravel()])
        if canvas.class_map.max() == label and not border.any():
            return canvas.class_map == label
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disk", np.pi),
        ("square", 2.0),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("star", 1.1226),  # 5 sin(36) * the inner radius, 0.38197
        ("ring", np.pi * (1 - 0.52**2)),
    ],
)
def test_compact_shapes_have_the_area_of_their_geometry(name, area):
    mask = drawn_alone(list(SHAPES).index(name) + 1)
    assert mask.sum() == pytest.approx(area * 30**2, rel=0.03)
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1  # the tips of a star are connected by corners


@pytest.mark.parametrize("name", ["bar", "cross"])
def test_thin_shapes_are_connected_and_a_few_pixels_wide(name):
    mask = drawn_alone(list(SHAPES).index(name) + 1)
    assert 2 <= 2 * ndimage.distance_transform_edt(mask).max() <= 9  # a cross is widest at its centre
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert np.hypot(*np.ptp(np.argwhere(mask), axis=0)) > 50


def test_ring_shows_the_background_through_its_hole():
    mask = drawn_alone(list(SHAPES).index("ring") + 1)
    hole = ndimage.binary_fill_holes(mask) & ~mask
    assert hole.sum() == pytest.approx(np.pi * (0.52 * 30) ** 2, rel=0.03)


def test_later_shapes_hide_earlier_ones_and_objects_are_renumbered():
    maps = np.array([[0, 2, 2], [5, 5, 7]], np.int32)
    assert _renumbered(maps).tolist() == [[0, 1, 1], [2, 2, 3]]
    empty = np.zeros((64, 64), np.uint8)
    canvas = _Canvas(np.zeros((64, 64, 3), np.float32), empty, empty.astype(np.int32), (1.0, 0.0))
    rng = np.random.default_rng(3)
    for number in range(1, 8):
        before = canvas.id_map.copy()
        _draw(rng, canvas, number, 12.0)
        changed = canvas.id_map != before
        assert changed.any()
        assert (canvas.id_map[changed] == number).all()


def test_pixels_inside_an_object_do_not_depend_on_the_background():
    maps = []
    for level in (0, 255):
        empty = np.zeros((96, 96), np.uint8)
        canvas = _Canvas(np.full((96, 96, 3), level, np.float32), empty, empty.astype(np.int32), (0.0, 1.0))
        _draw(np.random.default_rng(11), canvas, 1, 20.0)
        maps.append((canvas.pixels, canvas.class_map > 0))
    (dark, mask), (bright, _) = maps
    same = np.isclose(dark, bright, atol=0.5).all(axis=-1)
    inner, outer = ndimage.binary_erosion(mask, iterations=2), ndimage.binary_dilation(mask, iterations=2)
    assert inner.any()
    assert same[inner].all()
    assert not same[~outer].any()


def test_scenes_depend_only_on_seed_and_index():
    assert digest(SceneDataset(2, seed=4)[1]) == digest(SceneDataset(500, seed=4)[1])
    assert digest(SceneDataset(2, seed=4)[1]) != digest(SceneDataset(2, seed=5)[1])
    assert digest(SceneDataset(2, seed=4)[1]) != digest(SceneDataset(2, seed=4)[0])


@pytest.mark.slow
def test_scene_has_the_same_pixels_in_another_process():
    program = (
        "import hashlib\nfrom upscore.data.synthetic import SceneDataset\n"
        "s = SceneDataset(9, seed=7)[8]\n"
        "maps = (s.image, s.class_map, s.objects.id_map)\n"
        "print(hashlib.sha256(b''.join(m.numpy().tobytes() for m in maps)).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(SceneDataset(9, seed=7)[8])


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (32, 300), (700, 500)])
def test_scenes_of_any_size(size):
    sample = SceneDataset(1, size=size)[0]
    assert sample.image.shape[1:] == size
    assert sample.class_map.max() > 0
    assert sample.image.float().std() > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"length": -1}, "length=-1"), ({"length": 1, "seed": -2}, "seed=-2"), ({"length": 1, "size": (31, 64)}, "31")],
)
def test_invalid_arguments_are_named(arguments, words):
    with pytest.raises(UserError, match=words):
        SceneDataset(**arguments)
