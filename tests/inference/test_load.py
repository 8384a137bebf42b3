"""Loading of models from folders and the hub, and lazy imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

import upscore
from tests.tiny import scenes
from upscore.errors import UserError


def test_a_run_and_a_model_folder_as_path_and_string(run: Path) -> None:
    image = scenes(1)[0].image
    maps = [upscore.load(source).predict(image).class_map for source in (run, str(run), run / "best", f"{run}/best")]
    assert all(np.array_equal(maps[0], other) for other in maps)
    model = upscore.load(run)
    assert model.max_side == 1024
    assert model.classes == scenes().classes
    assert not any(module.training for module in model.module.modules())


@pytest.mark.parametrize("source", [None, 5, {}, ""])
def test_sources_of_other_types_are_refused(source: Any) -> None:
    with pytest.raises(UserError, match=f"{source!r} is not a model"):
        upscore.load(source)


def test_a_repository_on_the_hub(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        downloads.append((repository, revision, allow_patterns))
        return str(run / "best")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert upscore.load("hf://someone/streets").classes == scenes().classes
    assert upscore.load("hf://someone/streets@v1.2").classes == scenes().classes
    files = ["model.json", "model.safetensors"]
    assert downloads == [("someone/streets", None, files), ("someone/streets", "v1.2", files)]


def test_a_repository_without_a_model_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_args, **_options: str(tmp_path))
    with pytest.raises(UserError, match=r"model\.json"):
        upscore.load("hf://someone/else")


@pytest.mark.slow
def test_an_unreachable_hub_and_invalid_addresses_are_errors(tmp_path: Path) -> None:
    """In a separate process, since the client reads its settings at import."""
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
        assert line.startswith(source)


def test_an_error_without_a_message_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> str:
        raise ConnectionResetError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"hf://a/b.*ConnectionResetError"):
        upscore.load("hf://a/b")


@pytest.mark.slow
def test_subpackages_are_imported_on_demand() -> None:
    script = (
        "import sys, upscore\n"
        "assert 'torch' not in sys.modules\n"
        "net = upscore.models.build('fcn32s', backbone='timm/test_resnet', num_classes=2)\n"
        "print(type(net).__name__)\n"
        "try:\n    upscore.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["FCN", "module 'upscore' has no attribute 'nothing'"]
