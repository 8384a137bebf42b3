"""The running average of weights, and of the statistics of normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from upscore.training.tasks import Network


def averaged(net: Network, decay: float) -> AveragedModel:
    """A running average of weights and statistics, which forgets faster at first so that the start does not linger."""

    def update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    return AveragedModel(net, multi_avg_fn=update, use_buffers=True)  # pyright: ignore[reportArgumentType]
