from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models import resnet18

import upscore
from tests.tiny import BACKBONE, QUICK, metrics, same, scenes, small, tiny_net, weights
from upscore.checkpoints import load_model, save_model
from upscore.cli.train import train as train_command
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.models.backbones.factory import build_backbone, load_classifier
from upscore.models.build import build
from upscore.training.callbacks import Callback
from upscore.training.loader import TrainingView
from upscore.training.recipes import MODERN
from upscore.training.run_folder import OPTIONS
from upscore.training.train import load_initial_weights, train


def quick(data: Path, output: Path, **options: Any):
    options = {"backbone": BACKBONE, "weights": "none", "epochs": 1, "changes": QUICK, "workers": 0, **options}
    return train(data, output, **options)


def test_files_of_a_run(run: Path) -> None:
    records = metrics(run)
    assert [record["epoch"] for record in records] == [1, 2]
    net, config = load_model(run)
    assert net.architecture == config.architecture.model_dump()
    assert config.classes == scenes().classes
    assert config.training["recipe"]["crop"] == QUICK["crop"]
    assert config.training["train_images"] + config.training["validation_images"] == 8
    best = max(records, key=lambda record: record["mean_iu"])
    assert config.scores["validation"]["mean_iu"] == best["mean_iu"]
    scores = json.loads((run / "scores.json").read_text())
    assert scores["mean_iu"] == best["mean_iu"]
    for name in ("curves.png", "confusion.png", "per_class.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG"), name
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert not list(run.rglob(".*"))  # no temporary file


def test_tensorboard_has_every_epoch(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("mean_iu")] == [
        (record["epoch"], pytest.approx(record["mean_iu"])) for record in metrics(run)
    ]


def test_staged_training(photos: Path, tmp_path: Path) -> None:
    progress = quick(
        photos, tmp_path / "run", recipe="staged", changes={"learning_rate": 1e-3, "accumulate": 3, "loss": "mean"}
    )
    assert progress.epoch == 1
    stages = {"fcn32s": tmp_path / "run/fcn32s", "fcn16s": tmp_path / "run/fcn16s", "fcn8s": tmp_path / "run"}
    asked = {stage: json.loads((folder / "run.json").read_text()) for stage, folder in stages.items()}
    assert [asked[stage]["learning_rate"] for stage in stages] == pytest.approx([1e-3, 1e-5, 1e-7])
    nets = {stage: load_model(folder)[0] for stage, folder in stages.items()}
    assert [net.architecture["name"] for net in nets.values()] == list(stages)
    assert asked["fcn16s"]["weights"] == str(stages["fcn32s"] / "best")
    assert asked["fcn8s"]["weights"] == str(stages["fcn16s"] / "best")
    # at a hundredth of the rate the score layers of the coarser network hardly change
    for coarse, fine in (("fcn32s", "fcn16s"), ("fcn16s", "fcn8s")):
        ours, theirs = nets[fine].score["32"].weight, nets[coarse].score["32"].weight
        assert theirs.abs().sum() > 0
        assert (ours - theirs).norm() < 0.2 * theirs.norm()

    again = quick(
        photos,
        tmp_path / "run",
        recipe="staged",
        changes={"learning_rate": 1e-3, "accumulate": 3, "loss": "mean"},
        resume=True,
    )
    assert again.records == progress.records


def test_a_finer_network_starts_with_the_output_of_the_coarser_one(tmp_path: Path) -> None:
    """FCN section 4.1: new score layers are zero, so the initial outputs differ by the upsampling only."""
    coarse = tiny_net("fcn32s")
    torch.nn.init.normal_(coarse.score["32"].weight)
    save_model(tmp_path / "fcn32s", coarse, classes=coarse.classes)
    fine = tiny_net("fcn16s")
    load_initial_weights(fine, tmp_path / "fcn32s")
    assert fine.score["16"].weight.eq(0).all()
    images = scenes(1, side=96)[0].image[None]
    with torch.no_grad():
        one, other = (net.eval()(net.preprocessing(images)) for net in (coarse, fine))
    assert (one.argmax(1) == other.argmax(1)).float().mean() > 0.95
    assert (one - other).abs().mean() < 0.05 * one.abs().mean()


def test_score_layers_are_loaded_only_for_equal_classes(tmp_path: Path) -> None:
    source = build("fcn8s", backbone=BACKBONE, num_classes=8)
    for parameter in source.score.parameters():
        torch.nn.init.ones_(parameter)
    save_model(tmp_path / "model", source, classes=[f"other_{index}" for index in range(8)])
    same_number, fewer = tiny_net(), tiny_net(classes=3)
    for net in (same_number, fewer):
        load_initial_weights(net, tmp_path / "model")
        assert same(dict(net.backbone.state_dict()), dict(source.backbone.state_dict()))
        assert all(parameter.eq(0).all() for parameter in net.score.parameters())
    save_model(tmp_path / "model", source, classes=same_number.classes)
    load_initial_weights(same_number, tmp_path / "model")
    assert same(dict(same_number.state_dict()), dict(source.state_dict()))


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    source = tiny_net()
    save_model(tmp_path / "model", source, classes=source.classes)
    other = build("fcn8s", backbone="timm/test_efficientnet", num_classes=8)
    with pytest.raises(UserError, match=r"backbone='timm/test_resnet'.*backbone='timm/test_efficientnet'"):
        load_initial_weights(other, tmp_path / "model")
    with pytest.raises(UserError, match="missing"):
        load_initial_weights(other, tmp_path / "missing")


def classifier_of(name: str) -> torch.nn.Module:
    return resnet18() if name == "resnet18" else timm.create_model(name.removeprefix("timm/"))


@pytest.mark.parametrize("name", ["resnet18", "timm/test_efficientnet"])
def test_initial_weights_from_a_classifier_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = classifier_of(name).eval()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    net = build("fcn32s", backbone=name, num_classes=3)
    load_initial_weights(net, tmp_path / "classifier.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = net.eval().backbone(images)[32]
        head = getattr(classifier, "forward_head", lambda maps: classifier.fc(maps.mean(dim=(2, 3))))  # type: ignore[operator]
        assert torch.allclose(head(features), classifier(images), atol=1e-4)

    state = classifier.state_dict()
    key = next(key for key in state if key.endswith("weight"))
    backbone = build_backbone(name)
    with pytest.raises(UserError, match=key):
        load_classifier(backbone, {name: value for name, value in state.items() if name != key})
    with pytest.raises(UserError, match="extra"):
        load_classifier(backbone, {**state, "extra": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"{key} has shape \(1, 2\)"):
        load_classifier(backbone, {**state, key: torch.zeros(1, 2)})


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"recipe": "fast"}, "--recipe fast .*modern, heavy"),
        ({"recipe": "at-once"}, "--recipe at-once .*fcn8s-atonce.*--model is fcn8s:"),
        ({"recipe": "staged", "model": "fcn32s"}, "--recipe staged .*fcn16s and fcn8s.*--model is fcn32s:"),
        ({"recipe": "staged", "model": "fcn8s-atonce"}, "--recipe staged .*fcn8s-atonce"),
        ({"model": "fcn4s"}, "'fcn4s'"),
        ({"backbone": "resnet19"}, "'resnet19'"),
        ({"changes": {"learning_rate": -1}}, "--learning-rate -1"),
        ({"changes": {"batch_size": 0}}, "--batch-size 0"),
        ({"epochs": 0}, "--epochs 0"),
        ({"workers": -1}, "--workers -1"),
        ({"max_side": -1}, "--max-side -1"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
        ({"val_pattern": "nothing*"}, r"nothing\*"),
        ({"null_background": True}, "null_background"),
        ({"changes": {"patches": 0}}, "--patches 0"),
        ({"changes": {"patches": 1.5}}, "--patches 1.5"),
        ({"model": "mask_rcnn", "changes": {"patches": 0.5}}, "--patches .*--model is mask_rcnn"),
        ({"model": "mask_rcnn", "changes": {"class_weights": "median"}}, "--class-weights .*--model is mask_rcnn"),
        ({"model": "mask_rcnn", "pixel_loss": "sigmoid"}, "--loss .*--model is mask_rcnn"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], values: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=values):
        quick(photos, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["empty", "missing", "scenes:0"])
def test_missing_data_is_a_user_error(data: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        train(data if ":" in data else tmp_path / data, tmp_path / "run", backbone=BACKBONE, weights="none")


def test_the_seed_determines_initial_weights(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        torch.rand(3)
        quick(photos, tmp_path / name, seed=seed)
    one, again, other = (weights(tmp_path / name / "last") for name in ("one", "again", "other"))
    assert same(one, again)
    assert not torch.equal(one["backbone.body.layer4.0.conv1.weight"], other["backbone.body.layer4.0.conv1.weight"])


def test_existing_runs_are_resumed_only_with_equal_settings(photos: Path, tmp_path: Path) -> None:
    quick(photos, tmp_path / "run", resume=True)  # without a run, `resume` starts one
    before = weights(tmp_path / "run/last")
    with pytest.raises(UserError, match=r"run .*--resume"):
        quick(photos, tmp_path / "run")
    for options, values in {
        "epochs": ({"epochs": 2}, "--epochs: 1, not 2"),
        "rate": ({"changes": {**QUICK, "learning_rate": 0.5}}, "--learning-rate: 0.0005, not 0.5"),
        "no epochs": ({"epochs": None}, "--epochs: 1, not default"),
        "loss": ({"pixel_loss": "sigmoid"}, "--loss: softmax, not sigmoid"),
        "seed": ({"seed": 3}, "--seed: 0, not 3"),
        "model": ({"model": "fcn32s"}, "--model: fcn8s, not fcn32s"),
        "recipe": ({"recipe": "heavy"}, "--recipe: modern, not heavy"),
        "upsampling": ({"upsampling": "learned"}, "--upsampling: fixed, not learned"),
        "head": ({"head_only": True}, "--head-only: no, not yes"),
        "side": ({"max_side": 32}, "--max-side: 1024, not 32"),
        "precision": ({"precision": "bfloat16"}, "--precision: auto, not bfloat16"),
    }.values():
        with pytest.raises(UserError, match=values):
            quick(photos, tmp_path / "run", resume=True, **options)
    assert same(weights(tmp_path / "run/last"), before)
    assert quick(photos, tmp_path / "run", resume=True, workers=1).epoch == 1  # the number of workers may change

    (tmp_path / "run/state.pt").write_bytes((tmp_path / "run/state.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"run/state\.pt"):
        quick(photos, tmp_path / "run", resume=True)
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(UserError, match=r"run/run\.json"):
        quick(photos, tmp_path / "run", resume=True)


def test_a_run_without_a_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"before its first validation.*--resume.*resume=True"):
        upscore.load(tmp_path)


def test_settings_in_messages_are_options() -> None:
    assert signature(train_command).parameters.keys() >= OPTIONS


def test_staged_training_checks_all_run_folders_first(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    with pytest.raises(UserError, match=r"run .*--resume"):
        quick(photos, tmp_path / "run", recipe="staged")
    assert not (tmp_path / "run/fcn32s").exists()


def test_an_unwritable_output_is_a_user_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/run"):
        quick(photos, tmp_path / "file/run")


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    from tests.tiny import write_photos

    data = write_photos(tmp_path / "photos", 4)
    for path in (data / "images").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"scene_0000\d\.png") as error:
        quick(data, tmp_path / "run", workers=1)
    assert "Traceback" not in str(error.value)


def test_head_only_keeps_the_backbone(photos: Path, tmp_path: Path) -> None:
    source = tiny_net()
    save_model(tmp_path / "model", source, classes=scenes().classes)
    quick(photos, tmp_path / "run", weights=tmp_path / "model", head_only=True)
    before, after = weights(tmp_path / "model"), weights(tmp_path / "run/last")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if not name.startswith("backbone.")
    }


def test_the_pixel_loss_is_saved_with_the_model(photos: Path, tmp_path: Path) -> None:
    quick(photos, tmp_path / "run", pixel_loss="sigmoid", null_background=True)
    net, config = load_model(tmp_path / "run")
    assert config.architecture.model_dump()["pixel_loss"] == "sigmoid"
    assert net.null_background  # type: ignore[union-attr]
    assert weights(tmp_path / "run/last")["score.8.weight"].shape[0] == len(config.classes) - 1
    with pytest.raises(UserError, match="pixel_loss"):
        quick(photos, tmp_path / "run", resume=True)


def test_class_weights_are_computed_and_logged(photos: Path, tmp_path: Path) -> None:
    messages: list[str] = []

    class Log(Callback):
        def on_log(self, message: str) -> None:
            messages.append(message)

    quick(photos, tmp_path / "weighted", changes={**QUICK, "class_weights": "median"}, callbacks=[Log()])
    quick(photos, tmp_path / "plain")
    assert messages[0].startswith("class weights: background 0.")
    assert not same(weights(tmp_path / "weighted/last"), weights(tmp_path / "plain/last"))
    asked = json.loads((tmp_path / "weighted/run.json").read_text())
    assert asked["class_weights"] == "median"


def test_patches_increase_batch_size_and_images(photos: Path, tmp_path: Path) -> None:
    changes = {**QUICK, "batch_size": 2, "images": 6, "patches": 0.5}
    quick(photos, tmp_path / "run", changes=changes, epochs=None)
    asked = json.loads((tmp_path / "run/run.json").read_text())
    assert asked["batch_size"] == 4
    assert asked["images"] == 12


def test_patches_make_cells_void() -> None:
    recipe = small(MODERN, crop=0, scale=None, flip=0, colour=0, patches=0.5)
    view = TrainingView(scenes(8), recipe, resize=lambda sample: sample, seed=0, epoch=0)
    maps = [sample.class_map for index in range(8) if (sample := view[index]).class_map is not None]
    void = sum(int((class_map == VOID).sum()) for class_map in maps)
    assert 0 < void < sum(class_map.numel() for class_map in maps)
    assert void % 32**2 == 0
