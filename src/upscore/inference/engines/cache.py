"""Networks on disk as an engine reads them, so that the second start is quick."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from upscore.files import atomic_folder, cache_root, file_digest, write_text
from upscore.timing import processor

MOST_BYTES = 4 * 2**30
"""Of the whole cache; what was not used for the longest time goes first."""

FACTS = "facts.json"
"""What is known of a network beside its parts."""

LIBRARIES = ("upscore", "torch", "torchvision", "timm", "openvino")
SOURCES = ("models", "inference")
"""Subpackages that define what is exported, and how."""

DIGESTS = "sha256.json"
"""Of a part's files."""


class Store:
    """The parts of one network as an engine reads them, for its precision, the processor and the version of everything.

    It is a cache: where it can't be written, nothing is kept, and where it is damaged, parts are made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """The folder with a part's files, if they are all there as they were written."""
        folder = self.folder / name
        try:
            digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
            os.utime(self.folder)
            return folder if all(file_digest(folder / file) == digest for file, digest in digests.items()) else None
        except (OSError, ValueError, AttributeError):
            return None

    def write(self, name: str, save: Callable[[Path], None]) -> None:
        """Keep a part, whose files `save` writes into a folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_folder(self.folder / name) as folder:
                save(folder)
                digests = {path.name: file_digest(path) for path in folder.iterdir()}
                (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        except (OSError, RuntimeError):  # as the writers of other languages say that a disk is full
            return

    def read_facts(self) -> dict[str, Any] | None:
        """What `write_facts` kept, or None where nothing or something else is there."""
        try:
            facts = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts if isinstance(facts, dict) else None

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Keep what has to be known of the network beside its parts, as JSON takes it; written last."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(self.folder / FACTS, json.dumps(facts, indent=2))
        except OSError:
            return
        prune(self.folder.parent, MOST_BYTES, keep=self.folder)


@cache
def code_version() -> tuple[str, ...]:
    """All that the compiled parts of a network depend on besides its weights and the machine: the versions of the
    libraries that define and convert layers, and a digest of the package's own sources that do."""
    versions = [f"{name} {_version(name)}" for name in LIBRARIES]
    root = Path(__file__).parents[2]
    sources = sorted(file for folder in SOURCES for file in (root / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for file in sources:
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return (*versions, digest.hexdigest())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def store_for(*parts: object) -> Store:
    """The place for what is made of these: anything whose text differs where the result would."""
    text = json.dumps([*map(str, parts), processor()])
    return Store(cache_root() / "compiled" / hashlib.sha256(text.encode()).hexdigest()[:32])


def prune(root: Path, most: int, keep: Path) -> None:
    """Delete the networks that were not used for the longest time until the rest has at most so many bytes."""
    entries = []
    for folder in root.glob("*"):
        try:
            entries.append((folder.stat().st_mtime, sum(f.stat().st_size for f in folder.rglob("*")), folder))
        except OSError:  # another process is at it
            continue
    total = sum(size for _, size, _ in entries)
    for used, size, folder in sorted(entries, key=lambda entry: entry[0]):
        if total <= most:
            return
        if folder != keep and time.time() - used > 60:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
