"""One step, one validation, and the state between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from upscore.data.transforms import Batch
from upscore.errors import UserError
from upscore.training.feed import seed_of
from upscore.training.measurements import Scores
from upscore.training.optimizer import make_optimizer, set_rates
from upscore.training.recipes import Recipe
from upscore.training.tasks import Network, task_of


class DivergedError(UserError):
    """The loss is infinite or not a number."""


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    epoch: int = 0
    position: int = 0
    """Images of this epoch that are behind us."""
    step: int = 0
    """Optimiser steps in all."""
    losses: list[float] = field(default_factory=list)
    """Of this epoch's steps."""
    parts: dict[str, float] = field(default_factory=dict)
    """Where a loss is the sum of several: each one's own sum over this epoch's steps."""
    seconds: float = 0.0
    """Spent on this epoch, in this process and those that it resumes."""
    best: float = -1.0
    """The highest score of `records`: mean IU, or mask AP."""
    best_epoch: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    """What was measured after each epoch."""


class Trainer:
    """A network, its optimiser, the average of its weights, and how far they have come."""

    def __init__(
        self,
        net: Network,
        recipe: Recipe,
        accelerator: Accelerator,
        *,
        dtype: torch.dtype = torch.float32,
        head_only: bool = False,
        seed: int = 0,
    ) -> None:
        self.accelerator, self.recipe, self.dtype = accelerator, recipe, dtype
        self.head_only, self.seed = head_only, seed
        self.task = task_of(net)
        self.net = net.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if head_only:
            self.net.trunk.requires_grad_(False)
        self.average = averaged(self.net, recipe.ema) if recipe.ema else None
        self.optimizer = make_optimizer(self.net, recipe)
        self.model = accelerator.prepare_model(self.net) if accelerator.num_processes > 1 else self.net
        self.progress = Progress()

    @property
    def result(self) -> Network:
        """The network that is validated and kept: the averaged one, where the recipe has it."""
        return cast(Network, self.average.module) if self.average else self.net

    def train_mode(self) -> None:
        """Training mode, but for what is frozen."""
        self.net.train()
        if self.head_only:
            self.net.trunk.eval()
        if self.recipe.frozen_norm:
            for layer in self.net.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def step(self, group: Sequence[Batch], rate: float) -> float:
        """Average the gradients of several batches and take one step; returns their mean loss.

        Raises:
            DivergedError: a loss is not finite; the weights are left as they were.
        """
        torch.manual_seed(seed_of(self.seed, self.progress.step))  # dropout
        total, sums = 0.0, dict(self.progress.parts)
        for batch in group:
            with self._autocast():
                outputs = self._outputs(self.model, batch)
                targets = self.task.targets(batch, self.accelerator.device)
                parts = self.task.losses(self.net, outputs, targets, self.recipe.loss)
            loss = torch.stack([*parts.values()]).sum() / len(group)
            if not torch.isfinite(loss):
                self.optimizer.zero_grad()
                raise DivergedError(
                    f"the loss is {loss.item()} at step {self.progress.step + 1} (epoch {self.progress.epoch + 1}), in "
                    f"the batch of {', '.join(batch.names)}: try a lower --learning-rate, or look at those files"
                )
            self.accelerator.backward(loss)
            total += loss.item()
            for name, part in parts.items() if len(parts) > 1 else ():
                sums[name] = sums.get(name, 0.0) + part.item() / len(group)
        set_rates(self.optimizer, rate)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.net)
        self.progress.step += 1
        self.progress.position += sum(len(batch.names) for batch in group)
        self.progress.losses.append(total)
        self.progress.parts = sums
        return total

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> tuple[float, Scores]:
        """The loss (per pixel, or per batch of objects) and the scores over a whole set, in evaluation mode.

        Raises:
            DivergedError: a loss is not finite.
        """
        net = self.result.eval()
        torch.manual_seed(seed_of(self.seed))  # the regions that losses of objects are measured on
        measurement = self.task.measure(net, self.accelerator.device)
        losses: list[float] = []
        for batch in batches:
            with self._autocast():
                outputs = self._outputs(net, batch)
                targets = self.task.targets(batch, self.accelerator.device)
                loss = sum(part.item() for part in self.task.losses(net, outputs, targets, "sum").values())
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the validation loss is {loss} after epoch {self.progress.epoch + 1}, on "
                    f"{', '.join(batch.names)}: try a lower --learning-rate, or look at that file"
                )
            losses.append(loss)
            with self._autocast():
                measurement.update(outputs, targets, batch.sizes)
        return sum(losses) / measurement.weight(), measurement.scores()

    def _outputs(self, model: nn.Module, batch: Batch) -> Any:
        images = self.task.inputs(self.net, batch, self.accelerator.device)
        return model(images.contiguous(memory_format=torch.channels_last))

    def _autocast(self) -> AbstractContextManager[object]:
        # not the accelerator's: it has one precision for the whole process
        return torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on to the same result."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.net.load_state_dict(state["net"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])


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
