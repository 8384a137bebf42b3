"""The reference: torch runs the modules themselves, on the first GPU or the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from upscore.inference.engines.base import AnyShape
from upscore.inference.engines.cuda_graphs import Graphs, compiled


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
