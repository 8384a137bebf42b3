"""Read state dicts of other code bases without executing code, and map their keys to those of a network."""

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
"""Keys under which trainers store the state dict in a checkpoint."""

# trainers save scores as numpy scalars; numpy 2 renamed their module
SCALAR = np.float64(0).__reduce__()[0]
NUMPY_SCALARS = [
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]

COUNTER = "num_batches_tracked"
"""Suffix of the counters of batch normalisation, which are not used with a fixed momentum."""

RESNET_BLOCKS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}
"""Names of ResNets, by the number of blocks in the third stage (res4) and whether they are bottlenecks."""

Rules = Sequence[tuple[str, str]]
"""Regular expressions and replacements that are applied in order."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a .safetensors file, or a dict that `torch.save` wrote: a state dict or a trainer's checkpoint.

    Only tensors and plain values are unpickled.

    Raises:
        UserError: the file is missing or damaged, does not contain a dict, or requests to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a .safetensors file or a file written by torch.save")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_pickled(path)
    except PermissionError as error:
        raise UserError(f"{path}: can't be opened: {error.strerror}") from error
    except Exception as error:  # the readers raise exceptions of any type for damaged files
        raise UserError(_explain(path, error)) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: contains a {type(content).__name__}; it must contain a `state_dict()`")
    return dict(content)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of the model in a checkpoint, by name.

    Raises:
        UserError: as `read_checkpoint`, or there are no tensors.
    """
    state = unwrap(read_checkpoint(path))
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: contains no tensors, only {', '.join(map(str, list(state)[:3])) or 'nothing'}")
    return tensors


def unwrap(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict in a checkpoint; the prefix "module." of data parallelism is removed."""
    part = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), checkpoint)
    if part and all(str(name).startswith("module.") for name in part):
        return {name.removeprefix("module."): value for name, value in part.items()}
    return part


def _load_pickled(path: Path) -> Any:
    """Read a file written by `torch.save`."""
    # files of torch before 1.6 are not zip archives and can't be mapped into memory
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _explain(path: Path, error: Exception) -> str:
    """Return the message for an exception of the readers."""
    if requested := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"{path}: is not read, because it would run {requested[1]}; "
            "if you trust it, save only its `state_dict()`, best as .safetensors"
        )
    return f"{path}: is truncated, damaged, or not written by safetensors or torch.save; download it again"


def empty_mask_rcnn(**options: Option) -> MaskRCNN:
    """Build a Mask R-CNN in evaluation mode on the meta device."""
    with torch.device("meta"):
        return build("mask_rcnn", **options).eval()


def return_all(net: MaskRCNN) -> None:
    """Make predictions return all detected objects, as torchvision and detectron2 do.

    Both keep up to 100 objects per image with scores above 0.05 (`RoISettings.score_threshold`) and suppress boxes, not
    masks. Their demos draw objects with scores of at least 0.5.
    """
    net.score_threshold, net.mask_nms, net.display_threshold = net.settings.score_threshold, False, 0.5


def rename(name: str, rules: Rules) -> str:
    """Apply all rules to a name."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def stored_names(net: nn.Module) -> list[str]:
    """Return the names of the tensors of a network, without counters."""
    return [name for name in net.state_dict() if not name.endswith(COUNTER)]


def without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict without the counters of batch normalisation."""
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def check_tensors(state: Mapping[str, Any], expected: Mapping[str, Sequence[int]]) -> None:
    """Check the names and shapes of tensors.

    Raises:
        UserError: a tensor is missing, unexpected, not a tensor, or has a wrong shape.
    """
    check_shapes({name: value.shape if isinstance(value, Tensor) else None for name, value in state.items()}, expected)


def check_shapes(found: Mapping[str, Sequence[int] | None], expected: Mapping[str, Sequence[int]]) -> None:
    """Check names and shapes; the shape of a value that is not a tensor is None.

    Raises:
        UserError: a tensor is missing, unexpected, not a tensor, or has a wrong shape.
    """
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"the checkpoint lacks {missing[0]} ({len(missing)} tensors are missing)")
    if unexpected := sorted(map(str, found.keys() - expected.keys())):
        raise UserError(
            f"the checkpoint has {short_name(unexpected[0])}, which the network lacks ({len(unexpected)} such tensors)"
        )
    for name, shape in expected.items():
        actual = found[name]
        if actual is None:
            raise UserError(f"{name} is not a tensor; it must have the shape {tuple(shape)}")
        if tuple(actual) != tuple(shape):
            raise UserError(f"{name} has the shape {tuple(actual)}; it must be {tuple(shape)}")


def fill(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the tensors of a network on the meta device; tensors in float32 are not copied."""
    counters = {name: torch.tensor(0) for name in net.state_dict() if name.endswith(COUNTER)}
    net.load_state_dict({name: value.float() for name, value in tensors.items()} | counters, assign=True)


def resnet_name(names: Iterable[str], third_stage: str) -> str:
    """Return the name of the ResNet with these keys; `third_stage` is the prefix of res4, such as "layer3.".

    Raises:
        UserError: no ResNet has this number of blocks.
    """
    inside = [name.removeprefix(third_stage) for name in names if name.startswith(third_stage)]
    blocks = len({name.partition(".")[0] for name in inside})
    bottleneck = any(".conv3." in name for name in inside)
    if (blocks, bottleneck) not in RESNET_BLOCKS:
        raise UserError(f"the backbone is not a supported ResNet: {third_stage}* has {blocks} blocks")
    return RESNET_BLOCKS[blocks, bottleneck]


def length(state: Mapping[str, Any], name: str) -> int:
    """Return the length of a bias.

    Raises:
        UserError: it is missing or not a vector.
    """
    bias = state.get(name)
    if not isinstance(bias, Tensor) or bias.ndim != 1:
        raise UserError(f"the checkpoint lacks {name}, a vector with a number per class or feature")
    return len(bias)
