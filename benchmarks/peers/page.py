"""Tables and Markdown page of the results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peers.measure import REPEATS
from peers.results import MIB, Result
from upscore.text import markdown_table

HEADER = ("work", "peer", "peer takes", "ours", "takes", "ratio", "spread", "target", "reached")
SHORT_HEADER = ("name", "peer takes", "ours", "takes", "ratio", "target", "reached")
MEMORY_HEADER = ("name", "peer takes", "ours", "takes", "share", "target", "reached")
ABOUT = (
    "The ratio is the peer's median time divided by ours, over rounds in which all sides alternate in one process; the "
    "spread is its smallest and largest value within a round. Both sides start from the same input in memory. Weights "
    "are random; scores of trained networks are measured separately."
)
ABOUT_MEMORY = (
    "Working memory is the peak of the first call above the resident memory of a separate process after the networks "
    "are loaded."
)


def cells(row: Result) -> Iterator[tuple[str, ...]]:
    """Yield a table row for each variant, with the columns `HEADER`; common cells are in the first row only."""
    common = row.work, row.peer_name, format_seconds(row.peer_seconds)
    for number, side in enumerate(row.sides):
        yield (
            *(("", "", "") if number else common),
            side.name,
            format_seconds(side.seconds),
            format_ratio(side.ratio),
            f"{format_ratio(side.low)} to {format_ratio(side.high)}",
            "" if side.target is None else format_ratio(side.target),
            "" if side.reached is None else ("yes" if side.reached else "no"),
        )


def short_cells(row: Result) -> Iterator[tuple[str, ...]]:
    """Yield the rows of `cells` with the columns `SHORT_HEADER`, for the terminal."""
    for _work, _peer, peer_takes, ours, takes, ratio, _spread, target, reached in cells(row):
        yield row.name if peer_takes else "", peer_takes, ours, takes, ratio, target, reached


def memory_cells(row: Result) -> Iterator[tuple[str, ...]]:
    """Yield a table row for each variant whose memory was measured, with the columns `MEMORY_HEADER`."""
    for side in row.sides:
        if side.memory is None or not row.peer_memory or side.memory_share is None:
            continue
        yield (
            row.name,
            f"{row.peer_memory / MIB:,.0f} MiB",
            side.name,
            f"{side.memory / MIB:,.1f} MiB",
            format_share(side.memory / row.peer_memory),
            format_share(side.memory_share),
            "yes" if row.memory_reached(side) else "no",
        )


def format_ratio(ratio: float) -> str:
    """Format a ratio with two or three significant digits, as "38x", "8.5x" or "0.87x"."""
    return f"{ratio:.0f}x" if ratio >= 20 else f"{ratio:.1f}x" if ratio >= 1.95 else f"{ratio:.2f}x"


def format_share(part: float) -> str:
    """Format a fraction as "33%" or "0.4%"."""
    return f"{part:.0%}" if part >= 0.095 else f"{part:.1%}"


def format_seconds(seconds: float) -> str:
    """Format a time as "1.84 s", "54 ms" or "3.1 ms"."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"


def markdown(rows: Sequence[Result], picture: str) -> str:
    """Return the page in Markdown; `picture` is the path of the plot."""
    parts = [
        "# Speed compared with peers",
        "    python benchmarks/speed.py",
        f"![ratios, with their targets]({picture})",
        markdown_table(HEADER, (line for row in rows for line in cells(row)), left=len(HEADER)),
    ]
    if memory := [line for row in rows for line in memory_cells(row)]:
        parts += [markdown_table(MEMORY_HEADER, memory, left=len(MEMORY_HEADER)), ABOUT_MEMORY]
    parts += [ABOUT, "\n".join(f"- {line}" for line in remarks(rows))]
    return "\n\n".join(parts) + "\n"


def remarks(rows: Sequence[Result]) -> list[str]:
    """Return lines about machine and date of the rows, and warnings."""
    lines = []
    for environment in dict.fromkeys(row.environment for row in rows):
        here = [row for row in rows if row.environment == environment]
        names = "" if len(here) == len(rows) else f" ({', '.join(row.name for row in here)})"
        lines.append(f"{environment}{names}; {_span(sorted({row.date[:10] for row in here}))}")
    repeats = sorted({row.repeats for row in rows})
    lines.append(f"rounds: {_span([str(number) for number in repeats])}")
    if few := [row.name for row in rows if row.repeats < REPEATS]:
        lines.append(f"fewer rounds than {REPEATS}, not reliable: {', '.join(few)}")
    lines += [f"{row.name}: {row.warning}" for row in rows if row.warning]
    return lines


def _span(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
