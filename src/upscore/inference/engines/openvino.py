"""OpenVINO engine, the fastest on a CPU. No other module imports OpenVINO directly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.inference.engines.base import Run, quiet_tracing
from upscore.inference.engines.cache import Store
from upscore.inference.threading import usual_torch_threads

if TYPE_CHECKING:
    import openvino as ov

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""OpenVINO's number formats; with int8, layers that are not quantized run in bfloat16."""

LARGE_PIXELS = 2**21
"""Images with at least this many pixels get a compiled network of their own: the network for all shapes needs 2.4 times
as much memory, which is gigabytes for a large image."""

MAX_LARGE_PIXELS = 2**24
"""Total number of pixels of the large shapes that stay compiled, which suffices for the few shapes of tiles."""

ALIGNMENT = 64
"""Size of a cache line in bytes, to which outputs are aligned."""

XML = Path("part.xml")
"""File with the layers of a part; its weights are in a file beside it."""


def available() -> bool:
    """Return whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry package.

    Raises:
        UserError: OpenVINO is not installed.
    """
    if not available():
        raise UserError("OpenVINO is not installed: run `pip install openvino`, or choose the engine torch")
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]  # makes its import fail
    import openvino

    return openvino


@cache
def core() -> Any:
    """Return the OpenVINO core of the process.

    It is never deleted: the destructor of a core also removes the signal stack of the process.
    """
    return import_openvino().Core()


def has_bfloat16() -> bool:
    """Return whether OpenVINO runs bfloat16 on this processor."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINOEngine:
    """Engine that runs parts with OpenVINO on a CPU.

    Args:
        precision: "float32", "bfloat16" or "int8".
        quantized: parts in int8 by their names, for the precision "int8"; all other parts run in bfloat16.
        store: cache for the next start; None disables it.
    """

    name = "openvino"
    device = torch.device("cpu")

    def __init__(
        self, precision: str, *, quantized: Mapping[str, ov.Model] | None = None, store: Store | None = None
    ) -> None:
        self.precision, self.quantized, self.store = precision, quantized or {}, store
        self.config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": usual_torch_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> Run:
        """See `Engine`."""
        model = self.quantized.get(name) or self._read(name)
        if model is None:
            model = convert(part, example)
            if self.store:
                self.store.write(name, lambda folder: import_openvino().save_model(model, folder / XML, False))
        return OpenVINOPart(model, lambda model: core().compile_model(model, "CPU", self.config))

    def _read(self, name: str) -> Any:
        """Return a part that an earlier process stored, or None."""
        folder = self.store.find(name) if self.store else None
        try:
            return None if folder is None else core().read_model(folder / XML)
        except RuntimeError:  # damaged, or of another version
            return None


class OpenVINOPart:
    """Part that is compiled at its first use: for each expected shape, for recent large shapes and for all others.

    A part that is compiled for a single shape is up to a third faster.

    Args:
        model: the part, with open sizes.
        compile_model: compiles a model in the precision of the engine.
    """

    def __init__(self, model: ov.Model, compile_model: Callable[[ov.Model], ov.CompiledModel]) -> None:
        self.model, self.compile_model = model, compile_model
        self.requests: dict[tuple[int, ...] | None, tuple[ov.InferRequest, list[Tensor]]] = {}
        """Request and output tensors by shape; None is the key of the request for all shapes."""
        self.expected: frozenset[tuple[int, ...]] = frozenset()

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """See `Run`."""
        size = tuple(tensor.shape)
        large = tensor.ndim == 4 and _pixels(size) >= LARGE_PIXELS
        shape = size if large or size in self.expected else None
        if shape not in self.requests:
            if large:
                self._drop_large(shape)
            self.requests[shape] = self._compiled(shape)
        request, outputs = self.requests[shape]
        request.infer([_to_openvino(tensor.contiguous())], share_inputs=True)
        if shape is None:
            return tuple(_to_torch(request.get_output_tensor(index)) for index in range(len(self.model.outputs)))
        return tuple(outputs)

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """See `Run`."""
        self.expected = frozenset(shapes)
        self.requests = {key: value for key, value in self.requests.items() if key is None or key in self.expected}

    def _drop_large(self, shape: tuple[int, ...] | None) -> None:
        """Drop the oldest large shapes before another one is compiled."""
        large = [key for key in self.requests if key is not None and key not in self.expected]
        while large and sum(map(_pixels, [*large, shape])) > MAX_LARGE_PIXELS:
            del self.requests[large.pop(0)]

    def _compiled(self, shape: tuple[int, ...] | None) -> tuple[ov.InferRequest, list[Tensor]]:
        """Compile the part for one shape or for all shapes (None); also return the output tensors of a single shape."""
        if shape is None:
            return self.compile_model(self.model).create_infer_request(), []
        model = self.model.clone()
        model.reshape(list(shape))
        request = self.compile_model(model).create_infer_request()
        outputs = _contiguous_tensors([request.get_output_tensor(index) for index in range(len(model.outputs))])
        for index, output in enumerate(outputs):
            request.set_output_tensor(index, _to_openvino(output))
        return request, outputs


def _pixels(shape: tuple[int, ...] | None) -> int:
    return 0 if shape is None else shape[0] * shape[2] * shape[3]


def _contiguous_tensors(tensors: list[ov.Tensor]) -> list[Tensor]:
    """Allocate tensors of the same shapes in one block of memory, so that consecutive maps can be read as one table."""
    starts, size = [], 0
    for tensor in tensors:
        starts.append(size)
        size += -(-tensor.byte_size // ALIGNMENT) * ALIGNMENT
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    memory = memory[-memory.data_ptr() % ALIGNMENT :]
    return [
        memory[start : start + like.byte_size].view(_to_torch(like).dtype).view(list(like.shape))
        for start, like in zip(starts, tensors, strict=True)
    ]


def _to_openvino(tensor: Tensor) -> Any:
    """Return an OpenVINO tensor that shares the memory of a torch tensor; numpy has no bfloat16."""
    ov = import_openvino()
    if tensor.dtype != torch.bfloat16:
        return ov.Tensor(tensor.numpy(), shared_memory=True)
    return ov.Tensor(tensor.view(torch.int16).numpy(), list(tensor.shape), ov.Type.bf16)


def _to_torch(tensor: Any) -> Tensor:
    """Return a torch tensor that shares the memory of an OpenVINO tensor."""
    if tensor.element_type != import_openvino().Type.bf16:
        return torch.from_numpy(tensor.data)
    return torch.from_numpy(tensor.data.view("int16")).view(torch.bfloat16)


def convert(part: nn.Module, example: Tensor) -> ov.Model:
    """Convert a part to an OpenVINO model for inputs of any size and a fixed number of channels."""
    ov = import_openvino()
    shape = [-1, example.shape[1], -1, -1] if example.ndim == 4 else [-1, example.shape[1]]
    with torch.inference_mode(), quiet_tracing():
        traced = torch.jit.trace(part.eval(), (example,), check_trace=False)
        return ov.convert_model(traced, example_input=(example,), input=ov.PartialShape(shape))
