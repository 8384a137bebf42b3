"""The outlines of COCO's objects (`segmentation`), all of a file's in a few flat arrays.

A annotations, P points of a polygon, R runs of pixels.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Outline(NamedTuple):
    """An object's outline, as annotated: polygons, or else run lengths."""

    pieces: list[np.ndarray]
    """(2 P,) float64 each: x1, y1, x2, y2, ..."""
    runs: np.ndarray | None
    """(R,) uint32, as in `upscore.results.rle`."""


@dataclass(slots=True, kw_only=True)
class Outlines:
    """Outlines by annotation; what belongs to row i is from `..._of[i]` to `..._of[i + 1]`."""

    rows: np.ndarray
    """(A,) int64, each annotation's row in `pieces_of` and `runs_of`, which are in the file's order."""
    pieces_of: np.ndarray
    piece_bounds: np.ndarray
    coordinates: np.ndarray
    runs_of: np.ndarray
    runs: np.ndarray

    def __getitem__(self, annotation: int) -> Outline:
        row = self.rows[annotation]
        runs = self.runs[self.runs_of[row] : self.runs_of[row + 1]]
        bounds = self.piece_bounds[self.pieces_of[row] : self.pieces_of[row + 1] + 1]
        pieces = [self.coordinates[start:stop] for start, stop in pairwise(bounds)]
        return Outline(pieces, runs if len(runs) else None)


class OutlinesSoFar:
    """Those that have been read, in the file's order."""

    def __init__(self) -> None:
        self._pieces_of, self._piece_bounds, self._coordinates = array("q", [0]), array("q", [0]), array("d")
        self._runs_of, self._runs = array("q", [0]), array("I")

    def add(self, pieces: Sequence[array[float]], runs: Sequence[int]) -> None:
        """The next one's polygons, or its run lengths."""
        for piece in pieces:
            self._coordinates.extend(piece)
            self._piece_bounds.append(len(self._coordinates))
        self._pieces_of.append(len(self._piece_bounds) - 1)
        self._runs.extend(runs)
        self._runs_of.append(len(self._runs))

    def ordered(self, rows: np.ndarray) -> Outlines:
        """With annotation k the one that was added as number `rows[k]`."""
        return Outlines(
            rows=rows.astype(np.int64),
            pieces_of=np.array(self._pieces_of),
            piece_bounds=np.array(self._piece_bounds),
            coordinates=np.array(self._coordinates),
            runs_of=np.array(self._runs_of),
            runs=np.array(self._runs),
        )
