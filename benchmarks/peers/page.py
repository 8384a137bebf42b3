"""Results in words: cells of the table, and the Markdown page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peers.measure import REPEATS
from peers.results import MIB, Result
from upscore.text import markdown_table

HEADER = ("work", "peer", "peer takes", "ours", "takes", "ratio", "spread", "target", "reached")
SHORT_HEADER = ("name", "peer takes", "ours", "takes", "ratio", "target", "reached")
MEMORY_HEADER = ("name", "peer takes", "ours", "takes", "share", "target", "reached")
ABOUT = (
    "A ratio is the peer's time over ours, by the medians of rounds in which all sides take turns in one process; "
    "the spread is its least and its greatest value within a round. Both sides start from the same input in memory. "
    "Weights are random: quality is measured beside it, on trained networks."
)
ABOUT_MEMORY = (
    "Working memory is what the first call adds to the resident memory of a process of its own, "
    "at its peak, once the networks are loaded."
)


def cells(row: Result) -> Iterator[tuple[str, ...]]:
    """A line for each of our sides, by `HEADER`; what they share is on the first one alone."""
    shared = row.work, row.peer_name, in_words(row.peer_seconds)
    for number, side in enumerate(row.sides):
        yield (
            *(("", "", "") if number else shared),
            side.name,
            in_words(side.seconds),
            times(side.ratio),
            f"{times(side.low)} to {times(side.high)}",
            "" if side.target is None else times(side.target),
            "" if side.reached is None else ("yes" if side.reached else "no"),
        )


def short_cells(row: Result) -> Iterator[tuple[str, ...]]:
    """As `cells`, by `SHORT_HEADER`: for a terminal."""
    for _work, _peer, peer_takes, ours, takes, ratio, _spread, target, reached in cells(row):
        yield row.name if peer_takes else "", peer_takes, ours, takes, ratio, target, reached


def memory_cells(row: Result) -> Iterator[tuple[str, ...]]:
    """A line for each of our sides whose memory was measured, by `MEMORY_HEADER`."""
    for side in row.sides:
        if side.memory is None or not row.peer_memory or side.memory_share is None:
            continue
        yield (
            row.name,
            f"{row.peer_memory / MIB:,.0f} MiB",
            side.name,
            f"{side.memory / MIB:,.1f} MiB",
            share(side.memory / row.peer_memory),
            share(side.memory_share),
            "yes" if row.memory_reached(side) else "no",
        )


def times(ratio: float) -> str:
    """ "38x", "8.5x", "0.87x": as many digits as say something."""
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x" if ratio >= 1.95 else f"{ratio:.2f}x"


def share(part: float) -> str:
    """ "33%", "0.4%"."""
    return f"{part:.0%}" if part >= 0.095 else f"{part:.1%}"


def in_words(seconds: float) -> str:
    """ "1.84 s", "54 ms", "3.1 ms"."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"


def markdown(rows: Sequence[Result], picture: str) -> str:
    """The page, which shows the picture of that address."""
    parts = [
        "# Speed, against peers",
        "    python benchmarks/speed.py",
        f"![ratios, with their targets]({picture})",
        markdown_table(HEADER, (line for row in rows for line in cells(row)), left=len(HEADER)),
    ]
    if memory := [line for row in rows for line in memory_cells(row)]:
        parts += [markdown_table(MEMORY_HEADER, memory, left=len(MEMORY_HEADER)), ABOUT_MEMORY]
    parts += [ABOUT, "\n".join(f"- {line}" for line in remarks(rows))]
    return "\n\n".join(parts) + "\n"


def remarks(rows: Sequence[Result]) -> list[str]:
    """Where and when the rows were measured, and what to beware of."""
    lines = []
    for environment in dict.fromkeys(row.environment for row in rows):
        here = [row for row in rows if row.environment == environment]
        names = "" if len(here) == len(rows) else f" ({', '.join(row.name for row in here)})"
        lines.append(f"{environment}{names}; {_span(sorted({row.date[:10] for row in here}))}")
    repeats = sorted({row.repeats for row in rows})
    lines.append(f"rounds: {_span([str(number) for number in repeats])}")
    if few := [row.name for row in rows if row.repeats < REPEATS]:
        lines.append(f"fewer rounds than {REPEATS}, so a glance and no measurement: {', '.join(few)}")
    lines += [f"{row.name}: {row.warning}" for row in rows if row.warning]
    return lines


def _span(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
