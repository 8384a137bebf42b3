"""Tests of score plots: atomic writes, drawn values, and no use of pyplot's global state."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from upscore.errors import UserError
from upscore.evaluation.instances import CLASS_COLUMNS, ClassScores, InstanceEvaluator, class_rows, summary_rows
from upscore.evaluation.semantic import semantic_scores
from upscore.viz import plots
from upscore.viz.plots import plot_class_precision, plot_confusion, plot_curves, plot_per_class, plot_precision_recall


@pytest.fixture
def figure(monkeypatch):
    """Return the figure that was saved last."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    return lambda: saved[-1]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def names(ticks):
    return [label.get_text() for label in ticks]


def share_of(path, color):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (np.abs(pixels - 255 * np.array(to_rgb(color))).max(-1) < 3).mean()


def test_confusion_shows_percentages_of_the_true_class(tmp_path, figure):
    plot_confusion(torch.tensor([[750, 249, 1], [0, 0, 0], [0, 20, 60]]), ["a", "b", "c"], tmp_path / "c.png")
    axes = figure().axes[0]
    assert texts(axes) == ["75", "25", "25", "75"]
    assert names(axes.get_yticklabels()) == ["a", "b", "c"]
    assert axes.get_title(loc="right") == "mean IoU 49.7%"  # IoU 750/1000, 0/269, 60/81
    shown = axes.images[0].get_array()
    assert shown.mask[1].all()
    assert shown[2].tolist() == [0, 0.25, 0.75]


@pytest.mark.parametrize(("size", "numbers"), [(1, 1), (25, 25), (26, 0)])
def test_confusion_of_many_classes_has_no_unreadable_numbers(tmp_path, figure, size, numbers):
    classes = [f"the class that has the long name number {k}" for k in range(size)]
    plot_confusion(torch.eye(size, dtype=torch.int64), classes, tmp_path / "c.png")
    axes = figure().axes[0]
    assert len(axes.texts) == numbers
    labels = names(axes.get_xticklabels())
    assert len(set(labels)) == size
    assert max(map(len, labels)) <= 24
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
        assert max(picture.size) < 4000


def test_names_with_dollar_signs_are_not_formulas(tmp_path, figure):
    counts = torch.eye(2, dtype=torch.int64)
    plot_confusion(counts, ["$\\frac$", "$x"], tmp_path / "c.png")
    plot_per_class(semantic_scores(counts, ["$\\frac$", "$x"]), tmp_path / "b.png")
    assert names(figure().axes[0].get_yticklabels()) == ["$\\frac$", "$x"]


def test_bars_are_sorted_with_absent_classes_last(tmp_path, figure):
    scores = semantic_scores(torch.tensor([[5, 5, 0, 0], [0, 30, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]), list("abcd"))
    plot_per_class(scores, tmp_path / "bars.png")
    axes = figure().axes[0]
    assert names(axes.get_yticklabels()) == ["c", "d", "a", "b"]
    assert texts(axes) == ["does not occur", "0.0%", "50.0%", "83.3%"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0, 0, 0.5, 30 / 36])
    assert axes.lines[0].get_xdata()[0] == scores.mean_iu


def test_curves_mark_the_epoch_of_the_best_mean_iu(tmp_path, figure):
    records = [
        {"epoch": e, "train_loss": 1 / e, "val_loss": 2 / e, "learning_rate": 0.1, "mean_iu": iu, "pixel_accuracy": 0.9}
        for e, iu in [(1, 0.2), (2, 0.5), (3, 0.4)]
    ]
    plot_curves(records, tmp_path / "curves.png")
    loss, metrics, rate = figure().axes
    assert metrics.get_title(loc="right") == "best epoch 2, mean IoU 50.0%"
    lines = {line.get_label(): line for line in loss.lines + metrics.lines + rate.lines}
    assert lines["mean IoU"].get_ydata().tolist() == [0.2, 0.5, 0.4]
    assert lines["training"].get_ydata().tolist() == [1, 0.5, 1 / 3]
    assert lines["validation"].get_xdata().tolist() == [1, 2, 3]
    assert lines["learning rate"].get_ydata().tolist() == [0.1] * 3
    for axes in (loss, metrics, rate):
        assert [2, 2] in [list(line.get_xdata()) for line in axes.lines]


def test_curves_without_mean_iu_mark_the_lowest_validation_loss(tmp_path, figure):
    records = [{"epoch": e, "val_loss": loss} for e, loss in [(1, 3.0), (2, 1.0), (3, float("nan")), (4, 2.0)]]
    plot_curves(records, tmp_path / "curves.png")
    loss, metrics = figure().axes
    assert metrics.get_title(loc="right") == "best epoch 2"
    assert texts(metrics) == ["not measured"]
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 4]


def test_curves_of_a_resumed_run_are_in_order_and_later_records_win(tmp_path, figure):
    records = [
        {"epoch": 1, "train_loss": 3.0},
        {"epoch": 2, "train_loss": 9.0},
        {"step": 7, "train_loss": 8.0},
        {"epoch": 2, "train_loss": 2.0, "device": "cpu"},
        {"epoch": 2, "val_loss": None, "mean_iu": 0.3},
        {"epoch": 0, "train_loss": 4.0},
    ]
    plot_curves(records, tmp_path / "curves.png")
    line = figure().axes[0].lines[0]
    assert line.get_xdata().tolist() == [0, 1, 2]
    assert line.get_ydata().tolist() == [4, 3, 2]
    assert figure().axes[1].get_title(loc="right") == "best epoch 2, mean IoU 30.0%"


def test_curves_without_records_are_rejected(tmp_path):
    with pytest.raises(UserError, match="epoch"):
        plot_curves([{"train_loss": 1.0}], tmp_path / "curves.png")


def test_one_epoch_is_visible(tmp_path):
    plot_curves([{"epoch": 1, "train_loss": 1.0}], tmp_path / "curves.png")
    assert share_of(tmp_path / "curves.png", plots.BLUE) > 0


def test_a_plot_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "bars.png"
    scores = semantic_scores(torch.eye(2, dtype=torch.int64), ["a", "b"])
    plot_per_class(scores, path)
    old = path.read_bytes()

    def fail(self, target, **options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_per_class(scores, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_pyplot_is_never_imported():
    code = "import sys, upscore.viz.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def nothing():
    return InstanceEvaluator(["cat", "dog", "$cow"]).scores()


@pytest.fixture
def scores(nothing):
    return replace(
        nothing,
        AP=0.4,
        AP50=0.6,
        AP75=0.3,
        ap_dsb={"0.5": 0.7, "0.7": 0.5, "0.9": 0.1},
        f1={"0.5": 0.8, "0.7": 0.6, "0.9": 0.2},
        per_class={
            "cat": ClassScores(objects=3, AP=0.3, AP50=0.5, box_AP=0.4),
            "dog": ClassScores(objects=0, AP=math.nan, AP50=math.nan, box_AP=math.nan),
            "$cow": ClassScores(objects=2, AP=0.5, AP50=0.7, box_AP=0.6),
        },
        precision={"0.5": [0.6] * 101, "0.75": [0.3] * 101, "mean": [0.4] * 101},
    )


def test_precision_over_recall(tmp_path, figure, scores):
    plot_precision_recall(scores, tmp_path / "p.png")
    precision, matched = figure().axes
    lines = {line.get_label(): set(line.get_ydata()) for line in precision.lines}
    assert lines == {
        "IoU 0.5, AP 60.0%": {0.6},
        "IoU 0.75, AP 30.0%": {0.3},
        "mean of IoU 0.5 to 0.95, AP 40.0%": {0.4},
    }
    assert {line.get_label(): line.get_xydata().tolist() for line in matched.lines} == {
        "F1": [[0.5, 0.8], [0.7, 0.6], [0.9, 0.2]],
        "AP (StarDist, DSB2018)": [[0.5, 0.7], [0.7, 0.5], [0.9, 0.1]],
    }


def test_plots_without_objects_show_a_note(tmp_path, figure, nothing):
    plot_precision_recall(nothing, tmp_path / "p.png")
    assert [[text.get_text() for text in axes.texts] for axes in figure().axes] == [["no objects"]] * 2
    plot_class_precision(nothing, tmp_path / "c.png")
    assert [text.get_text() for text in figure().axes[0].texts] == ["no objects"] * 3


def test_bars_of_classes(tmp_path, figure, scores):
    plot_class_precision(scores, tmp_path / "c.png")
    axes = figure().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat", "$cow"]
    assert [text.get_text() for text in axes.texts] == ["no objects", "30.0%", "50.0%"]
    assert [bar.get_width() for bar in axes.patches] == [0, 0, 0.5, 0.3, 0.7, 0.5]


def test_curves_mark_the_epoch_of_the_best_mask_ap(tmp_path, figure):
    records = [
        {"epoch": e, "train_loss": 3 / e, "val_loss": 4 / e, "mask_loss": 1 / e, "learning_rate": 0.1, "AP": ap}
        for e, ap in [(1, 0.1), (2, 0.5), (3, 0.4), (4, None)]
    ]
    plot_curves(records, tmp_path / "curves.png")
    loss, metrics, parts, rate = figure().axes
    assert metrics.get_title(loc="right") == "best epoch 2, mask AP 50.0%"
    shown = {line.get_label(): list(line.get_ydata()) for axes in (loss, metrics, parts, rate) for line in axes.lines}
    assert shown["mask AP"] == [0.1, 0.5, 0.4]
    assert shown["mask"] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert shown["validation"] == [4, 2, 4 / 3, 1]
    assert shown["learning rate"] == [0.1] * 4


def test_curves_without_parts_or_scores(tmp_path, figure):
    plot_curves([{"epoch": 1, "val_loss": 2.0, "AP": 0.0}, {"epoch": 2, "val_loss": 1.0}], tmp_path / "c.png")
    loss, metrics = figure().axes
    assert loss.lines[0].get_ydata().tolist() == [2, 1]
    assert metrics.get_ylim()[1] > 0
    with pytest.raises(UserError, match="epoch"):
        plot_curves([{"train_loss": 1.0}], tmp_path / "c.png")


def test_rows_of_text(scores):
    assert class_rows(scores) == [
        ("cat", "3", "30.0%", "50.0%", "40.0%"),
        ("dog", "0", "-", "-", "-"),
        ("$cow", "2", "50.0%", "70.0%", "60.0%"),
    ]
    assert len(CLASS_COLUMNS) == 5
    summary = dict(summary_rows(scores))
    assert summary["mask AP"] == "40.0%"
    assert summary["mask AP small"] == "-"
    assert summary["AP at IoU 0.7 (StarDist, DSB2018)"] == "50.0%"
    assert summary["F1 at IoU 0.7"] == "60.0%"
