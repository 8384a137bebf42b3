"""Parameter groups, optimiser and schedule, as a recipe has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd
from torch.optim.swa_utils import AveragedModel

from upscore.training.recipes import Recipe
from upscore.training.tasks import Network

WARM_UP = 0.05
"""Share of the steps over which a cosine schedule rises."""

WARM_UP_STEPS = 1000
"""Over which a schedule of steps rises from a thousandth, in runs of ten times as many; otherwise over a tenth."""

DROPS = (2 / 3, 8 / 9)
"""Where a schedule of steps falls to a tenth: at 60,000 and 80,000 of 90,000 steps (Detectron's "1x")."""


BACKBONE = ("backbone.", "shared_head.")
"""Where a network has the layers of its classifier; the head of a C4 network is the last of them."""


def parameter_groups(net: nn.Module, recipe: Recipe) -> list[dict]:
    """Trainable parameters by rate and decay: weights; biases and norms (no decay); the same of all but the backbone.

    "Doubled rate for biases" without decay is FCN section 4.3 and the released solvers. Each group keeps its own
    `base_rate`, which the schedule multiplies.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = recipe.learning_rate * (1 if name.startswith(BACKBONE) else recipe.score_rate)
        decay = recipe.weight_decay
        if parameter.ndim == 1:
            rate, decay = rate * (recipe.bias_rate if name.endswith("bias") else 1), 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum (as Caffe's at a constant rate) or AdamW."""
    groups = parameter_groups(net, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return SGD(groups, momentum=recipe.momentum, fused=True)


class SGD(torch.optim.SGD):
    """torch's, of the same numbers and the same state, going through weights in the order in which they lie in memory.

    Of weights whose channels come last, torch's fused step makes copies: they take time, and as much memory again. A
    gradient is let go as soon as its weights have moved, so that in the first step the next one's sum takes its place.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move against the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                speed = self._speed(parameter) if group["momentum"] else None
                sgd(
                    [_in_order(parameter, parameter)],
                    [_in_order(parameter.grad, parameter)],
                    [None if speed is None else _in_order(speed, parameter)],
                    fused=True,
                    weight_decay=group["weight_decay"],
                    momentum=group["momentum"],
                    lr=group["lr"],
                    dampening=0,
                    nesterov=False,
                    maximize=False,
                )
                parameter.grad = None

    def _speed(self, parameter: nn.Parameter) -> Tensor:
        """The running sum of gradients, in the layout of the parameter's memory; zero at first."""
        state = self.state[parameter]
        speed = state.get("momentum_buffer")
        if speed is None or speed.stride() != parameter.stride():
            laid_out = torch.zeros_like(parameter)
            state["momentum_buffer"] = speed = laid_out if speed is None else laid_out.copy_(speed)
        return speed


def _in_order(values: Tensor, parameter: Tensor) -> Tensor:
    """A contiguous view, a copy where values lie otherwise in memory than the parameter."""
    if parameter.is_contiguous():
        return values.contiguous()
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).contiguous()
    return values  # torch makes its copies


def rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What all learning rates are multiplied by at `step` of `steps`."""
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "steps":
        warm_up = min(WARM_UP_STEPS, steps // 10)
        risen = step / warm_up if step < warm_up else 1.0
        return (1e-3 + (1 - 1e-3) * risen) * 0.1 ** sum(step >= drop * steps for drop in DROPS)
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Apply a schedule's factor to every group."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


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
