"""Runs the command line in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from upscore.cli import main


def upscore(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run `upscore ARGUMENTS` and return the exit code."""
    monkeypatch.setattr(sys, "argv", ["upscore", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence on standard error."""
    error = capsys.readouterr().err
    assert error.startswith("upscore: "), error
    assert error.count("\n") == 1, error
    return error
