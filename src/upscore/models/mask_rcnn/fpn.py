"""Feature pyramid network (Lin et al.; Mask R-CNN section 3 "Network Architecture").

N images; C{k} is the backbone's map of stride 2^k, P{k} the pyramid's, of the same size and with as many channels as
all others.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """Coarse maps, which know what, are upsampled and added to fine ones, which know where.

    Args:
        channels: stride -> channels of the backbone's map; each stride is twice the one before.
        out_channels: of every P.
        norm: batch normalisation after each convolution, in place of its bias (torchvision's v2).
    """

    def __init__(self, channels: Mapping[int, int], out_channels: int = 256, *, norm: bool = False) -> None:
        super().__init__()
        self.strides = sorted(channels)
        """Of the maps that regions are pooled from; the last P, of twice the coarsest, is for proposals alone."""
        self.out_channels = out_channels
        self.lateral = nn.ModuleDict({str(s): _conv(channels[s], out_channels, 1, norm) for s in self.strides})
        self.output = nn.ModuleDict({str(s): _conv(out_channels, out_channels, 3, norm) for s in self.strides})

    def forward(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        """{stride: C} -> the P's from fine to coarse, the last one subsampled from the one before."""
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
