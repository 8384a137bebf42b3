"""Locks and settings of run folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from upscore.errors import UserError
from upscore.training.run_folder import RunFolder

CHILD = """
import sys, time
from upscore.training.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
folder.open({"seed": 0}, resume=True)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_second_run_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            with pytest.raises(UserError, match=f"process {child.pid} on .* trains in {tmp_path}: wait"):
                folder.open({"seed": 0}, resume=True)
            with pytest.raises(UserError, match=f"process {child.pid} "):
                folder.refuse_active()
        finally:
            os.kill(child.pid, signal.SIGKILL)
    folder.refuse_active()
    folder.open({"seed": 0}, resume=True)
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_refused_resumption_holds_no_lock(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({"seed": 0}, resume=False)
    with pytest.raises(UserError, match=r"seed.*0, not 1"):
        RunFolder(tmp_path).open({"seed": 1}, resume=True)
    RunFolder(tmp_path).open({"seed": 0}, resume=True)


def test_other_data_are_named_before_changed_files(tmp_path: Path) -> None:
    first, second = str(tmp_path / "one"), str(tmp_path / "two")
    folder = RunFolder(tmp_path / "run")
    folder.open({"data": first, "data_digest": "1"}, resume=False)
    with pytest.raises(UserError, match=f"started with the data {first}, which differ from {second}"):
        folder.open({"data": second, "data_digest": "2"}, resume=True)
    with pytest.raises(UserError, match=f"the files of {first} have changed"):
        folder.open({"data": first, "data_digest": "2"}, resume=True)
    assert folder.open({"data": second, "data_digest": "1"}, resume=True) is False
    folder.close()
