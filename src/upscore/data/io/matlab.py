"""Read variables and label maps from MATLAB files (versions 4 to 7).

H W pixels.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from upscore.data.io.images import LabelError
from upscore.errors import UserError
from upscore.labels import VOID

MAX_BYTES = 2**27
"""Largest size in bytes of a file, and of its decompressed content."""

HEADER, TAG, COMPRESSED = 128, 8, 15
"""Version 5: bytes before the first element, bytes of the tag of an element, and the type of a compressed element."""


def read_variable(path: Path, name: str) -> np.ndarray:
    """Read one variable of a MATLAB file, as `scipy.io.loadmat` does.

    Raises:
        UserError: the file is missing, damaged, too large or not a MATLAB file, or has no such variable.
    """
    try:
        _require_bounds(path)
        variables = loadmat(path, variable_names=[name])
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except NotImplementedError as error:
        raise UserError(f"{path}: has MATLAB's format 7.3, which is not supported; save it with '-v7'.") from error
    except Exception as error:  # the reader raises exceptions of any type for damaged files
        raise UserError(f"{path}: is damaged or not a MATLAB file ({error}); extract it again.") from error
    if name not in variables:
        raise UserError(f"{path}: has no variable {name}; check that the file belongs to this data set.")
    return variables[name]


def read_field(path: Path, name: str, field: str) -> np.ndarray:
    """Read one field of a structure, for example `GTcls.Segmentation` of SBD.

    Raises:
        UserError: as `read_variable`, or there is no such field.
    """
    structure = read_variable(path, name)
    fields = structure.dtype.names or ()
    if structure.size != 1 or field not in fields:
        raise UserError(f"{path}: {name} has no field {field}; check that the file belongs to this data set.")
    return np.asarray(structure.item()[fields.index(field)])


def whole_numbers(values: np.ndarray, path: Path, what: str, lowest: int, highest: int) -> np.ndarray:
    """Convert a map (H, W) of any numeric type to int64.

    Args:
        values: the map.
        path: the file, for error messages.
        what: the name of the variable, for error messages.
        lowest: the smallest valid value.
        highest: the largest valid value.

    Raises:
        LabelError: the array is not a map (H, W), or a value is out of range or not an integer.
    """
    if values.ndim != 2 or not values.size or values.dtype.kind not in "iuf":
        raise LabelError(f"{path}: {what} must be a map (H, W) of numbers, but is {values.shape} {values.dtype}.")
    with np.errstate(invalid="ignore"):  # NaN: reported below as not an integer
        whole = values.astype(np.int64)
    wrong = (whole != values) | (whole < lowest) | (whole > highest)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise LabelError(
            f"{path}: {what} must hold integers from {lowest} to {highest}, but is {values[y, x]:g} at x={x}, y={y}; "
            "extract the file again."
        )
    return whole


def classes_from_one(path: Path, name: str, count: int, *, lowest: int = 0) -> Tensor:
    """Read a map with class numbers from 1 as class indices from 0, (H, W) uint8; numbers below 1 become void.

    Args:
        path: the file.
        name: the variable.
        count: the number of classes.
        lowest: the smallest valid number.

    Raises:
        UserError: the file cannot be read.
        LabelError: the variable is not such a map.
    """
    labels = whole_numbers(read_variable(path, name), path, name, lowest, count)
    return torch.from_numpy(np.where(labels > 0, labels - 1, VOID).astype(np.uint8))


def _require_bounds(path: Path) -> None:
    """Raise an error if the file or its decompressed content is too large, before it is decompressed."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: is larger than {MAX_BYTES:,} bytes; check that it is a label map.")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None:  # version 4, without compression
        return
    start, total = HEADER, 0
    while start + TAG <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, start)
        start += TAG
        if kind == COMPRESSED:
            total += _decompressed_size(content[start : start + size], MAX_BYTES - total)
        if total >= MAX_BYTES:
            raise UserError(f"{path}: decompresses to more than {MAX_BYTES:,} bytes; check that it is a label map.")
        start += size


def _decompressed_size(compressed: bytes, limit: int) -> int:
    """Return the decompressed size in bytes, counted up to a limit."""
    decompressor, size = zlib.decompressobj(), 0
    while size < limit and not decompressor.eof and compressed:
        size += len(decompressor.decompress(compressed, 2**20))
        compressed = decompressor.unconsumed_tail
    return size
