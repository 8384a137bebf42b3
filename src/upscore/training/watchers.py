"""Who looks on while a network trains: the terminal, TensorBoard, and pictures in the run folder."""

from __future__ import annotations

import json
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from upscore.evaluation.curves import plot_curves
from upscore.evaluation.instance_plots import plot_precision_recall
from upscore.evaluation.instances import InstanceScores
from upscore.evaluation.plots import plot_confusion, plot_per_class
from upscore.files import write_text
from upscore.training.measurements import Scores
from upscore.training.run_folder import RunFolder

Records = list[dict[str, Any]]


class TerminalWatcher:
    """A progress bar with the time left, and a line for each validation."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task(title, total=None, loss="")

    def step(self, done: int, total: int, loss: float) -> None:
        """Move the bar."""
        if not self.progress.live.is_started:
            self.progress.start()
        self.progress.update(self.task, completed=done, total=total, loss=f"{loss:.3g}")

    def epoch(self, records: Records, scores: Scores | None, is_best: bool) -> None:
        """Print the line, if there was a validation."""
        if scores is None:
            return
        last = records[-1]
        self.console.print(
            f"epoch {last['epoch']:>3}  loss {last['train_loss']:.4g} / {last['val_loss']:.4g} val"
            f"  {_in_words(scores)}"
            f"  {last['seconds']:.0f} s{'  best' if is_best else ''}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Take the bar away."""
        self.progress.stop()


def _in_words(scores: Scores) -> str:
    if isinstance(scores, InstanceScores):
        return f"AP {scores.AP:.1%}  AP50 {scores.AP50:.1%}  matched F {scores.matched_f['0.5']:.1%}"
    return f"pixel accuracy {scores.pixel_accuracy:.1%}  mean IU {scores.mean_iu:.1%}"


class FolderWatcher:
    """Curves and TensorBoard's events after each epoch, the best model's scores and plots."""

    PLACES = ("epoch", "step", "seconds", "validation_seconds")
    """What of a record is no curve."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.path
        self.writer: SummaryWriter | None = None

    def step(self, done: int, total: int, loss: float) -> None:
        """Nothing: steps are too many to be worth keeping."""

    def epoch(self, records: Records, scores: Scores | None, is_best: bool) -> None:
        """Write what has changed."""
        last = records[-1]
        if self.writer is None:  # a resumed run replaces the events after the epoch that it resumes from
            self.writer = SummaryWriter(self.folder / "tensorboard", purge_step=last["epoch"])
        for name, value in last.items():
            if name not in self.PLACES and value is not None:
                self.writer.add_scalar(name, value, last["epoch"])
        self.writer.flush()
        if scores is None:
            return
        plot_curves(records, self.folder / "curves.png")
        if is_best:
            write_text(self.folder / "scores.json", json.dumps(scores.to_json(), indent=2, allow_nan=False) + "\n")
            self._plot(scores)

    def _plot(self, scores: Scores) -> None:
        if isinstance(scores, InstanceScores):
            plot_precision_recall(scores, self.folder / "precision_recall.png")
        else:
            plot_confusion(torch.tensor(scores.confusion), list(scores.per_class), self.folder / "confusion.png")
            plot_per_class(scores, self.folder / "per_class.png")

    def close(self) -> None:
        """Finish the events' file."""
        if self.writer:
            self.writer.close()
