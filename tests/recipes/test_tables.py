"""Recipes of the FCN tables: their rows, and runs on a few scenes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recipes.load import recipe
from upscore.models import build

recipe("table_pages")
tables = recipe("tables")
table2, table3, choices, upsampling = (
    recipe(name) for name in ("fcn_table2", "fcn_table3", "fcn_choices", "fcn_upsampling")
)


@pytest.mark.parametrize("module", [table2, table3, choices, upsampling])
def test_all_rows_can_be_built(module) -> None:  # type: ignore[no-untyped-def]
    table = module.TABLE
    every = {**table.hidden, **table.rows}
    for row in every.values():
        build(row.model, num_classes=3, **row.options)
        table.base.model_copy(update=row.recipe)
        assert row.after is None or row.after in every
    assert {row for order in table.orders for row in order} <= table.rows.keys()


def test_equivalent_regimes_have_equal_updates() -> None:
    """The effect of an image on the weights after further images, by a simulation of both regimes."""

    def after(regime: dict[str, float], images: int = 2000) -> list[float]:
        batch, momentum, rate = int(regime["accumulate"]), regime["momentum"], regime["learning_rate"]
        moved = []  # change of the weights by the first image, after every 100 images
        velocity = weight = 0.0
        for step in range(images // batch):
            gradient = 1 / batch if step == 0 else 0.0
            velocity = momentum * velocity + gradient
            weight += rate * velocity
            if (step + 1) * batch % 100 == 0:
                moved.append(weight)
        return moved

    for row, equivalent_row in table2.PAIRS.items():
        ours, theirs = (after(dict(table2.TABLE.rows[name].recipe)) for name in (row, equivalent_row))
        assert ours == pytest.approx(theirs, rel=0.06)  # steps of 20 images are coarser than of one
    assert table2.momentum_at(20, 0.9, 1) == pytest.approx(0.9948, abs=1e-4)  # FCN section 6.2


def test_stages_divide_the_images() -> None:
    rows = {**table3.TABLE.hidden, **table3.TABLE.rows}
    chain, name = [], "staged"
    while name is not None:
        chain.append(rows[name])
        name = rows[name].after
    assert [row.model for row in chain] == ["fcn8s", "fcn16s", "fcn32s"]
    assert sum(row.share for row in chain) == pytest.approx(1)


@pytest.mark.slow
def test_finished_runs_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["table_runs"], "DIFFERENT", 4)
    monkeypatch.setattr(sys.modules["table_runs"], "HELD_OUT", 2)
    kept = ("staged", "frozen", "fcn32s")
    small = replace(table3.TABLE, rows={name: table3.TABLE.rows[name] for name in kept}, name="small")
    runs, docs = tmp_path / "runs", tmp_path / "docs" / "results"
    common = ["--output", str(runs), "--docs", str(docs), "--seeds", "1", "--images", "6"]
    tables.main(small, "", common)
    first = json.loads((runs / "results.json").read_text())
    assert set(first) == {f"scenes/{name}-0" for name in (*kept, "staged_32s", "staged_16s")}
    assert not list(runs.rglob("state.pt"))
    page = (docs / "small.md").read_text()
    assert "--seeds 1 --images 6" in page
    assert "| 8s staged |" in page
    assert "32s frozen below 32s, as in the paper" in page
    assert (docs / "../images/small_scenes.png").exists()

    tables.main(replace(small, rows={**small.rows, "fcn8s": table3.TABLE.rows["fcn8s"]}), "", common)
    second = json.loads((runs / "results.json").read_text())
    assert second.keys() - first.keys() == {"scenes/fcn8s-0"}
    assert {name: second[name] for name in first} == first  # with equal times, so they were not run again
    staged = json.loads((runs / "scenes/staged-0/run.json").read_text())
    assert staged == {"row": "staged", "seed": 0, "images": 6}
