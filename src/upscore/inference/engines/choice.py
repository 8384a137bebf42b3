"""Which engine and which number format: what is asked for, or the fastest that is safe on the machine at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from upscore.errors import UserError
from upscore.inference.engines import onnxruntime, openvino
from upscore.inference.engines.cache import Store
from upscore.inference.engines.eager import TorchEngine
from upscore.inference.engines.engine import Engine
from upscore.models.precision import resolve_precision

if TYPE_CHECKING:
    import openvino as ov

EngineName = Literal["auto", "torch", "openvino", "onnxruntime"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
ENGINES, PRECISIONS = ("auto", "torch", "openvino", "onnxruntime"), ("auto", "float32", "bfloat16", "int8")
POSSIBLE = {
    "torch": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32",),
}


def resolve_engine(engine: EngineName, precision: Precision) -> str:
    """The engine's name; "auto" is torch on a machine with a GPU, otherwise OpenVINO, and torch where that is missing.

    Raises:
        UserError: there is no such engine, or it has no such precision.
    """
    if engine not in ENGINES:
        raise UserError(f"no engine is called {engine!r}; choose one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UserError(f"no precision is called {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if engine == "auto":
        gpu = torch.cuda.is_available() and precision != "int8"
        engine = "openvino" if openvino.available() and not gpu else "torch"
    if precision not in ("auto", *POSSIBLE[engine]):
        raise UserError(f"{engine} has no {precision} here: choose {' or '.join(POSSIBLE[engine])}, or another engine")
    return engine


def resolve_format(net: nn.Module, engine: str, precision: Precision) -> str:
    """The number format; "auto" is bfloat16 where the machine gains from it, and never int8."""
    if precision != "auto":
        return precision
    if engine == "onnxruntime":
        return "float32"
    if engine == "openvino":
        return "bfloat16" if openvino.has_bfloat16() else "float32"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return str(resolve_precision(net, "auto", device)).removeprefix("torch.")


def choose_engine(
    net: nn.Module,
    engine: EngineName = "auto",
    precision: Precision = "auto",
    *,
    quantized: Mapping[str, ov.Model] | None = None,
    store: Store | None = None,
) -> Engine:
    """An engine for a network.

    Args:
        net: what is going to run.
        engine, precision: see `resolve_engine` and `resolve_format`.
        quantized: the network's parts in int8, which that precision needs.
        store: where compiled parts are kept, if they are.

    Raises:
        UserError: there is no such engine or precision, or it is not installed.
    """
    name = resolve_engine(engine, precision)
    resolved = resolve_format(net, name, precision)
    if name == "onnxruntime":
        return onnxruntime.ONNXRuntimeEngine()
    if name == "torch":
        return TorchEngine(resolved)
    if resolved == "int8" and not quantized:
        raise UserError(
            "int8 needs a calibrated model: make one with `upscore calibrate MODEL PHOTOS`, and load its folder by "
            'upscore.load(MODEL, precision="int8")'
        )
    return openvino.OpenVINOEngine(resolved, quantized=quantized, store=store)
