"""Averages over time and over processes: of weights, and of the statistics of normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from upscore.training.tasks import Network
from upscore.training.team import Team


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


@torch.no_grad()
def average_statistics(net: Network, team: Team) -> None:
    """Give all processes the mean of what normalisation remembers, for each has seen images of its own."""
    running = [
        statistic
        for layer in net.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
        for statistic in (layer.running_mean, layer.running_var)
        if statistic is not None
    ]
    if team.size == 1 or not running:
        return
    means = team.sum(torch.cat(running)) / team.size
    for statistic, mean in zip(running, means.split([len(statistic) for statistic in running]), strict=True):
        statistic.copy_(mean)
