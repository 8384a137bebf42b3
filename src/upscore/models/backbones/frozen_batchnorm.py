"""Batch normalisation with constant statistics, alone and merged into the convolution before it.

N images, C channels in, O out, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision import ops
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from upscore.models.precision import in_bfloat16


def initial_norms(network: nn.Module) -> list[str]:
    """Names of the batch normalisation layers, frozen or not, whose statistics are the initial mean 0 and variance 1.

    Such a layer normalises nothing in evaluation mode: no weights were loaded into it, and it was not trained.
    """
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | ops.FrozenBatchNorm2d)
        and isinstance(layer.running_mean, Tensor)
        and isinstance(layer.running_var, Tensor)
        and not layer.running_mean.any()
        and bool(layer.running_var.eq(1).all())
    ]


class FrozenBatchNorm2d(ops.FrozenBatchNorm2d):
    """torchvision's, but for what the convolution before it has done already."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(N, O, H, W) -> the same."""
        return x if in_bfloat16(x.device) else super().forward(x)


class NormedConv2d(nn.Conv2d):
    """A convolution that, under autocast to bfloat16, takes the normalisation behind it into its own weights.

    A convolution costs little there; passes over its output would cost as much again, and turn it into float32.
    """

    norm: tuple[FrozenBatchNorm2d, ...] = ()
    """The one behind it; in a tuple, for it is no part of this module."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        if not (self.norm and in_bfloat16(input.device)):
            return super().forward(input)
        norm = self.norm[0]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self._conv_forward(input, self.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale)


def join_norms(network: ResNet) -> None:
    """Let the convolutions of a ResNet know the frozen norms behind them; names stay."""
    for block in network.modules():
        if isinstance(block, ResNet | BasicBlock | Bottleneck):
            for name, _ in list(block.named_children()):
                if name.startswith("conv"):
                    _join(block, name, block.get_submodule(name.replace("conv", "bn")))
            if isinstance(block, BasicBlock | Bottleneck) and block.downsample is not None:
                _join(block.downsample, "0", block.downsample.get_submodule("1"))


def _join(parent: nn.Module, name: str, norm: nn.Module) -> None:
    convolution = parent.get_submodule(name)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, FrozenBatchNorm2d)
    assert convolution.bias is None
    joined = NormedConv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # pyright: ignore[reportArgumentType]
        convolution.stride,  # pyright: ignore[reportArgumentType]
        convolution.padding,  # pyright: ignore[reportArgumentType]
        convolution.dilation,  # pyright: ignore[reportArgumentType]
        convolution.groups,
        bias=False,
        device="meta",
    )
    joined.weight, joined.norm = convolution.weight, (norm,)
    parent.set_submodule(name, joined)
