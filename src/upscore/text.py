"""Escape and shorten text for terminals and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

MAX_NAME_LENGTH = 60
"""Largest number of characters of a name that are printed."""


def printable(text: str) -> str:
    """Escape control characters, terminal escapes and undecodable bytes in a text; line breaks are kept."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def short_name(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Return a name on one line, without control characters, truncated to `max_length` characters."""
    name = printable(" ".join(name[: 4 * max_length].split()))
    return name if len(name) <= max_length else f"{name[: max_length - 1]}…"


def short_names(names: Sequence[str], max_names: int = 12) -> str:
    """Join the first `max_names` names with commas, each shortened by `short_name`; add the total number if more."""
    more = f", … ({len(names)} in all)" if len(names) > max_names else ""
    return ", ".join(map(short_name, names[:max_names])) + more


def markdown_escaped(text: str) -> str:
    """Escape the characters of a text that are Markdown markup."""
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, escape: bool = True) -> str:
    """Format a Markdown table, without a line break at the end.

    Args:
        header: the titles of the columns.
        rows: the cells.
        left: number of columns, from the first one, that are aligned to the left; the others are aligned to the right.
        escape: whether the cells are plain text, not Markdown.
    """
    lines = [[markdown_escaped(cell) for cell in row] if escape else row for row in [header, *rows]]
    alignment = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], alignment, *lines[1:]])


def first_line(error: Exception) -> str:
    """Return the first line of the message of an exception, or the name of its type if the message is empty."""
    return printable(next(iter(str(error).strip().splitlines()), type(error).__name__))
