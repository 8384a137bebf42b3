from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.recipes.load import recipe

pages = recipe("table_pages")
TITLES = {"reference": "8s", "lower": "32s", "mixed": "16s"}


def runs(*ius: float) -> list[dict[str, Any]]:
    """Return results with the given mean IoU for each seed."""
    others = {"pixel_accuracy": 0.9, "mean_accuracy": 0.7, "frequency_weighted_iu": 0.8}
    return [{"mean_iu": iu, **others, "seconds": 10 * seed} for seed, iu in enumerate(ius)]


def results() -> dict[str, list[dict[str, Any]]]:
    return {"reference": runs(0.30, 0.32, 0.31), "lower": runs(0.27, 0.30, 0.30), "mixed": runs(0.31, 0.33, 0.28)}


def test_differences_are_computed_by_seed() -> None:
    assert pages.differences(results(), "lower", "reference", "mean_iu") == pytest.approx([-3, -2, -1])
    assert pages.differences(results(), "mixed", "lower", "mean_iu") == pytest.approx([4, 3, -2])


@pytest.mark.parametrize(
    ("points", "result"),
    [
        ([-3.0, -2.0, -1.0], "confirmed in 3 seeds (-2.0 points)"),
        ([-5.0, 1.0, -3.0], "confirmed on average and in 2 of 3 seeds (-2.3 points)"),
        ([1.0, 2.0, -1.0], "not confirmed (+0.7 points)"),
        ([-1.0], "confirmed in 1 seed (-1.0 points)"),
    ],
)
def test_comparison_with_the_paper(points: list[float], result: str) -> None:
    assert pages.compare_with_paper(points, "32s", "8s") == f"32s below 8s, as in the paper: {result}."


def test_the_fastest_row_without_a_significant_difference_is_recommended() -> None:
    recommended = pages.recommend(results(), TITLES, "mean_iu")
    assert recommended.startswith("Recommended: 8s (31.0%)")
    assert "16s" in recommended
    assert "32s" not in recommended
    slower = {**results(), "reference": [{**run, "seconds": 99} for run in results()["reference"]]}
    assert pages.recommend(slower, TITLES, "mean_iu").startswith("Recommended: 16s (30.7%)")
    clear = {"reference": runs(0.3, 0.3), "lower": runs(0.2, 0.29)}
    assert "32s" not in pages.recommend(clear, TITLES, "mean_iu")
    close = {"reference": runs(0.3, 0.3), "lower": runs(0.297, 0.298)}
    assert "32s" in pages.recommend(close, TITLES, "mean_iu")


def test_the_table_has_all_numbers() -> None:
    table = pages.scores_table(
        results(), TITLES, paper={"reference": "65.5", "lower": "63.6", "mixed": ""}, whose="VOC"
    )
    lines = table.splitlines()
    assert lines[0].endswith("| vs first row | s per run | VOC |")
    assert lines[2] == ("| 8s | 31.0% (30.0% to 32.0%) | 90.0% | 70.0% | 80.0% | 30.0%, 32.0%, 31.0% |  | 10 | 65.5 |")
    assert lines[3].endswith("| 27.0%, 30.0%, 30.0% | -2.0 | 10 | 63.6 |")
    without = pages.scores_table(results(), TITLES, paper=dict.fromkeys(TITLES, ""), whose="VOC")
    assert "VOC" not in without


def test_plot_rows(tmp_path: Path) -> None:
    pages.plot_rows(results(), TITLES, tmp_path / "a.png", title="Scenes", score="mean_iu", label="mean IoU")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 800
