"""Training in several processes started by torchrun, compared with a single process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.torchrun_program import RUNS, trained
from tests.tiny import BACKBONE, metrics, scenes, tiny_net, write_photos
from upscore.training.loader import ShardInfo, ValidationView, batches
from upscore.training.loop import count_steps
from upscore.training.recipes import MODERN

ROOT = Path(__file__).parents[2]
SECONDS = 240
"""Timeout of the processes."""


def start(*command: str | Path) -> subprocess.Popen[str]:
    """Start two processes of a module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launcher, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the processes; return the exit code, the standard output and the standard error."""
    try:
        out, error = process.communicate(timeout=SECONDS)
    finally:
        process.terminate()
    return process.returncode, out, error


@pytest.fixture(scope="module")
def synchronized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs of two processes, one of which resumes a run of one process."""
    folder = tmp_path_factory.mktemp("synchronized")
    trained("averaged", folder / "from one", times=2, stop=1)
    code, _, error = finish(start("tests.distributed.torchrun_program", folder))
    assert code == 0, error
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the same runs of one process with twice the batch size."""
    folder = tmp_path_factory.mktemp("alone")
    for name in RUNS:
        trained(name, folder / name, times=2)
    return folder


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def assert_equal_runs(one: Path, other: Path, *, within: float = 1e-6) -> None:
    """Check that the losses of all steps, the records of all epochs and the final weights agree up to `within`."""
    ours, theirs = losses(one), losses(other)
    assert [(step["done"], step["total"]) for step in ours] == [(step["done"], step["total"]) for step in theirs]
    assert [step["loss"] for step in ours] == pytest.approx([step["loss"] for step in theirs], rel=1e-5)
    assert ours[0]["loss"] != pytest.approx(ours[-1]["loss"], rel=1e-3)
    for mine, yours in zip(metrics(one), metrics(other), strict=True):
        assert mine == pytest.approx(yours, rel=1e-5, abs=1e-6)
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (one, other)]
    for part in ("net", "average"):
        for name, value in (states[0][part] or {}).items():
            assert torch.allclose(value, states[1][part][name], atol=within), name
    assert {key: states[0]["progress"][key] for key in ("epoch", "position", "step")} == {
        key: states[1]["progress"][key] for key in ("epoch", "position", "step")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one_with_twice_the_batch_size(name: str, synchronized: Path, alone: Path) -> None:
    # AdamW amplifies tiny gradients, which occur in object detection and before a normalisation
    assert_equal_runs(
        synchronized / name, alone / name, within=2e-4 if name in ("objects", "normalised", "sizes") else 1e-6
    )


@pytest.mark.slow
def test_resuming_with_another_number_of_processes(synchronized: Path, alone: Path) -> None:
    trained("averaged", synchronized / "from two", times=2, resume=True)
    for name in ("from two", "from one"):
        assert_equal_runs(synchronized / name, alone / "averaged")


def command(photos: Path, output: Path) -> tuple[str | Path, ...]:
    quick = ("--backbone", BACKBONE, "--weights", "none", "--precision", "float32", "--max-side", "64")
    return ("upscore", "train", photos, "--output", output, *quick, "--epochs", "4", "--recipe", "accum", "--resume")


@pytest.mark.slow
def test_ctrl_c_saves_once_and_one_process_resumes(tmp_path: Path) -> None:
    photos, output = write_photos(tmp_path / "photos", 16), tmp_path / "run"
    marker = tmp_path / "stopped"
    process = start("tests.training.stopping_program", "2", marker, *command(photos, output)[1:], "--workers", "1")
    while not marker.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, _, error = finish(process)
    assert " ".join(error.split()).count("--resume") == 1
    assert "DataLoader worker" not in error
    state = torch.load(output / "state.pt", weights_only=True)["progress"]
    assert (state["epoch"], state["step"]) == (1, 2)  # one step per epoch
    alone = [sys.executable, "-m", *map(str, command(photos, output)), "--workers", "0"]
    done = subprocess.run(alone, capture_output=True, text=True, check=True, timeout=SECONDS)
    assert "after epoch" in done.stdout
    assert [record["epoch"] for record in metrics(output)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_one_message(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 16)
    damaged = sorted((photos / "images").iterdir())[5]
    damaged.write_bytes(damaged.read_bytes()[:1000])
    code, _, error = finish(start(*command(photos, tmp_path / "run"), "--workers", "1"))
    assert code
    messages = [line for line in error.splitlines() if line.startswith("upscore: ")]
    assert len(messages) == 1, error
    assert damaged.name in messages[0]


@pytest.mark.slow
def test_other_commands_are_an_error_printed_once(tmp_path: Path) -> None:
    code, _, error = finish(start("upscore", "predict", "nuclei", tmp_path, "--output", tmp_path / "out"))
    assert code
    messages = [line for line in error.splitlines() if line.startswith("upscore: ")]
    assert len(messages) == 1, error
    assert "torchrun" in messages[0]
    assert not (tmp_path / "out").exists()


def test_the_shards_of_a_batch_partition_it() -> None:
    view = ValidationView(scenes(7), resize=lambda sample: sample)
    whole = [batch.names for batch in batches(view, 6, 0)]
    parts = [[batch.names for batch in batches(view, 3, 0, ShardInfo(index, 2))] for index in (0, 1)]
    for names, *own in zip(whole, *parts, strict=True):
        assert sorted(names) == sorted(chain.from_iterable(own))
    assert [len(names) for names in parts[1]] == [3, 0]


def test_count_steps_of_several_processes() -> None:
    recipe = MODERN.model_copy(update={"batch_size": 4, "accumulate": 3})
    assert [count_steps(recipe, length, 2) for length in (1, 24, 25, 48, 49)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("name", ["fcn8s", "fcn32s", "fcn-pool3", "fcn-pool5", "fcn8s-atonce"])
def test_every_parameter_of_a_network_is_used(name: str) -> None:
    """The gradient reduction waits for every parameter that requires a gradient."""
    net = tiny_net(name)
    net.losses(net(torch.randn(1, 3, 64, 64)), torch.zeros(1, 64, 64, dtype=torch.uint8))["cross_entropy"].backward()
    unused = [name for name, value in net.named_parameters() if value.requires_grad and value.grad is None]
    assert not unused
