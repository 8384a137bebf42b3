"""What runs a network: preprocessed images in, class scores out.

N images, C classes, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from upscore.models.precision import Precision, resolve_precision

Engine = Literal["auto", "torch"]


class TorchEngine:
    """The network itself, in evaluation mode, on the first GPU or the CPU."""

    def __init__(self, net: nn.Module, precision: Precision) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = resolve_precision(net, precision, self.device)
        self.net = net.eval().to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Preprocessed images (N, 3, H, W) -> scores (N, C, H, W), float32."""
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.net(images).float()
