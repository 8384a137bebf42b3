from __future__ import annotations

import os
import subprocess
import sys

import pytest

VERBS = {
    "": "upscore train DATA --model fcn8s",
    "train": "upscore train photos/ --output runs/mine",
    "evaluate": "upscore evaluate runs/streets camvid/ --json scores.json",
    "predict": "upscore predict runs/streets photos/ --output out",
    "data check": "upscore data check",
    "heatmap": "upscore heatmap photo.jpg",
    "import": "upscore import",
    "demo": "upscore demo",
}
"""Verb -> an example in its help."""


def test_help_shows_examples_and_imports_nothing_heavy() -> None:
    """All verbs run in one process, since imports of one remain loaded for the others."""
    script = f"""
import sys
from upscore.cli import app
for verb in {list(VERBS)!r}:
    print("===", verb)
    try:
        app([*verb.split(), "--help"])
    except SystemExit as stop:
        assert not stop.code, stop.code
heavy = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "skimage", "scipy", "timm", "pydantic", "accelerate")
print("imported:", [name for name in heavy if name in sys.modules])
"""
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, check=True
    )
    *helps, last = done.stdout.split("===")[1:-1] + done.stdout.split("===")[-1].rsplit("imported:", 1)
    assert last.strip() == "[]"
    for (verb, example), text in zip(VERBS.items(), helps, strict=True):
        assert text.startswith(f" {verb}")
        assert any(line.strip(" │").startswith(example) for line in text.splitlines()), (verb, text)


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "upscore", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.1.0"


@pytest.mark.parametrize("arguments", [["nonsense"], ["train"], ["train", "data", "--output", "x", "--bogus", "1"]])
def test_unknown_commands_and_options(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "upscore", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Error" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
