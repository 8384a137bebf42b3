"""Optimiser, parameter groups, learning rate schedule and weight averaging of a recipe."""

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
"""Fraction of the steps that is the warm-up of the cosine schedule."""

WARM_UP_STEPS = 1000
"""Number of warm-up steps of the step schedule, starting at a thousandth; at most a tenth of all steps."""

DROPS = (2 / 3, 8 / 9)
"""Fractions of the steps at which the step schedule divides the rate by 10: 60,000 and 80,000 of 90,000 steps
(Detectron's "1x")."""

BACKBONE = ("backbone.", "shared_head.")
"""Prefixes of pretrained parameters; the shared head of a C4 network is the last stage of its ResNet."""


def parameter_groups(net: nn.Module, recipe: Recipe) -> list[dict]:
    """Group the trainable parameters by learning rate and weight decay.

    Biases and normalisation parameters have no decay. Biases may have another rate (FCN section 4.3 doubles it), and so
    may all layers outside the backbone. `base_rate` of a group is its rate before the schedule's factor.
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
    """Create the optimiser: AdamW, or SGD with momentum (equal to Caffe's at a constant learning rate)."""
    groups = parameter_groups(net, recipe)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return SGD(groups, momentum=recipe.momentum, fused=True)


class SGD(torch.optim.SGD):
    """SGD with the same results and state as torch's, but without copies of channels-last weights.

    torch's fused step copies channels-last weights, which takes time and memory. Each gradient is also freed as soon as
    its weights are updated, so that in the first step its memory is reused for the next momentum buffer.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the parameters and free their gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum_buffer = self._momentum_buffer(parameter) if group["momentum"] else None
                sgd(
                    [_contiguous_in_memory(parameter, parameter)],
                    [_contiguous_in_memory(parameter.grad, parameter)],
                    [None if momentum_buffer is None else _contiguous_in_memory(momentum_buffer, parameter)],
                    fused=True,
                    weight_decay=group["weight_decay"],
                    momentum=group["momentum"],
                    lr=group["lr"],
                    dampening=0,
                    nesterov=False,
                    maximize=False,
                )
                parameter.grad = None

    def _momentum_buffer(self, parameter: nn.Parameter) -> Tensor:
        """Return the momentum buffer, initially zero, in the memory layout of the parameter."""
        state = self.state[parameter]
        values = state.get("momentum_buffer")
        if values is None or values.stride() != parameter.stride():
            laid_out = torch.zeros_like(parameter)
            state["momentum_buffer"] = values = laid_out if values is None else laid_out.copy_(values)
        return values


def _contiguous_in_memory(values: Tensor, parameter: Tensor) -> Tensor:
    """Return values as a contiguous tensor in the parameter's memory order; a view if the layouts are equal."""
    if parameter.is_contiguous():
        return values.contiguous()
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).contiguous()
    return values  # torch copies them


def learning_rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """Return the schedule's factor of all learning rates at `step`, from 0, of `steps`."""
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "steps":
        warm_up = min(WARM_UP_STEPS, steps // 10)
        progress = step / warm_up if step < warm_up else 1.0
        return (1e-3 + (1 - 1e-3) * progress) * 0.1 ** sum(step >= drop * steps for drop in DROPS)
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of each group to its base rate times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


def make_average(net: Network, decay: float) -> AveragedModel:
    """Create an exponential moving average of weights and buffers, with a smaller decay in the first steps."""

    def update(averages: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    return AveragedModel(net, multi_avg_fn=update, use_buffers=True)  # pyright: ignore[reportArgumentType]
