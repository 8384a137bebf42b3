"""Processes that Ray has started for this process, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def descendants() -> list[int]:
    """Return the ids of all descendants of this process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, below = [], [os.getpid()]
    while below:
        below = [child for parent in below for child in children.get(parent, [])]
        found += below
    return found


def workers() -> list[int]:
    """Return the ids of the workers that hold a network."""
    return [pid for pid in descendants() if "MapWorker" in command(pid)]


def command(pid: int) -> str:
    """Return the command line of a process."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def environment(pid: int) -> dict[str, str]:
    """Return the environment of a process at its start."""
    lines = (Path("/proc") / str(pid) / "environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)
