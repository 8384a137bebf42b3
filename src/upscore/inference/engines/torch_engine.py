"""Torch engine, the reference implementation: modules on a CPU, compiled modules and CUDA graphs on a GPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from upscore.inference.engines.base import AnyShape

MIN_CALLS = 3
"""Number of calls with the same shapes before a CUDA graph is captured, since a mixed folder rarely repeats a shape."""

MAX_GRAPHS = 4
"""Largest number of captured CUDA graphs; each of them holds the memory of all its intermediate results."""

Function = Callable[..., tuple[Tensor, ...]]


class TorchEngine:
    """Engine that runs modules with torch, in the channels-last memory format.

    Args:
        precision: "float32" or "bfloat16".
        device: device of the modules; None is the first GPU, or the CPU if there is none.
    """

    name = "torch"

    def __init__(self, precision: str, device: torch.device | str | None = None) -> None:
        self.precision = precision
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> AnyShape:
        """See `Engine`."""
        part = part.eval().to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        run = CUDAGraphCache(_compiled(part)) if self.device.type == "cuda" else part

        @torch.inference_mode()
        def run_part(tensor: Tensor) -> tuple[Tensor, ...]:
            inputs = _channels_last(tensor.to(self.device))
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                outputs = run(inputs)
            return tuple(output.float() for output in outputs)

        return AnyShape(run_part)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _compiled(part: nn.Module) -> Function:
    """Return the part compiled by `torch.compile` for any size, or unchanged if Triton is not installed."""
    return torch.compile(part, dynamic=True) if find_spec("triton") else part


class CapturedCall(Protocol):
    """Call that can be repeated with other inputs of the same shapes."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]: ...


class CUDAGraph:
    """CUDA graph: all kernels of a call, which are launched together. The next call overwrites the outputs."""

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the set-up of the first call must not be captured
            function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs


class CUDAGraphCache:
    """Function whose calls are captured as CUDA graphs for the shapes that occur most recently and repeatedly.

    Args:
        function: maps tensors to a tuple of tensors.
        capture: creates a captured call from a function and its inputs.
    """

    def __init__(self, function: Function, capture: Callable[[Function, Any], CapturedCall] = CUDAGraph) -> None:
        self.function, self.capture = function, capture
        self.calls: dict[tuple[torch.Size, ...], int] = {}
        """Number of calls by shapes, for shapes without a graph."""
        self.captured: OrderedDict[tuple[torch.Size, ...], CapturedCall] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes in self.captured:
            self.captured.move_to_end(shapes)
            return self.captured[shapes](*inputs)
        self.calls[shapes] = self.calls.get(shapes, 0) + 1
        if self.calls[shapes] <= MIN_CALLS:
            return self.function(*inputs)
        del self.calls[shapes]
        self.captured[shapes] = self.capture(self.function, inputs)
        if len(self.captured) > MAX_GRAPHS:
            self.captured.popitem(last=False)
        return self.captured[shapes](*inputs)
