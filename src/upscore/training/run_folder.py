"""Run folder: the files of a training run.

run.json         options of the run
state.pt         weights, optimiser, averaged weights and position (read with weights_only)
metrics.jsonl    one line per epoch
best/ last/      model folders
lock lock.json   lock of the active process, and its host and process id; deleted at the end
scores.json, curves.png and other plots, tensorboard/
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from upscore.errors import UserError
from upscore.files import WriteError, atomic_path, write_text

Records = list[dict[str, Any]]
"""One dictionary per epoch."""

PATHS = ("data", "weights", "depth_weights")
"""Settings that may be paths; they are compared after resolution."""

OPTIONS = {
    *("model", "backbone", "recipe", "weights", "val_pattern", "epochs", "batch_size", "accumulate", "learning_rate"),
    *("crop", "ema", "patience", "validate_every", "head_only", "max_side", "min_side", "max_detections", "preset"),
    *("geometry", "upsampling", "null_background", "geometric", "depth", "depth_weights", "class_weights", "patches"),
    *("precision", "seed"),
}
"""Settings with an option of `upscore train`, which messages name; other settings have no option of the same name."""


class RunFolder:
    """Reads and writes the files of a training run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._created = False
        self._lock = FileLock(self.path / "lock", blocking=False, thread_local=False)

    @property
    def best(self) -> Path:
        """The model with the best validation score so far."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """The model at the last validation."""
        return self.path / "last"

    def open(self, settings: dict[str, Any], *, resume: bool) -> bool:
        """Start a run, or resume the run in this folder, and lock the folder until `close`.

        Args:
            settings: options of the run, JSON-serialisable; those of a resumed run must be equal.
            resume: resume a run if the folder contains one.

        Returns:
            Whether there is a saved state to resume from.

        Raises:
            UserError: the folder contains a run and `resume` is false, the settings or the data differ, another process
                trains in the folder, or the folder is not writable.
        """
        try:
            self._acquire()
            return self._open(settings, resume=resume)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock of this object and delete its files."""
        if self._lock.is_locked:
            for name in ("lock.json", "lock"):
                with suppress(OSError):  # the folder has been deleted
                    (self.path / name).unlink()
            self._lock.release(force=True)

    def refuse_active(self) -> None:
        """Check that no other process trains in the folder.

        Raises:
            UserError: another process does.
        """
        if (self.path / "lock").exists():
            try:
                self._acquire()
            finally:
                self.close()

    def _acquire(self) -> None:
        """Lock the folder. The operating system releases the lock of a process that ends."""
        try:
            while True:
                self.path.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
                if (self.path / "lock").exists():
                    break
                self._lock.release()  # another process has just finished and deleted the file
            write_text(self.path / "lock.json", json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        except Timeout as error:
            raise UserError(
                f"{self._owner()} trains in {self.path}: wait until it has ended, or choose another --output"
            ) from error
        except OSError as error:
            raise UserError(
                f"--output {self.path} can't be written ({error.strerror}): choose another folder"
            ) from error

    def _owner(self) -> str:
        """Return the process that holds the lock, for messages."""
        try:
            owner = json.loads((self.path / "lock.json").read_text(encoding="utf-8"))
            return f"process {owner['process']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _open(self, settings: dict[str, Any], *, resume: bool) -> bool:
        settings = json.loads(json.dumps(settings))
        self._created = False
        if not (self.path / "run.json").exists():
            try:
                write_text(self.path / "run.json", json.dumps(settings, indent=2) + "\n")
            except OSError as error:
                raise UserError(
                    f"--output {self.path} can't be written ({error.strerror}): choose another folder"
                ) from error
            self._created = True
            return False
        if not resume:
            self.refuse_run()
        earlier = self._read_settings()
        data, earlier_data = (_resolved("data", recorded.get("data")) for recorded in (settings, earlier))
        if settings.get("data_digest") != earlier.get("data_digest", settings.get("data_digest")):
            if data != earlier_data:
                raise UserError(
                    f"{self.path} was started with the data {earlier_data}, which differ from {data}: resume with the "
                    "same data, or choose another --output"
                )
            raise UserError(
                f"the files of {settings.get('data')} have changed since the run in {self.path} was started: restore "
                "them, or choose another --output"
            )
        for name in settings | earlier:
            if name == "data" and settings.get("data_digest") is not None and "data_digest" in earlier:
                continue  # the files are the same, although their folder may have moved
            # settings that older versions did not record are not compared
            if _resolved(name, settings.get(name)) != _resolved(name, earlier.get(name, settings.get(name))):
                old, new = _shown(earlier.get(name)), _shown(settings.get(name))
                raise UserError(
                    f"{self.path} was started with {_option(name)}: {old}, not {new}; "
                    "resume with the same settings, or choose another --output"
                )
        return (self.path / "state.pt").exists()

    def discard(self) -> None:
        """Remove run.json if this object created it and no state has been saved."""
        if self._created and not (self.path / "state.pt").exists():
            (self.path / "run.json").unlink(missing_ok=True)
            self.close()
            with suppress(OSError):  # the folder is not empty
                self.path.rmdir()

    def refuse_run(self) -> None:
        """Check that the folder contains no run.

        Raises:
            UserError: it contains one.
        """
        if (self.path / "run.json").exists():
            raise UserError(
                f"{self.path} already contains a run: add --resume (in Python: resume=True) to continue it, or choose "
                "another --output"
            )

    def recorded(self, name: str) -> Any:
        """Return a setting of the run in this folder; None without a run or without this setting."""
        return self._read_settings().get(name) if (self.path / "run.json").exists() else None

    def _read_settings(self) -> dict[str, Any]:
        path = self.path / "run.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} can't be read ({error}): choose another --output") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state atomically."""
        path = self.path / "state.pt"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch replaces the OSError of the file by a RuntimeError
                reason = error.__context__
                if not isinstance(reason, OSError):
                    raise
                raise WriteError(path, reason.strerror or str(reason)) from error

    def load_state(self) -> dict[str, Any]:
        """Read the state.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / "state.pt"
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many exception types for a damaged file
            raise UserError(f"{path} can't be read ({error}): remove it to start again") from error

    def write_metrics(self, records: Records) -> None:
        """Write the records of all epochs to metrics.jsonl."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in OPTIONS else "--loss" if name == "pixel_loss" else name


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _resolved(name: str, value: Any) -> Any:
    return str(Path(value).resolve()) if name in PATHS and isinstance(value, str) and Path(value).exists() else value
