"""Upper bounds, compared with values calculated by hand, simple implementations and the networks' upsampling."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.data.layouts import SHARED
from upscore.data import open_dataset
from upscore.errors import UserError
from upscore.experiments.ceiling import report as ceiling_plots
from upscore.experiments.ceiling.meter import METHODS, STRIDES, CeilingMeter, Ceilings, bilinear, fill_void, nearest
from upscore.experiments.ceiling.report import (
    advice,
    markdown,
    needed_stride,
    plot_ceilings,
    plot_class_ceilings,
    recommended_network,
    unreachable_classes,
)
from upscore.labels import VOID
from upscore.models.fcn.upsampling import Upsample

SIZES = [(16, 24), (13, 21), (3, 5), (1, 1), (40, 7)]


def random_map(size, classes=4, void=0.1, seed=0):
    """Return blocks of random classes with some void pixels."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, classes, (-(-size[0] // 3), -(-size[1] // 3)))
    values = np.kron(blocks, np.ones((3, 3)))[: size[0], : size[1]].astype(np.uint8)
    values[generator.random(size) < void] = VOID
    return torch.from_numpy(values)


def measure(*maps, classes, strides=STRIDES):
    meter = CeilingMeter(classes, strides)
    for values in maps:
        meter.update(torch.as_tensor(values, dtype=torch.uint8))
    return meter.ceilings()


def cell_means(class_map, stride, classes):
    """Compute the fraction of each class of the labelled pixels of each cell, (C, h, w), in a loop over pixels."""
    height, width = class_map.shape
    means = np.zeros((classes, -(-height // stride), -(-width // stride)))
    for row, column in np.ndindex(*means.shape[1:]):
        cell = class_map[stride * row : stride * (row + 1), stride * column : stride * (column + 1)]
        cell = cell[cell != VOID].tolist()
        for index in cell:
            means[index, row, column] += 1 / len(cell)
    return torch.from_numpy(means).float()


def is_argmax(class_map, stride, scores):
    """Return whether each labelled pixel has the class with the highest score, up to rounding."""
    scores = scores[:, : class_map.shape[0], : class_map.shape[1]]
    chosen = scores.gather(0, bilinear(class_map, stride).long()[None])[0]
    return bool((chosen >= scores.max(0).values - 1e-6)[class_map != VOID].all())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8, 32])
def test_bilinear_is_the_argmax_of_the_upsampled_one_hot_map(size, stride):
    class_map = random_map(size)
    means = cell_means(class_map, stride, 4)
    scores = F.interpolate(means[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
    assert is_argmax(class_map, stride, scores)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [2, 8, 32])
def test_bilinear_upsamples_like_the_networks(size, stride):
    class_map = random_map(size, seed=1)
    layer = Upsample(4, stride, 2 * stride, border=1)
    scores = layer(cell_means(class_map, stride, 4)[None], 3 * stride // 2, size)[0]
    assert is_argmax(class_map, stride, scores)


def test_bilinear_matches_a_calculation_by_hand():
    # cells: 1, 3/4, 0 of class 0; pixels along the axis: 1, 15/16, 13/16, 9/16, 3/16, 0
    assert bilinear(torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]], dtype=torch.uint8), 2).tolist() == [
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 1],
    ]


def test_the_first_of_equal_classes_is_taken():
    assert bilinear(torch.tensor([[2, 1]], dtype=torch.uint8), 2).tolist() == [[1, 1]]


def test_nearest_matches_a_calculation_by_hand():
    class_map = torch.arange(35, dtype=torch.uint8).view(5, 7)
    # centres: rows 2 and 4 of cells 0..3 and 4; columns 2 and 5 of cells 0..3 and 4..6
    top, bottom = [16] * 4 + [19] * 3, [30] * 4 + [33] * 3
    assert nearest(class_map, 4).tolist() == [top] * 4 + [bottom]


@pytest.mark.parametrize("size", SIZES)
def test_nearest_is_the_central_pixel_of_each_cell(size):
    class_map = random_map(size, void=0)
    found = nearest(class_map, 4)
    for row, column in np.ndindex(*size):
        first = 4 * (row // 4), 4 * (column // 4)
        after = min(first[0] + 4, size[0]), min(first[1] + 4, size[1])
        assert found[row, column] == class_map[sum((first[0], after[0])) // 2, sum((first[1], after[1])) // 2]


@pytest.mark.parametrize("size", SIZES)
def test_stride_1_keeps_all_labels(size):
    class_map = random_map(size)
    labelled = class_map != VOID
    assert torch.equal(bilinear(class_map, 1)[labelled], class_map[labelled])
    ceilings = measure(random_map((9, 9)), classes=["a", "b", "c", "d"], strides=[1])
    assert [ceilings.mean_iu[method][1] for method in METHODS] == [1, 1]


@pytest.mark.parametrize("size", SIZES)
def test_a_stride_larger_than_the_map_leaves_one_class(size):
    class_map = random_map(size, void=0)
    assert len(bilinear(class_map, 64).unique()) == len(nearest(class_map, 64).unique()) == 1


def test_a_thin_line_vanishes_at_a_coarse_stride():
    street = torch.zeros(64, 64, dtype=torch.uint8)
    street[:, 20:23] = 1
    ceilings = measure(street, classes=["street", "pole"])
    assert ceilings.per_class["bilinear"][4]["pole"] == pytest.approx(2 / 3)  # 0.47, 0.66, 0.66 and 0.47 of it
    for stride in (16, 32, 64, 128):
        assert ceilings.best("pole", stride) == 0
        assert ceilings.per_class["bilinear"][stride]["street"] == 61 / 64
    assert ceilings.mean_iu["bilinear"][32] == pytest.approx(61 / 128)


def test_all_maps_are_counted_in_one_confusion_matrix():
    whole, line = np.ones((8, 8)), np.zeros((8, 8))
    line[:, 0] = 1
    ceilings = measure(whole, line, classes=["a", "b"], strides=[8])
    # b has 72 pixels, of which the 8 of the line become a, which has 56
    assert ceilings.per_class["bilinear"][8] == {"a": 56 / 64, "b": 64 / 72}
    assert ceilings.mean_iu["bilinear"][8] == pytest.approx((56 / 64 + 64 / 72) / 2)
    assert ceilings.pixels == {"a": 56, "b": 72}
    assert ceilings.class_images == {"a": 1, "b": 2}


def test_void_is_excluded_from_averages():
    # both labelled pixels of the first cell have class 1, although most of its pixels are void
    row = torch.tensor([[1, VOID, VOID, 1, 0, 0, 0, 0]], dtype=torch.uint8)
    assert bilinear(row, 4)[row != VOID].tolist() == [1, 1, 0, 0, 0, 0]


def test_a_void_centre_takes_the_nearest_label():
    row = torch.tensor([[0, VOID, VOID, 1, VOID]], dtype=torch.uint8)
    assert fill_void(row).tolist() == [[0, 0, 1, 1, 1]]
    assert nearest(fill_void(row), 5).tolist() == [[1] * 5]
    assert fill_void(row[:, :1]).tolist() == [[0]]


def test_void_is_neither_scored_nor_predicted():
    class_map = torch.full((20, 20), VOID, dtype=torch.uint8)
    class_map[:10, :10] = 1
    ceilings = measure(class_map, np.full((5, 5), VOID), classes=["a", "b"])
    assert ceilings.images == 2
    assert ceilings.pixels == {"a": 0, "b": 100}
    assert all(ceilings.mean_iu[method][stride] == 1 for method in METHODS for stride in STRIDES)


def test_void_labels_are_a_user_error():
    with pytest.raises(UserError, match="255"):
        measure(np.full((5, 5), VOID), classes=["a", "b"])


def test_the_last_class_index():
    names = [f"class {index}" for index in range(255)]
    ceilings = measure([[254] * 4 + [0] * 4], classes=names, strides=[4])
    assert ceilings.present == ["class 0", "class 254"]
    assert ceilings.mean_iu["bilinear"][4] == 1


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("stride", [2, 128])
def test_memory_does_not_grow_with_the_number_of_classes(stride):
    class_map = torch.randint(0, 150, (300, 400), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with Largest() as largest:
        bilinear(class_map, stride)
    assert 300 * 400 <= largest.elements <= (300 + 127) * (400 + 127)


def make_ceilings(**ius):
    """Return ceilings with the given IoUs at strides 2 to 128 by the better method; None for an absent class."""
    per_class = {s: {name: None if iu is None else iu[k] for name, iu in ius.items()} for k, s in enumerate(STRIDES)}
    worse = {s: {name: None if iu is None else iu / 2 for name, iu in row.items()} for s, row in per_class.items()}
    return Ceilings(
        images=1000,
        strides=list(STRIDES),
        mean_iu={"nearest": dict.fromkeys(STRIDES, 0.4), "bilinear": dict.fromkeys(STRIDES, 0.8)},
        per_class={"nearest": worse, "bilinear": per_class},
        pixels={name: 0 if iu is None else 1_000_000 for name, iu in ius.items()},
        class_images={name: 0 if iu is None else 900 for name, iu in ius.items()},
    )


ROAD = [0.99, 0.98, 0.97, 0.95, 0.9, 0.8, 0.7]
CAR = [0.99, 0.97, 0.92, 0.85, 0.6, 0.5, 0.4]
SIGN = [0.97, 0.9, 0.8, 0.5, 0.3, 0.1, 0]
FENCE = [0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0]
POLE = [0.85, 0.58, 0.32, 0.17, 0.09, 0, 0]
HAIR = [0.5, 0.1, 0.02, 0.01, 0, 0, 0]


def assert_values(sentences, expected):
    """Check that each sentence contains its values."""
    for sentence, values in zip(sentences, expected, strict=True):
        assert all(value in sentence for value in values), (sentence, values)


@pytest.mark.parametrize(
    ("classes", "network", "values"),
    [
        ({"road": ROAD}, "fcn32s", [["32"]]),
        ({"road": ROAD, "car": CAR}, "fcn16s", [["car", "16", "32", "60%"], ["32"]]),
        (
            {"sign": SIGN, "light": SIGN, "car": CAR},
            "fcn8s",
            [["sign", "light", "8", "16", "50%"], ["16"]],
        ),
    ],
)
def test_advice_names_the_coarsest_sufficient_network(classes, network, values):
    ceilings = make_ceilings(**classes, absent=None)
    assert recommended_network(ceilings) == network
    assert_values(advice(ceilings), [*values, [network]])


def test_advice_names_unreachable_classes():
    ceilings = make_ceilings(road=ROAD, fence=FENCE, pole=POLE)
    assert unreachable_classes(ceilings) == ["pole"]
    expected = [
        ["pole", "8", "32%"],
        ["fence", "8", "70%"],
        ["--max-side", "pole", "fence", "2 times", "58%", "80%", "4 times", "85%", "90%"],
        ["32", "75%"],
        ["fcn8s", "pole", "fence"],
    ]
    assert_values(advice(ceilings), expected)
    assert any("--max-side" in sentence and "7 of 1,000" in sentence for sentence in advice(ceilings, reduced=7))


def test_unreachable_classes_do_not_need_a_fine_stride():
    ceilings = make_ceilings(road=ROAD, hair=HAIR)
    assert needed_stride(ceilings, "hair") == 32
    assert "fcn32s" in advice(ceilings)[-1]
    assert "hair" in advice(ceilings)[-1]


def test_values_that_round_to_75_per_cent_are_sufficient():
    at_16 = [0.99, 0.97, 0.9, 0.748, 0.6, 0.5, 0.4]
    assert needed_stride(make_ceilings(car=at_16), "car") == 16
    assert needed_stride(make_ceilings(car=[*at_16[:3], 0.744, *at_16[4:]]), "car") == 8


def test_long_lists_of_classes_are_shortened():
    classes = {f"sign {index}": SIGN for index in range(20)}
    (need, *_) = advice(make_ceilings(road=ROAD, **classes))
    assert need.startswith("sign 0, sign 1, sign 2, sign 3, sign 4 and 15 more ")
    assert "sign 5" not in need


def test_classes_with_few_pixels_are_reported():
    ceilings = replace(make_ceilings(road=ROAD, car=CAR, absent=None), pixels={"road": 10_000, "car": 812, "absent": 0})
    (sentence,) = (sentence for sentence in advice(ceilings) if "pixels" in sentence)
    assert "car" in sentence
    assert "812 pixels in 900 images" in sentence


def test_markdown_has_advice_methods_and_tables():
    ceilings = make_ceilings(**{"road | path": ROAD, "absent": None})
    page = markdown(ceilings, "streets", advice(ceilings))
    assert page.splitlines()[0].endswith("streets")
    assert "\n\n1,000 label maps." in page
    assert r"| road \| path | 1,000,000 | 900 | 99.0% | 98.0% | 97.0% | 95.0% | 90.0% | 80.0% | 70.0% |" in page
    assert "| absent | 0 | 0 | - | - | - | - | - | - | - |" in page
    assert "| paper, PASCAL VOC 2011 | - | 98.5% | 96.4% | 92.8% | 86.1% | 73.3% | 50.9% |" in page
    assert all(definition in page for definition in METHODS.values())
    assert all(f"- {sentence}" in page for sentence in advice(ceilings))


def test_ceilings_are_json_serialisable():
    ceilings = make_ceilings(road=ROAD, absent=None)
    read = json.loads(json.dumps(ceilings.to_json(), allow_nan=False))
    assert read["per_class"]["bilinear"]["8"] == {"road": 0.97, "absent": None}
    assert read["paper_mean_iu"]["32"] == 0.861


@pytest.fixture
def axes(monkeypatch):
    """Axes of the figure that was saved last."""
    saved, save = [], ceiling_plots.save
    monkeypatch.setattr(ceiling_plots, "save", lambda figure, path: (saved.append(figure.axes[0]), save(figure, path)))
    return lambda: saved[-1]


def test_plot_has_both_methods_and_the_paper(tmp_path, axes):
    plot_ceilings(make_ceilings(road=ROAD), tmp_path / "a.png")
    lines = {line.get_label(): line.get_ydata() for line in axes().lines}
    assert list(lines["one-hot bilinear"]) == [0.8] * 7
    assert list(lines["nearest"]) == [0.4] * 7
    assert list(lines["paper, PASCAL VOC 2011"]) == [0.985, 0.964, 0.928, 0.861, 0.733, 0.509]
    assert [text.get_text() for text in axes().get_xticklabels()][2:5] == ["8\nfcn8s", "16\nfcn16s", "32\nfcn32s"]


def test_heat_map_has_a_line_at_sufficient_values(tmp_path, axes):
    plot_class_ceilings(make_ceilings(pole=POLE, road=ROAD, absent=None), tmp_path / "a.png")
    assert [text.get_text() for text in axes().get_yticklabels()] == ["road", "pole"]
    assert axes().lines[0].get_xydata().tolist() == [[5.5, -0.5], [5.5, 0.5], [0.5, 0.5], [0.5, 1.5]]
    assert [text.get_text() for text in axes().texts][:3] == ["99", "98", "97"]


@pytest.mark.parametrize("classes", [1, pytest.param(150, marks=pytest.mark.slow)])
def test_any_number_of_classes_can_be_plotted(tmp_path, classes):
    plot_class_ceilings(make_ceilings(**{f"class {k}": ROAD for k in range(classes)}), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) < 4500


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="CamVid is not in ../shared/data")
def test_camvid_needs_fcn8s_and_larger_images_for_poles():
    dataset = open_dataset(SHARED / "camvid")
    sentences = advice(measure(*(dataset[index].class_map for index in range(0, 468, 36)), classes=dataset.classes))
    assert all(value in sentences[0] for value in ("Pole", "stride 8 is 3"))
    assert all(value in sentences[-1] for value in ("fcn8s", "Pole"))
