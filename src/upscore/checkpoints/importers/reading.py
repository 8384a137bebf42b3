"""Reading weights that come from elsewhere, without running anything that is in the file."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from upscore.errors import UserError

WRAPPERS = ("model_state_dict", "state_dict", "model")
"""Where trainers keep the state dict in a checkpoint of several parts."""

# trainers save scores as numpy scalars, whose module has been renamed
SCALAR = np.float64(0).__reduce__()[0]
NUMPY_SCALARS = [
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a .safetensors file, or anything that `torch.save` wrote: name -> tensor, or whatever a trainer keeps.

    Only tensors and plain values are unpickled.

    Raises:
        UserError: there is no such file, it is damaged, holds no names, or asks to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a .safetensors file or one that torch.save wrote")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except PermissionError as error:
        raise UserError(f"{path}: can't be opened: {error.strerror}") from error
    except Exception as error:  # what a damaged file makes the readers raise has no common type
        raise UserError(_explain(path, error)) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors with names; save a `state_dict()`")
    return dict(content)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name, out of the part that holds the model where there are several.

    Raises:
        UserError: as `read_checkpoint`, or no tensor is in it.
    """
    state = unwrap(read_checkpoint(path))
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors, but {', '.join(map(str, list(state)[:3])) or 'nothing at all'}")
    return tensors


def unwrap(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's part of a checkpoint; names without the "module." that data parallelism puts before each."""
    part = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    if part and all(str(name).startswith("module.") for name in part):
        return {name.removeprefix("module."): value for name, value in part.items()}
    return part


def _load_pickled(path: Path) -> Any:
    # files older than torch 1.6 are no zip archives and can't be mapped into memory
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _explain(path: Path, error: Exception) -> str:
    if asked_for := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"{path}: refused, for reading it would run {asked_for[1]}; "
            "save its `state_dict()` alone, best as .safetensors, where you trust it"
        )
    return f"{path}: is cut short, damaged, or was written neither by safetensors nor by torch.save; fetch it again"
