"""Tests of plots and tables of instance segmentation scores."""

import math
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from upscore.errors import UserError
from upscore.evaluation.instances import CLASS_COLUMNS, ClassScores, InstanceEvaluator, class_rows, summary_rows
from upscore.viz.score_plots import plot_class_precision, plot_precision_recall
from upscore.viz.training_curves import plot_curves


@pytest.fixture
def figure(monkeypatch):
    """Return the figure that was saved last."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k)))
    return lambda: saved[-1]


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
