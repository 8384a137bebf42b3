"""What runs a network: preprocessed images in, its outputs out.

N images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from upscore.models.fcn import FCN
from upscore.models.mask_rcnn import MaskRCNN
from upscore.models.precision import Precision, resolve_precision
from upscore.structures import Prediction

Engine = Literal["auto", "torch"]


class TorchEngine:
    """The network itself, in evaluation mode, on the first GPU or the CPU."""

    def __init__(self, net: FCN | MaskRCNN, precision: Precision) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = resolve_precision(net, precision, self.device)
        self.net = net.eval().to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Any:
        """Preprocessed images (N, 3, H, W) -> the network's outputs, their numbers as float32."""
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with self._autocast():
            return in_full(self.net(images))

    @torch.inference_mode()
    def decode(self, outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Outputs -> what they say of each image, whose size (height, width) before padding is given."""
        with self._autocast():
            return self.net.decode(outputs, sizes)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def in_full(outputs: Any) -> Any:
    """Any nest of lists, tuples and tensors, with float32 instead of shorter numbers."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    parts = [in_full(part) for part in outputs]
    return type(outputs)(*parts) if hasattr(outputs, "_fields") else type(outputs)(parts)
