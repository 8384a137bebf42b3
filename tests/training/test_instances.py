"""Training and prediction of Mask R-CNN by the same trainer, loop and run folder as FCN."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import upscore
from tests.cli.command import sentence
from tests.cli.command import upscore as command
from tests.tiny import BACKBONE, metrics, outcome, same, scenes, tiny_net, weights
from upscore.annotations import ObjectAnnotations
from upscore.checkpoints import load_model, save_model
from upscore.data.instance_datasets import open_instance_splits
from upscore.data.samples import Sample
from upscore.data.transforms import Batch, collate
from upscore.errors import UserError
from upscore.inference import Model, evaluate
from upscore.models.build import build
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.results import InstanceResult, as_instances
from upscore.training.callbacks import Callback
from upscore.training.dataset_stats import default_max_detections, max_objects_per_image
from upscore.training.init_weights import load_initial_weights
from upscore.training.loop import fit
from upscore.training.recipes import MASK_RCNN_PAPER, MODERN_INSTANCES
from upscore.training.run_folder import RunFolder
from upscore.training.train import train
from upscore.training.trainer import Progress, Trainer

PARTS = ("objectness", "rpn_box", "class", "box", "mask")
SMALL = MODERN_INSTANCES.model_copy(update={"images": 12, "validate_every": 1, "crop": 48, "ema": 0.5, "batch_size": 3})


def tiny_rcnn(classes: int = 7, **options: Any) -> MaskRCNN:
    """Build a network that resizes images to 64 pixels, with the same weights at each call."""
    torch.manual_seed(0)
    sizes = {"channels": 16, "box_features": 16, "min_side": 64, "max_side": 128, "smallest_anchor": 8}
    return build("mask_rcnn", backbone=BACKBONE, num_classes=classes, **{**sizes, **options})


class Shapes:
    """Scenes for instance segmentation, without the background class."""

    def __init__(self, count: int = 6, *, seed: int = 0) -> None:
        self.scenes = scenes(count, seed=seed)
        self.classes = self.scenes.classes[1:]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        return self.scenes[index]


class Renamed(Shapes):
    """`Shapes` with other class names in another order."""

    def __init__(self, names: list[str], order: list[int]) -> None:
        super().__init__(3, seed=4)
        self.classes, self.order = names, torch.tensor(order)

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        assert sample.objects is not None
        return replace(sample, objects=replace(sample.objects, labels=self.order[sample.objects.labels]))


def empty(index: int) -> Sample:
    """Return an image without objects."""
    nothing = ObjectAnnotations.from_id_map(torch.zeros(64, 64, dtype=torch.int32))
    return replace(scenes()[index], class_map=None, objects=nothing)


def run(folder: Path, recipe: Any = SMALL, **options: Any) -> Progress:
    return fit(tiny_rcnn(), Shapes(), Shapes(2, seed=1), recipe, RunFolder(folder), max_side=0, **options)


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        if step == self.at:
            raise InterruptedError

    def on_epoch_end(self, records: list[dict[str, Any]], scores: object, is_best: bool) -> None:
        assert ("AP" in records[-1]) == (scores is not None)


@pytest.fixture(scope="module")
def trained() -> MaskRCNN:
    """Network that was trained on two scenes until it finds their objects."""
    sizes = {"channels": 32, "box_features": 64, "min_side": 64, "max_side": 128, "smallest_anchor": 8}
    torch.manual_seed(0)
    net = build("mask_rcnn", num_classes=7, pretrained=True, **sizes)
    net.classes = Shapes().classes
    recipe = SMALL.model_copy(update={"learning_rate": 1e-3, "ema": 0, "weight_decay": 0, "schedule": "constant"})
    trainer = Trainer(net, recipe, Accelerator())
    trainer.train_mode()
    batch = collate([Shapes()[0], Shapes()[1]])
    losses = [trainer.step([batch], 1.0) for _ in range(80)]
    assert losses[-1] < 0.3 * losses[0]
    return net


@pytest.mark.slow
def test_validating_every_second_epoch_and_resuming(tmp_path: Path) -> None:
    recipe = SMALL.model_copy(update={"images": 18, "validate_every": 2})
    run(tmp_path / "whole", recipe)
    records = metrics(tmp_path / "whole")
    assert [record["epoch"] for record in records if "AP" in record] == [2, 3]  # the last epoch is always validated
    for step in (1, 3, 5):  # in the first, second and third epoch, of two steps each
        with pytest.raises(InterruptedError):
            run(tmp_path / "broken", recipe, resume=(tmp_path / "broken/state.pt").exists(), callbacks=[Stop(step)])
    run(tmp_path / "broken", recipe, resume=True)
    assert same(outcome(tmp_path / "broken"), outcome(tmp_path / "whole"))


def test_patience_counts_until_a_validation(tmp_path: Path) -> None:
    """The AP of an untrained network stays zero, so the first validation is the best."""
    recipe = SMALL.model_copy(
        update={"images": 60, "validate_every": 2, "patience": 3, "learning_rate": 1e-12, "score_rate": 1}
    )
    progress = run(tmp_path / "run", recipe)
    assert (progress.best, progress.best_epoch, progress.epoch) == (0, 2, 6)
    assert "AP" in progress.records[-1]


def test_records_and_model_json(tmp_path: Path) -> None:
    progress = run(tmp_path / "run")
    first = metrics(tmp_path / "run")[-1]
    assert set(first) == {
        *("epoch", "step", "train_loss", "val_loss", "learning_rate"),
        *("AP", "AP50", "AP75", "box_AP", "ap_dsb", "f1", "score_threshold"),
        *(f"{part}_loss" for part in PARTS),
    }
    assert sum(first[f"{part}_loss"] for part in PARTS) == pytest.approx(first["train_loss"], rel=1e-5)
    net, config = load_model(tmp_path / "run")
    assert isinstance(net, MaskRCNN)
    assert config.score_threshold == net.score_threshold == progress.records[progress.best_epoch - 1]["score_threshold"]
    assert config.scores["validation"]["AP"] == progress.best
    assert net.classes == Shapes().classes
    assert net.architecture == tiny_rcnn().architecture
    assert {type(value) for value in net.architecture.values()} == {str, int, float, bool}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_and_validating_images_without_objects(dtype: torch.dtype) -> None:
    trainer = Trainer(tiny_rcnn(), SMALL, Accelerator(), dtype=dtype)
    trainer.train_mode()
    before = copy.deepcopy(trainer.net.state_dict())
    assert math.isfinite(trainer.step([collate([empty(0), empty(1)])], 1.0))
    trainer.step([collate([empty(0), Shapes()[1]])], 1.0)
    assert all(value.isfinite().all() for value in trainer.net.state_dict().values())
    assert not same(before, trainer.net.state_dict())
    loss, scores = trainer.validate([collate([empty(0)])])
    assert math.isfinite(loss)
    assert set(trainer.task.record(scores)) >= {"AP", "score_threshold"}
    assert trainer.task.record(scores)["AP"] is None


def test_validation_sets_the_best_score_threshold(trained: MaskRCNN) -> None:
    """Validation returns losses in evaluation mode, and scores at the threshold with the highest `ap_dsb`."""
    trainer = Trainer(copy.deepcopy(trained), SMALL.model_copy(update={"ema": 0}), Accelerator())
    batches = [collate([Shapes()[index]]) for index in range(2)]
    loss, scores = trainer.validate(batches)
    again, same_scores = trainer.validate(batches)
    assert (again, repr(same_scores)) == (loss, repr(scores))  # scores may be NaN, which equals nothing
    record = trainer.task.record(scores)
    assert record["AP50"] > 0.5
    assert trainer.net.score_threshold == record["score_threshold"] != 0.5
    for other in (0.06, 0.3, 0.6, 0.9):
        trainer.net.score_threshold = other
        found = evaluate(Model(trainer.net, "torch", "float32"), _first_two())
        assert found.ap_dsb["0.5"] <= record["ap_dsb"] + 1e-9, other
        assert pytest.approx(record["AP"], abs=1e-6) == found.AP  # AP does not depend on the score threshold


def _first_two() -> Any:
    from upscore.data import subset

    return subset(Shapes(), [0, 1])


def test_gradients_are_clipped_to_their_norm() -> None:
    def first_step(norm: float) -> float:
        recipe = SMALL.model_copy(update={"optimizer": "sgd", "clip_norm": norm, "learning_rate": 1.0, "ema": 0})
        recipe = recipe.model_copy(update={"score_rate": 1, "weight_decay": 0})
        trainer = Trainer(tiny_rcnn(), recipe, Accelerator())
        trainer.train_mode()
        before = {name: value.detach().clone() for name, value in trainer.net.named_parameters()}
        trainer.step([collate([Shapes()[0], Shapes()[1]])], 1.0)
        moved = [(value.detach() - before[name]).square().sum() for name, value in trainer.net.named_parameters()]
        return math.sqrt(sum(moved))

    norm = first_step(0)
    assert norm > 0.02
    assert first_step(0.01) == pytest.approx(0.01, rel=1e-3)
    assert first_step(10 * norm) == pytest.approx(norm, rel=1e-4)


def test_paper_recipe() -> None:
    assert MASK_RCNN_PAPER.learning_rate / MASK_RCNN_PAPER.batch_size == 0.02 / 16
    assert MASK_RCNN_PAPER.images == 90_000 * 16


# predicting and scoring


def test_objects_have_coordinates_of_the_original_image(trained: MaskRCNN) -> None:
    predictor = Model(copy.deepcopy(trained), "torch", "float32")
    assert predictor.task == "instances"
    image = torch.nn.functional.interpolate(Shapes()[0].image[None], size=(150, 200))[0]
    every = predictor.predict(image, score_threshold=0.0)
    assert isinstance(every, InstanceResult)
    assert every.size == (150, 200)
    assert every.image is not None
    assert every.image.shape == (150, 200, 3)
    assert (np.diff(every.scores) <= 0).all()
    assert every.boxes[:, 2].max() > 100  # in pixels of the image, not of the network's input of 64 pixels
    predictor.module.score_threshold = float(every.scores[2])
    default = predictor.predict(image)
    assert isinstance(default, InstanceResult)
    expected = every[:3].mask_nms()
    assert np.array_equal(default.scores, expected.scores)
    for wrong in (-0.1, 1.5):
        with pytest.raises(UserError, match=str(wrong)):
            predictor.predict(image, score_threshold=wrong)
    with pytest.raises(UserError, match="scores=True"):
        predictor.predict(image, scores=True)
    with pytest.raises(UserError, match="score_threshold"):
        Model(tiny_net()).predict(image, score_threshold=0.5)


def test_bfloat16_finds_the_same_objects(trained: MaskRCNN) -> None:
    found = [
        as_instances(Model(copy.deepcopy(trained), "torch", precision).predict(Shapes()[0].image, score_threshold=0.5))
        for precision in ("float32", "bfloat16")
    ]
    assert len(found[0]) > 0
    assert abs(len(found[0]) - len(found[1])) <= 1
    assert np.allclose(found[0].boxes[0], found[1].boxes[0], atol=3)


def test_classes_are_matched_by_name(trained: MaskRCNN) -> None:
    predictor = Model(copy.deepcopy(trained), "torch", "float32")
    straight = Renamed(trained.classes, list(range(7)))
    backwards = Renamed(trained.classes[::-1], list(range(6, -1, -1)))
    expected = evaluate(predictor, straight)
    assert same(evaluate(predictor, backwards).to_json(), expected.to_json())
    with pytest.raises(UserError, match="dragon"):
        evaluate(predictor, Renamed([*trained.classes[:-1], "dragon"], list(range(7))))

    class Unlabelled(Shapes):
        def __getitem__(self, index: int) -> Sample:
            return replace(super().__getitem__(index), objects=None)

    with pytest.raises(UserError, match="scene_00000"):
        evaluate(predictor, Unlabelled())


# model folders


def test_half_precision_model_folders_have_half_the_size(trained: MaskRCNN, tmp_path: Path) -> None:
    trained.score_threshold = 0.375
    for name, half in (("whole", False), ("half", True)):
        save_model(tmp_path / name, trained, classes=trained.classes, half=half)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert sizes["half"] < 0.55 * sizes["whole"]
    net, config = load_model(tmp_path / "half")
    assert net.score_threshold == config.score_threshold == 0.375
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    stored = weights(tmp_path / "half")
    for name, value in trained.state_dict().items():
        assert torch.allclose(net.state_dict()[name].double(), value.double(), rtol=1e-3, atol=1e-4), name
        assert stored[name].dtype == (torch.float16 if value.dtype == torch.float32 else value.dtype), name
    huge = copy.deepcopy(trained)
    next(huge.parameters()).data[:] = 1e6
    with pytest.raises(ValueError, match="float16"):
        save_model(tmp_path / "huge", huge, classes=huge.classes, half=True)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [("backbone", 5, "architecture.backbone"), ("colour", "red", "colour"), ("norm", [1], "norm")],
)
def test_invalid_fields_of_model_json_are_named(field: str, value: object, complaint: str, tmp_path: Path) -> None:
    net = tiny_rcnn()
    save_model(tmp_path / "model", net, classes=net.classes)
    path = tmp_path / "model/model.json"
    config = json.loads(path.read_text())
    config["architecture"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=complaint):
        load_model(tmp_path / "model")


def test_built_in_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_rcnn()
    save_model(tmp_path / "package/shapes", net, classes=net.classes)
    monkeypatch.setattr("upscore.checkpoints.model_folder.BUILT_IN", tmp_path / "package")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert upscore.load("shapes").task == "instances"
    with pytest.raises(UserError, match=r"dogs is not a folder.*shapes"):
        upscore.load("dogs")
    with pytest.raises(UserError, match=r"runs/shapes"):
        upscore.load("runs/shapes")
    Path("shapes").mkdir()  # a folder takes precedence over a built-in model
    with pytest.raises(UserError, match=r"shapes .*model\.json"):
        upscore.load("shapes")


# a folder of images


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 8 images of 64 x 64 pixels with label maps of objects."""
    root = tmp_path_factory.mktemp("objects") / "shapes"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for index in range(8):
        sample = Shapes(8)[index]
        assert sample.objects is not None
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(root / "images" / f"{sample.name}.png")
        numbers = sample.objects.id_map[0].numpy().astype(np.uint16)
        Image.fromarray(numbers).save(root / "labels" / f"{sample.name}.png")
    return root


SIZES = ("--model", "mask_rcnn", "--backbone", BACKBONE, "--weights", "none", "--min-side", "64", "--max-side", "128")


@pytest.mark.slow
def test_train_and_evaluate_on_the_command_line(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ("train", labelled, "--output", output, *SIZES, "--epochs", "2", "--validate-every", "2")
    assert command(monkeypatch, *arguments, "--workers", "1") == 0
    out, err = capsys.readouterr()
    assert f"{output}: mask AP" in out
    most = max(max_objects_per_image(part) for part in open_instance_splits(labelled))
    assert f"max detections: 100 (up to {most} objects" in " ".join(err.split())
    assert "AP50" in err
    assert err.count("epoch ") == 2
    for name in ("curves.png", "precision_recall.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG"), name
    assert command(monkeypatch, *arguments, "--resume") == 0
    capsys.readouterr()

    written = ("--json", tmp_path / "scores.json", "--plots", tmp_path / "plots")
    assert command(monkeypatch, "evaluate", output, labelled, *written) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert {"AP", "AP50", "box_AP", "ap_dsb", "f1", "score_threshold", "model", "images"} <= set(report)
    assert (report["images"], report["split"]) == (2, "val")  # only the held-out images
    assert "mask AP50" in out
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["per_class.png", "precision_recall.png"]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "tensorboard")).Reload()
    for name, steps in {"mask_loss": [1, 2], "AP": [2], "val_loss": [2]}.items():
        assert [event.step for event in events.Scalars(name)] == steps, name


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (("--model", "mask_rcnn", "--recipe", "heavy"), ["--recipe heavy", "modern, paper"]),
        (("--recipe", "paper"), ["--recipe paper", "modern, heavy, accum, staged, at-once"]),
        (("--model", "mask_rcnn", "--geometry", "caffe"), ["--geometry", "--model is mask_rcnn"]),
        (("--model", "mask_rcnn", "--upsampling", "fixed"), ["--upsampling", "--model is mask_rcnn"]),
        (("--model", "mask_rcnn", "--dense"), ["--dense", "--model is mask_rcnn"]),
        (("--max-detections", "200"), ["--max-detections", "--model is fcn8s"]),
        (("--min-side", "200"), ["--min-side", "--model is fcn8s"]),
        (("--preset", "paper"), ["--preset", "--model is fcn8s"]),
        (("--validate-every", "0"), ["--validate-every 0"]),
        (("--model", "mask_rcnn", "--max-detections", "0"), ["max_detections", "0"]),
    ],
)
def test_options_of_the_other_task_are_refused(
    options: tuple[str, ...],
    values: list[str],
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(monkeypatch, "train", labelled, "--output", tmp_path / "run", "--backbone", BACKBONE, *options) == 2
    message = sentence(capsys)
    assert all(value in message for value in values), message
    assert not (tmp_path / "run").exists()


def test_max_objects_per_image_and_default_max_detections() -> None:
    calls: list[tuple[int, int]] = []
    counts = [len(Shapes()[index].objects) for index in range(6)]  # type: ignore[arg-type]
    assert max_objects_per_image(Shapes(), lambda done, total: calls.append((done, total))) == max(counts)
    assert calls == [(done, 6) for done in range(1, 7)]

    class Counted(Shapes):
        def object_counts(self) -> list[int]:
            return [3, 9]

        def __getitem__(self, index: int) -> Sample:
            raise AssertionError("read an image")

    assert max_objects_per_image(Counted()) == 9

    class Crowded(Shapes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            assert sample.objects is not None
            return replace(sample, objects=replace(sample.objects, crowd=torch.ones(len(sample.objects)).bool()))

    with pytest.raises(UserError, match=r"6 images .*iscrowd"):
        max_objects_per_image(Crowded())
    assert [default_max_detections(count) for count in (1, 66, 67, 100, 101, 375)] == [100, 100, 150, 150, 200, 600]


def test_all_layers_of_equal_shape_are_loaded(tmp_path: Path) -> None:
    """Layers are loaded by shape, even if the class names differ."""
    known = tiny_rcnn()
    for parameter in known.parameters():
        torch.nn.init.uniform_(parameter)
    save_model(tmp_path / "model", known, classes=[f"other_{index}" for index in range(7)])
    for classes in (7, 2):
        net = tiny_rcnn(classes)
        initial = copy.deepcopy(net.state_dict())
        load_initial_weights(net, tmp_path / "model")
        for name, value in net.state_dict().items():
            theirs = known.state_dict()[name]
            assert torch.equal(value, theirs if theirs.shape == value.shape else initial[name]), name
    with pytest.raises(UserError, match=r"backbone=.*timm/test_efficientnet"):
        load_initial_weights(build("mask_rcnn", backbone="timm/test_efficientnet", num_classes=7), tmp_path / "model")


def test_runs_of_older_versions_resume(labelled: Path, tmp_path: Path) -> None:
    """A run without a newer setting and without loss terms resumes."""
    options: dict[str, Any] = {"model": "mask_rcnn", "backbone": BACKBONE, "weights": "none", "workers": 0}
    options |= {"min_side": 64, "max_side": 128, "epochs": 1}
    train(labelled, tmp_path / "run", **options)
    asked = json.loads((tmp_path / "run/run.json").read_text())
    del asked["validate_every"]
    (tmp_path / "run/run.json").write_text(json.dumps(asked))
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    del state["progress"]["parts"]
    torch.save(state, tmp_path / "run/state.pt")
    assert train(labelled, tmp_path / "run", resume=True, **options).epoch == 1


def test_models_keep_the_category_ids_of_their_data(tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / f"data/images/{number}.png")
    box = [10, 10, 40, 10, 40, 50, 10, 50]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(1, 6)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 30 + n % 2, "segmentation": [box], "iscrowd": 0}
            for n in range(1, 6)
        ],
        "categories": [{"id": 31, "name": "disk"}, {"id": 30, "name": "ring"}],
    }
    (tmp_path / "data/annotations.json").write_text(json.dumps(content))
    options: dict[str, Any] = {"model": "mask_rcnn", "backbone": BACKBONE, "weights": "none", "workers": 0, "epochs": 1}
    train(tmp_path / "data", tmp_path / "run", min_side=64, max_side=128, **options)
    config = json.loads((tmp_path / "run/best/model.json").read_text())
    assert dict(zip(config["classes"], config["category_ids"], strict=True)) == {"disk": 31, "ring": 30}
    result = upscore.load(tmp_path / "run", engine="torch").predict(np.zeros((64, 64, 3), np.uint8), score_threshold=0)
    assert {(entry["category_name"], entry["category_id"]) for entry in as_instances(result).to_coco()} <= {
        ("disk", 31),
        ("ring", 30),
    }


def test_collate_keeps_objects() -> None:
    batch = collate([Shapes()[0], empty(1)])
    assert isinstance(batch, Batch)
    assert batch.objects is not None
    assert [len(objects) > 0 for objects in batch.objects] == [True, False]


def test_fcn_on_instance_labels_suggests_mask_rcnn(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "cells" / folder).mkdir(parents=True)
    for name in "abc":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "cells/images" / f"{name}.png")
        Image.fromarray(np.full((8, 8), 300, np.uint16)).save(tmp_path / "cells/labels" / f"{name}.png")
    with pytest.raises(UserError, match="--model mask_rcnn"):
        train(tmp_path / "cells", tmp_path / "run", model="fcn8s")
