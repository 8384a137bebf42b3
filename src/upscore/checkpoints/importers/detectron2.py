"""Import Mask R-CNN checkpoints of detectron2: read its pickle files safely, and map its keys.

The reader unpickles only arrays and containers, and never calls functions that a file names.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from upscore.checkpoints.importers.coco_classes import coco, name_classes
from upscore.checkpoints.importers.state_dict import (
    check_tensors,
    empty_mask_rcnn,
    fill,
    length,
    read_checkpoint,
    rename,
    resnet_name,
    return_all,
    stored_names,
    unwrap,
    without_counters,
)
from upscore.errors import UserError
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.preprocessing import Preprocessing

MAX_BYTES = 4 << 30
"""Largest size of a .pkl file; published files are smaller than a fifth."""

RESNET = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{stage}\.", f"res{stage + 1}.") for stage in range(1, 5)),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
"""Rules that rename the keys of a ResNet from torchvision's to detectron2's."""

HEADS = (
    *((rf"^neck\.lateral\.{2**level}\.", f"backbone.fpn_lateral{level}.") for level in range(2, 6)),
    *((rf"^neck\.output\.{2**level}\.", f"backbone.fpn_output{level}.") for level in range(2, 6)),
    (r"^rpn\.head\.convs\.0\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.head\.objectness\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.deltas\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^box_head\.fcs\.0\.", "roi_heads.box_head.fc1."),
    (r"^box_head\.fcs\.1\.", "roi_heads.box_head.fc2."),
    (r"^box_predictor\.classes\.", "roi_heads.box_predictor.cls_score."),
    (r"^box_predictor\.deltas\.", "roi_heads.box_predictor.bbox_pred."),
    *((rf"^mask_head\.convs\.{i}\.0\.", f"roi_heads.mask_head.mask_fcn{i + 1}.") for i in range(4)),
    (r"^mask_head\.upsample\.", "roi_heads.mask_head.deconv."),
    (r"^mask_head\.predictor\.", "roi_heads.mask_head.predictor."),
)
"""Rules that rename the keys of our heads to detectron2's."""

CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
"""Prefixes of constants of the configuration, which recent versions do not store."""

MSRA = Preprocessing(mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0), channel_order="BGR")
"""Preprocessing of the original (MSRA) ResNets, the backbones of detectron2's R-50 and R-101."""


def read_detectron2(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a .pkl file of detectron2's model zoo, or of a .pth file of its trainer, by name.

    Raises:
        UserError: the file can't be read, or does not contain a complete detector of detectron2.
    """
    checkpoint = read_pickle(path) if Path(path).suffix == ".pkl" else read_checkpoint(path)
    if "blobs" in checkpoint or any(str(name).endswith("_branch2a_w") for name in unwrap(checkpoint)):
        raise UserError(f"{path}: is a checkpoint of Detectron (version 1); convert it with detectron2 first")
    if checkpoint.get("matching_heuristics"):
        raise UserError(f"{path}: contains only a backbone for training; give a trained detector")
    tensors = {str(name): value for name, value in unwrap(checkpoint).items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: contains no tensors, only {', '.join(map(str, list(checkpoint)[:3])) or 'nothing'}")
    return tensors


def import_detectron2(state: Mapping[str, Tensor]) -> MaskRCNN:
    """Convert a state dict of `read_detectron2` to a network in evaluation mode, with the preset "detectron2".

    Settings that the file does not contain are those of detectron2's R-50 and R-101: BGR pixels with a standard
    deviation of 1, and bottlenecks with the stride in the first (1x1) convolution. If the file contains `pixel_mean`
    and `pixel_std`, they are used; with another standard deviation than 1, the backbone is torchvision's ResNet, with
    the stride in the 3x3 convolution.

    Raises:
        UserError: a tensor is missing, unexpected or has a wrong shape.
    """
    if not any(name.startswith("roi_heads.mask_head.") for name in state):
        raise UserError("the checkpoint is not a Mask R-CNN of detectron2: it has no roi_heads.mask_head")
    preprocessing = _preprocessing(state)
    smallest_anchor = _smallest_anchor(state)
    pyramid = "backbone.fpn_lateral2.weight" in state
    backbone = "backbone.bottom_up." if pyramid else "backbone."
    state = without_counters({name: value for name, value in state.items() if not name.startswith(CONSTANTS)})
    num_classes = length(state, "roi_heads.box_predictor.cls_score.bias") - 1
    stride_in: Literal["1x1", "3x3"] = "1x1" if preprocessing.std == MSRA.std else "3x3"
    net = empty_mask_rcnn(
        backbone=_backbone(state, backbone),
        num_classes=num_classes,
        preset="detectron2",
        neck="fpn" if pyramid else "c4",
        channels=length(state, "roi_heads.mask_head.deconv.bias"),
        box_features=length(state, "roi_heads.box_head.fc1.bias") if pyramid else 0,
        norm="frozen",
        stride_in=stride_in,
        smallest_anchor=smallest_anchor,
    )
    theirs = {ours: _their_name(ours, backbone) for ours in stored_names(net)}
    check_tensors(state, {theirs[ours]: net.state_dict()[ours].shape for ours in theirs})
    fill(net, {ours: state[name] for ours, name in theirs.items()})
    net.backbone.preprocessing = preprocessing
    return_all(net)
    name_classes(net, coco())
    return net


def _their_name(ours: str, backbone: str) -> str:
    """Return detectron2's name of one of our tensors; `backbone` is the prefix of its backbone."""
    if ours.startswith("backbone.body."):
        return backbone + rename(ours.removeprefix("backbone.body."), RESNET)
    if ours.startswith("shared_head."):
        return "roi_heads." + rename(ours.replace("shared_head.", "layer4.", 1), RESNET)
    return rename(ours, HEADS)


def _backbone(state: Mapping[str, Tensor], backbone: str) -> str:
    """Return the name of the ResNet."""
    conv = state.get(f"{backbone}res2.0.conv2.weight")
    if conv is not None and conv.ndim == 4 and conv.shape[0] != conv.shape[1]:
        raise UserError("the backbone is a ResNeXt, with grouped convolutions; only ResNets are supported")
    return resnet_name(state, f"{backbone}res4.")


def _preprocessing(state: Mapping[str, Tensor]) -> Preprocessing:
    """Return the preprocessing in the file, whose values are in the channel order of the network, or `MSRA`."""
    if "pixel_mean" not in state or "pixel_std" not in state:
        return MSRA
    mean, std = (state[name].flatten().tolist() for name in ("pixel_mean", "pixel_std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError("pixel_mean and pixel_std must have three numbers each, and pixel_std must be positive")
    # the mean of red is above that of blue in natural images
    order: Literal["RGB", "BGR"] = "RGB" if mean[0] > mean[2] else "BGR"
    step = 1 if order == "RGB" else -1
    return Preprocessing(mean=_three(mean[::step]), std=_three(std[::step]), channel_order=order)


def _smallest_anchor(state: Mapping[str, Tensor]) -> int:
    """Return the side of the smallest anchor in the file; 0 if it contains no anchors."""
    anchors = state.get("proposal_generator.anchor_generator.cell_anchors.0")
    if anchors is None or anchors.ndim != 2 or anchors.shape[1] != 4 or not len(anchors):
        return 0
    sides = anchors[:, 2:] - anchors[:, :2]
    return round(sides.prod(dim=1).sqrt().min().item())


def _three(values: list[float]) -> tuple[float, float, float]:
    """Return three values rounded to 4 digits."""
    first, second, third = (round(value, 4) for value in values)
    return first, second, third


def read_pickle(path: str | Path) -> dict[str, Any]:
    """Read a .pkl file of numpy arrays as nested dicts and lists of tensors.

    Only arrays of numbers, ordered dicts and plain values are unpickled. Memory is limited by the size of the file.

    Raises:
        UserError: the file is missing, damaged, too large or not a dict, or requests other functions.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: has {size / 2**30:.0f} GiB; at most {MAX_BYTES >> 30} GiB are read")
        content = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        tensors = _to_tensors(content)
    except _RefusedError as error:
        raise UserError(f"{path}: is not read, because {error}; if you trust it, save only its tensors") from error
    except OSError as error:
        raise UserError(f"{path}: can't be opened: {error.strerror}") from error
    except UserError:
        raise
    except Exception as error:  # the reader raises exceptions of any type for damaged files
        raise UserError(f"{path}: is truncated, damaged or not a pickle; download it again") from error
    if not isinstance(tensors, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}; it must contain a dict of tensors")
    return tensors


class _RefusedError(Exception):
    """A file requests a function or a type that is not allowed."""


# pickle.Unpickler, in C, reserves memory for the number of objects that a file declares
class _Unpickler(pickle._Unpickler):
    """Unpickler that returns records of arrays, which are checked before numpy gets them."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        makers: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy", "dtype"): lambda code, *_: _DType(code),
            ("numpy", "ndarray"): lambda *_: _Array(),
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
            ("__builtin__", "bytes"): lambda: b"",  # the content of an empty array
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in makers:
            raise _RefusedError(f"it would run {module}.{name}")
        make = makers[module, name]
        # a new function each time, because a pickle can set attributes of the objects that it gets
        return make if make is OrderedDict else lambda *arguments: make(*arguments)


class _DType:
    """The type of an array; a pickle could change numpy's own dtype objects to any type."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch(r"[fiu][1248]|b1", code):
            raise _RefusedError(f"it contains an array of the type {code!r}, which is not numeric")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array that is being unpickled."""

    array: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, raw = state
        if not isinstance(raw, bytes | str):
            raise _RefusedError("it contains an array of objects")
        # byte strings of Python 2 are decoded as latin1
        self.fill(raw if isinstance(raw, bytes) else raw.encode("latin1"), dtype, shape, "F" if column_major else "C")

    def fill(self, raw: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: Any) -> None:
        if math.prod(shape) * dtype.dtype.itemsize != len(raw):
            raise ValueError("the size of an array differs from its shape")
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)


def _from_buffer(raw: bytes | bytearray, dtype: _DType, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.fill(raw, dtype, shape, order)
    return array


def _scalar(dtype: _DType, raw: bytes | str) -> Any:
    return np.frombuffer(raw if isinstance(raw, bytes) else raw.encode("latin1"), dtype.dtype)[0].item()


def _to_tensors(value: Any) -> Any:
    """Convert the arrays in nested dicts, lists and tuples to tensors."""
    if isinstance(value, _Array):
        return _to_tensor(value.array)
    if isinstance(value, dict):
        return {key: _to_tensors(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tensors(part) for part in value]
    return value


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
