"""The processes that Ray has started for this one, as Linux tells of them."""

from __future__ import annotations

import os
from pathlib import Path


def descendants() -> list[int]:
    """All processes below this one."""
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
    """Those that hold a network."""
    return [pid for pid in descendants() if "MapWorker" in command(pid)]


def command(pid: int) -> str:
    """What the process calls itself."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def environment(pid: int) -> dict[str, str]:
    """What the process was started with."""
    lines = (Path("/proc") / str(pid) / "environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)
