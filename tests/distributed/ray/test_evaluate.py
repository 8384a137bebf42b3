"""Evaluation on Ray, compared with a single process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from upscore.data.datasets import open_dataset
from upscore.data.instance_datasets import open_instances
from upscore.distributed.ray.evaluate import evaluate_on_ray
from upscore.errors import UserError
from upscore.inference import evaluate, load

TORCH: dict[str, Any] = {"engine": "torch", "precision": "float32"}
TWO: dict[str, Any] = {"workers": 2, "cpus": 1, **TORCH}


def as_json(scores: Any) -> str:
    return json.dumps(scores.to_json())


@pytest.mark.slow
def test_semantic_scores_equal_those_of_one_process(
    cluster: Any, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of the data is relative to the working directory."""
    monkeypatch.chdir(photos.parent)
    calls: list[int] = []
    found = evaluate_on_ray(str(trained), photos.name, progress=lambda done, _: calls.append(done), **TWO)
    assert as_json(found.scores) == as_json(evaluate(load(trained, **TORCH), open_dataset(photos)))
    assert found.images == len(open_dataset(photos)) == 8
    assert calls == list(range(1, 9))


@pytest.mark.slow
def test_instance_scores_equal_those_of_one_process(cluster: Any, detector: Path) -> None:
    found = evaluate_on_ray(str(detector), "scenes:6", "train", **TWO)
    alone = evaluate(load(detector, **TORCH), open_instances("scenes:6", "train"))
    assert as_json(found.scores) == as_json(alone)
    assert json.loads(as_json(alone))["detections"] > 0


@pytest.mark.slow
def test_a_damaged_label_is_an_error(cluster: Any, trained: Path, photos: Path, tmp_path: Path) -> None:
    """The evaluation stops, as in one process, since scores without some of the images would be wrong."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for path in sorted((photos / part).iterdir())[:3]:
            (tmp_path / part / path.name).write_bytes(path.read_bytes())
    (tmp_path / "classes.txt").write_text((photos / "classes.txt").read_text())
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path / "labels" / "scene_00001.png")
    with pytest.raises(UserError, match=r"scene_00001.png: .* 9 .* 8 classes"):
        evaluate_on_ray(str(trained), str(tmp_path), **TWO)


def test_labels_in_an_object_store_are_an_error(trained: Path) -> None:
    with pytest.raises(UserError, match="s3://bucket/data"):
        evaluate_on_ray(str(trained), "s3://bucket/data")
