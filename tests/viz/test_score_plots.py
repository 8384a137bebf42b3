"""Tests of score plots: atomic writes, drawn values, and no use of pyplot's global state."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from upscore.errors import UserError
from upscore.evaluation.semantic import semantic_scores
from upscore.viz import score_plots as plots
from upscore.viz.score_plots import plot_confusion, plot_per_class
from upscore.viz.training_curves import plot_curves


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


def test_curves_without_mean_iu_go_by_validation_loss(tmp_path, figure):
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
    code = "import sys, upscore.viz.score_plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
