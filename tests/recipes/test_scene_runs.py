"""Recipes of two heads and of depth: recommendations, and runs on a few scenes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.load import FOLDER, recipe

sys.path.insert(0, str(FOLDER))  # recipes import common modules from there
two_heads, rgbd = recipe("two_heads"), recipe("rgbd")


def runs(seconds: float, **scores: tuple[float, ...]) -> list[dict[str, Any]]:
    """Return results with the given scores for each seed."""
    names = list(scores)
    return [{**dict(zip(names, each, strict=True)), "seconds": seconds} for each in zip(*scores.values(), strict=True)]


def heads(semantic: tuple[float, ...], geometric: tuple[float, ...]) -> dict[str, list[dict[str, Any]]]:
    return {
        "semantic": runs(30, mean_iu=(0.5, 0.6), pixel_accuracy=(0.9, 0.9)),
        "geometric": runs(30, geometric_mean_iu=(0.7, 0.8), geometric_accuracy=(0.9, 0.9)),
        "both": runs(
            36,
            mean_iu=semantic,
            pixel_accuracy=(0.9, 0.9),
            geometric_mean_iu=geometric,
            geometric_accuracy=(0.9, 0.9),
        ),
    }


def test_two_heads_are_recommended_without_loss() -> None:
    equal = two_heads.advice(heads((0.49, 0.62), (0.71, 0.79)))
    assert equal.startswith("Recommended: two heads")
    assert "60% of the time" in equal
    assert "+0.5 points (semantic) and +0.0 points (geometric)" in equal
    worse = two_heads.advice(heads((0.45, 0.55), (0.71, 0.79)))
    assert worse.startswith("Recommended: separate networks if the semantic classes")


def fused(early: tuple[float, float], late: tuple[float, float]) -> dict[str, list[dict[str, Any]]]:
    rows = {"colour": (0.5, 0.6), "depth": (0.3, 0.3), "early": early, "late": late, "staged": late}
    return {
        name: runs(40 if name == "late" else 20, mean_iu=each, thin_iu=each, pixel_accuracy=each)
        for name, each in rows.items()
    }


def test_depth_is_recommended_if_it_helps_in_every_seed() -> None:
    assert "late fusion changes mean IoU by +6.0 points" in rgbd.advice(fused((0.52, 0.62), (0.56, 0.66)))
    assert "2.0 times as long" in rgbd.advice(fused((0.52, 0.62), (0.56, 0.66)))
    assert "not significant" in rgbd.advice(fused((0.4, 0.8), (0.4, 0.6)))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "count"), [(two_heads, 3), (rgbd, 5)])
def test_finished_runs_are_not_repeated(module: Any, count: int, tmp_path: Path) -> None:
    name = module.__name__.removeprefix("recipes_")
    arguments = ["--output", str(tmp_path / "runs"), "--docs", str(tmp_path / "docs" / "results")]
    arguments += ["--seeds", "1", "--scenes", "4"]
    module.run_recipe(arguments)
    first = json.loads((tmp_path / "runs" / "results.json").read_text())
    assert len(first) == count
    assert not list(tmp_path.glob("runs/*/state.pt"))
    module.run_recipe(arguments)
    assert json.loads((tmp_path / "runs" / "results.json").read_text()) == first
    page = (tmp_path / "docs" / "results" / f"{name}.md").read_text()
    assert f"    python recipes/{name}.py --seeds 1 --scenes 4\n" in page
    assert all(f"| {row.title} |" in page for row in module.ROWS.values())
    assert (tmp_path / "docs" / "images" / f"{name}.png").exists()
