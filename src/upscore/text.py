"""Text from files, made safe to print; Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST_NAME = 60
"""Characters of a name that are printed."""


def printable(text: str) -> str:
    """The text with control characters, terminal escapes and bytes that are no text replaced by their escapes.

    Line breaks stay.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """A name on one line, without control characters, and cut to `longest` characters."""
    name = printable(" ".join(name[: 4 * longest].split()))
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def short_names(names: Sequence[str], most: int = 12) -> str:
    """The first `most` names with commas between them, each by `short_name`, and how many more there are."""
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(short_name, names[:most])) + more


def markdown_escaped(text: str) -> str:
    """The text with a backslash before each character that Markdown would take for markup."""
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, escape: bool = True) -> str:
    """A Markdown table, without a line break at its end.

    Args:
        header: the titles of the columns.
        rows: the cells.
        left: so many columns from the first one on are aligned to the left, the others to the right.
        escape: cells are plain text; otherwise they are Markdown.
    """
    lines = [[markdown_escaped(cell) for cell in row] if escape else row for row in [header, *rows]]
    alignment = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], alignment, *lines[1:]])


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or the name of its type."""
    return printable(next(iter(str(error).strip().splitlines()), type(error).__name__))
