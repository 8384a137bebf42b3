"""Georeference of an image: read the tags of a GeoTIFF, and adapt them to a reduced image.

The tags give the map coordinates of pixels (a scale and tie points, or a matrix) and the reference system (keys, which
may refer to numbers and texts). Keys are copied without interpretation, so any reference system is preserved.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tifffile import DATATYPE, TiffFile

from upscore.data.io.decoding import is_tiff, reading
from upscore.errors import UserError

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS, NUMBERS, TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
TYPES = {
    PIXEL_SCALE: DATATYPE.DOUBLE,
    TIE_POINTS: DATATYPE.DOUBLE,
    TRANSFORMATION: DATATYPE.DOUBLE,
    KEYS: DATATYPE.SHORT,
    NUMBERS: DATATYPE.DOUBLE,
}
RASTER_TYPE, POINTS = 1025, 2
"""The key for what integer coordinates are, corners (1) or centres (2) of pixels; and the value for centres."""

GEOGRAPHIC, PROJECTED, USER_DEFINED = 2048, 3072, 32767
"""The keys that hold EPSG codes of reference systems, and the value of a system without a code."""


@dataclass(frozen=True, slots=True)
class Georeference:
    """The tags of a GeoTIFF."""

    tags: dict[int, tuple[float, ...]]
    """Values of the numeric tags, by tag number."""
    texts: str = ""
    """Value of the text tag."""

    def reduced(self, down: float, across: float) -> Georeference:
        """Return the georeference of the reduced image; a new pixel covers `down` x `across` old pixels."""
        tags = dict(self.tags)
        half = 0.5 if self._points else 0.0
        if scale := tags.get(PIXEL_SCALE):
            tags[PIXEL_SCALE] = (scale[0] * across, scale[1] * down, *scale[2:])
        points, moved = tags.get(TIE_POINTS, ()), []
        for start in range(0, len(points), 6):  # column, row, depth in pixels; x, y, z on the map
            column, row = (points[start] + half) / across - half, (points[start + 1] + half) / down - half
            moved += [column, row, *points[start + 2 : start + 6]]
        if points:
            tags[TIE_POINTS] = tuple(moved)
        if matrix := tags.get(TRANSFORMATION):
            rows = [matrix[start : start + 4] for start in range(0, 12, 4)]
            moved = [
                (x * across, y * down, z, shift + half * ((across - 1) * x + (down - 1) * y)) for x, y, z, shift in rows
            ]
            tags[TRANSFORMATION] = tuple(value for row in moved for value in row) + matrix[12:]
        return Georeference(tags, self.texts)

    @property
    def epsg(self) -> int | None:
        """The EPSG code of the coordinate reference system; None if the keys give none."""
        codes = {key[0]: int(key[3]) for key in self._keys if key[1] == 0}
        code = codes.get(PROJECTED) or codes.get(GEOGRAPHIC)
        return code if code is not None and code < USER_DEFINED else None

    def to_map(self, points: np.ndarray) -> np.ndarray:
        """Convert pixel coordinates to map coordinates.

        Args:
            points: (P, 2), x and y in pixels; the centre of the first pixel is (0.5, 0.5).

        Returns:
            (P, 2) float64.

        Raises:
            UserError: the tags have neither a matrix nor a scale with a tie point.
        """
        columns, rows = (points - (0.5 if self._points else 0.0)).T.astype(np.float64)
        if matrix := self.tags.get(TRANSFORMATION):
            a, b, _, x, c, d, _, y = matrix[:8]
            return np.stack([a * columns + b * rows + x, c * columns + d * rows + y], 1)
        scale, ties = self.tags.get(PIXEL_SCALE, ()), self.tags.get(TIE_POINTS, ())
        if len(scale) < 2 or len(ties) < 6:
            raise UserError("the GeoTIFF tags have no transformation from pixels to map coordinates")
        column, row, _, x, y = ties[:5]
        return np.stack([x + (columns - column) * scale[0], y - (rows - row) * scale[1]], 1)

    @property
    def _points(self) -> bool:
        return (RASTER_TYPE, 0, 1, POINTS) in self._keys

    @property
    def _keys(self) -> list[tuple[float, ...]]:
        keys = self.tags.get(KEYS, ())
        return [keys[start : start + 4] for start in range(4, len(keys), 4)]

    def extratags(self) -> list[tuple[int, int, int, tuple[float, ...] | str, bool]]:
        """Return the tags as tifffile's `extratags`: (number, type, count, value, True)."""
        tags = [(number, TYPES[number], len(value), value, True) for number, value in sorted(self.tags.items())]
        return [*tags, (TEXTS, DATATYPE.ASCII, len(self.texts) + 1, self.texts, True)] if self.texts else [*tags]


def read_georeference(path: str | Path, *, pyramid_level: int = 0) -> Georeference | None:
    """Read the georeference of a pyramid level of a TIFF; None if it has none or the file is not a TIFF.

    Raises:
        UserError: the file can't be read, or its tags are damaged.
    """
    path = Path(path)
    if path.is_dir():
        return None
    with reading(path):
        if not is_tiff(path):
            return None
        with TiffFile(path) as file:
            levels = file.series[0].levels
            finest, chosen = levels[0].keyframe, levels[pyramid_level].keyframe
            values = {number: finest.tags.valueof(number) for number in TYPES if number in finest.tags}
            texts = str(finest.tags.valueof(TEXTS, ""))
            factors = finest.imagelength / chosen.imagelength, finest.imagewidth / chosen.imagewidth
        tags = {number: value if isinstance(value, tuple) else (value,) for number, value in values.items()}
        if len(tags.get(TIE_POINTS, ())) % 6 or len(tags.get(TRANSFORMATION, range(16))) != 16:
            raise UserError(f"{path}: the GeoTIFF tags are damaged; rewrite the file, for example with gdal_translate.")
    return Georeference(tags, texts).reduced(*factors) if tags else None
