"""Cache of converted networks on disk: the next start compiles them without converting them again."""

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

MAX_BYTES = 4 * 2**30
"""Largest size of the whole cache; the least recently used networks are deleted first."""

SPEC = "spec.json"
"""File with the specification of the network's backbone."""

DIGESTS = "sha256.json"
"""File with the digests of the files of a part."""

LIBRARIES = ("upscore", "torch", "torchvision", "timm", "openvino")
SOURCES = ("models", "inference")
"""Subpackages that determine the converted parts."""


class Store:
    """Converted parts of one network on disk, for one precision, processor and version of the code.

    If the folder cannot be written, nothing is stored. Damaged parts count as missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """Return the folder with the files of a part, or None if a file is missing or damaged."""
        folder = self.folder / name
        try:
            digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
            os.utime(self.folder)
            return folder if all(file_digest(folder / file) == digest for file, digest in digests.items()) else None
        except (OSError, ValueError, AttributeError):
            return None

    def write(self, name: str, save: Callable[[Path], None]) -> None:
        """Store a part.

        Args:
            name: name of the part.
            save: writes the files of the part to a folder.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_folder(self.folder / name) as folder:
                save(folder)
                digests = {path.name: file_digest(path) for path in folder.iterdir()}
                (folder / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        except (OSError, RuntimeError):  # OpenVINO raises RuntimeError if the disk is full
            return

    def read_spec(self) -> dict[str, Any] | None:
        """Return what `write_spec` stored, or None if it is missing or damaged."""
        try:
            spec = json.loads((self.folder / SPEC).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return spec if isinstance(spec, dict) else None

    def write_spec(self, spec: dict[str, Any]) -> None:
        """Store the specification of the network's backbone, a JSON-compatible dictionary; call it after `write`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text(self.folder / SPEC, json.dumps(spec, indent=2))
        except OSError:
            return
        prune(self.folder.parent, MAX_BYTES, keep=self.folder)


@cache
def code_version() -> tuple[str, ...]:
    """Return what the compiled parts of a network depend on besides its weights and the machine.

    These are the versions of the libraries that define and convert layers, and a digest of the source files of
    `SOURCES`.
    """
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


def store_for(*key: object) -> Store:
    """Return the store for a key: values whose text identifies everything that the compiled parts depend on."""
    text = json.dumps([*map(str, key), processor()])
    return Store(cache_root() / "compiled" / hashlib.sha256(text.encode()).hexdigest()[:32])


def prune(root: Path, max_bytes: int, keep: Path) -> None:
    """Delete the least recently used networks until the others have at most `max_bytes` bytes.

    Args:
        root: folder with one folder for each network.
        max_bytes: largest total size.
        keep: folder that is not deleted.
    """
    entries = []
    for folder in root.glob("*"):
        try:
            entries.append((folder.stat().st_mtime, sum(f.stat().st_size for f in folder.rglob("*")), folder))
        except OSError:  # another process is deleting it
            continue
    total = sum(size for _, size, _ in entries)
    for used_at, size, folder in sorted(entries, key=lambda entry: entry[0]):
        if total <= max_bytes:
            return
        if folder != keep and time.time() - used_at > 60:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
