"""Compiled networks on disk, so that the second start is quick."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from upscore.files import atomic_path

MOST_BYTES = 4 * 2**30
"""Of the whole cache; what was not used for the longest time goes first."""


def cache_root() -> Path:
    """`UPSCORE_CACHE`, or `upscore` in the user's folder for caches."""
    if folder := os.environ.get("UPSCORE_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "upscore"


class Compiled:
    """The compiled parts of one network for one engine, precision, processor and version of everything.

    It is a cache: where it can't be written, nothing is kept, and where it is damaged, parts are made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes | None:
        """A part, or None."""
        try:
            data = (self.folder / f"{name}.blob").read_bytes()
            os.utime(self.folder)
        except OSError:
            return None
        digest, _, blob = data.partition(b"\n")
        return blob if hashlib.sha256(blob).hexdigest().encode() == digest else None

    def write(self, name: str, blob: bytes) -> None:
        """Keep a part."""
        self._write(f"{name}.blob", hashlib.sha256(blob).hexdigest().encode() + b"\n" + blob)

    def read_facts(self) -> dict[str, Any] | None:
        """What `write_facts` kept."""
        try:
            return json.loads((self.folder / "facts.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_facts(self, facts: dict[str, Any]) -> None:
        """What has to be known of the network beside its parts, as JSON takes it; written last."""
        self._write("facts.json", json.dumps(facts, indent=2).encode())
        prune(self.folder.parent, MOST_BYTES, keep=self.folder)

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_path(self.folder / name) as temporary:
                temporary.write_bytes(data)
        except OSError:
            return


def compiled_for(*parts: object) -> Compiled:
    """The place for what was compiled out of these: anything whose text differs where the result would."""
    text = json.dumps([*map(str, parts), _processor()])
    return Compiled(cache_root() / "compiled" / hashlib.sha256(text.encode()).hexdigest()[:32])


def digest_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prune(root: Path, most: int, keep: Path) -> None:
    """Delete the networks that were not used for the longest time until the rest has at most so many bytes."""
    entries = []
    for folder in root.glob("*"):
        try:
            entries.append((folder.stat().st_mtime, sum(f.stat().st_size for f in folder.iterdir()), folder))
        except OSError:  # another process is at it
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries, key=lambda entry: entry[0]):
        if total <= most:
            return
        if folder != keep and time.time() - folder.stat().st_mtime > 60:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _processor() -> str:
    """What code was compiled for."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
