"""Read state dicts of other code bases without executing code, and map their keys to a network's."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.models.build import Option, build
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.text import short_name

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


COUNTER = "num_batches_tracked"
"""What batch normalisation counts and, with a fixed momentum, does not use."""

RESNET_BLOCKS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}
"""Blocks of the third stage (res4), and whether they are bottlenecks."""

Rules = Sequence[tuple[str, str]]
"""Patterns and what is put in their place, one after the other."""


def empty_mask_rcnn(**options: Option) -> MaskRCNN:
    """A network of `build_mask_rcnn`, in evaluation mode, without memory for its weights."""
    with torch.device("meta"):
        return build("mask_rcnn", **options).eval()


def return_all(net: MaskRCNN) -> None:
    """Make predictions return every object that the network detects, as torchvision and detectron2 do.

    Both keep scores above 0.05 (`RoISettings.score_threshold`) and 100 objects an image, and suppress boxes only. Their
    demos draw scores from 0.5 on.
    """
    net.score_threshold, net.mask_nms, net.display_threshold = net.settings.score_threshold, False, 0.5


def rename(name: str, rules: Rules) -> str:
    """The name after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def stored_names(net: nn.Module) -> list[str]:
    """The names of the network's own tensors, but for counters."""
    return [name for name in net.state_dict() if not name.endswith(COUNTER)]


def without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without what batch normalisation counts."""
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def check_tensors(state: Mapping[str, Any], expected: Mapping[str, Sequence[int]]) -> None:
    """Raise a UserError unless the names and shapes of the tensors are those expected."""
    check_shapes({name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}, expected)


def check_shapes(found: Mapping[str, Sequence[int] | None], expected: Mapping[str, Sequence[int]]) -> None:
    """Raise a UserError unless the names and shapes are those expected; None is the shape of what is no tensor."""
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"the checkpoint lacks {missing[0]} ({len(missing)} tensors are missing)")
    if left_over := sorted(map(str, found.keys() - expected.keys())):
        raise UserError(
            f"the checkpoint has {short_name(left_over[0])}, for which there is no place ({len(left_over)} in all)"
        )
    for name, shape in expected.items():
        actual = found[name]
        if actual is None:
            raise UserError(f"{name} is no tensor; it must be one of shape {tuple(shape)}")
        if tuple(actual) != tuple(shape):
            raise UserError(f"{name} has shape {tuple(actual)}; it must be {tuple(shape)}")


def fill(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give an empty network its tensors, by its own names; those in float32 are taken over, not copied."""
    counters = {name: torch.tensor(0) for name in net.state_dict() if name.endswith(COUNTER)}
    net.load_state_dict({name: value.float() for name, value in tensors.items()} | counters, assign=True)


def resnet_name(names: Iterable[str], third_stage: str) -> str:
    """Which ResNet has these names; `third_stage` is what those of res4's blocks begin with, as "layer3.".

    Raises:
        UserError: none has so many blocks.
    """
    inside = [name.removeprefix(third_stage) for name in names if name.startswith(third_stage)]
    blocks = len({name.partition(".")[0] for name in inside})
    bottleneck = any(".conv3." in name for name in inside)
    if (blocks, bottleneck) not in RESNET_BLOCKS:
        raise UserError(f"the backbone is no ResNet that is known here: {third_stage}* has {blocks} blocks")
    return RESNET_BLOCKS[blocks, bottleneck]


def length(state: Mapping[str, Any], name: str) -> int:
    """How many numbers a bias has.

    Raises:
        UserError: it is missing, or not a vector of numbers.
    """
    bias = state.get(name)
    if not isinstance(bias, Tensor) or bias.ndim != 1:
        raise UserError(f"the checkpoint lacks {name}, one number for each class or feature")
    return len(bias)
