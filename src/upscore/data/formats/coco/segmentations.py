"""Storage of the `segmentation` fields of a COCO file in flat arrays.

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
    """The segmentation of an object as annotated: polygons or run lengths."""

    pieces: list[np.ndarray]
    """(2 P,) float64 each: x1, y1, x2, y2, ..."""
    runs: np.ndarray | None
    """(R,) uint32, as in `upscore.results.rle`."""


@dataclass(slots=True, kw_only=True)
class Outlines:
    """The segmentations of A annotations; row i has the elements `..._of[i]` to `..._of[i + 1] - 1`."""

    rows: np.ndarray
    """(A,) int64, the row of each annotation in `pieces_of` and `runs_of`, which are in the order of the file."""
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


class OutlinesBuilder:
    """Collects segmentations in the order of the file."""

    def __init__(self) -> None:
        self._pieces_of, self._piece_bounds, self._coordinates = array("q", [0]), array("q", [0]), array("d")
        self._runs_of, self._runs = array("q", [0]), array("I")

    def add(self, pieces: Sequence[array[float]], runs: Sequence[int]) -> None:
        """Add the polygons or the run lengths of the next annotation."""
        for piece in pieces:
            self._coordinates.extend(piece)
            self._piece_bounds.append(len(self._coordinates))
        self._pieces_of.append(len(self._piece_bounds) - 1)
        self._runs.extend(runs)
        self._runs_of.append(len(self._runs))

    def ordered(self, rows: np.ndarray) -> Outlines:
        """Return the outlines, with the segmentation added at index `rows[k]` as annotation k."""
        return Outlines(
            rows=rows.astype(np.int64),
            pieces_of=np.array(self._pieces_of),
            piece_bounds=np.array(self._piece_bounds),
            coordinates=np.array(self._coordinates),
            runs_of=np.array(self._runs_of),
            runs=np.array(self._runs),
        )
