from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.recipes.load import recipe

pages = recipe("table_pages")
TITLES = {"reference": "8s", "lower": "32s", "mixed": "16s"}


def runs(*ius: float) -> list[dict[str, Any]]:
    """Of as many seeds."""
    others = {"pixel_accuracy": 0.9, "mean_accuracy": 0.7, "frequency_weighted_iu": 0.8}
    return [{"mean_iu": iu, **others, "seconds": 10 * seed} for seed, iu in enumerate(ius)]


def results() -> dict[str, list[dict[str, Any]]]:
    return {"reference": runs(0.30, 0.32, 0.31), "lower": runs(0.27, 0.30, 0.30), "mixed": runs(0.31, 0.33, 0.28)}


def test_differences_are_those_of_the_same_seed() -> None:
    assert pages.differences(results(), "lower", "reference", "mean_iu") == pytest.approx([-3, -2, -1])
    assert pages.differences(results(), "mixed", "lower", "mean_iu") == pytest.approx([4, 3, -2])


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([-3.0, -2.0, -1.0], "shows in all 3 seeds (-2.0 points)"),
        ([-5.0, 1.0, -3.0], "shows on average, and in 2 of 3 seeds (-2.3 points)"),
        ([1.0, 2.0, -1.0], "does not show (+0.7 points)"),
        ([-1.0], "shows, in one seed (-1.0 points)"),
    ],
)
def test_the_verdict_follows_from_the_numbers(points: list[float], words: str) -> None:
    assert pages.verdict(points, "32s", "8s") == f"32s below 8s: the paper's order {words}."


def test_the_choice_is_the_quickest_of_what_the_seeds_cannot_tell_apart() -> None:
    assert pages.choice(results(), TITLES, "mean_iu") == (
        "To choose: 8s (31.0%), the quickest of what is as good; the seeds do not tell it from 16s."
    )
    slower = {**results(), "reference": [{**run, "seconds": 99} for run in results()["reference"]]}
    assert pages.choice(slower, TITLES, "mean_iu").startswith("To choose: 16s (30.7%), the quickest")
    clear = {"reference": runs(0.3, 0.3), "lower": runs(0.2, 0.29)}
    assert pages.choice(clear, TITLES, "mean_iu") == "To choose: 8s (30.0%); it is clearly the best."
    close = {"reference": runs(0.3, 0.3), "lower": runs(0.297, 0.298)}
    assert "do not tell it from 32s" in pages.choice(close, TITLES, "mean_iu")


def test_the_table_has_every_number() -> None:
    table = pages.scores_table(
        results(), TITLES, paper={"reference": "65.5", "lower": "63.6", "mixed": ""}, whose="VOC"
    )
    lines = table.splitlines()
    assert lines[0].endswith("| to the first row | s a run | VOC |")
    assert lines[2] == ("| 8s | 31.0% (30.0% to 32.0%) | 90.0% | 70.0% | 80.0% | 30.0%, 32.0%, 31.0% |  | 10 | 65.5 |")
    assert lines[3].endswith("| 27.0%, 30.0%, 30.0% | -2.0 | 10 | 63.6 |")
    without = pages.scores_table(results(), TITLES, paper=dict.fromkeys(TITLES, ""), whose="VOC")
    assert "VOC" not in without


def test_the_plot(tmp_path: Path) -> None:
    pages.plot_rows(results(), TITLES, tmp_path / "a.png", title="Scenes", score="mean_iu", label="mean IoU")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 800
