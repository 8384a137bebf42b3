"""Results of the comparison, and their JSON file.

Ratios are the peer's median time divided by ours, above 1 if ours is faster. Memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from upscore.errors import UserError
from upscore.files import write_text

MIB = 1 << 20


class Frozen(BaseModel):
    """Base class of immutable models that reject unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SideResult(Frozen):
    """Result of one of our variants."""

    name: str
    seconds: PositiveFloat
    ratio: PositiveFloat
    low: PositiveFloat
    """Smallest ratio within a round."""
    high: PositiveFloat
    """Largest ratio within a round."""
    target: PositiveFloat | None = None
    memory: int | None = None
    memory_share: PositiveFloat | None = None
    """Target of the ratio of memory to the peer's."""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without target."""
        return None if self.target is None else self.ratio >= self.target


class Result(Frozen):
    """Result of a row."""

    name: str
    work: str
    peer_name: str
    peer_seconds: PositiveFloat
    peer_memory: int | None = None
    sides: list[SideResult]
    repeats: PositiveInt
    environment: str
    warning: str | None = None
    date: str

    def memory_reached(self, side: SideResult) -> bool | None:
        """Return whether the memory target is reached; None if unknown."""
        if side.memory is None or self.peer_memory is None or side.memory_share is None:
            return None
        return side.memory <= side.memory_share * self.peer_memory


class Results(Frozen):
    """Results by name of the row."""

    rows: dict[str, Result] = {}

    def with_result(self, result: Result) -> Results:
        """Return the results with a row added or replaced."""
        return Results(rows={**self.rows, result.name: result})

    def ordered(self, names: Sequence[str]) -> list[Result]:
        """Return the results in the order of names, followed by others."""
        position = {name: index for index, name in enumerate(names)}
        return sorted(self.rows.values(), key=lambda row: position.get(row.name, len(position)))


def read_results(path: Path) -> Results:
    """Read results; empty if the file does not exist.

    Raises:
        UserError: the file does not contain results.
    """
    if not path.exists():
        return Results()
    try:
        return Results.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise UserError(f"{path} has no results of benchmarks/speed.py: move it, or choose another --output") from error


def write_results(results: Results, path: Path) -> None:
    """Write results as JSON."""
    write_text(path, results.model_dump_json(indent=2) + "\n")
