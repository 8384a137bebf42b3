"""Terminal output by rich without markup, so that names of files and classes are printed literally.

By default rich interprets `[...]` as markup and `:smile:` as an emoji, and does not escape terminal control sequences.
"""

from __future__ import annotations

from typing import Any

import rich.console
import rich.progress
from rich.text import Text

from upscore.text import printable


class Console(rich.console.Console):
    """A console without markup, emoji codes and highlighting, that escapes control characters."""

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
        super().__init__(**plain | options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string, printed or in a table, into rich's text."""
        return super().render_str(printable(text), **options)


class TextColumn(rich.progress.TextColumn):
    """A text column of a progress bar, without markup."""

    def __init__(self, text_format: str, **options: Any) -> None:
        plain: dict[str, Any] = {"markup": False}
        super().__init__(text_format, **plain | options)

    def render(self, task: rich.progress.Task) -> Text:
        """Return the text for a task."""
        text = super().render(task)
        text.plain = printable(text.plain)
        return text


class Progress(rich.progress.Progress):
    """Progress bars with descriptions without markup."""

    @classmethod
    def get_default_columns(cls) -> tuple[rich.progress.ProgressColumn, ...]:
        """Description, bar, percentage and time left."""
        return (TextColumn("{task.description}"), *super().get_default_columns()[1:])
