"""Feature pyramid network (Lin et al.; Mask R-CNN section 3 "Network Architecture").

N images; C{k} is the backbone's map of stride 2^k, P{k} the pyramid's map of the same size.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """Feature pyramid: coarse maps are upsampled and added to finer ones.

    Args:
        channels: stride -> channels of the backbone's map; each stride is twice the preceding one.
        out_channels: number of channels of each P.
        norm: use batch normalisation after each convolution instead of a bias (torchvision's v2).
    """

    def __init__(self, channels: Mapping[int, int], out_channels: int = 256, *, norm: bool = False) -> None:
        super().__init__()
        self.strides = sorted(channels)
        """Strides of the maps that regions are pooled from. The last P has twice the coarsest stride, and is used for
        proposals only."""
        self.out_channels = out_channels
        self.lateral = nn.ModuleDict({str(s): _conv(channels[s], out_channels, 1, norm) for s in self.strides})
        self.output = nn.ModuleDict({str(s): _conv(out_channels, out_channels, 3, norm) for s in self.strides})

    def forward(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        """Compute the P's from fine to coarse for {stride: C}; the last P is the preceding one subsampled by 2."""
        top_down = self.lateral[str(self.strides[-1])](maps[self.strides[-1]])
        pyramid = [self.output[str(self.strides[-1])](top_down)]
        for stride in reversed(self.strides[:-1]):
            lateral = self.lateral[str(stride)](maps[stride])
            top_down = lateral + F.interpolate(top_down, size=lateral.shape[-2:], mode="nearest")
            pyramid.insert(0, self.output[str(stride)](top_down))
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]


def _conv(in_channels: int, out_channels: int, kernel: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if norm:
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
