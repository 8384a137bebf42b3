"""Loader workers end with their parent process, even if it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
from upscore.data.synthetic import SceneDataset
from upscore.training.loader import ValidationView, batches

data = SceneDataset(64, seed=0, size=(256, 256))  # batches fill the pipes
readers = batches(ValidationView(data, resize=lambda sample: sample), 2, 2)
next(readers)
print("reading", flush=True)
os.read(0, 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_their_parent_is_killed(how: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes, env=environment)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        process.send_signal(how)
        assert process.stdout.read() == b""  # the workers inherit the pipe, so it ends with the last of them
    finally:
        process.kill()
    assert process.wait() == -how
