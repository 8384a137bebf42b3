"""ONNX Runtime, for machines that OpenVINO is not made for."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.inference.engines.engine import Run

OPSET = 17


def available() -> bool:
    """Whether it is installed, with what the export needs."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


class ONNXRuntimeEngine:
    """On a CPU, in float32."""

    name, precision = "onnxruntime", "float32"
    device = torch.device("cpu")

    def __init__(self) -> None:
        if not available():
            raise UserError('ONNX Runtime is not installed: pip install "upscore[onnx]", or choose another engine')

    def compile(self, part: nn.Module, *examples: Tensor, name: str) -> Run:
        """See `Engine`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # warnings of sizes that differ from the traced ones, as they should
        session = onnxruntime.InferenceSession(to_onnx(part, *examples), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]

        def run_part(*inputs: Tensor) -> tuple[Tensor, ...]:
            arrays = {key: tensor.contiguous().numpy() for key, tensor in zip(names, inputs, strict=True)}
            outputs: Any = session.run(None, arrays)
            return tuple(torch.from_numpy(array) for array in outputs)

        return run_part


def to_onnx(part: nn.Module, *examples: Tensor) -> bytes:
    """A part in ONNX, whose sides but the channels are left open."""
    names = [f"input_{index}" for index in range(len(examples))]
    open_axes = {4: {0: "n", 2: "h", 3: "w"}, 2: {0: "n"}}
    with torch.inference_mode(), TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in `upscore.inference.engines.openvino.convert`
        torch.onnx.export(
            part.eval(),
            examples,
            written := Path(folder) / "part.onnx",
            input_names=names,
            dynamic_axes={name: open_axes[example.ndim] for name, example in zip(names, examples, strict=True)},
            opset_version=OPSET,
            dynamo=False,
        )
        return written.read_bytes()
