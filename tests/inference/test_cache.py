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

PHOTO = scenes(1, seed=9)[0].image


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/compiled"


def starts_without_layers(model: Model) -> bool:
    """Whether the session has the compiled backbone alone; the module is complete nevertheless."""
    module = model.module
    assert not isinstance(module.backbone, BackboneSpec)
    with torch.no_grad():
        module(module.preprocessing(PHOTO[None]))
    return isinstance(model.session.net.backbone, BackboneSpec)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_second_start_needs_no_layers(trained: Path, cache: Path, precision: str) -> None:
    first = upscore.load(trained, engine="openvino", precision=precision)
    assert first.session.engine.name == "openvino"
    (entry,) = cache.iterdir()
    second = upscore.load(trained, engine="openvino", precision=precision)
    assert not starts_without_layers(first)
    assert starts_without_layers(second)
    for size in ((64, 64), (33, 50)):
        photo = PHOTO[:, : size[0], : size[1]]
        expected, found = (predictor.predict(photo, scores=True) for predictor in (first, second))
        assert (expected.scores == found.scores).all()

    weights = next(entry.glob("*/*.bin"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")  # damaged: made again
    third = upscore.load(trained, engine="openvino", precision=precision)
    assert (third.predict(PHOTO).class_map == first.predict(PHOTO).class_map).all()
    assert starts_without_layers(upscore.load(trained, engine="openvino", precision=precision))


@pytest.mark.slow
def test_objects_are_found_without_layers_too(cache: Path) -> None:
    first = upscore.load("nuclei", engine="openvino", precision="float32")
    assert first.session.engine.name == "openvino"
    second = upscore.load("nuclei", engine="openvino", precision="float32")
    assert starts_without_layers(second)
    expected, found = (as_instances(predictor.predict(PHOTO, score_threshold=0)) for predictor in (first, second))
    assert found.scores.tolist() == expected.scores.tolist()
    assert np.array_equal(found.masks, expected.masks)


def test_other_weights_are_another_entry(trained: Path, cache: Path, tmp_path: Path) -> None:
    upscore.load(trained, engine="openvino", precision="float32").predict(PHOTO)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    upscore.load(other, engine="openvino", precision="float32").predict(PHOTO)
    assert len(list(cache.iterdir())) == 1  # the same weights in another place
    state = other / "model.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    upscore.load(other, engine="openvino", precision="float32").predict(PHOTO)
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_none(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UPSCORE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert upscore.load(trained, engine="openvino", precision="float32").predict(PHOTO).class_map is not None


def test_the_oldest_go_first(cache: Path) -> None:
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


def test_what_is_half_there_is_not_there(cache: Path) -> None:
    entry = store_for(1)

    def save(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise RuntimeError("disk full")

    entry.write("part", save)
    assert entry.find("part") is None
    assert not list(cache.rglob("weights"))
    entry.write("part", lambda folder: (folder / "weights").write_bytes(b"all of it"))
    for damage in ("{", '{"weights": "0"}', '{"gone": "0"}', "[]"):
        (entry.folder / "part/sha256.json").write_text(damage)
        assert entry.find("part") is None


@pytest.mark.slow
def test_a_start_from_the_cache_imports_little(trained: Path, cache: Path) -> None:
    """torchvision and timm take longer to import than a photo to predict."""
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
def test_tiles_of_a_network_from_the_cache(trained: Path, cache: Path, tmp_path: Path) -> None:
    Image.fromarray(PHOTO.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    digests, geometries = set(), []
    for run in range(2):
        predictor = upscore.load(trained, engine="openvino", precision="float32")
        assert starts_without_layers(predictor) == bool(run)
        predict_raster(predictor, tmp_path / "photo.png", tmp_path / f"{run}.tif")
        assert isinstance(predictor.module, FCN)
        geometries.append(receptive_field(predictor.module))
        digests.add(model_digest(predictor))
    assert len(digests) == 1
    assert geometries[0] == geometries[1]
    assert (tmp_path / "0.tif").read_bytes() == (tmp_path / "1.tif").read_bytes()


@pytest.mark.parametrize("damaged", ["[1]", '{"channels": 3}', "?"])
def test_damaged_facts_are_made_anew(trained: Path, cache: Path, damaged: str) -> None:
    upscore.load(trained, engine="openvino", precision="float32").predict(PHOTO)
    (entry,) = cache.iterdir()
    (entry / "facts.json").write_text(damaged)
    assert not starts_without_layers(upscore.load(trained, engine="openvino", precision="float32"))
    assert starts_without_layers(upscore.load(trained, engine="openvino", precision="float32"))


def test_no_home_and_no_weights(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSCORE_CACHE")
    monkeypatch.setattr("upscore.files.user_cache_path", lambda *_, **__: Path("~/.cache/upscore"))  # not expanded
    monkeypatch.chdir(tmp_path)
    assert upscore.load(trained, engine="openvino").predict(PHOTO).class_map is not None
    assert not (tmp_path / "~").exists()
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    (other / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        upscore.load(other, engine="openvino")


def test_another_code_is_another_entry(trained: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of the sources that define what is exported is a part of the key, and so are the libraries."""
    load = upscore.inference.load.__globals__
    upscore.load(trained, engine="openvino", precision="float32").predict(PHOTO)
    versions = code_version()
    assert {name.split()[0] for name in versions[:-1]} == {"upscore", "torch", "torchvision", "timm", "openvino"}
    for place in range(len(versions)):
        other = (*versions[:place], "another", *versions[place + 1 :])
        monkeypatch.setitem(load, "code_version", lambda other=other: other)
        assert not starts_without_layers(upscore.load(trained, engine="openvino", precision="float32"))
    assert len(list(cache.iterdir())) == 1 + len(versions)


def test_a_part_that_has_gone_is_made_again(trained: Path, cache: Path) -> None:
    first = upscore.load(trained, engine="openvino", precision="float32").predict(PHOTO)
    model = upscore.load(trained, engine="openvino", precision="float32")  # begins without layers
    (entry,) = cache.iterdir()
    shutil.rmtree(entry / "coarse_scores")
    assert (model.predict(PHOTO).class_map == first.class_map).all()
    assert not starts_without_layers(model)
