"""The run manifest of an output on a file system or in a store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upscore.distributed.storage import Place, delete_file, fetched, list_files, upload
from upscore.inference.run_manifest import FOLDER, Record, RunManifest, Settings

UPLOAD_INTERVAL = 60.0
"""Seconds from one part of a journal that is sent to a store to the next: what is lost when the driver is killed."""


@contextmanager
def run_manifest(
    output: Place, settings: Settings, *, source: str, resume: bool, exclusive: bool
) -> Iterator[RunManifest]:
    """The manifest of a run, see `RunManifest`; files in a store can't be locked.

    Raises:
        UserError: as `RunManifest`, or the store can't be reached.
    """
    if output.local is not None:
        with RunManifest(output.local, settings, source=source, resume=resume, exclusive=exclusive) as manifest:
            yield manifest
        return
    with tempfile.TemporaryDirectory(prefix="upscore-") as folder:
        (Path(folder) / FOLDER).mkdir()
        for name in list_files(output.below(FOLDER)):
            with fetched(output.below(f"{FOLDER}/{name}")) as copy:
                copy.rename(Path(folder) / FOLDER / name)
        with _StoreManifest(output, Path(folder), settings, source=source, resume=resume) as manifest:
            yield manifest


class _StoreManifest(RunManifest):
    """A manifest in a temporary folder whose journals are sent to a store."""

    def __init__(self, store: Place, folder: Path, settings: Settings, *, source: str, resume: bool) -> None:
        super().__init__(folder, settings, source=source, resume=resume)
        self.store = store.below(FOLDER)
        self._sent = time.monotonic()

    def add(self, record: Record) -> None:
        """Append a finished input."""
        super().add(record)
        if time.monotonic() - self._sent > UPLOAD_INTERVAL:
            self._send(self.rotate())
            self._sent = time.monotonic()

    def close(self) -> None:
        """Send the last journal, and delete the earlier ones that are replaced."""
        earlier = set(self.folder.iterdir())
        super().close()
        if self.path.exists():
            self._send(self.path)
        for checkpoint in earlier:
            if not checkpoint.exists() and checkpoint in self.earlier:
                delete_file(self.store.below(checkpoint.name))

    def _send(self, checkpoint: Path) -> None:
        upload(checkpoint, self.store.below(checkpoint.name))
