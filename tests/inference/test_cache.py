"""Cache of compiled networks, and starts from it without building layers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import upscore
from tests.tiny import scenes
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.engines.cache import Store, code_version, prune, store_for
from upscore.inference.run_manifest import model_digest
from upscore.inference.tiled.semantic import predict_raster
from upscore.models.backbones.base import BackboneSpec
from upscore.models.fcn.fcn import FCN
from upscore.models.receptive_field import receptive_field
from upscore.results import as_instances

IMAGE = scenes(1, seed=9)[0].image


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/compiled"


def starts_without_layers(model: Model) -> bool:
    """Return whether the session has only the compiled backbone; check that the module is complete anyway."""
    module = model.module
    assert not isinstance(module.backbone, BackboneSpec)
    with torch.no_grad():
        module(module.preprocessing(IMAGE[None]))
    return isinstance(model.session.net.backbone, BackboneSpec)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_second_start_builds_no_layers(trained: Path, cache: Path, precision: str) -> None:
    first = upscore.load(trained, engine="openvino", precision=precision)
    assert first.session.engine.name == "openvino"
    (entry,) = cache.iterdir()
    second = upscore.load(trained, engine="openvino", precision=precision)
    assert not starts_without_layers(first)
    assert starts_without_layers(second)
    for size in ((64, 64), (33, 50)):
        image = IMAGE[:, : size[0], : size[1]]
        expected, found = (predictor.predict(image, scores=True) for predictor in (first, second))
        assert (expected.scores == found.scores).all()

    weights = next(entry.glob("*/*.bin"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")  # damaged, so it is compiled again
    third = upscore.load(trained, engine="openvino", precision=precision)
    assert (third.predict(IMAGE).class_map == first.predict(IMAGE).class_map).all()
    assert starts_without_layers(upscore.load(trained, engine="openvino", precision=precision))


@pytest.mark.slow
def test_detection_without_layers(cache: Path) -> None:
    first = upscore.load("nuclei", engine="openvino", precision="float32")
    assert first.session.engine.name == "openvino"
    second = upscore.load("nuclei", engine="openvino", precision="float32")
    assert starts_without_layers(second)
    expected, found = (as_instances(predictor.predict(IMAGE, score_threshold=0)) for predictor in (first, second))
    assert found.scores.tolist() == expected.scores.tolist()
    assert np.array_equal(found.masks, expected.masks)


def test_other_weights_have_another_entry(trained: Path, cache: Path, tmp_path: Path) -> None:
    upscore.load(trained, engine="openvino", precision="float32").predict(IMAGE)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    upscore.load(other, engine="openvino", precision="float32").predict(IMAGE)
    assert len(list(cache.iterdir())) == 1  # the same weights in another folder
    state = other / "model.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    upscore.load(other, engine="openvino", precision="float32").predict(IMAGE)
    assert len(list(cache.iterdir())) == 2


def test_an_unwritable_cache_is_ignored(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert upscore.load(trained, engine="openvino", precision="float32").predict(IMAGE).class_map is not None


def test_the_least_recently_used_entry_is_deleted_first(cache: Path) -> None:
    entries = [store_for(number) for number in range(3)]
    for age, entry in zip((300, 200, 100), entries, strict=True):
        entry.write("part", lambda folder: (folder / "weights").write_bytes(bytes(100_000)))
        os.utime(entry.folder, (time.time() - age,) * 2)
    prune(cache, 250_000, keep=entries[2].folder)
    assert [entry.folder.exists() for entry in entries] == [False, True, True]
    kept = Store(entries[1].folder)
    found = kept.find("part")
    assert found is not None
    assert (found / "weights").read_bytes() == bytes(100_000)
    assert kept.find("other") is None


def test_incomplete_and_damaged_parts_are_missing(cache: Path) -> None:
    entry = store_for(1)

    def save(folder: Path) -> None:
        (folder / "weights").write_bytes(b"incomplete")
        raise RuntimeError("disk full")

    entry.write("part", save)
    assert entry.find("part") is None
    assert not list(cache.rglob("weights"))
    entry.write("part", lambda folder: (folder / "weights").write_bytes(b"complete"))
    for damage in ("{", '{"weights": "0"}', '{"gone": "0"}', "[]"):
        (entry.folder / "part/sha256.json").write_text(damage)
        assert entry.find("part") is None


@pytest.mark.slow
def test_a_start_from_the_cache_does_not_import_torchvision_and_timm(trained: Path, cache: Path) -> None:
    """Their import takes longer than the prediction of an image."""
    script = (
        f"import sys, numpy as np, upscore; p = upscore.load({str(trained)!r}, engine='openvino');"
        "p.predict(np.zeros((32, 32, 3), np.uint8));"
        "print([m for m in ('torchvision', 'timm', 'torch._dynamo') if m in sys.modules])"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True).stdout
        for _ in range(2)
    ]
    assert "timm" in outputs[0]
    assert outputs[1].strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_tiled_prediction_from_the_cache(trained: Path, cache: Path, tmp_path: Path) -> None:
    Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    digests, geometries = set(), []
    for run in range(2):
        predictor = upscore.load(trained, engine="openvino", precision="float32")
        assert starts_without_layers(predictor) == bool(run)
        predict_raster(predictor, tmp_path / "a.png", tmp_path / f"{run}.tif")
        assert isinstance(predictor.module, FCN)
        geometries.append(receptive_field(predictor.module))
        digests.add(model_digest(predictor))
    assert len(digests) == 1
    assert geometries[0] == geometries[1]
    assert (tmp_path / "0.tif").read_bytes() == (tmp_path / "1.tif").read_bytes()


@pytest.mark.parametrize("damaged", ["[1]", '{"channels": 3}', "?"])
def test_a_damaged_spec_is_written_again(trained: Path, cache: Path, damaged: str) -> None:
    upscore.load(trained, engine="openvino", precision="float32").predict(IMAGE)
    (entry,) = cache.iterdir()
    (entry / "spec.json").write_text(damaged)
    assert not starts_without_layers(upscore.load(trained, engine="openvino", precision="float32"))
    assert starts_without_layers(upscore.load(trained, engine="openvino", precision="float32"))


def test_a_missing_home_folder_is_ignored_and_missing_weights_are_an_error(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UPSCORE_CACHE")
    monkeypatch.setattr("upscore.files.user_cache_path", lambda *_, **__: Path("~/.cache/upscore"))  # not expanded
    monkeypatch.chdir(tmp_path)
    assert upscore.load(trained, engine="openvino").predict(IMAGE).class_map is not None
    assert not (tmp_path / "~").exists()
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    (other / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        upscore.load(other, engine="openvino")


def test_other_code_has_another_entry(trained: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key includes a digest of the source files and the versions of the libraries."""
    load = upscore.inference.load.__globals__
    upscore.load(trained, engine="openvino", precision="float32").predict(IMAGE)
    versions = code_version()
    assert {name.split()[0] for name in versions[:-1]} == {"upscore", "torch", "torchvision", "timm", "openvino"}
    for index in range(len(versions)):
        other = (*versions[:index], "another", *versions[index + 1 :])
        monkeypatch.setitem(load, "code_version", lambda other=other: other)
        assert not starts_without_layers(upscore.load(trained, engine="openvino", precision="float32"))
    assert len(list(cache.iterdir())) == 1 + len(versions)


def test_a_deleted_part_is_compiled_again(trained: Path, cache: Path) -> None:
    first = upscore.load(trained, engine="openvino", precision="float32").predict(IMAGE)
    model = upscore.load(trained, engine="openvino", precision="float32")  # has no layers yet
    (entry,) = cache.iterdir()
    shutil.rmtree(entry / "coarse_scores")
    assert (model.predict(IMAGE).class_map == first.class_map).all()
    assert not starts_without_layers(model)
