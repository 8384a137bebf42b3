"""Batch normalisation with constant statistics, folded into the preceding convolution where that is faster.

N images, C input and O output channels, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision import ops
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from upscore.models.precision import autocasts_to_bfloat16


def untrained_batchnorms(network: nn.Module) -> list[str]:
    """Return the names of batch normalisation layers, frozen or not, that have the initial mean 0 and variance 1.

    They were neither loaded nor trained, and do not normalise anything in evaluation mode.
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
    """torchvision's layer; the identity under bfloat16 autocast, where `NormedConv2d` applies the normalisation."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, O, H, W)."""
        return x if autocasts_to_bfloat16(x.device) else super().forward(x)


class NormedConv2d(nn.Conv2d):
    """A convolution that folds the frozen batch normalisation after it into its weights under bfloat16 autocast.

    A separate normalisation would take about as long as the convolution there, and convert its output to float32.
    """

    norm: tuple[FrozenBatchNorm2d, ...] = ()
    """The normalisation after this layer, or empty; a tuple so that it is not registered as a submodule."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H, W)."""
        if not (self.norm and autocasts_to_bfloat16(input.device)):
            return super().forward(input)
        norm = self.norm[0]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self._conv_forward(input, self.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale)


def attach_norms(network: ResNet) -> None:
    """Replace the convolutions of a ResNet by `NormedConv2d` with the frozen norms after them; names do not change."""
    for block in network.modules():
        if isinstance(block, ResNet | BasicBlock | Bottleneck):
            for name, _ in list(block.named_children()):
                if name.startswith("conv"):
                    _attach(block, name, block.get_submodule(name.replace("conv", "bn")))
            if isinstance(block, BasicBlock | Bottleneck) and block.downsample is not None:
                _attach(block.downsample, "0", block.downsample.get_submodule("1"))


def _attach(parent: nn.Module, name: str, norm: nn.Module) -> None:
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
