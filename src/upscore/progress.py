"""Progress of long jobs: the callback type, and progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscore.console import Progress

ProgressCallback = Callable[[int, int], None]
"""`callback(done, total)` is called after each item; `done` counts from 1 to `total`."""


def ignore_progress(done: int, total: int) -> None:
    """Ignore progress. Default of the functions that take a `ProgressCallback`."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show progress bars, one for each task that is added, if standard error is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    from upscore.console import Console, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Show one progress bar and yield the callback that updates it."""
    with progress_bars() as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
