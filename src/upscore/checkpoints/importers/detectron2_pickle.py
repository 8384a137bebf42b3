"""Reading the pickles that detectron2's weights are published in, without running anything that is in the file."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscore.errors import UserError

MAX_BYTES = 4 << 30
"""No published file has a fifth of it."""


def read_pickle(path: str | Path) -> dict[str, Any]:
    """Read a .pkl file of numpy arrays: nested dicts and lists, in which each array has become a tensor.

    Of all that a pickle can ask for, it gets arrays of numbers and ordered dicts; all memory is bounded by the file's.

    Raises:
        UserError: there is no such file, it is damaged or too large, is no dict, or asks for anything else.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: has {size / 2**30:.0f} GiB; no more than {MAX_BYTES >> 30} are read")
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        tensors = _to_tensors(content)
    except _RefusedError as error:
        raise UserError(f"{path}: refused, for {error}; save its tensors alone, where you trust it") from error
    except OSError as error:
        raise UserError(f"{path}: can't be opened: {error.strerror}") from error
    except UserError:
        raise
    except Exception as error:  # what a damaged file makes the reader raise has no common type
        raise UserError(f"{path}: is cut short, damaged, or no pickle; fetch it again") from error
    if not isinstance(tensors, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors with names")
    return tensors


class _RefusedError(Exception):
    """What the file asks for is not given."""


# the one in C reserves memory for as many objects as a file claims to have
class _Unpickler(pickle._Unpickler):
    """Makes records of arrays, which numpy sees nothing of before they are checked."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        makers: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "dtype"): lambda code, *_: _DType(code),
            ("numpy", "ndarray"): lambda *_: _Array(),
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
            ("__builtin__", "bytes"): lambda: b"",  # what an empty array holds
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in makers:
            raise _RefusedError(f"reading it would run {module}.{name}")
        make = makers[module, name]
        # a fresh one each time: a pickle can set attributes of what it is given
        return make if make is OrderedDict else lambda *arguments: make(*arguments)


class _DType:
    """What kind of numbers; numpy's own can be told by a pickle to be anything."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"[fiu][1248]|b1", code):
            raise _RefusedError(f"it holds an array of {code!r}, which is no plain number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array to be: its bytes, and how to see them."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, raw = state
        if not isinstance(raw, bytes | str):
            raise _RefusedError("it holds an array of objects, not of numbers")
        # strings of Python 2 are read as latin1
        self.fill(raw if isinstance(raw, bytes) else raw.encode("latin1"), dtype, shape, "F" if by_columns else "C")

    def fill(self, raw: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: Any) -> None:
        if math.prod(shape) * dtype.dtype.itemsize != len(raw):
            raise ValueError("an array has more or fewer bytes than its shape")
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


def _from_buffer(raw: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape, order)
    return array


def _scalar(dtype: _DType, raw: bytes | str) -> Any:
    return np.frombuffer(raw if isinstance(raw, bytes) else raw.encode("latin1"), dtype.dtype)[0].item()


def _to_tensors(value: Any) -> Any:
    """The same nest, with tensors for arrays."""
    if isinstance(value, _Array):
        return _to_tensor(value.array)
    if isinstance(value, dict):
        return {key: _to_tensors(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tensors(part) for part in value]
    return value


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
