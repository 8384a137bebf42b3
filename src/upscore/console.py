"""Rich console classes that print text literally, without markup, so that file and class names appear as they are.

By default, rich interprets `[...]` as markup and `:smile:` as an emoji, and does not escape terminal control sequences.
"""

from __future__ import annotations

from typing import Any

import rich.console
import rich.progress
from rich.text import Text

from upscore.text import printable


class Console(rich.console.Console):
    """Rich console without markup, emoji codes or highlighting. Control characters are escaped."""

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**plain | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string, printed directly or in a table cell, to rich text."""
        return super().render_str(printable(text), **options)


class TextColumn(rich.progress.TextColumn):
    """Text column of a progress bar, without markup."""

    def __init__(self, text_format: str, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False}
        super().__init__(text_format, **plain | options)

    def render(self, task: rich.progress.Task) -> Text:
        """Return the text of a task."""
        text = super().render(task)
        text.plain = printable(text.plain)
        return text


class Progress(rich.progress.Progress):
    """Progress bars whose descriptions are printed literally."""

    @classmethod
    def get_default_columns(cls) -> tuple[rich.progress.ProgressColumn, ...]:
        """Return the columns: description, bar, percentage and remaining time."""
        return (TextColumn("{task.description}"), *super().get_default_columns()[1:])
