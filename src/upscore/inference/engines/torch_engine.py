"""The reference engine: torch runs the modules, on the first GPU or the CPU, with CUDA graphs for fixed shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from upscore.inference.engines.base import AnyShape


class TorchEngine:
    """On a CPU module by module; on a GPU compiled, in channels-last, and as CUDA graphs where shapes repeat.

    Args:
        precision: "float32" or "bfloat16".
        device: the first GPU, or the CPU without one, by default.
    """

    name = "torch"

    def __init__(self, precision: str, device: torch.device | str | None = None) -> None:
        self.precision = precision
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> AnyShape:
        """See `Engine`."""
        part = part.eval().to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        run = Graphs(compiled(part)) if self.device.type == "cuda" else part

        @torch.inference_mode()
        def run_part(tensor: Tensor) -> tuple[Tensor, ...]:
            placed = _channels_last(tensor.to(self.device))
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                outputs = run(placed)
            return tuple(output.float() for output in outputs)

        return AnyShape(run_part)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


REPEATS = 3
"""Calls with the same shapes before they are captured: a folder of photos repeats them, a mixed one doesn't."""

MOST = 4
"""Captured graphs that are kept, for each holds the memory of all that it computes."""

Function = Callable[..., tuple[Tensor, ...]]


def compiled(part: nn.Module) -> Function:
    """The part by `torch.compile`, for any sizes; as it is where Triton, which writes the kernels, is not installed."""
    return torch.compile(part, dynamic=True) if find_spec("triton") else part


class Captured(Protocol):
    """One call that can be made again with other numbers of the same shapes."""

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]: ...


class Graph:
    """A CUDA graph: all kernels of a call, launched by a single one. Outputs are overwritten by the next call."""

    def __init__(self, function: Function, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is set up at the first call must not be captured
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


class Graphs:
    """Calls a function as it is until shapes have come several times, and from then on their captured call.

    Args:
        function: from tensors to a tuple of tensors.
        capture: what makes a captured call of a function and its inputs.
    """

    def __init__(self, function: Function, capture: Callable[[Function, Any], Captured] = Graph) -> None:
        self.function, self.capture = function, capture
        self.seen: dict[tuple[torch.Size, ...], int] = {}
        self.captured: OrderedDict[tuple[torch.Size, ...], Captured] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes in self.captured:
            self.captured.move_to_end(shapes)
            return self.captured[shapes](*inputs)
        self.seen[shapes] = self.seen.get(shapes, 0) + 1
        if self.seen[shapes] <= REPEATS:
            return self.function(*inputs)
        del self.seen[shapes]
        self.captured[shapes] = self.capture(self.function, inputs)
        if len(self.captured) > MOST:
            self.captured.popitem(last=False)
        return self.captured[shapes](*inputs)
