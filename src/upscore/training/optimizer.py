"""Parameter groups, optimiser and schedule, as a recipe has them."""

from __future__ import annotations

import math

import torch
from torch import nn

from upscore.training.recipes import Recipe

WARM_UP = 0.05
"""Share of the steps over which a cosine schedule rises."""

WARM_UP_STEPS = 1000
"""Over which a schedule of steps rises from a thousandth, in runs of ten times as many; otherwise over a tenth."""

DROPS = (2 / 3, 8 / 9)
"""Where a schedule of steps falls to a tenth: at 60,000 and 80,000 of 90,000 steps (Detectron's "1x")."""


BACKBONE = ("trunk.", "shared_head.")
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
    return torch.optim.SGD(groups, momentum=recipe.momentum, fused=True)


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
