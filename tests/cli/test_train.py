from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.cli.command import sentence, upscore
from tests.tiny import BACKBONE, metrics, outcome, same, write_photos

QUICK = ("--backbone", BACKBONE, "--weights", "none", "--precision", "float32")


def test_training_and_resuming(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", photos, "--output", tmp_path / "run", *QUICK, "--epochs", "1", "--workers", "0")
    assert upscore(monkeypatch, *command, "--resume") == 0  # without a run, --resume starts one
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'run'}: mean IoU" in out
    assert out.strip().endswith("after epoch 1")
    assert "epoch   1  loss" in err
    assert re.search(r"fcn8s: epochs: 1, steps per epoch: \d+, training images: 6, validation images: 2\n", err)
    assert (tmp_path / "run/curves.png").exists()
    assert len(metrics(tmp_path / "run")) == 1

    assert upscore(monkeypatch, *command) == 2
    assert "add --resume" in sentence(capsys)
    assert upscore(monkeypatch, *command, "--resume", "--seed", "5") == 2
    assert "--seed: 0, not 5" in sentence(capsys)
    assert upscore(monkeypatch, *command, "--resume") == 0


def test_invalid_inputs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--output", tmp_path / "run", *QUICK)
    (tmp_path / "empty").mkdir()
    for data in (tmp_path / "missing", tmp_path / "empty"):
        assert upscore(monkeypatch, "train", data, *output) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"upscore: {data}: ")
        assert "Traceback" not in error
    for arguments in (("scenes:0",), ("scenes:4", "--epochs", "0"), ("scenes:4", "--recipe", "at-once")):
        assert upscore(monkeypatch, "train", *arguments, *output) == 2
        sentence(capsys)
    assert upscore(monkeypatch, "train", "scenes:4", "--model", "fcn9s", *output) == 2
    assert "fcn9s" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def command(photos: Path, output: Path, *more: str) -> list[str]:
    long = ("--epochs", "3", "--recipe", "accum", "--accumulate", "2", "--learning-rate", "1e-3", "--max-side", "64")
    return [sys.executable, "-m", "upscore", "train", *map(str, (photos, "--output", output)), *QUICK, *long, *more]


def stopped(arguments: list[str], marker: Path, how: signal.Signals, *, step: int) -> int:
    """Run until a step is done, send a signal to the process, and return its exit code."""
    arguments = [*arguments[:2], "tests.training.stopping_program", str(step), str(marker), *arguments[3:]]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
    try:
        while not marker.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        os.kill(process.pid, how)
        _, error = process.communicate(timeout=600)
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert "run the same command with --resume" in " ".join(error.split())
    assert "Traceback" not in error
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_and_kill_then_resume(workers: str, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 24)  # 19 training images: 10 steps of 2 per epoch
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    subprocess.run(command(photos, uninterrupted), check=True, capture_output=True)
    again = command(photos, interrupted, "--resume", "--workers", workers)
    assert stopped(again, tmp_path / "stopped", signal.SIGINT, step=12) == 130
    assert len(metrics(interrupted)) == 1
    progress = torch.load(interrupted / "state.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"], progress["position"]) == (1, 12, 4)
    assert stopped(again, tmp_path / "killed", signal.SIGKILL, step=23) == -signal.SIGKILL
    assert len(metrics(interrupted)) == 2
    subprocess.run(again, check=True, capture_output=True)
    assert same(outcome(uninterrupted), outcome(interrupted))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_image_ends_the_run_with_one_error(workers: str, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 6)
    for path in (photos / "images").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    arguments = command(photos, tmp_path / "run", "--workers", workers)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"upscore: {photos / 'images'}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_exception_in_training_ends_the_process(tmp_path: Path) -> None:
    """Loader workers do not keep a process alive that ends with an exception."""
    script = f"""
from tests.tiny import RECIPES, scenes, tiny_net
from upscore.training.callbacks import Callback
from upscore.training.loop import fit
from upscore.training.run_folder import RunFolder

class Fault(Callback):
    def on_step_end(self, step, total_steps, loss):
        raise RuntimeError("no space left")

fit(tiny_net(), scenes(40), scenes(2), RECIPES["heavy"], RunFolder({str(tmp_path)!r}), max_side=0, workers=1,
    callbacks=[Fault()])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, cwd=root, check=False
    )
    assert done.returncode == 1
    assert "no space left" in done.stderr
