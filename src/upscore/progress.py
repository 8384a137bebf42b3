"""The type of the functions that receive the progress of a long job."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""`callback(done, total)` is called after each item; `done` counts from 1 to `total`."""


def ignore_progress(done: int, total: int) -> None:
    """Do nothing: the default of functions that take a `ProgressCallback`."""
