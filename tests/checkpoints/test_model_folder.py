from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.test_config import edit
from tests.tiny import BACKBONE, same, tiny_net, weights
from upscore.checkpoints import load_model, save_model
from upscore.checkpoints.model_folder import WEIGHTS, find_model
from upscore.errors import UserError
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN, Upsampling
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.preprocessing import Preprocessing

NAMES = ["background", "disk", "ring"]


def randomised(net: FCN) -> FCN:
    """Change all weights, statistics and learned kernels."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1).add_(torch.rand_like(tensor) * 0.01)
    return net


@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce"])
@pytest.mark.parametrize(("upsampling", "grouped"), [("fixed", True), ("learned", True), ("learned", False)])
def test_round_trip(name: str, upsampling: Upsampling, grouped: bool, tmp_path: Path) -> None:
    net = randomised(tiny_net(name, classes=3, upsampling=upsampling, grouped=grouped)).eval()
    net.backbone.preprocessing = Preprocessing(mean=(1, 2, 3), std=(4, 5.5, 6), channel_order="BGR")
    save_model(tmp_path / "model", net, classes=NAMES, max_side=77, training={"seed": 3}, scores={"mean_iu": 0.5})
    loaded, config = load_model(tmp_path / "model")
    assert loaded.preprocessing == net.preprocessing
    assert loaded.architecture == net.architecture
    assert loaded.classes == config.classes == NAMES
    assert (config.max_side, config.training, config.scores) == (77, {"seed": 3}, {"mean_iu": 0.5})
    assert not any(module.training for module in loaded.modules())
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    images = torch.randint(0, 256, (2, 3, 50, 71), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(loaded.preprocessing(images)), net(net.preprocessing(images)))
    assert net(net.preprocessing(images)).std() > 0


@pytest.mark.slow
def test_round_trip_of_the_published_geometry(tmp_path: Path) -> None:
    net = build("fcn8s", backbone="vgg16", num_classes=3, geometry="caffe").eval()
    torch.nn.init.normal_(net.score["8"].weight)
    save_model(tmp_path / "model", net, classes=NAMES)
    loaded, config = load_model(tmp_path / "model")
    assert config.architecture.geometry == "caffe"
    assert loaded.preprocessing.channel_order == "BGR"
    assert loaded.crops == {16: 5, 8: 9, 1: 31}
    with torch.no_grad():
        assert torch.equal(loaded(torch.ones(1, 3, 33, 20)), net(torch.ones(1, 3, 33, 20)))


@pytest.mark.slow
def test_buffers_that_are_not_stored_are_built(tmp_path: Path) -> None:
    net = build("fcn8s", backbone="timm/tiny_vit_5m_224", num_classes=3).eval()
    torch.nn.init.normal_(net.score["8"].weight)
    save_model(tmp_path / "model", net, classes=NAMES)
    loaded, _ = load_model(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(torch.ones(1, 3, 64, 64)), net(torch.ones(1, 3, 64, 64)))


def test_a_loaded_model_has_the_same_trainable_parameters(tmp_path: Path) -> None:
    net = tiny_net(classes=3)
    save_model(tmp_path / "model", net, classes=NAMES)
    loaded, _ = load_model(tmp_path / "model")
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in net.named_parameters() if p.requires_grad
    }


def test_model_folders_contain_two_files_and_no_pickle(run: Path) -> None:
    for model in (run / "best", run / "last"):
        assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]
        assert not (model / "model.safetensors").read_bytes().startswith((b"PK", b"\x80"))
        assert isinstance(json.loads((model / "model.json").read_text())["architecture"], dict)


def test_the_model_of_a_run_is_its_best_model(run: Path) -> None:
    assert find_model(run) == run / "best"
    assert find_model(str(run / "last")) == run / "last"
    assert same(dict(load_model(run)[0].state_dict()), weights(run / "best"))


@pytest.fixture
def model(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "best", tmp_path / "model"))


def test_the_configuration_of_another_network_is_refused(model: Path) -> None:
    edit(model, architecture__name="fcn4s")
    with pytest.raises(UserError, match="fcn4s"):
        load_model(model)
    edit(model, architecture__name="fcn32s")
    with pytest.raises(UserError, match=r"model\.safetensors .*model\.json: "):
        load_model(model)


def test_damaged_and_missing_weights_are_named(model: Path) -> None:
    path = model / "model.safetensors"
    content = path.read_bytes()
    state = load_file(path)
    smaller = {**state, "score.8.bias": torch.zeros(2)}
    fewer = {name: value for name, value in state.items() if name != "score.8.bias"}
    for damage in (
        content[:-8],
        content[:100],
        b"",
        b"garbage" * 100,
        smaller,
        fewer,
        {**state, "more": torch.ones(1)},
    ):
        path.unlink()
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            save_file(damage, path)
        with pytest.raises(UserError, match=f"{path} "):
            load_model(model)
    path.unlink()
    with pytest.raises(UserError, match=f"{path} "):
        load_model(model)


def test_folders_without_a_model_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path} .*model\.json .*best/model\.json"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="missing "):
        load_model(tmp_path / "missing")


def test_a_failed_writer_keeps_the_old_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights(model)

    def fail(state: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("upscore.checkpoints.model_folder.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(model, tiny_net(classes=3), classes=NAMES)
    assert same(weights(model), before)
    assert load_model(model)[1].architecture.num_classes == 8
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_folders_with_other_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    net = tiny_net(classes=3)
    with pytest.raises(UserError, match=rf"{tmp_path} .*photo\.jpg"):
        save_model(tmp_path, net, classes=NAMES)
    with pytest.raises(UserError, match=r"photo\.jpg is a file"):
        save_model(tmp_path / "photo.jpg", net, classes=NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_networks_without_architecture_or_with_other_classes_are_not_saved(tmp_path: Path) -> None:
    net = tiny_net(classes=3)
    with pytest.raises(ValueError, match=r"2 .*3 "):
        save_model(tmp_path / "model", net, classes=NAMES[:2])
    net.architecture = {}
    with pytest.raises(ValueError, match=r"upscore\.models\.build"):
        save_model(tmp_path / "model", net, classes=NAMES)
    assert not (tmp_path / "model").exists()


def test_preprocessing_is_stored_exactly(tmp_path: Path) -> None:
    net = tiny_net(classes=3)
    net.backbone.preprocessing = Preprocessing(mean=(0.1, 1 / 3, 104.00699), std=(58.395, 1e-6, 57.375))
    save_model(tmp_path / "model", net, classes=NAMES)
    assert asdict(load_model(tmp_path / "model")[0].preprocessing) == asdict(net.preprocessing)


def test_a_full_disk_keeps_the_old_model(tmp_path: Path) -> None:
    """A limit on the size of files simulates the full disk."""
    resource = pytest.importorskip("resource")
    save_model(tmp_path / "model", tiny_net(classes=3), classes=NAMES)
    before = (tmp_path / "model" / WEIGHTS).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"model\.safetensors: "):
            save_model(tmp_path / "model", tiny_net(classes=3), classes=NAMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "model" / WEIGHTS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_category_ids_of_the_training_data_are_stored(tmp_path: Path) -> None:
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=2, channels=16, box_features=16, min_side=64)
    for ids in (None, [44, 3]):
        net.category_ids = ids
        save_model(tmp_path / "model", net, classes=["cell", "nerve"])
        loaded, config = load_model(tmp_path / "model")
        assert isinstance(loaded, MaskRCNN)
        assert loaded.category_ids == config.category_ids == ids
    for wrong in ([44], [44, 44]):
        edit(tmp_path / "model", category_ids=wrong)
        with pytest.raises(UserError, match="category_ids"):
            load_model(tmp_path / "model")
