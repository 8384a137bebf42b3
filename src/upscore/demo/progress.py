"""One progress bar over steps of very different kinds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from upscore.progress import ProgressCallback


class StepProgress:
    """A bar for all steps; each step's share is about the seconds that it takes on two cores."""

    def __init__(self, console: Console, shares: float) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
            speed_estimate_period=60,
        )
        self.task = self.progress.add_task("", total=shares)
        self.done = 0.0

    def __enter__(self) -> StepProgress:
        self.progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.progress.stop()

    @contextmanager
    def step(self, title: str, share: float) -> Iterator[ProgressCallback]:
        """Show what is being done, and leave a line about it once it is."""
        started = time.monotonic()
        self.progress.update(self.task, description=title)

        def advance(done: int, total: int) -> None:
            self.progress.update(self.task, completed=self.done + share * done / total)

        yield advance
        self.done += share
        self.progress.update(self.task, completed=self.done)
        self.console.print(f"{time.monotonic() - started:6.1f} s  {title}", highlight=False)
