from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.published import pytorch_fcn_state
from upscore.checkpoints.importers.pytorch_fcn import import_pytorch_fcn
from upscore.checkpoints.importers.state_dict import read_checkpoint, read_state_dict
from upscore.errors import UserError
from upscore.models.fcn.fcn import AT_ONCE_SCALES
from upscore.models.preprocessing import CAFFE

PYTORCH_FCN_NAMES = {"score.32": "score_fr", "score.16": "score_pool4", "score.8": "score_pool3"}


@pytest.mark.parametrize("num_classes", [3, 21])
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
def test_every_tensor_is_mapped(name: str, num_classes: int, tmp_path: Path) -> None:
    state = pytorch_fcn_state(name, num_classes)
    torch.save(state, tmp_path / "net.pth")
    net = import_pytorch_fcn(read_state_dict(tmp_path / "net.pth"))
    published = {
        "name": name,
        "backbone": "vgg16",
        "num_classes": num_classes,
        "geometry": "caffe",
        "upsampling": "fixed",
        "grouped": False,
    }
    assert published.items() <= net.architecture.items()
    assert net.preprocessing == CAFFE
    assert not net.skip_scales
    assert not net.training
    ours = net.state_dict()
    for key, value in ours.items():
        layer, _, kind = key.rpartition(".")
        assert torch.equal(value, state[f"{PYTORCH_FCN_NAMES.get(layer, layer.removeprefix('backbone.'))}.{kind}"]), key
    assert len(ours) == sum(not key.startswith("upscore") for key in state)
    assert not any(value.is_meta for value in ours.values())


def test_at_once_has_the_keys_of_8s_and_scaled_skips() -> None:
    state = pytorch_fcn_state("fcn8s", 21)
    net = import_pytorch_fcn(state, at_once=True)
    assert net.architecture["name"] == "fcn8s-atonce"
    assert net.skip_scales == AT_ONCE_SCALES
    with pytest.raises(UserError, match="fcn16s"):
        import_pytorch_fcn(pytorch_fcn_state("fcn16s", 21), at_once=True)


@pytest.mark.parametrize(("arch", "name"), [("FCN8s", "fcn8s"), ("FCN8sAtOnce", "fcn8s-atonce")])
def test_trainers_checkpoints_name_their_network(arch: str, name: str, tmp_path: Path) -> None:
    # as torchfcn/trainer.py saves it: the best score is a numpy scalar
    checkpoint = {
        "epoch": 11,
        "iteration": 100_000,
        "arch": arch,
        "optim_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 1e-14}]},
        "model_state_dict": pytorch_fcn_state("fcn8s", 3),
        "best_mean_iu": np.float64(0.655),
    }
    torch.save(checkpoint, tmp_path / "model_best.pth.tar")
    assert import_pytorch_fcn(read_checkpoint(tmp_path / "model_best.pth.tar")).architecture["name"] == name


def test_old_files_safetensors_and_data_parallel_names_are_read(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in pytorch_fcn_state("fcn16s", 3).items() if not name.startswith("fc")}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "new.safetensors")
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "parallel.pth")
    fully_connected = {n: v for n, v in pytorch_fcn_state("fcn16s", 3).items() if n.startswith("fc")}
    for file in tmp_path.iterdir():
        net = import_pytorch_fcn(read_state_dict(file) | fully_connected)
        assert net.architecture["name"] == "fcn16s"
        assert {value.dtype for value in net.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("trained", "upsampling"),
    [
        (("upscore2",), "intermediate"),
        (("upscore2", "upscore_pool4"), "intermediate"),
        (("upscore8",), "learned"),
        (("upscore2", "upscore_pool4", "upscore8"), "learned"),
    ],
)
def test_trained_upsampling_is_kept(trained: tuple[str, ...], upsampling: str) -> None:
    state = pytorch_fcn_state("fcn8s", 3)
    for layer in trained:
        state[f"{layer}.weight"][0, 1] += 1e-6
    net = import_pytorch_fcn(state)
    assert net.architecture["upsampling"] == upsampling
    ours = net.state_dict()
    assert torch.equal(ours["upscore.16.deconvolution.weight"], state["upscore2.weight"])
    assert torch.equal(ours["upscore.8.deconvolution.weight"], state["upscore_pool4.weight"])
    if upsampling == "learned":
        assert torch.equal(ours["upscore.1.deconvolution.weight"], state["upscore8.weight"])
    else:
        assert "upscore.1.deconvolution.weight" not in ours


def test_tensors_that_do_not_match_are_named() -> None:
    state = pytorch_fcn_state("fcn16s", 3)

    def refused(changed: dict, match: str) -> None:
        with pytest.raises(UserError, match=match):
            import_pytorch_fcn(changed)

    refused({name: value for name, value in state.items() if name != "conv3_2.bias"}, r"conv3_2\.bias \(1 ")
    refused({name: value for name, value in state.items() if name != "score_fr.bias"}, r"score_fr\.bias")
    refused(state | {"conv6_1.weight": torch.zeros(1)}, r"conv6_1\.weight")
    refused(state | {"score_pool3.weight": torch.zeros(1)}, r"score_pool3\.weight")
    refused(state | {"fc6.weight": torch.zeros(4096, 25088)}, r"fc6\.weight .*\(4096, 25088\).*512, 7, 7")
    refused(state | {"upscore2.weight": torch.zeros(3, 1, 4, 4)}, r"upscore2\.weight .*\(3, 1, 4, 4\)")
    refused(state | {"score_pool4.bias": torch.zeros(4)}, r"score_pool4\.bias .*\(4,\).*\(3,\)")
    refused(state | {"fc7.bias": "weights"}, r"fc7\.bias ")
    refused({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "pytorch-fcn")
    refused({f"net.{name}": value for name, value in state.items()}, "pytorch-fcn")
    refused({}, "pytorch-fcn")
