"""pycocotools computes the scores of `upscore evaluate` from the annotation file and `instances.json`."""

import contextlib
import io
import json
import math
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.cli.command import upscore
from upscore.results import rle

IMAGE_IDS, CATEGORY_IDS = (5001, 17, 900), {"Debris": 3, "Nucleus": 44}


@pytest.fixture
def data(tmp_path):
    """COCO data set of three images with ids that neither start at 1 nor ascend."""
    example = files("upscore") / "data/example/nuclei/val"
    images, annotations = [], []
    for image_id, source in zip(IMAGE_IDS, sorted((example / "images").iterdir())[::5], strict=False):
        with Image.open(source) as image, Image.open(example / "labels" / source.name) as labels:
            ids = np.array(labels)
            (tmp_path / "val").mkdir(exist_ok=True)
            image.convert("RGB").save(tmp_path / f"val/{source.name}")
        images.append({"id": image_id, "file_name": source.name, "height": ids.shape[0], "width": ids.shape[1]})
        for number in np.unique(ids)[1:].tolist():
            encoded = rle.encode(ids == number, 0, 0, ids.shape)
            rows, columns = np.nonzero(ids == number)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            annotations.append(
                {
                    "id": 10 + 7 * len(annotations),
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS["Nucleus"],
                    "segmentation": encoded,
                    "bbox": [int(value) for value in box],
                    "area": len(rows),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items() if name == "Nucleus"]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = tmp_path / "annotations/instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return tmp_path


def coco_scores(truth, results, overlap, max_detections):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        engine = COCOeval(coco, coco.loadRes(results), overlap)
        engine.params.maxDets = [1, 10, max_detections]
        engine.evaluate()
        engine.accumulate()
    precision, recall = engine.eval["precision"], engine.eval["recall"]

    def mean(values):
        return float(values[values > -1].mean()) if (values > -1).any() else math.nan

    areas = [mean(precision[..., area, -1]) for area in range(4)]
    return [
        areas[0],
        mean(precision[0, ..., 0, -1]),
        mean(precision[5, ..., 0, -1]),
        *areas[1:],
        mean(recall[..., 0, -1]),
    ]


@pytest.mark.slow
def test_pycocotools_and_evaluate_give_the_same_average_precision(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert upscore(monkeypatch, "evaluate", "nuclei", data, "--split", "val", "--json", tmp_path / "scores.json") == 0
    assert upscore(monkeypatch, "predict", "nuclei", data / "val", "--output", out, "--score-threshold", "0") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    results = json.loads((out / "instances.json").read_text())
    assert {result["image_id"] for result in results} == set(IMAGE_IDS)
    assert {result["category_id"] for result in results} == {CATEGORY_IDS["Nucleus"]}
    assert scores["AP"] > 0.2

    truth = str(data / "annotations/instances_val.json")
    boxes = coco_scores(truth, str(out / "instances.json"), "bbox", scores["max_detections"])
    assert boxes[:3] == pytest.approx([scores["box_AP"], scores["box_AP50"], scores["box_AP75"]], abs=1e-12)
    masks = coco_scores(truth, str(out / "instances.json"), "segm", scores["max_detections"])
    assert masks[:3] == pytest.approx([scores["AP"], scores["AP50"], scores["AP75"]], abs=1e-12)
    # loadRes takes the area of an object from its box if it has one, and otherwise from its mask
    for result in results:
        assert result["area"] == rle.areas([result["segmentation"]])[0]
        del result["bbox"]
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR_max")
    expected = [math.nan if scores[name] is None else scores[name] for name in names]
    masks = coco_scores(truth, results, "segm", scores["max_detections"])
    assert masks == pytest.approx(expected, abs=1e-12, nan_ok=True)
