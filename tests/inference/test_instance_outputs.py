"""Output files of object detection."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from tests.cli.command import upscore
from tests.tiny import StubModel
from upscore.errors import UserError
from upscore.inference import outputs
from upscore.inference.outputs import find_images, refuse_overwriting, write_prediction
from upscore.results import InstanceResult
from upscore.results.writers.coco import write_results
from upscore.results.writers.pictures import save_overlay


@pytest.fixture
def prediction():
    return InstanceResult(
        boxes=np.array([[2, 3, 20, 30], [15, 10, 39, 28]], np.float32),
        scores=np.array([0.9, 0.6], np.float32),
        labels=np.array([1, 0]),
        masks=[np.ones((28, 28), np.float32)] * 2,
        size=(32, 40),
        classes=["cell", "nerve"],
        image=np.full((32, 40, 3), 90, np.uint8),
    )


def test_ids_and_overlay_are_written(prediction, tmp_path):
    write_prediction(prediction, tmp_path / "sub" / "a")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == ["a_ids.png", "a_overlay.jpg"]
    with Image.open(tmp_path / "sub" / "a_ids.png") as ids:
        assert ids.mode == "I;16"
        assert np.array_equal(np.array(ids), prediction.label_map())


def test_results_are_in_the_format_of_coco(prediction, tmp_path):
    results = prediction.to_coco(image_id=7, file_name="a.jpg")
    write_results(results + prediction.to_coco(image_id=8, file_name="b.jpg"), tmp_path / "instances.json")
    read = json.loads((tmp_path / "instances.json").read_text())
    assert read[:2] == results
    assert [(r["image_id"], r["category_id"], r["category_name"]) for r in read] == [
        *((7, 2, "nerve"), (7, 1, "cell"), (8, 2, "nerve"), (8, 1, "cell"))
    ]
    assert read[0]["bbox"] == [2, 3, 18, 27]
    for result, mask in zip(read, prediction.bitmasks(), strict=False):
        assert np.array_equal(coco.decode(result["segmentation"]).astype(bool), mask)


def test_an_empty_result_is_an_empty_list(prediction, tmp_path):
    prediction = prediction.filter(score_threshold=0.99)
    write_prediction(prediction, tmp_path / "a")
    write_results(prediction.to_coco(image_id=1, file_name="a.jpg"), tmp_path / "instances.json")
    assert json.loads((tmp_path / "instances.json").read_text()) == []
    with Image.open(tmp_path / "a_ids.png") as ids:
        assert not np.array(ids).any()


def test_input_images_are_not_overwritten(tmp_path):
    images = {"a": tmp_path / "a.jpg", "a_ids": tmp_path / "a_ids.png"}
    with pytest.raises(UserError, match=r"a_ids\.png"):
        refuse_overwriting(images, tmp_path, "instances")


def test_results_of_other_programs_are_not_overwritten(tmp_path):
    (tmp_path / "instances.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"instances\.json"):
        refuse_overwriting({}, tmp_path, "instances")
    (tmp_path / "instances.json").write_text("[]")
    refuse_overwriting({}, tmp_path, "instances")


def test_labels_beside_images_are_skipped(tmp_path):
    for name in ("val/images/a.jpg", "val/labels/a.png", "labels/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert set(find_images([tmp_path])) == {"val/images/a", "labels/b"}


def test_the_output_folder_is_skipped(tmp_path):
    for name in ("a.jpg", "out/a_ids.png", "out/a_overlay.jpg", "output/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert set(find_images([tmp_path], output=tmp_path / "out")) == {"a", "output/b"}
    assert set(find_images([tmp_path], output=tmp_path)) == {"a", "out/a_ids", "out/a_overlay", "output/b"}


@pytest.fixture
def model(monkeypatch, prediction):
    """Model that detects the same objects in every image; a white image is an interruption."""

    class FixedDetector(StubModel):
        classes = prediction.classes
        thresholds = None

        def predict(self, image, *, depth, scores, score_threshold):
            if image.min() == 255:
                raise KeyboardInterrupt
            FixedDetector.thresholds = [*(FixedDetector.thresholds or []), score_threshold]
            return prediction

    monkeypatch.setattr("upscore.inference.load", lambda *_, **__: FixedDetector())
    return FixedDetector


def save_grey_image(path, grey=90):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 32), (grey,) * 3).save(path)


def test_one_file_has_the_objects_of_all_images(model, tmp_path, monkeypatch, capsys):
    for name in ("a.jpg", "sub/a.jpg"):
        save_grey_image(tmp_path / name)
    (tmp_path / "bad.jpg").touch()
    out = tmp_path / "out"
    assert upscore(monkeypatch, "predict", "any", tmp_path, "--output", out, "--score-threshold", "0.25") == 1
    text = capsys.readouterr()
    assert "2 of 3 images, 4 objects, 2 classes" in text.out
    assert "bad.jpg: is empty" in text.err
    results = json.loads((out / "instances.json").read_text())
    assert [(r["file_name"], r["image_id"]) for r in results] == [("a.jpg", 1)] * 2 + [("sub/a.jpg", 3)] * 2
    assert model.thresholds == [0.25, 0.25]


def test_files_have_all_objects_and_overlays_those_above_the_display_threshold(
    model, prediction, tmp_path, monkeypatch, capsys
):
    """A --score-threshold applies to both."""
    model.score_threshold, model.display_threshold = 0.05, 0.7
    save_grey_image(tmp_path / "a.jpg")
    for name, options, displayed in (("preset", (), 1), ("given", ("--score-threshold", "0.05"), 2)):
        assert upscore(monkeypatch, "predict", "any", tmp_path / "a.jpg", "--output", tmp_path / name, *options) == 0
        assert len(json.loads((tmp_path / name / "instances.json").read_text())) == 2
        with Image.open(tmp_path / name / "a_ids.png") as ids:
            assert set(np.unique(ids)) == {0, 1, 2}
        save_overlay(prediction[:displayed].overlay(), tmp_path / f"{name}.jpg")
        assert (tmp_path / name / "a_overlay.jpg").read_bytes() == (tmp_path / f"{name}.jpg").read_bytes()
        out = capsys.readouterr().out
        assert "0.05" in out
        assert ("0.70" in out) == (name == "preset")


def test_an_interrupted_command_keeps_the_finished_objects(model, tmp_path, monkeypatch):
    for name, grey in (("a.jpg", 90), ("stop.jpg", 255), ("z.jpg", 90)):
        save_grey_image(tmp_path / name, grey)
    upscore(monkeypatch, "predict", "any", tmp_path, "--output", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert {r["file_name"] for r in results} == {"a.jpg"}


def test_an_option_of_the_other_task_is_an_error(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.jpg").touch()
    assert upscore(monkeypatch, "predict", "any", tmp_path, "--output", tmp_path / "out", "--scores") == 2
    assert "--scores" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_task_has_endings():
    assert outputs.ENDINGS.keys() == {"semantic", "instances"}
