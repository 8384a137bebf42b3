"""Trainer: an optimiser step, a validation, and the state of a run."""

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
from upscore.models.loss_sum import EPS, LossSum
from upscore.training.loader import derive_seed
from upscore.training.optimizer import make_average, make_optimizer, set_rates
from upscore.training.recipes import Recipe
from upscore.training.tasks import Network, Task, task_for
from upscore.training.validation import Measurement, Scores


class DivergedError(UserError):
    """The loss is infinite or not a number."""


class FrozenStatisticsWarning(UserWarning):
    """Batch normalisation layers are frozen at their initial statistics, and so normalise nothing."""


@dataclass(slots=True)
class Progress:
    """Position of a run, its losses and its records."""

    epoch: int = 0
    position: int = 0
    """Number of images of the current epoch that have been trained on."""
    step: int = 0
    """Number of optimiser steps of the run."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps of the current epoch."""
    parts: dict[str, float] = field(default_factory=dict)
    """Sum of each loss term over the steps of the current epoch; empty for networks with one loss."""
    seconds: float = 0.0
    """Training time of the current epoch, including interrupted processes."""
    best: float = -1.0
    """Highest score of `records`: mean IoU, or mask AP."""
    best_epoch: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    """Losses and scores of each epoch."""


LossParts = dict[str, tuple[float, float]]
"""Loss name -> its sum over a batch, and the denominator of its mean."""


class LossSums(nn.Module):
    """Computes outputs and losses in one forward call: DistributedDataParallel must see all parameters used in it."""

    def __init__(self, net: Network, task: Task) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, images: Tensor, targets: Any, seeds: Sequence[int]) -> dict[str, LossSum]:
        return self.task.loss_sums(self.net, self.task.forward(self.net, images), targets, seeds)


class Trainer:
    """Trains and validates a network.

    Args:
        net: the network, moved to the accelerator's device and trained in place.
        recipe: optimiser, schedule, loss normalisation and weight averaging.
        accelerator: device and processes.
        dtype: number format of the convolutions.
        head_only: keep the backbone as it is.
        seed: seed of dropout and of the sampling of regions.
    """

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
        self.task, self.process_group = task_for(net), ProcessGroup(accelerator)
        self.net = net.to(accelerator.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if head_only:
            self.net.backbone.requires_grad_(False)
        self._frozen_norms = self._find_frozen_norms()
        self.average = make_average(self.net, recipe.ema) if recipe.ema else None
        self.optimizer = make_optimizer(self.net, recipe)
        self.model = accelerator.prepare_model(LossSums(self.net, self.task))
        self.progress = Progress()

    @property
    def result(self) -> Network:
        """The network that is validated and saved: the averaged one if the recipe averages weights."""
        return cast(Network, self.average.module) if self.average else self.net

    def train_mode(self) -> None:
        """Set training mode, except for frozen layers."""
        self.net.train()
        if self.head_only:
            self.net.backbone.eval()
        for layer in self._frozen_norms:
            layer.eval()

    def _find_frozen_norms(self) -> list[nn.Module]:
        """Return the batch normalisation layers that `frozen_norm` freezes: those with loaded statistics.

        Warns about layers that are frozen without loaded statistics.
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
                f"{len(constant)} frozen batch normalisation layers, such as {constant[0]}, have initial statistics "
                "(mean 0, variance 1) and do not normalise: start from pretrained weights, or build the backbone with "
                'norm="batch"'
            )
            warnings.warn(message, FrozenStatisticsWarning, stacklevel=3)
        return list(norms.values()) if self.recipe.frozen_norm else []

    def step(self, group: Sequence[Batch], rate: float) -> float:
        """Take one optimiser step with the mean gradient of several batches.

        Args:
            group: this process's part of each batch; a batch without names does not count. Losses are means, or sums,
                over all processes.
            rate: factor of the learning rates.

        Returns:
            The mean loss of the batches.

        Raises:
            DivergedError: a loss is not finite; the weights are not changed.
        """
        self._seed_dropout()
        total, sums, images = 0.0, dict(self.progress.parts), 0
        for number, batch in enumerate(group, start=1):
            with self.accelerator.no_sync(self.model) if number < len(group) else nullcontext():
                own, losses = self._losses(batch, images)
                loss = torch.stack([*losses.values()]).sum() / len(group)
                if not torch.isfinite(loss):
                    self._diverged(loss, own, batch)
                # times the number of processes, since gradients are averaged over the processes
                self.accelerator.backward(own / len(group) * self.process_group.size)
            total += loss.item()
            images += len(batch.names)
            for name, part in losses.items() if len(losses) > 1 else ():
                sums[name] = sums.get(name, 0.0) + part.item() / len(group)
        set_rates(self.optimizer, rate)
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.net)
        self.progress.step += 1
        self.progress.position += int(self.process_group.sum(torch.tensor(images)))
        self.progress.losses.append(total)
        self.progress.parts = sums
        return total

    def _seed_dropout(self) -> None:
        step, index = self.progress.step, self.process_group.index
        torch.manual_seed(derive_seed(self.seed, step, index) if index else derive_seed(self.seed, step))

    def _losses(self, batch: Batch, before: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return this process's part of the loss, with gradients, and each loss over all processes.

        Args:
            before: number of this process's images in this step before the batch.
        """
        progress, process_group = self.progress, self.process_group
        first = progress.position + before * process_group.size + process_group.index
        positions = [first + number * process_group.size for number in range(len(batch.sizes))]
        counted = float(bool(batch.names))
        if process_group.size > 1:
            batch = extend(batch, process_group.largest(batch.images.shape[-2], batch.images.shape[-1]))
        with self._autocast(), SyncBatchNorm(counts=bool(counted)) if process_group.size > 1 else nullcontext():
            images, targets = self._images(batch), self.task.targets(batch, self.accelerator.device)
            seeds = [derive_seed(self.seed, progress.epoch, position, 2) for position in positions]
            loss_sums = self.model(images, targets, seeds)
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
                f"the batch of {names}: lower --learning-rate, or check these files"
            )
        )

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> tuple[float, Scores]:
        """Compute the loss and the scores over a data set, in evaluation mode.

        A pixel loss is divided by the sum of its weights over the data set, as it is over a batch in training; losses
        of objects are means over images.

        Args:
            batches: this process's part of the data set.

        Returns:
            The loss and the scores over the parts of all processes.

        Raises:
            DivergedError: a loss is not finite.
        """
        net = self.result.eval()
        measurement = self.task.measure(net, self.accelerator.device)
        with self.process_group.synchronized():
            losses = [self._validate(net, batch, measurement) for batch in batches]
        parts = self.process_group.gather((losses, measurement.state()))
        return self.process_group.from_main_process(lambda: self._merge(net, parts))

    def _validate(self, net: Network, batch: Batch, measurement: Measurement) -> LossParts:
        with self._autocast():
            outputs = net(self._images(batch))
            targets = self.task.targets(batch, self.accelerator.device)
            # the same seed for each image, so that its regions do not depend on epoch and order
            loss_sums = self.task.loss_sums(net, outputs, targets, [derive_seed(self.seed)] * len(batch.sizes))
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
                f"{', '.join(batch.names)}: lower --learning-rate, or check this file"
            )
        with self._autocast():
            measurement.update(outputs, targets, batch.sizes)
        return losses

    def _merge(self, net: Network, parts: Sequence[tuple[list[LossParts], Any]]) -> tuple[float, Scores]:
        """Return the loss and the scores over the parts of all processes."""
        measurement = self.task.measure(net, self.accelerator.device)
        for _, state in parts:
            measurement.merge(state)
        batches = [losses for process_losses, _ in parts for losses in process_losses]
        means = []
        for name in batches[0] if batches else ():
            total, count = (sum(losses[name][part] for losses in batches) for part in (0, 1))
            means.append(total / max(count, EPS))
        return sum(means), measurement.scores()

    def _images(self, batch: Batch) -> Tensor:
        images = self.task.inputs(self.net, batch, self.accelerator.device)
        return images.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> AbstractContextManager[object]:
        # not accelerate's autocast, whose precision is the same for the whole process
        return torch.autocast(self.accelerator.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def state(self) -> dict[str, Any]:
        """Return the state from which a later process continues to the same result."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.net.load_state_dict(state["net"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
