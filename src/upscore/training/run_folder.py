"""What a training run leaves on disk, so that it can be watched, resumed and used.

run.json         what was asked for
state.pt         where it stands: weights, optimiser, average, place (tensors and numbers; read with weights_only)
metrics.jsonl    one line an epoch
best/ last/      model folders
scores.json, curves.png and other plots, tensorboard/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from upscore.errors import UserError
from upscore.files import atomic_path, write_text

Records = list[dict[str, Any]]
"""One dictionary per epoch."""


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

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
        if not (self.path / "run.json").exists():
            try:
                write_text(self.path / "run.json", json.dumps(settings, indent=2) + "\n")
            except OSError as error:
                raise UserError(f"--output {self.path}: can't be written to ({error.strerror})") from error
            return False
        if not resume:
            self.refuse_run()
        earlier = self._read_settings()
        for name in settings | earlier:
            # a setting that there was not yet when the run began does not count
            if settings.get(name) != earlier.get(name, settings.get(name)):
                raise UserError(
                    f"{self.path} was started with {name}={earlier.get(name)!r}, not {settings.get(name)!r}: "
                    "resume with the same settings, or choose another --output"
                )
        return (self.path / "state.pt").exists()

    def refuse_run(self) -> None:
        """Make sure that no run is here.

        Raises:
            UserError: there is one.
        """
        if (self.path / "run.json").exists():
            raise UserError(
                f"{self.path} holds a run already: add --resume to go on with it, or choose another --output"
            )

    def _read_settings(self) -> dict[str, Any]:
        path = self.path / "run.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} can't be read ({error}): choose another --output") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Write the state whole or not at all."""
        with atomic_path(self.path / "state.pt") as temporary:
            torch.save(state, temporary)

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
