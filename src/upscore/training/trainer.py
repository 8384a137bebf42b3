"""One step, one validation, and the state between them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from upscore.data.transforms import Batch, extend
from upscore.distributed.process_group import ProcessGroup
from upscore.distributed.sync_batchnorm import SyncBatchNorm
from upscore.errors import UserError
from upscore.models.backbones.frozen_batchnorm import untrained_batchnorms
from upscore.models.losses import EPS, LossSum
from upscore.training.loader import seed_of
from upscore.training.optimizer import averaged, make_optimizer, set_rates
from upscore.training.recipes import Recipe
from upscore.training.tasks import Network, Task, task_of
from upscore.training.validation import Measurement, Scores


class DivergedError(UserError):
    """The loss is infinite or not a number."""


class FrozenStatisticsWarning(UserWarning):
    """Batch normalisation layers are frozen at their initial statistics, and so normalise nothing."""


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
    """The highest score of `records`: mean IoU, or mask AP."""
    best_epoch: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    """What was measured after each epoch."""


LossParts = dict[str, tuple[float, float]]
"""Loss -> its sum over a batch, and what that is divided by to be a mean."""


class LossSums(nn.Module):
    """Outputs and losses in one forward, so that what reduces gradients over processes sees all parameters at work."""

    def __init__(self, net: Network, task: Task) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, images: Tensor, targets: Any, seeds: Sequence[int]) -> dict[str, LossSum]:
        return self.task.loss_sums(self.net, self.task.forward(self.net, images), targets, seeds)


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
        self.task, self.process_group = task_of(net), ProcessGroup(accelerator)
        self.net = net.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if head_only:
            self.net.backbone.requires_grad_(False)
        self._frozen_norms = self._find_frozen_norms()
        self.average = averaged(self.net, recipe.ema) if recipe.ema else None
        self.optimizer = make_optimizer(self.net, recipe)
        self.model = accelerator.prepare_model(LossSums(self.net, self.task))
        self.progress = Progress()

    @property
    def result(self) -> Network:
        """The network that is validated and kept: the averaged one, where the recipe has it."""
        return cast(Network, self.average.module) if self.average else self.net

    def train_mode(self) -> None:
        """Training mode, but for what is frozen."""
        self.net.train()
        if self.head_only:
            self.net.backbone.eval()
        for layer in self._frozen_norms:
            layer.eval()

    def _find_frozen_norms(self) -> list[nn.Module]:
        """Batch normalisation layers that `frozen_norm` is for: those with loaded statistics.

        Warns of other layers that are frozen all the same.
        """
        initial = set(untrained_batchnorms(self.net))
        norms = {
            name: layer
            for name, layer in self.net.named_modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and name not in initial
        }
        constant = [
            name
            for name in sorted(initial)
            if isinstance(self.net.get_submodule(name), FrozenBatchNorm2d)
            or (self.head_only and name.startswith("backbone."))
        ]
        if constant:
            message = (
                f"{len(constant)} frozen batch normalisation layers, such as {constant[0]}, have their initial "
                "statistics (mean 0, variance 1) and normalise nothing: start from weights, or train the backbone with "
                'norm="batch"'
            )
            warnings.warn(message, FrozenStatisticsWarning, stacklevel=3)
        return list(norms.values()) if self.recipe.frozen_norm else []

    def step(self, group: Sequence[Batch], rate: float) -> float:
        """Average the gradients of several batches and take one step; returns their mean loss.

        Of each batch, this process has its own part: losses are means, or sums, over those of all processes. A batch
        without names does not count.

        Raises:
            DivergedError: a loss is not finite; the weights are left as they were.
        """
        self._seed_dropout()
        total, sums, seen = 0.0, dict(self.progress.parts), 0
        for number, batch in enumerate(group, start=1):
            with self.accelerator.no_sync(self.model) if number < len(group) else nullcontext():
                own, whole = self._losses(batch, seen)
                loss = torch.stack([*whole.values()]).sum() / len(group)
                if not torch.isfinite(loss):
                    self._diverged(loss, own, batch)
                # gradients are averaged over the processes
                self.accelerator.backward(own / len(group) * self.process_group.size)
            total += loss.item()
            seen += len(batch.names)
            for name, part in whole.items() if len(whole) > 1 else ():
                sums[name] = sums.get(name, 0.0) + part.item() / len(group)
        set_rates(self.optimizer, rate)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.net)
        self.progress.step += 1
        self.progress.position += int(self.process_group.sum(torch.tensor(seen)))
        self.progress.losses.append(total)
        self.progress.parts = sums
        return total

    def _seed_dropout(self) -> None:
        at, index = self.progress, self.process_group.index
        torch.manual_seed(seed_of(self.seed, at.step, index) if index else seed_of(self.seed, at.step))

    def _losses(self, batch: Batch, before: int) -> tuple[Tensor, dict[str, Tensor]]:
        """This process's share of the loss, through which gradients flow, and each loss of all processes together.

        Args:
            before: this process's images between those that are behind us and this batch.
        """
        at, process_group = self.progress, self.process_group
        first = at.position + before * process_group.size + process_group.index
        places = [first + number * process_group.size for number in range(len(batch.sizes))]
        counted = float(bool(batch.names))
        if process_group.size > 1:
            batch = extend(batch, process_group.largest(batch.images.shape[-2], batch.images.shape[-1]))
        with self._autocast(), SyncBatchNorm(counts=bool(counted)) if process_group.size > 1 else nullcontext():
            images, targets = self._images(batch), self.task.targets(batch, self.accelerator.device)
            loss_sums = self.model(images, targets, [seed_of(self.seed, at.epoch, place, 2) for place in places])
        own = counted * torch.stack([loss_sum.sum.float() for loss_sum in loss_sums.values()])
        counts = counted * torch.stack([loss_sum.count.float() for loss_sum in loss_sums.values()])
        sums, counts = process_group.sum(torch.stack([own.detach(), counts]))
        if self.task.summable and self.recipe.loss == "sum":
            counts = torch.ones_like(counts)
        counts = counts.clamp(min=EPS)
        return (own / counts).sum(), dict(zip(loss_sums, sums / counts, strict=True))

    def _diverged(self, loss: Tensor, own: Tensor, batch: Batch) -> NoReturn:
        self.optimizer.zero_grad()
        gathered = self.process_group.gather([] if torch.isfinite(own) else batch.names)
        names = ", ".join(name for part in gathered for name in part) or ", ".join(batch.names)
        raise self.process_group.error_of_main_process(
            DivergedError(
                f"the loss is {loss.item()} at step {self.progress.step + 1} (epoch {self.progress.epoch + 1}), in "
                f"the batch of {names}: try a lower --learning-rate, or look at those files"
            )
        )

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> tuple[float, Scores]:
        """The loss (per pixel, or per batch of objects) and the scores over a whole set, in evaluation mode.

        Each loss of pixels is divided by the sum of its own weights over the set, as a batch's is in training.

        Each process goes through its own part of the set; all get the scores of all.

        Raises:
            DivergedError: a loss is not finite.
        """
        net = self.result.eval()
        measurement = self.task.measure(net, self.accelerator.device)
        with self.process_group.synchronized():
            losses = [self._validate(net, batch, measurement) for batch in batches]
        parts = self.process_group.gather((losses, measurement.seen()))
        return self.process_group.from_main_process(lambda: self._conclude(net, parts))

    def _validate(self, net: Network, batch: Batch, measurement: Measurement) -> LossParts:
        with self._autocast():
            outputs = net(self._images(batch))
            targets = self.task.targets(batch, self.accelerator.device)
            # an image's regions are the same ones in every epoch and in whatever order it comes
            loss_sums = self.task.loss_sums(net, outputs, targets, [seed_of(self.seed)] * len(batch.sizes))
            if self.task.summable:
                losses = {
                    name: (loss_sum.sum.item(), float(loss_sum.count.item())) for name, loss_sum in loss_sums.items()
                }
            else:
                losses = {"all": (sum(loss_sum.mean.item() for loss_sum in loss_sums.values()), 1.0)}
        loss = sum(total for total, _ in losses.values())
        if not math.isfinite(loss):
            raise DivergedError(
                f"the validation loss is {loss} after epoch {self.progress.epoch + 1}, on "
                f"{', '.join(batch.names)}: try a lower --learning-rate, or look at that file"
            )
        with self._autocast():
            measurement.update(outputs, targets, batch.sizes)
        return losses

    def _conclude(self, net: Network, parts: Sequence[tuple[list[LossParts], Any]]) -> tuple[float, Scores]:
        """What all processes have measured, in the order of their parts."""
        measurement = self.task.measure(net, self.accelerator.device)
        for _, seen in parts:
            measurement.add(seen)
        batches = [losses for of_process, _ in parts for losses in of_process]
        means = []
        for name in batches[0] if batches else ():
            total, count = (sum(losses[name][part] for losses in batches) for part in (0, 1))
            means.append(total / max(count, EPS))
        return sum(means), measurement.scores()

    def _images(self, batch: Batch) -> Tensor:
        images = self.task.inputs(self.net, batch, self.accelerator.device)
        return images.contiguous(memory_format=torch.channels_last)

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
