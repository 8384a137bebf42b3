"""What was measured, and the file it is kept in.

Ratios are the peer's median time over ours: over 1 where ours is faster. Memory is in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from upscore.errors import UserError
from upscore.files import write_text

MIB = 1 << 20


class Frozen(BaseModel):
    """Read strictly: a field that is unknown is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SideResult(Frozen):
    """One of our sides."""

    name: str
    seconds: PositiveFloat
    ratio: PositiveFloat
    low: PositiveFloat
    """The least ratio within a round."""
    high: PositiveFloat
    target: PositiveFloat | None = None
    memory: int | None = None
    memory_share: PositiveFloat | None = None
    """The largest share of the peer's that is aimed at."""

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is that of the target; None where there is none."""
        return None if self.target is None else self.ratio >= self.target


class Result(Frozen):
    """A row, measured."""

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
        """Whether it takes no more than the share aimed at; None where that is not known."""
        if side.memory is None or self.peer_memory is None or side.memory_share is None:
            return None
        return side.memory <= side.memory_share * self.peer_memory


class Results(Frozen):
    """Rows by their names."""

    rows: dict[str, Result] = {}

    def joined(self, result: Result) -> Results:
        """With a row, in place of what was there of that name."""
        return Results(rows={**self.rows, result.name: result})

    def ordered(self, names: Sequence[str]) -> list[Result]:
        """In the order of these names, others after them."""
        place = {name: index for index, name in enumerate(names)}
        return sorted(self.rows.values(), key=lambda row: place.get(row.name, len(place)))


def read_results(path: Path) -> Results:
    """What is there; nothing where no file is.

    Raises:
        UserError: it is not such a file.
    """
    if not path.exists():
        return Results()
    try:
        return Results.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise UserError(
            f"{path}: no results of benchmarks/speed.py; move it away, or choose another --output"
        ) from error


def write_results(results: Results, path: Path) -> None:
    """As JSON."""
    write_text(path, results.model_dump_json(indent=2) + "\n")
