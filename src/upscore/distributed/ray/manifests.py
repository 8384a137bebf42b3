"""Run manifests of output folders on a file system or in an object store."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upscore.distributed.storage import Place, delete_file, fetched, list_files, upload
from upscore.inference.run_manifest import FOLDER, Record, RunManifest, Settings

UPLOAD_INTERVAL = 60.0
"""Seconds between uploads of the journal to an object store; a killed driver loses at most this much work."""


@contextmanager
def run_manifest(
    output: Place, settings: Settings, *, source: str, resume: bool, exclusive: bool
) -> Iterator[RunManifest]:
    """Open the manifest of a run, see `RunManifest`; outputs in an object store are not locked.

    Raises:
        UserError: see `RunManifest`; or the object store cannot be reached.
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
    """Manifest in a temporary folder whose journals are uploaded to an object store."""

    def __init__(self, store: Place, folder: Path, settings: Settings, *, source: str, resume: bool) -> None:
        super().__init__(folder, settings, source=source, resume=resume)
        self.store = store.below(FOLDER)
        self._uploaded_at = time.monotonic()

    def add(self, record: Record) -> None:
        """Append the record of a finished input."""
        super().add(record)
        if time.monotonic() - self._uploaded_at > UPLOAD_INTERVAL:
            self._upload(self.rotate())
            self._uploaded_at = time.monotonic()

    def close(self) -> None:
        """Upload the last journal and delete journals that this run has replaced."""
        earlier = set(self.folder.iterdir())
        super().close()
        if self.path.exists():
            self._upload(self.path)
        for journal in earlier:
            if not journal.exists() and journal in self.earlier:
                delete_file(self.store.below(journal.name))

    def _upload(self, journal: Path) -> None:
        upload(journal, self.store.below(journal.name))
