"""The example data set of the package: its contents, its sources, and copies of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import sentence, upscore
from tests.recipes.load import recipe
from upscore.data.checks.instances import check_instances
from upscore.data.example import copy_example, example_path
from upscore.data.instance_datasets import open_instance_splits, task_of
from upscore.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "nuclei"
LARGEST = 3_000_000


def sources() -> list[dict[str, str]]:
    with (example_path() / "sources.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_example_is_an_instance_data_set_without_issues():
    root = example_path()
    assert task_of(root) == "instances"
    report = check_instances(root)
    assert (report.issues, report.images, report.objects, dict(report.sizes)) == ([], 56, 2258, {(256, 256): 56})
    train, val = open_instance_splits(root)
    assert (len(train), len(val), train.classes) == (40, 16, ["nucleus"])
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < LARGEST


def test_every_image_has_a_source():
    rows = sources()
    images = {path.relative_to(example_path()).with_suffix("") for path in example_path().glob("*/images/*")}
    assert {Path(row["split"], "images", row["name"]) for row in rows} == images
    assert len({row["source"] for row in rows}) == len(rows)
    assert "CC0" in (example_path() / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not SHARED.exists(), reason="the shared nuclei are missing")
def test_the_shipped_model_was_not_trained_on_validation_images(tmp_path):
    train, val = open_instance_splits(SHARED)  # as recipes/nuclei.py does
    parts = {"train": {Path(name).stem for name in train.names}, "val": {Path(name).stem for name in val.names}}
    assert all(row["source"] in parts[row["split"]] for row in sources())

    row = next(row for row in sources() if row["side"] != "256")
    recipe("nuclei_example").write_pair(row, SHARED, tmp_path)
    for path in tmp_path.rglob("*.png"):
        again = np.asarray(Image.open(example_path() / row["split"] / path.relative_to(tmp_path)))
        assert np.array_equal(np.asarray(Image.open(path)), again)


def test_the_example_can_be_copied_to_a_new_folder(monkeypatch, capsys, tmp_path):
    assert upscore(monkeypatch, "data", "example", tmp_path / "nuclei") == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'nuclei'}: 56 labelled images" in out
    assert f"upscore data check {tmp_path / 'nuclei'}" in out
    for path in example_path().rglob("*"):
        if path.is_file():
            assert (tmp_path / "nuclei" / path.relative_to(example_path())).read_bytes() == path.read_bytes()
    assert upscore(monkeypatch, "data", "example", tmp_path / "nuclei") == 2
    assert str(tmp_path / "nuclei") in sentence(capsys)
    readme = (copy_example(tmp_path / "cells") / "README.md").read_text()
    assert "upscore train cells/ --model mask_rcnn --output runs/cells" in readme
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        copy_example(tmp_path / "file" / "nuclei")
