"""OpenVINO, the fastest on a CPU; the only place that imports it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.inference.engines.cache import Compiled
from upscore.inference.engines.engine import Run

if TYPE_CHECKING:
    import openvino as ov

HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}
"""What layers run in; with int8, those that are not quantized."""


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
        store: where compiled parts are kept for the next start, if they are.
    """

    name = "openvino"
    device = torch.device("cpu")

    def __init__(
        self, precision: str, *, quantized: Mapping[str, ov.Model] | None = None, store: Compiled | None = None
    ) -> None:
        self.precision, self.quantized, self.store = precision, quantized or {}, store
        self.core = core()

    def compile(self, part: nn.Module, *examples: Tensor, name: str) -> Run:
        """See `Engine`."""
        config = {
            "INFERENCE_PRECISION_HINT": HINTS[self.precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = self._stored(name, config)
        if compiled is None:
            model = self.quantized[name] if name in self.quantized else convert(part, *examples)
            compiled = self.core.compile_model(model, "CPU", config)
            if self.store:
                self.store.write(name, compiled.export_model().getvalue())
        request = compiled.create_infer_request()
        outputs = range(len(compiled.outputs))

        def run_part(*inputs: Tensor) -> tuple[Tensor, ...]:
            request.infer([_to_openvino(tensor) for tensor in inputs], share_inputs=True)
            return tuple(_to_torch(request.get_output_tensor(index)) for index in outputs)

        return run_part

    def _stored(self, name: str, config: dict[str, Any]) -> Any:
        """The part as an earlier process compiled it, or None."""
        blob = self.store.read(name) if self.store else None
        try:
            return None if blob is None else self.core.import_model(blob, "CPU", config)
        except RuntimeError:  # of another version, or damaged: it is made again
            return None


def _to_openvino(tensor: Tensor) -> Any:
    """The same memory; numpy has no bfloat16."""
    if tensor.dtype != torch.bfloat16:
        return tensor.contiguous().numpy()
    ov = import_openvino()
    return ov.Tensor(tensor.contiguous().view(torch.int16).numpy(), list(tensor.shape), ov.Type.bf16)


def _to_torch(tensor: Any) -> Tensor:
    """The same memory."""
    if tensor.element_type != import_openvino().Type.bf16:
        return torch.from_numpy(tensor.data)
    return torch.from_numpy(tensor.data.view("int16")).view(torch.bfloat16)


def convert(part: nn.Module, *examples: Tensor) -> ov.Model:
    """A part as OpenVINO's model, by its reader of torch's graphs; all sides but the channels are left open."""
    ov = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes taken for constants, which tests at other sizes show they are not
        traced = torch.jit.trace(part.eval(), examples, check_trace=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(traced, example_input=examples, trace_kwargs={})
        model = frontend.convert(frontend.load(decoder))
    # the channels are the second of four axes, the last of two
    free = {4: lambda shape: [-1, shape[1], -1, -1], 2: lambda shape: [-1, shape[1]]}
    model.reshape({index: ov.PartialShape(free[x.ndim](x.shape)) for index, x in enumerate(examples)})
    return model
