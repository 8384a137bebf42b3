"""Run manifests and locks of output folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import BACKBONE, tiny_net
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.run_manifest import FOLDER, Record, RunManifest, fingerprint, model_digest, unchanged
from upscore.inference.tiled.tile_store import locked
from upscore.models import build
from upscore.models.preprocessing import DepthPreprocessing

SETTINGS = {"model": "a" * 64, "scores": False}


def record(output: Path, name: str) -> Record:
    (output / f"{name}.png").write_text(name)
    return Record(name, [], {f"{name}.png": len(name)}, [{"image_id": 1, "score": 0.5}])


def found(manifest: RunManifest, *names: str) -> list[str]:
    return [name for name in names if manifest.find(name, lambda before: True)]


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_truncated_journal_has_all_complete_records(cut: int, tmp_path: Path) -> None:
    with RunManifest(tmp_path, SETTINGS) as manifest:
        for name in "abc":
            manifest.add(record(tmp_path, name))
        journal = manifest.path
    journal.write_bytes(journal.read_bytes()[: -cut or None])
    with RunManifest(tmp_path, SETTINGS, resume=True) as manifest:
        assert found(manifest, *"abcd") == (["a", "b", "c"] if cut < 2 else ["a", "b"])
        assert [r["image_id"] for r in manifest.results({"b": 7, "a": 9, "z": 3})] == [7, 9]
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_run_without_records_leaves_no_files(tmp_path: Path) -> None:
    with RunManifest(tmp_path, SETTINGS):
        assert (tmp_path / FOLDER).exists()
    assert not list(tmp_path.iterdir())


CHILD = """
import sys, time
from pathlib import Path
from upscore.inference.run_manifest import RunManifest
from upscore.inference.tiled.tile_store import locked
output = Path(sys.argv[1])
manifest = RunManifest(output, {"model": "a" * 64, "scores": False})
manifest.staging.mkdir()
with locked(output / ".partial"):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_killed_run_holds_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            (staging,) = (path for path in (tmp_path / FOLDER).iterdir() if path.is_dir())
            with pytest.raises(UserError, match=f"process {child.pid} "):
                RunManifest(tmp_path, SETTINGS, exclusive=True)
            with RunManifest(tmp_path, SETTINGS):
                assert staging.is_dir()
            assert staging.is_dir()
            with pytest.raises(UserError, match=r"\.partial"), locked(tmp_path / ".partial"):
                pass
        finally:
            os.kill(child.pid, signal.SIGKILL)
    with RunManifest(tmp_path, SETTINGS, exclusive=True), locked(tmp_path / ".partial"):
        assert not staging.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("score_threshold", 0.3), ("mask_nms", False), ("display_threshold", 0.7), ("category_ids", [4])],
)
def test_settings_that_change_results_change_the_digest(name: str, value: object) -> None:
    net = build("mask_rcnn", backbone=BACKBONE, num_classes=1, channels=8, box_features=8)
    digest = model_digest(Model(net, "torch", "float32"))
    setattr(net, name, value)
    assert model_digest(Model(net, "torch", "float32")) != digest


def test_the_digest_depends_on_the_preprocessing_of_depth() -> None:
    net = build("fcn8s", backbone=BACKBONE, num_classes=2, depth="early", depth_channels=1)
    digests = set()
    for mean in (0.0, 1.0):
        net.backbone.depth_preprocessing = DepthPreprocessing(mean=(mean,), std=(1.0,))
        digests.add(model_digest(Model(net, "torch", "float32")))
    assert len(digests) == 2


def test_the_digest_of_bfloat16_weights() -> None:
    net = tiny_net().bfloat16()
    digest = model_digest(Model(net, "torch", "float32"))
    assert model_digest(Model(net, "torch", "float32")) == digest
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert model_digest(Model(net, "torch", "float32")) != digest


def test_nested_locks(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_fingerprints(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    before = [fingerprint(path)]
    assert unchanged(before, [path])
    os.utime(path, ns=(0, 0))
    assert unchanged(before, [path])
    path.write_bytes(b"two")
    os.utime(path, ns=(0, int(before[0]["modified"])))
    assert not unchanged(before, [path])
    assert not unchanged(before, [path, path])
    assert not unchanged(before, [tmp_path / "gone.png"])
    zarr = tmp_path / "a.zarr"
    (zarr / "c").mkdir(parents=True)
    (zarr / "c" / "0").write_bytes(b"1")
    before = [fingerprint(zarr)]
    assert unchanged(before, [zarr])
    (zarr / "c" / "1").write_bytes(b"")
    assert not unchanged(before, [zarr])
    with pytest.raises(UserError, match=r"gone\.png"):
        fingerprint(tmp_path / "gone.png")
