"""ONNX Runtime engine, for machines that OpenVINO does not support."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from upscore.errors import UserError
from upscore.inference.engines.base import AnyShape, quiet_tracing
from upscore.inference.threading import usual_torch_threads

OPSET = 17
INPUT = "input"


def available() -> bool:
    """Return whether ONNX Runtime and the package onnx are installed."""
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None


class ONNXRuntimeEngine:
    """Engine that runs parts with ONNX Runtime on a CPU, in float32.

    Raises:
        UserError: ONNX Runtime is not installed.
    """

    name, precision = "onnxruntime", "float32"
    device = torch.device("cpu")

    def __init__(self) -> None:
        if not available():
            raise UserError('ONNX Runtime is not installed: run `pip install "upscore[onnx]"`, or use another engine')

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> AnyShape:
        """See `Engine`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usual_torch_threads()
        options.log_severity_level = 3  # no warnings about sizes that differ from those of the trace
        session = onnxruntime.InferenceSession(to_onnx(part, example), options, providers=["CPUExecutionProvider"])

        def run_part(tensor: Tensor) -> tuple[Tensor, ...]:
            outputs: Any = session.run(None, {INPUT: tensor.contiguous().numpy()})
            return tuple(torch.from_numpy(array) for array in outputs)

        return AnyShape(run_part)


def to_onnx(part: nn.Module, example: Tensor) -> bytes:
    """Export a part to ONNX for inputs of any size and a fixed number of channels."""
    open_axes = {4: {0: "n", 2: "h", 3: "w"}, 2: {0: "n"}}
    with torch.inference_mode(), TemporaryDirectory() as folder, quiet_tracing():
        torch.onnx.export(
            part.eval(),
            (example,),
            written := Path(folder) / "part.onnx",
            input_names=[INPUT],
            dynamic_axes={INPUT: open_axes[example.ndim]},
            opset_version=OPSET,
            dynamo=False,
        )
        return written.read_bytes()
