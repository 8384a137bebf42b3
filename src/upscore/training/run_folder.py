"""What a training run leaves on disk, so that it can be watched, resumed and used.

run.json         what was asked for
state.pt         where it stands: weights, optimiser, average, place (tensors and numbers; read with weights_only)
metrics.jsonl    one line an epoch
best/ last/      model folders
scores.json, curves.png and other plots, tensorboard/
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from upscore.errors import UserError
from upscore.files import WriteError, atomic_path, write_text

Records = list[dict[str, Any]]
"""One dictionary per epoch."""


PATHS = ("data", "weights", "depth_weights")
"""Settings that may be paths, compared as such."""


def _resolved(name: str, value: Any) -> Any:
    return str(Path(value).resolve()) if name in PATHS and isinstance(value, str) and Path(value).exists() else value


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._begun = False

    @property
    def best(self) -> Path:
        """The model with the best validation score so far."""
        return self.path / "best"

    @property
    def last(self) -> Path:
        """The model at the last validation."""
        return self.path / "last"

    def open(self, settings: dict[str, Any], *, resume: bool) -> bool:
        """Begin a run, or take up the one that is there; returns whether there is a state to go on from.

        Raises:
            UserError: the folder holds a run and `resume` was not asked for, or that run was asked for differently.
        """
        settings = json.loads(json.dumps(settings))
        self._begun = False
        if not (self.path / "run.json").exists():
            try:
                write_text(self.path / "run.json", json.dumps(settings, indent=2) + "\n")
            except OSError as error:
                raise UserError(f"--output {self.path}: can't be written to ({error.strerror})") from error
            self._begun = True
            return False
        if not resume:
            self.refuse_run()
        earlier = self._read_settings()
        if settings.get("data_digest") != earlier.get("data_digest", settings.get("data_digest")):
            raise UserError(
                f"{self.path} was started on other files than {settings.get('data')} has now: some were added, "
                "removed, renamed or changed; restore them, or choose another --output"
            )
        for name in settings | earlier:
            if name == "data" and settings.get("data_digest") is not None and "data_digest" in earlier:
                continue  # the same files, wherever they are
            # a setting that there was not yet when the run began does not count
            if _resolved(name, settings.get(name)) != _resolved(name, earlier.get(name, settings.get(name))):
                raise UserError(
                    f"{self.path} was started with {name}={earlier.get(name)!r}, not {settings.get(name)!r}: "
                    "resume with the same settings, or choose another --output"
                )
        return (self.path / "state.pt").exists()

    def discard(self) -> None:
        """Remove a run that was begun here by this object and has come to nothing: it has no state yet."""
        if self._begun and not (self.path / "state.pt").exists():
            (self.path / "run.json").unlink(missing_ok=True)
            with suppress(OSError):  # something else is there
                self.path.rmdir()

    def refuse_run(self) -> None:
        """Make sure that no run is here.

        Raises:
            UserError: there is one.
        """
        if (self.path / "run.json").exists():
            raise UserError(
                f"{self.path} holds a run already: add --resume to go on with it, or choose another --output"
            )

    def recorded(self, name: str) -> Any:
        """A setting of the run that is here; None without a run, or without such a setting."""
        return self._read_settings().get(name) if (self.path / "run.json").exists() else None

    def _read_settings(self) -> dict[str, Any]:
        path = self.path / "run.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} can't be read ({error}): choose another --output") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state whole or not at all."""
        path = self.path / "state.pt"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # which torch puts in the place of the file's own
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
        except Exception as error:  # torch raises a dozen kinds for a damaged file
            raise UserError(f"{path} can't be read ({error}): remove it to begin again from the start") from error

    def write_metrics(self, records: Records) -> None:
        """Write the epochs' records."""
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))
