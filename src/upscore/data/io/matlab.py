"""Label maps in MATLAB's files.

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
"""Of a file, and of what it unfolds to."""

HEADER, TAG, COMPRESSED = 128, 8, 15
"""Of version 5: bytes before the first element, bytes before an element's content, and the type of what is packed."""


def read_variable(path: Path, name: str) -> np.ndarray:
    """One variable of a file of MATLAB's versions 4 to 7, as `scipy.io.loadmat` gives it.

    Raises:
        UserError: the file is missing, damaged, too large or of another kind, or has no such variable.
    """
    try:
        _require_bounds(path)
        variables = loadmat(path, variable_names=[name])
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file.") from error
    except NotImplementedError as error:
        raise UserError(f"{path}: is of MATLAB's version 7.3, which is not read; save it again with '-v7'.") from error
    except Exception as error:  # the reader raises anything at all on broken bytes
        raise UserError(
            f"{path}: is damaged, or no file of MATLAB's ({error}); take it from the archive again."
        ) from error
    if name not in variables:
        raise UserError(f"{path}: holds no variable {name}; is it another data set's?")
    return variables[name]


def read_field(path: Path, name: str, field: str) -> np.ndarray:
    """One field of a variable that is a single structure, such as SBD's `GTcls.Segmentation`.

    Raises:
        UserError: as `read_variable`, or there is no such field.
    """
    structure = read_variable(path, name)
    fields = structure.dtype.names or ()
    if structure.size != 1 or field not in fields:
        raise UserError(f"{path}: {name} has no field {field}; is it another data set's?")
    return np.asarray(structure.item()[fields.index(field)])


def whole_numbers(values: np.ndarray, path: Path, what: str, lowest: int, highest: int) -> np.ndarray:
    """(H, W) int64 of an array that holds such a map, of whichever type.

    Raises:
        LabelError: it is no map, or holds something else.
    """
    if values.ndim != 2 or not values.size or values.dtype.kind not in "iuf":
        raise LabelError(f"{path}: {what} must be a map (H, W) of numbers, but is {values.shape} {values.dtype}.")
    with np.errstate(invalid="ignore"):  # NaN is no whole number either
        whole = values.astype(np.int64)
    wrong = (whole != values) | (whole < lowest) | (whole > highest)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise LabelError(
            f"{path}: {what} holds whole numbers from {lowest} to {highest}, but {values[y, x]:g} at x={x}, y={y}; "
            "take the file from the archive again."
        )
    return whole


def classes_from_one(path: Path, name: str, count: int, *, lowest: int = 0) -> Tensor:
    """A map that counts `count` classes from 1 and has less where there is none -> (H, W) uint8, from 0, and void.

    Raises:
        UserError: the file cannot be read.
        LabelError: it holds no such map.
    """
    labels = whole_numbers(read_variable(path, name), path, name, lowest, count)
    return torch.from_numpy(np.where(labels > 0, labels - 1, VOID).astype(np.uint8))


def _require_bounds(path: Path) -> None:
    """A few bytes may unfold to more than there is memory."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: is larger than the {MAX_BYTES:,} bytes that are read; is it a label map?")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[HEADER - 2 : HEADER])
    if order is None:  # version 4, which packs nothing
        return
    at, unfolded = HEADER, 0
    while at + TAG <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        at += TAG
        if kind == COMPRESSED:
            unfolded += _unfolded_size(content[at : at + size], MAX_BYTES - unfolded)
        if unfolded >= MAX_BYTES:
            raise UserError(f"{path}: unfolds to more than the {MAX_BYTES:,} bytes that are read; is it a label map?")
        at += size


def _unfolded_size(packed: bytes, limit: int) -> int:
    """The bytes that packed ones unfold to, counted up to a limit."""
    unfolder, size = zlib.decompressobj(), 0
    while size < limit and not unfolder.eof and packed:
        size += len(unfolder.decompress(packed, 2**20))
        packed = unfolder.unconsumed_tail
    return size
