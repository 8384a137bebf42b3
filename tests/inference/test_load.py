from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import upscore
from tests.tiny import scenes
from upscore.errors import UserError


def test_a_run_a_folder_and_a_string(run: Path) -> None:
    photo = scenes(1)[0].image
    maps = [upscore.load(source).predict(photo).class_map for source in (run, str(run), run / "best", f"{run}/best")]
    assert all(np.array_equal(maps[0], other) for other in maps)
    model = upscore.load(run)
    assert model.max_side == 1024
    assert model.classes == scenes().classes
    assert not any(module.training for module in model.module.modules())


def test_a_repository_on_a_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(run / "best")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert upscore.load("hf://someone/streets").classes == scenes().classes
    assert upscore.load("hf://someone/streets@v1.2").classes == scenes().classes
    files = ["model.json", "model.safetensors"]
    assert asked == [("someone/streets", None, files), ("someone/streets", "v1.2", files)]


def test_a_repository_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_args, **_options: str(tmp_path))
    with pytest.raises(UserError, match=r"model\.json"):
        upscore.load("hf://someone/else")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    """In a process of its own, for the client reads its settings when it is imported."""
    sources = ["hf://someone/streets", "hf://", "hf://a/b/c", "hf://../..", "hf://a b/c"]
    script = (
        "import upscore, upscore.errors\n"
        f"for source in {sources!r}:\n"
        "    try:\n"
        "        upscore.load(source)\n"
        "    except upscore.errors.UserError as error:\n"
        "        print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=True
    )
    for source, line in zip(sources, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{source} can't be fetched: ")


def test_an_error_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> str:
        raise ConnectionResetError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="hf://a/b can't be fetched: ConnectionResetError"):
        upscore.load("hf://a/b")


@pytest.mark.slow
def test_rooms_open_when_they_are_entered() -> None:
    script = (
        "import sys, upscore\n"
        "assert 'torch' not in sys.modules\n"
        "net = upscore.models.build('fcn32s', backbone='timm/test_resnet', num_classes=2)\n"
        "print(type(net).__name__)\n"
        "try:\n    upscore.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["FCN", "module 'upscore' has no attribute 'nothing'"]
