"""Import detectron2's Mask R-CNN checkpoints: a restricted reader of its pickles, and the mapping of its keys.

The reader unpickles arrays and containers only; it never calls what a file names.
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


RESNET = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{stage}\.", f"res{stage + 1}.") for stage in range(1, 5)),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
"""A ResNet's names in torchvision -> in detectron2."""

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
"""Our names -> detectron2's, but for the backbone."""

CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
"""Of the configuration rather than learned; recent versions leave them out."""

MSRA = Preprocessing(mean=(123.675, 116.28, 103.53), std=(1.0, 1.0, 1.0), channel_order="BGR")
"""The original ResNets, which detectron2's R-50 and R-101 begin with."""


def read_detectron2(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pkl file of detectron2's, or of a .pth file of its trainer, by name.

    Raises:
        UserError: it can't be read as such, or holds something else than a whole network of detectron2's.
    """
    checkpoint = read_pickle(path) if Path(path).suffix == ".pkl" else read_checkpoint(path)
    if "blobs" in checkpoint or any(str(name).endswith("_branch2a_w") for name in unwrap(checkpoint)):
        raise UserError(f"{path}: is of the first Detectron, not of detectron2; convert it with detectron2 first")
    if checkpoint.get("matching_heuristics"):
        raise UserError(f"{path}: holds a backbone to start training from, not a network that finds objects")
    tensors = {str(name): value for name, value in unwrap(checkpoint).items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{path}: holds no tensors, but {', '.join(map(str, list(checkpoint)[:3])) or 'nothing at all'}"
        )
    return tensors


def import_detectron2(state: Mapping[str, Tensor]) -> MaskRCNN:
    """Turn a state dict of `read_detectron2` into a network in evaluation mode, which runs by detectron2's rules.

    What the weights alone don't say is taken to be as in detectron2's own R-50 and R-101: BGR pixels with a standard
    deviation of 1, and bottlenecks that stride in their first convolution. A file that says how pixels are normalised
    is followed; with another deviation the backbone is one of torchvision's, which stride in the second.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    if not any(name.startswith("roi_heads.mask_head.") for name in state):
        raise UserError("this is no Mask R-CNN of detectron2: it has no roi_heads.mask_head")
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
    if ours.startswith("backbone.body."):
        return backbone + rename(ours.removeprefix("backbone.body."), RESNET)
    if ours.startswith("shared_head."):
        return "roi_heads." + rename(ours.replace("shared_head.", "layer4.", 1), RESNET)
    return rename(ours, HEADS)


def _backbone(state: Mapping[str, Tensor], backbone: str) -> str:
    conv = state.get(f"{backbone}res2.0.conv2.weight")
    if conv is not None and conv.ndim == 4 and conv.shape[0] != conv.shape[1]:
        raise UserError("the backbone is a ResNeXt, whose convolutions are in groups; only ResNets are imported")
    return resnet_name(state, f"{backbone}res4.")


def _preprocessing(state: Mapping[str, Tensor]) -> Preprocessing:
    """How pixels are normalised, which the file may say, in the order of the network's channels."""
    if "pixel_mean" not in state or "pixel_std" not in state:
        return MSRA
    mean, std = (state[name].flatten().tolist() for name in ("pixel_mean", "pixel_std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError("pixel_mean and pixel_std must be three numbers each, the latter above 0")
    # photos have more red than blue
    order: Literal["RGB", "BGR"] = "RGB" if mean[0] > mean[2] else "BGR"
    step = 1 if order == "RGB" else -1
    return Preprocessing(mean=_three(mean[::step]), std=_three(std[::step]), channel_order=order)


def _smallest_anchor(state: Mapping[str, Tensor]) -> int:
    """The side of the smallest anchor where the file has them, otherwise 0."""
    anchors = state.get("proposal_generator.anchor_generator.cell_anchors.0")
    if anchors is None or anchors.ndim != 2 or anchors.shape[1] != 4 or not len(anchors):
        return 0
    sides = anchors[:, 2:] - anchors[:, :2]
    return round(sides.prod(dim=1).sqrt().min().item())


def _three(values: list[float]) -> tuple[float, float, float]:
    first, second, third = (round(value, 4) for value in values)
    return first, second, third
