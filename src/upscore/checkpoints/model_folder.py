"""Read and write model folders: `model.safetensors` and `model.json`, everything that is needed to run a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from upscore.checkpoints.config import (
    CONFIG,
    DEFAULT_MAX_SIDE,
    DepthPreprocessingConfig,
    ModelConfig,
    PreprocessingConfig,
    read_config,
)
from upscore.checkpoints.hub import fetch_model, is_on_hub
from upscore.checkpoints.importers.state_dict import check_shapes
from upscore.errors import UserError
from upscore.files import WriteError, atomic_folder
from upscore.models.backbones.base import Backbone
from upscore.models.build import build
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.preprocessing import DepthPreprocessing, Preprocessing
from upscore.text import first_line

WEIGHTS = "model.safetensors"
"""File name of the weights."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of weights in .safetensors files; all are converted to float32."""
INTEGERS = ("I64", "I32", "BOOL")
"""Types of counters and index tables in .safetensors files."""
QUANTIZED = "int8"
"""Subfolder with the int8 version of a calibrated network."""
BUILT_IN = Path(__file__).parents[1] / "builtin"
"""Folder of the model folders that come with the package."""


def save_model(
    folder: str | Path,
    net: FCN | MaskRCNN,
    *,
    classes: list[str],
    max_side: int = DEFAULT_MAX_SIDE,
    training: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a model folder atomically; an existing model is replaced.

    Args:
        folder: the folder.
        net: a network made by `upscore.models.build`.
        classes: the class names, by class index.
        max_side: see `ModelConfig.max_side`.
        training: provenance of the weights.
        scores: evaluation results.
        half: whether to round the weights to float16, which halves the size of the file.

    Raises:
        ValueError: the network was not made by `build`, the number of classes is wrong, or a weight exceeds the range
            of float16.
        UserError: the folder contains other files.
        WriteError: the folder can't be written.
    """
    if not net.architecture:
        raise ValueError(
            "only a network made by upscore.models.build can be saved, because model.json stores the arguments of build"
        )
    if len(classes) != net.num_classes:
        raise ValueError(f"{len(classes)} class names for a network of {net.num_classes} classes")
    depth = net.backbone.depth_preprocessing
    config = ModelConfig(
        architecture=net.architecture,  # pyright: ignore[reportArgumentType]
        classes=classes,
        geometric_classes=net.geometric_classes if isinstance(net, TwoHeads) else [],
        preprocessing=PreprocessingConfig(**asdict(net.preprocessing)),
        depth_preprocessing=None if depth is None else DepthPreprocessingConfig(**asdict(depth)),
        max_side=max_side,
        **_object_fields(net),
        training=training or {},
        scores=scores or {},
    )
    refuse_others(Path(folder))
    with atomic_folder(folder) as temporary:
        state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        if half:
            state = {name: _halved(name, tensor) for name, tensor in state.items()}
        try:
            save_file(state, temporary / WEIGHTS, metadata={"format": config.format})
        except SafetensorError as error:
            raise WriteError(Path(folder) / WEIGHTS, str(error)) from error
        (temporary / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _object_fields(net: FCN | MaskRCNN) -> dict[str, Any]:
    """Return the fields of the configuration that only networks for instance segmentation have."""
    if not isinstance(net, MaskRCNN):
        return {}
    return {
        "score_threshold": net.score_threshold,
        "mask_nms": net.mask_nms,
        "display_threshold": net.display_threshold,
        "category_ids": net.category_ids,
    }


def _halved(name: str, tensor: Tensor) -> Tensor:
    """Round a float32 tensor to float16; other tensors are returned unchanged."""
    if tensor.dtype != torch.float32:
        return tensor
    halved = tensor.half()
    if not halved.isfinite().all():
        raise ValueError(f"{name} has values outside the range of float16")
    return halved


def refuse_others(folder: Path) -> None:
    """Check that a folder is new, empty or a model, because `save_model` replaces all its files.

    Raises:
        UserError: the path is a file, or a folder with other files.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a new or an empty folder")
    present = {file.name for file in folder.iterdir()} if folder.exists() else set()
    others = sorted(present - {WEIGHTS, CONFIG, QUANTIZED})
    if others:
        raise UserError(f"{folder} contains {others[0]}, which is not part of a model; choose a new or an empty folder")


def find_model(path: str | Path) -> Path:
    """Return the model folder of a path, downloading it if it is on the Hugging Face hub.

    Args:
        path: a model folder, the folder of a training run (its best model), the name of a built-in model, or an address
            on the hub (hf://owner/name, hf://owner/name@revision).

    Raises:
        UserError: there is no such model, or it can't be downloaded.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"{path!r} is not a model: give the path of a model folder, or the name of a model")
    if isinstance(path, str) and is_on_hub(path):
        path = fetch_model(path, [CONFIG, WEIGHTS])
    path = Path(path)
    for folder in (path, path / "best"):
        if (folder / CONFIG).is_file():
            return folder
    if (path / "run.json").is_file():
        raise UserError(
            f"{path} is a run without a model, because it was interrupted before its first validation: run its command "
            "again with --resume (in Python: resume=True)"
        )
    state = "contains neither model.json nor best/model.json" if path.is_dir() else "is not a folder"
    hint = ""
    if len(path.parts) == 1 and not path.exists():
        if path.name in (names := built_in_models()):
            return BUILT_IN / path
        hint = f", or the name of a built-in model: {', '.join(names)}" if names else ""
    raise UserError(f"{path} {state}; give a model folder written by `upscore train` or `upscore import`{hint}")


def built_in_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(config.parent.name for config in BUILT_IN.glob(f"*/{CONFIG}"))


def load_model(path: str | Path, backbone: Backbone | None = None) -> tuple[FCN | MaskRCNN, ModelConfig]:
    """Read a model; return the network in evaluation mode and its configuration.

    Args:
        path: as for `find_model`.
        backbone: a replacement for the backbone, such as a `BackboneSpec` without layers; its weights are not read.
            None: the complete network.

    Raises:
        UserError: there is no model, the configuration is invalid, or the weights do not match it.
    """
    folder = find_model(path)
    config = read_config(folder)
    architecture: dict[str, Any] = config.architecture.model_dump() | {"backbone_module": backbone}
    try:
        with torch.device("meta"), _SkipInit():
            net = build(**architecture)
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: architecture: {error}") from error
    weights = folder / WEIGHTS
    expected = net.state_dict()
    check_weights(weights, expected, complete=backbone is None)
    if {name for name, _ in net.named_buffers()} - expected.keys():  # tables that are not stored
        with _SkipInit():
            net = build(**architecture)
    net.load_state_dict(_read_weights(weights, expected), strict=True, assign=True)
    net.backbone.preprocessing = Preprocessing(**config.preprocessing.model_dump())
    if config.depth_preprocessing is not None:
        net.backbone.depth_preprocessing = DepthPreprocessing(**config.depth_preprocessing.model_dump())
    net.classes = list(config.classes)
    if isinstance(net, TwoHeads):
        net.geometric_classes = list(config.geometric_classes)
    if isinstance(net, MaskRCNN):
        net.score_threshold = net.score_threshold if config.score_threshold is None else config.score_threshold
        net.mask_nms, net.display_threshold = config.mask_nms, config.display_threshold
        net.category_ids = None if config.category_ids is None else list(config.category_ids)
    return net.eval(), config


def check_weights(path: Path, expected: Mapping[str, Tensor], *, complete: bool = True) -> None:
    """Check the names, shapes and types in the header of a .safetensors file, without reading weights.

    Args:
        path: the file.
        expected: tensors by name, possibly on the meta device.
        complete: whether unexpected tensors are an error.

    Raises:
        UserError: the file can't be read, or a tensor is missing, unexpected, or has a wrong shape or type.
    """
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = {present_name(name): name for name in file.keys()}  # noqa: SIM118
            parts = {name: file.get_slice(names[name]) for name in names if complete or name in expected}
            shapes = {name: part.get_shape() for name, part in parts.items()}
            types = {name: part.get_dtype() for name, part in parts.items()}
        check_shapes(shapes, {name: tensor.shape for name, tensor in expected.items()})
        for name, dtype in types.items():
            if dtype not in (FLOATS if expected[name].is_floating_point() else INTEGERS):
                raise UserError(f"{name} has the type {dtype}, which is not supported")
    except (OSError, SafetensorError, UserError) as error:
        raise UserError(f"{path} does not contain the weights of {CONFIG}: {first_line(error)}") from error


def require_file(weights: Path) -> None:
    """Check that the weights are a regular file, since opening a pipe would wait for its writer.

    Raises:
        UserError: they are not.
    """
    if not weights.is_file():
        raise UserError(f"{weights} is missing or not a file; give a model folder")


def present_name(name: str) -> str:
    """Return the name in the network of a tensor in a file; earlier versions called the backbone "trunk"."""
    return f"backbone.{name.removeprefix('trunk.')}" if name.startswith("trunk.") else name


def _read_weights(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Read the tensors with the given names; floats as float32.

    Raises:
        UserError: the file can't be read, or contains NaN, infinity or a negative variance.
    """
    try:
        with safe_open(path, framework="pt") as file:
            in_file = {present_name(name): name for name in file.keys()}  # noqa: SIM118
            stored = {name: file.get_tensor(in_file[name]) for name in names}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read: {first_line(error)}") from error
    state = {name: value.float() if value.is_floating_point() else value for name, value in stored.items()}
    for name, value in state.items():
        # the sum is a fast test, but may overflow for finite values
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            raise UserError(f"{path}: {name} contains NaN or infinity; train the model again, or use an earlier one")
        if name.endswith("running_var") and value.numel() and value.min() < 0:
            raise UserError(f"{path}: {name} contains a negative variance; the file is damaged")
    return state


class _SkipInit(TorchFunctionMode):
    """Skip random initialisation, whose results are replaced; on the meta device it triggers imports of a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
