from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import upscore as package
from tests.checkpoints.detectors import detectron2_shapes, frozen, marked, torchvision_shapes
from tests.checkpoints.published import CONVOLUTIONS, pytorch_fcn_state
from tests.cli.command import sentence, upscore
from upscore.checkpoints import load_model
from upscore.cli import app
from upscore.cli.import_ import import_
from upscore.data.formats.voc import CLASSES as VOC_CLASSES
from upscore.errors import UserError


def torchvision_state() -> dict[str, torch.Tensor]:
    """Return a state dict of torchvision's vgg16 with constant tensors."""
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    sources = [f"features.{index}" for index in indices] + ["classifier.0", "classifier.3"]
    state = {"classifier.6.weight": torch.tensor(0.1).expand(1000, 4096), "classifier.6.bias": torch.zeros(1000)}
    for number, (source, shape) in enumerate(zip(sources, CONVOLUTIONS.values(), strict=True)):
        flat = shape if source.startswith("features") else (shape[0], shape[1] * shape[2] * shape[3])
        state[f"{source}.weight"] = torch.tensor(float(number)).expand(flat)
        state[f"{source}.bias"] = torch.tensor(-float(number)).expand(shape[0])
    return state


def run(*tokens: str | Path) -> None:
    """Run `upscore import` with arguments."""
    command, bound, _ = app.parse_args(["import", *map(str, tokens)], exit_on_error=False, print_error=False)
    assert command.__module__ == "upscore.cli.import_"
    command(*bound.args, **bound.kwargs)


@pytest.mark.slow
def test_import_of_pytorch_fcn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = pytorch_fcn_state("fcn8s", 21)
    torch.save(state, tmp_path / "net.pth")
    run(tmp_path / "net.pth", "--from", "pytorch-fcn", "--at-once", "--output", tmp_path / "voc")
    assert "fcn8s-atonce with backbone vgg16, 21 classes" in capsys.readouterr().out
    net, config = load_model(tmp_path / "voc")
    assert config.classes == net.classes == VOC_CLASSES
    assert config.architecture.geometry == "caffe"
    assert config.preprocessing.channel_order == "BGR"
    assert torch.equal(net.backbone.conv5_3.bias, state["conv5_3.bias"])
    assert torch.equal(net.score["8"].weight, state["score_pool3.weight"])


@pytest.mark.slow
def test_import_of_the_torchvision_classifier(tmp_path: Path) -> None:
    torch.save(torchvision_state(), tmp_path / "vgg16.pth")
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    classes = tmp_path / "classes.txt"
    run(
        *(tmp_path / "vgg16.pth", "--from", "torchvision", "--model", "fcn16s"),
        *("--classes", classes, "--output", tmp_path / "start"),
    )
    net, config = load_model(tmp_path / "start")
    assert config.classes == ["sky", "road"]
    assert config.architecture.name == "fcn16s"
    assert config.architecture.geometry == "same"
    assert net.backbone.fc6.weight.eq(13).all()
    assert net.score["32"].weight.eq(0).all()


def test_invalid_options_are_named(tmp_path: Path) -> None:
    path, output = tmp_path / "net.pth", tmp_path / "out"
    torch.save(pytorch_fcn_state("fcn32s", 3), path)
    with pytest.raises(UserError, match="--model fcn8s"):
        import_(path, source="pytorch-fcn", output=output, model="fcn8s")
    with pytest.raises(UserError, match="--at-once"):
        import_(path, source="torchvision", output=output, at_once=True, classes="2")
    with pytest.raises(UserError, match="--model mask_rcnn"):
        import_(path, source="detectron2", output=output, model="mask_rcnn")
    with pytest.raises(UserError, match="--at-once"):
        import_(path, source="detectron2", output=output, at_once=True)
    with pytest.raises(UserError, match="--classes"):
        import_(path, source="torchvision", output=output)
    with pytest.raises(UserError, match=r"--classes 4 .*4 .*net\.pth .*3"):
        import_(path, source="pytorch-fcn", output=output, classes="4")
    with pytest.raises(UserError, match=r"--classes 256 .*255"):
        import_(path, source="pytorch-fcn", output=output, classes="256")
    with pytest.raises(UserError, match=r"nothing\.txt"):
        import_(path, source="pytorch-fcn", output=output, classes=str(tmp_path / "nothing.txt"))
    with pytest.raises(UserError, match="vgg16"):
        import_(path, source="torchvision", output=output, classes="3", model="fcn32s")
    assert not output.exists()


@pytest.mark.slow
def test_import_of_the_torchvision_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = marked(frozen(torchvision_shapes(classes=3)))
    torch.save(state, tmp_path / "net.pth")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    names = ("--classes", tmp_path / "classes.txt", "--output", tmp_path / "pets")
    assert upscore(monkeypatch, "import", tmp_path / "net.pth", "--from", "torchvision", *names) == 0
    assert "mask_rcnn with backbone resnet50, 2 classes" in capsys.readouterr().out
    model = package.load(tmp_path / "pets")
    assert model.task == "instances"
    assert model.classes == ["cat", "dog"]
    net = model.module
    assert torch.equal(net.backbone.body.conv1.weight, state["backbone.body.conv1.weight"])
    assert net.backbone.body.bn1.eps == 0
    assert model.predict(np.zeros((20, 30, 3), np.uint8)).size == (20, 30)

    with pytest.raises(UserError, match="--model fcn32s"):
        import_(tmp_path / "net.pth", source="torchvision", output=tmp_path / "other", model="fcn32s")
    with pytest.raises(UserError, match=r"--classes 3 .*3 .*net\.pth .*2"):
        import_(tmp_path / "net.pth", source="torchvision", output=tmp_path / "other", classes="3")


@pytest.mark.slow
def test_import_of_detectron2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = marked(detectron2_shapes())
    halves = {name: tensor.half().numpy() for name, tensor in state.items()}
    with (tmp_path / "model_final.pkl").open("wb") as file:
        pickle.dump({"model": halves, "__author__": "Detectron2 Model Zoo"}, file)
    words = ("--from", "detectron2", "--output", tmp_path / "coco")
    assert upscore(monkeypatch, "import", tmp_path / "model_final.pkl", *words) == 0
    assert "mask_rcnn with backbone resnet50, 80 classes" in capsys.readouterr().out
    model = package.load(tmp_path / "coco")
    assert model.classes[22] == "zebra"
    assert model.module.preprocessing.channel_order == "BGR"
    assert torch.equal(model.module.neck.output["8"].bias, state["backbone.fpn_output3.bias"].half().float())
    assert model.module.architecture["stride_in"] == "1x1"


@pytest.mark.parametrize("source", ["torchvision", "detectron2"])
@pytest.mark.parametrize("name", ["net.pth", "net.pkl", "net.safetensors"])
def test_damaged_checkpoints_are_named(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02no checkpoint at all")
    assert upscore(monkeypatch, "import", tmp_path / name, "--from", source, "--output", tmp_path / "out") != 0
    assert name in sentence(capsys)
    assert not (tmp_path / "out").exists()
