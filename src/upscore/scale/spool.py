"""What comes in any order, given out in order, without holding it in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np


class Spool:
    """Texts by number, in a temporary file.

    Args:
        count: how many numbers there are; 16 bytes of memory each.
    """

    def __init__(self, count: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # gone with the process
        self._start, self._length = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def add(self, number: int, text: str) -> None:
        """Keep a text."""
        data = text.encode()
        self._start[number], self._length[number] = self._file.seek(0, 2), len(data)
        self._file.write(data)

    def __iter__(self) -> Iterator[str]:
        """The texts that are not empty, by their numbers."""
        for number in np.flatnonzero(self._length):
            self._file.seek(self._start[number])
            yield self._file.read(self._length[number]).decode()
