"""What is said of each region: its class, a better box, its mask (Mask R-CNN figure 4).

R regions, K classes, C channels, P bins a side of what was pooled, m the side of a mask.
"""

from __future__ import annotations

import itertools
from typing import Literal

from torch import Tensor, nn

from upscore.models.precision import in_float32

MaskHeadName = Literal["fcn", "mlp"]


class BoxHead(nn.Module):
    """(R, C, P, P) -> (R, D): two fully connected layers, or four convolutions and one of them (torchvision's v2)."""

    def __init__(self, channels: int, features: int, *, size: int = 7, convs: int = 0, norm: bool = False) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(_conv(channels, channels, norm) for _ in range(convs)))
        sides = [channels * size**2, features] if convs else [channels * size**2, features, features]
        layers = [nn.Linear(i, o) for i, o in itertools.pairwise(sides)]
        for fc in layers:
            nn.init.kaiming_uniform_(fc.weight, a=1)
            nn.init.zeros_(fc.bias)
        self.fcs = nn.ModuleList(layers)
        self.out_features = features

    def forward(self, regions: Tensor) -> Tensor:
        """Flattened in the order C, P, P, as all published weights are."""
        features = self.convs(regions).flatten(1)
        for fc in self.fcs:
            features = fc(features).relu()
        return features


class BoxPredictor(nn.Module):
    """(R, D) -> class logits (R, K + 1), the background last, and box deltas (R, K, 4), those of each class."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(features, num_classes + 1)
        self.deltas = nn.Linear(features, 4 * num_classes)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.classes.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """In float32: they are cheap, and decide."""
        with in_float32(features.device):
            features = features.float()
            return self.classes(features), self.deltas(features).unflatten(1, (-1, 4))


class FCNMaskHead(nn.Module):
    """(R, C, P, P) -> mask logits (R, outputs, 2P, 2P): convolutions, one upsampling, one logit a class (figure 4).

    Args:
        channels: of the regions.
        hidden: of the convolutions and the upsampled map.
        outputs: K, or 1 for a class-agnostic mask, or K + 1 for a softmax over classes.
        convs: 4 over a pyramid, none over res5 in the C4 network.
        norm: batch normalisation in place of the convolutions' biases.
    """

    def __init__(self, channels: int, hidden: int, outputs: int, *, convs: int = 4, norm: bool = False) -> None:
        super().__init__()
        widths = [channels] + [hidden] * convs
        self.convs = nn.Sequential(*(_conv(i, o, norm) for i, o in itertools.pairwise(widths)))
        self.upsample = nn.ConvTranspose2d(widths[-1], hidden, 2, stride=2)
        self.predictor = nn.Conv2d(hidden, outputs, 1)
        nn.init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        for layer in (self.upsample, self.predictor):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """The last layer is in float32, see `upscore.models.fcn`."""
        features = self.upsample(self.convs(regions)).relu()
        with in_float32(features.device):
            return self.predictor(features.float())


class MLPMaskHead(nn.Module):
    """(R, C, P, P) -> mask logits (R, outputs, m, m) by fully connected layers, which know no neighbours (table 2e)."""

    def __init__(self, channels: int, hidden: int, outputs: int, *, size: int = 7, mask_size: int = 28) -> None:
        super().__init__()
        self.outputs, self.mask_size = outputs, mask_size
        self.fcs = nn.Sequential(
            nn.Linear(channels * size**2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
        )
        self.predictor = nn.Linear(hidden, outputs * mask_size**2)

    def forward(self, regions: Tensor) -> Tensor:
        """As `FCNMaskHead`."""
        features = self.fcs(regions.flatten(1))
        with in_float32(features.device):
            return self.predictor(features.float()).view(-1, self.outputs, self.mask_size, self.mask_size)


def _conv(in_channels: int, out_channels: int, norm: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not norm)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, *([nn.BatchNorm2d(out_channels)] if norm else []), nn.ReLU())
