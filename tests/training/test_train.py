from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models import resnet18

from tests.tiny import BACKBONE, QUICK, metrics, same, scenes, small, tiny_net, weights
from upscore.checkpoints import load_model, save_model
from upscore.errors import UserError
from upscore.labels import VOID
from upscore.models.backbones.factory import build_backbone, load_classifier
from upscore.models.build import build
from upscore.training.callbacks import Callback
from upscore.training.loader import TrainingView
from upscore.training.recipes import MODERN
from upscore.training.train import start_from, train


def quick(data: Path, output: Path, **options: Any):
    options = {"backbone": BACKBONE, "weights": "none", "epochs": 1, "changes": QUICK, "workers": 0, **options}
    return train(data, output, **options)


def test_what_a_run_leaves_behind(run: Path) -> None:
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


def test_staged(photos: Path, tmp_path: Path) -> None:
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
    # a hundredth of the rate leaves the coarser scores about where they were
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


def test_a_finer_net_starts_as_the_coarser_one(tmp_path: Path) -> None:
    """FCN section 4.1: new scores are zero, so that the first output is the coarser net's, but for the upsampling."""
    coarse = tiny_net("fcn32s")
    torch.nn.init.normal_(coarse.score["32"].weight)
    save_model(tmp_path / "fcn32s", coarse, classes=coarse.classes)
    fine = tiny_net("fcn16s")
    start_from(fine, tmp_path / "fcn32s")
    assert fine.score["16"].weight.eq(0).all()
    images = scenes(1, side=96)[0].image[None]
    with torch.no_grad():
        one, other = (net.eval()(net.preprocessing(images)) for net in (coarse, fine))
    assert (one.argmax(1) == other.argmax(1)).float().mean() > 0.95
    assert (one - other).abs().mean() < 0.05 * one.abs().mean()


def test_a_start_from_a_model_of_other_classes(tmp_path: Path) -> None:
    source = build("fcn8s", backbone=BACKBONE, num_classes=8)
    for parameter in source.score.parameters():
        torch.nn.init.ones_(parameter)
    save_model(tmp_path / "model", source, classes=[f"other_{index}" for index in range(8)])
    same_number, fewer = tiny_net(), tiny_net(classes=3)
    for net in (same_number, fewer):
        start_from(net, tmp_path / "model")
        assert same(dict(net.backbone.state_dict()), dict(source.backbone.state_dict()))
        assert all(parameter.eq(0).all() for parameter in net.score.parameters())
    save_model(tmp_path / "model", source, classes=same_number.classes)
    start_from(same_number, tmp_path / "model")
    assert same(dict(same_number.state_dict()), dict(source.state_dict()))


def test_a_start_from_another_backbone(tmp_path: Path) -> None:
    source = tiny_net()
    save_model(tmp_path / "model", source, classes=source.classes)
    other = build("fcn8s", backbone="timm/test_efficientnet", num_classes=8)
    with pytest.raises(UserError, match="its backbone is 'timm/test_resnet', but 'timm/test_efficientnet' is asked"):
        start_from(other, tmp_path / "model")
    with pytest.raises(UserError, match="missing is not a folder"):
        start_from(other, tmp_path / "missing")


def classifier_of(name: str) -> torch.nn.Module:
    return resnet18() if name == "resnet18" else timm.create_model(name.removeprefix("timm/"))


@pytest.mark.parametrize("name", ["resnet18", "timm/test_efficientnet"])
def test_a_start_from_a_file_with_a_classifier(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    classifier = classifier_of(name).eval()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    net = build("fcn32s", backbone=name, num_classes=3)
    start_from(net, tmp_path / "classifier.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = net.eval().backbone(images)[32]
        head = getattr(classifier, "forward_head", lambda maps: classifier.fc(maps.mean(dim=(2, 3))))  # type: ignore[operator]
        assert torch.allclose(head(features), classifier(images), atol=1e-4)

    state = classifier.state_dict()
    key = next(key for key in state if key.endswith("weight"))
    backbone = build_backbone(name)
    with pytest.raises(UserError, match=f"{key} is missing"):
        load_classifier(backbone, {name: value for name, value in state.items() if name != key})
    with pytest.raises(UserError, match="extra"):
        load_classifier(backbone, {**state, "extra": torch.zeros(1)})
    with pytest.raises(UserError, match=rf"{key} has shape \(1, 2\)"):
        load_classifier(backbone, {**state, key: torch.zeros(1, 2)})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recipe": "fast"}, "no recipe is called 'fast'; choose one of modern, heavy"),
        ({"recipe": "at-once"}, "at-once scales the skips of fcn8s-atonce; --model is fcn8s"),
        ({"recipe": "staged", "model": "fcn32s"}, "staged leads to fcn16s or fcn8s; --model is fcn32s"),
        ({"recipe": "staged", "model": "fcn8s-atonce"}, "staged leads to"),
        ({"model": "fcn4s"}, "'fcn4s'"),
        ({"backbone": "resnet19"}, "'resnet19'"),
        ({"changes": {"learning_rate": -1}}, "--learning-rate -1: input should be greater than 0"),
        ({"changes": {"batch_size": 0}}, "--batch-size 0"),
        ({"epochs": 0}, "--epochs 0: give 1 or more"),
        ({"workers": -1}, "--workers -1: give 0 or more"),
        ({"max_side": -1}, "--max-side -1: give 0 or more"),
        ({"weights": "nowhere.pth"}, "nowhere.pth is not a folder"),
        ({"val_pattern": "nothing*"}, "matches none"),
        ({"null_background": True}, "null_background"),
        ({"changes": {"patches": 0}}, "--patches 0: input should be greater than 0"),
        ({"changes": {"patches": 1.5}}, "--patches 1.5"),
        (
            {"model": "mask_rcnn", "changes": {"patches": 0.5}},
            "--patches is an option of the FCNs; --model is mask_rcnn",
        ),
        ({"model": "mask_rcnn", "changes": {"class_weights": "median"}}, "--class-weights is an option of the FCNs"),
        ({"model": "mask_rcnn", "pixel_loss": "sigmoid"}, "--loss is an option of the FCNs"),
    ],
)
def test_what_cannot_be_done(options: dict[str, Any], sentence: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        quick(photos, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["empty", "missing", "scenes:0"])
def test_data_that_is_not_there(data: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        train(data if ":" in data else tmp_path / data, tmp_path / "run", backbone=BACKBONE, weights="none")


def test_the_seed_decides_on_weights_that_start_from_none(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        torch.rand(3)
        quick(photos, tmp_path / name, seed=seed)
    one, again, other = (weights(tmp_path / name / "last") for name in ("one", "again", "other"))
    assert same(one, again)
    assert not torch.equal(one["backbone.body.layer4.0.conv1.weight"], other["backbone.body.layer4.0.conv1.weight"])


def test_beginning_over_a_run(photos: Path, tmp_path: Path) -> None:
    quick(photos, tmp_path / "run", resume=True)  # there is nothing yet, so it begins
    before = weights(tmp_path / "run/last")
    with pytest.raises(UserError, match="holds a run already: add --resume"):
        quick(photos, tmp_path / "run")
    for options, sentence in {
        "epochs": ({"epochs": 2}, "epochs=1, not 2"),
        "rate": ({"changes": {**QUICK, "learning_rate": 0.5}}, "learning_rate=0.0005, not 0.5"),
        "seed": ({"seed": 3}, "seed=0, not 3"),
        "model": ({"model": "fcn32s"}, "model='fcn8s', not 'fcn32s'"),
        "recipe": ({"recipe": "heavy"}, "recipe='modern', not 'heavy'"),
        "upsampling": ({"upsampling": "learned"}, "upsampling='fixed', not 'learned'"),
        "head": ({"head_only": True}, "head_only=False, not True"),
        "side": ({"max_side": 32}, "max_side=1024, not 32"),
        "precision": ({"precision": "bfloat16"}, "precision='auto', not 'bfloat16'"),
    }.values():
        with pytest.raises(UserError, match=f"was started with {sentence}: resume with the same settings"):
            quick(photos, tmp_path / "run", resume=True, **options)
    assert same(weights(tmp_path / "run/last"), before)
    assert quick(photos, tmp_path / "run", resume=True, workers=1).epoch == 1  # how it is read is no matter

    (tmp_path / "run/state.pt").write_bytes((tmp_path / "run/state.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state\.pt can't be read"):
        quick(photos, tmp_path / "run", resume=True)
    (tmp_path / "run/run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json can't be read"):
        quick(photos, tmp_path / "run", resume=True)


def test_stages_are_not_begun_where_the_last_one_would_meet_a_run(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    with pytest.raises(UserError, match="run holds a run already"):
        quick(photos, tmp_path / "run", recipe="staged")
    assert not (tmp_path / "run/fcn32s").exists()


def test_an_output_that_cannot_be_written(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/run: can't be written to"):
        quick(photos, tmp_path / "file/run")


def test_a_photo_that_is_damaged(tmp_path: Path) -> None:
    from tests.tiny import write_photos

    data = write_photos(tmp_path / "photos", 4)
    for path in (data / "images").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"scene_0000\d\.png") as error:
        quick(data, tmp_path / "run", workers=1)
    assert "Traceback" not in str(error.value)


def test_head_only_through_to_the_model(photos: Path, tmp_path: Path) -> None:
    source = tiny_net()
    save_model(tmp_path / "model", source, classes=scenes().classes)
    quick(photos, tmp_path / "run", weights=tmp_path / "model", head_only=True)
    before, after = weights(tmp_path / "model"), weights(tmp_path / "run/last")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if not name.startswith("backbone.")
    }


def test_the_loss_is_a_part_of_the_model(photos: Path, tmp_path: Path) -> None:
    quick(photos, tmp_path / "run", pixel_loss="sigmoid", null_background=True)
    net, config = load_model(tmp_path / "run")
    assert config.architecture.model_dump()["pixel_loss"] == "sigmoid"
    assert net.null_background  # type: ignore[union-attr]
    assert weights(tmp_path / "run/last")["score.8.weight"].shape[0] == len(config.classes) - 1
    with pytest.raises(UserError, match="pixel_loss"):
        quick(photos, tmp_path / "run", resume=True)


def test_class_weights_are_counted_and_told(photos: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Log(Callback):
        def on_log(self, message: str) -> None:
            told.append(message)

    quick(photos, tmp_path / "weighted", changes={**QUICK, "class_weights": "median"}, callbacks=[Log()])
    quick(photos, tmp_path / "plain")
    assert told[0].startswith("class weights: background 0.")
    assert not same(weights(tmp_path / "weighted/last"), weights(tmp_path / "plain/last"))
    asked = json.loads((tmp_path / "weighted/run.json").read_text())
    assert asked["class_weights"] == "median"


def test_patches_grow_the_batch_and_the_images(photos: Path, tmp_path: Path) -> None:
    changes = {**QUICK, "batch_size": 2, "images": 6, "patches": 0.5}
    quick(photos, tmp_path / "run", changes=changes, epochs=None)
    asked = json.loads((tmp_path / "run/run.json").read_text())
    assert asked["batch_size"] == 4
    assert asked["images"] == 12


def test_the_feed_takes_labels_away() -> None:
    recipe = small(MODERN, crop=0, scale=None, flip=0, colour=0, patches=0.5)
    view = TrainingView(scenes(8), recipe, resize=lambda sample: sample, seed=0, epoch=0)
    maps = [sample.class_map for index in range(8) if (sample := view[index]).class_map is not None]
    void = sum(int((class_map == VOID).sum()) for class_map in maps)
    assert 0 < void < sum(class_map.numel() for class_map in maps)
    assert void % 32**2 == 0
