"""OpenVINO, the fastest on a CPU; the only place that imports it."""

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
"""What layers run in; with int8, those that are not quantized."""

LARGE = 2**21
"""Pixels of an image from which on a shape that was not expected is compiled for too: the network for all shapes needs
2.4 times as much memory, of which a large image takes gigabytes."""

MOST_LARGE = 2**24
"""Pixels of all unexpected large shapes that stay compiled, besides the last one: the few shapes of tiles."""

ALIGNMENT = 64
"""Bytes of a cache line, at whose beginning outputs begin."""


def available() -> bool:
    """Whether it is installed."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """The module, without the package of its that reports how it is used.

    Raises:
        UserError: it is not installed.
    """
    if not available():
        raise UserError("OpenVINO is not installed: pip install openvino, or choose the engine torch")
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]  # makes its import fail
    import openvino

    return openvino


@cache
def core() -> Any:
    """One for the whole process, which stays: a core that goes takes the stack of the process's signals with it."""
    return import_openvino().Core()


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINOEngine:
    """A CPU's engine, for any size without compiling again.

    Args:
        precision: "float32", "bfloat16" or "int8".
        quantized: parts in int8, by their names, for that precision alone; the others run in bfloat16 beside them.
        store: where parts are kept for the next start, if they are.
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
        model = self.quantized.get(name) or self._stored(name)
        if model is None:
            model = convert(part, example)
            if self.store:
                self.store.write(name, lambda folder: import_openvino().save_model(model, folder / XML, False))
        return OpenVINOPart(model, lambda model: core().compile_model(model, "CPU", self.config))

    def _stored(self, name: str) -> Any:
        """The part as an earlier process wrote it, or None."""
        folder = self.store.find(name) if self.store else None
        try:
            return None if folder is None else core().read_model(folder / XML)
        except RuntimeError:  # of another version, or damaged: it is made again
            return None


XML = Path("part.xml")
"""A part's layers; its weights are beside it."""


class OpenVINOPart:
    """A part that is compiled when it is first needed: once for each of the expected shapes, which makes it faster by
    up to a third, for the last large one, and once for all others.

    Args:
        model: whose sizes are open.
        compile_model: for an engine's precision.
    """

    def __init__(self, model: ov.Model, compile_model: Callable[[ov.Model], ov.CompiledModel]) -> None:
        self.model, self.compile_model = model, compile_model
        self.requests: dict[tuple[int, ...] | None, tuple[ov.InferRequest, list[Tensor]]] = {}
        self.expected: frozenset[tuple[int, ...]] = frozenset()

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """See `Run`."""
        given = tuple(tensor.shape)
        large = tensor.ndim == 4 and given[0] * given[2] * given[3] >= LARGE
        shape = given if large or given in self.expected else None
        if shape not in self.requests:
            if large:
                self._make_room(shape)
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

    def _make_room(self, shape: tuple[int, ...] | None) -> None:
        """Before a large shape is compiled, let go of the earliest others."""
        large = [key for key in self.requests if key is not None and key not in self.expected]
        while large and sum(map(_pixels, [*large, shape])) > MOST_LARGE:
            del self.requests[large.pop(0)]

    def _compiled(self, shape: tuple[int, ...] | None) -> tuple[ov.InferRequest, list[Tensor]]:
        """What runs it, for one shape with the tensors that it writes to."""
        if shape is None:
            return self.compile_model(self.model).create_infer_request(), []
        model = self.model.clone()
        model.reshape(list(shape))
        request = self.compile_model(model).create_infer_request()
        outputs = _side_by_side([request.get_output_tensor(index) for index in range(len(model.outputs))])
        for index, output in enumerate(outputs):
            request.set_output_tensor(index, _to_openvino(output))
        return request, outputs


def _pixels(shape: tuple[int, ...] | None) -> int:
    return 0 if shape is None else shape[0] * shape[2] * shape[3]


def _side_by_side(tensors: list[ov.Tensor]) -> list[Tensor]:
    """Tensors like these in one piece of memory: maps that follow one another can be read as one table."""
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
    """The same memory; numpy has no bfloat16."""
    ov = import_openvino()
    if tensor.dtype != torch.bfloat16:
        return ov.Tensor(tensor.numpy(), shared_memory=True)
    return ov.Tensor(tensor.view(torch.int16).numpy(), list(tensor.shape), ov.Type.bf16)


def _to_torch(tensor: Any) -> Tensor:
    """The same memory."""
    if tensor.element_type != import_openvino().Type.bf16:
        return torch.from_numpy(tensor.data)
    return torch.from_numpy(tensor.data.view("int16")).view(torch.bfloat16)


def convert(part: nn.Module, example: Tensor) -> ov.Model:
    """A part as OpenVINO's model, normalisations folded into convolutions; all sizes but the channels are left open."""
    ov = import_openvino()
    # the channels are the second of four axes, the last of two
    free = [-1, example.shape[1], -1, -1] if example.ndim == 4 else [-1, example.shape[1]]
    with torch.inference_mode(), quiet_tracing():
        traced = torch.jit.trace(part.eval(), (example,), check_trace=False)
        return ov.convert_model(traced, example_input=(example,), input=ov.PartialShape(free))
