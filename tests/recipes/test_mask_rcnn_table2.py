"""Recipe of Mask R-CNN's ablations: page, and runs on a few scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.recipes.load import recipe
from upscore.errors import UserError

table2 = recipe("mask_rcnn_table2")


def scores(*aps: float) -> list[dict[str, float]]:
    """Return results with the given AP for each seed."""
    return [{"AP": ap, "AP50": ap + 0.2, "AP75": ap - 0.1, "box_AP": ap + 0.05, "seconds": 60} for ap in aps]


def results() -> dict[str, list[dict[str, float]]]:
    return {
        "reference": scores(0.30, 0.32, 0.31),
        "roipool": scores(0.27, 0.30, 0.30),
        "softmax": scores(0.25, 0.33, 0.28),
        "mlp": scores(0.31, 0.34, 0.30),
    }


def test_the_page_has_all_numbers(tmp_path: Path) -> None:
    page = table2.report(results(), table2.SCENES, "../images/x.png")
    rows = "roipool softmax mlp"
    assert f"    python recipes/mask_rcnn_table2.py --rows {rows}\n" in page
    assert (
        "| RoIPool | 29.0% (27.0% to 30.0%) | 49.0% | 19.0% | 34.0% | 27.0%, 30.0%, 30.0% | -2.0 | 60 "
        "| 26.9, 30.3 (2c, R-50-C4) |"
    ) in page
    assert "RoIPool below the reference, as in the paper: confirmed in 3 seeds (-2.0 points)." in page
    assert f"{table2.SCENES // 10} others" in page
    assert "A run took\n60 s" in page
    assert "(../images/x.png)" in page
    fewer = {row: results()[row] for row in ("reference", "mlp")}
    assert "    python recipes/mask_rcnn_table2.py --rows mlp --scenes 40\n" in table2.report(fewer, 40, "")


@pytest.mark.slow
def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs" / "results"
    common = ["--output", str(runs), "--docs", str(docs), "--seeds", "1", "--scenes", "4"]
    table2.main([*common, "--rows", "softmax"])
    first = json.loads((runs / "results.json").read_text())
    assert set(first) == {"reference-0", "softmax-0"}
    assert all({"AP", "AP50", "AP75", "box_AP", "seconds"} == set(run) for run in first.values())
    assert not list(runs.glob("*/state.pt"))
    architectures = [
        json.loads((runs / name / "best" / "model.json").read_text())["architecture"] for name in sorted(first)
    ]
    assert {key for key in architectures[0] if architectures[0][key] != architectures[1][key]} == {"mask_loss"}

    table2.main([*common, "--rows", "mlp"])
    second = json.loads((runs / "results.json").read_text())
    assert {name: second[name] for name in first} == first  # with equal times, so they were not run again
    page = (docs / "mask_rcnn_table2.md").read_text()
    assert "| softmax masks |" in page
    assert "| MLP mask head |" in page
    assert (docs / "../images/mask_rcnn_table2.png").exists()

    with pytest.raises(UserError, match="scenes: 4, not 8"):
        table2.main([*common, "--scenes", "8"])
