"""Trains and scores the networks of the cue experiment.

N images, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree

import numpy as np
import torch

from upscore.data.datasets import Dataset
from upscore.errors import UserError
from upscore.evaluation.semantic import SemanticScores
from upscore.experiments.cues.conditions import (
    CONDITIONS,
    TRAINED_CONDITIONS,
    Color,
    Cues,
    CueScores,
    MaskedDataset,
    Visible,
    best_guess,
    cue_scores,
    mean_color,
    network_of,
)
from upscore.experiments.cues.training_setup import TrainingSetup
from upscore.files import write_text
from upscore.inference import Model, evaluate, load
from upscore.models.preprocessing import Preprocessing
from upscore.progress import ProgressCallback, ignore_progress
from upscore.training.callbacks import Callback, CallbackList
from upscore.training.dataset_stats import median_frequency_weights
from upscore.training.init_weights import load_initial_weights
from upscore.training.loop import fit
from upscore.training.precision import choose_precision
from upscore.training.run_folder import RunFolder

BACKGROUND_NAMES = ("background", "bg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Data, foreground classes, training set-up and output folder of the cue experiment."""

    train: Dataset
    val: Dataset
    foreground: list[str]
    setup: TrainingSetup
    output: Path
    """Folder with a run for each trained condition, named like it, and scores/CONDITION.json for each finished one."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.foreground) < 2:
            raise UserError(
                f"{self.foreground[0]} is the only foreground class, so that a masked image shows the answer: give two "
                "or more classes with --foreground"
            )

    @property
    def indices(self) -> list[int]:
        """Indices of the foreground classes."""
        return [self.train.classes.index(name) for name in self.foreground]

    @property
    def fill(self) -> Color:
        """Colour of hidden pixels for the network of the condition "shape", as an example for all networks."""
        return mean_color(self.model_for("shape").preprocessing)

    def masked(self, dataset: Dataset, visible: Visible, preprocessing: Preprocessing) -> MaskedDataset:
        """Return the data set with hidden pixels, for a network with the given preprocessing."""
        return MaskedDataset(
            dataset,
            self.indices,
            keep_foreground=visible.foreground,
            keep_background=visible.background,
            fill=mean_color(preprocessing),
        )

    def model_for(self, condition: str) -> Model:
        """Load the trained network of a condition."""
        network = network_of(condition)
        given = self.setup.reference if network == "reference" else None
        return load(given or RunFolder(self.output / network).best)


def select_foreground(classes: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """Return the foreground classes in the order of the classes.

    Args:
        classes: class names of the data.
        names: the foreground classes; by default all classes except the first, which must be the background.

    Raises:
        UserError: a name is unknown, foreground or background would be empty, or the first class is not the background.
    """
    if names is None:
        if classes[0].strip().lower() not in BACKGROUND_NAMES:
            raise UserError(
                f"the first class is {classes[0]}, not background: give the foreground classes with --foreground, out "
                f"of {', '.join(classes)}"
            )
        names = classes[1:]
    if unknown := [name for name in names if name not in classes]:
        raise UserError(f"--foreground {unknown[0]} is not a class of the data: choose from {', '.join(classes)}")
    chosen = [name for name in classes if name in names]
    if not chosen or len(chosen) == len(classes):
        empty = "background" if chosen else "foreground"
        raise UserError(
            f"--foreground {','.join(names)} leaves no class for the {empty}: choose some of {', '.join(classes)}"
        )
    return chosen


def count_classes(dataset: Dataset, advance: ProgressCallback = ignore_progress) -> np.ndarray:
    """Return the number of labelled pixels of each image and class, (N, C).

    Raises:
        UserError: an image has no class map.
    """
    counts = np.zeros((len(dataset), len(dataset.classes)), np.int64)
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.name} has no class map: label it, or remove the image")
        counts[index] = torch.bincount(sample.class_map.flatten(), minlength=256)[: len(dataset.classes)]
        advance(index + 1, len(dataset))
    return counts


def measure_cues(
    experiment: Experiment,
    counts: np.ndarray,
    *,
    workers: int,
    callbacks: Sequence[Callback] = (),
) -> Cues:
    """Train and score the networks of all conditions; finished ones in the output folder are not repeated.

    Args:
        experiment: data and training set-up.
        counts: (N, C) labelled pixels of the validation images, from `count_classes`.
        workers: number of loader workers.
        callbacks: receive the progress.

    Raises:
        UserError: the folder contains another experiment, or the validation data has fewer than two foreground classes.
        KeyboardInterrupt: the experiment was interrupted; the state was saved for the next call.
    """
    classes, foreground = experiment.val.classes, experiment.foreground
    pixels = {name: int(counts[:, classes.index(name)].sum()) for name in foreground}
    if sum(count > 0 for count in pixels.values()) < 2:
        present = ", ".join(name for name, count in pixels.items() if count) or "no class"
        raise UserError(
            f"the validation images contain {present} of the foreground classes: validate on images with two or more"
        )
    scores = {}
    with closing(RunFolder(experiment.output)) as folder:
        folder.open(_settings(experiment), resume=True)
        for name in CONDITIONS:
            path = experiment.output / "scores" / f"{name}.json"
            if not path.exists():
                if name in TRAINED_CONDITIONS and not (name == "reference" and experiment.setup.reference):
                    _train(experiment, name, workers, callbacks)
                write_text(path, json.dumps(_score(experiment, name, CallbackList(tuple(callbacks))).to_json()) + "\n")
                _remove_state(RunFolder(experiment.output / name))
            scores[name] = CueScores(**json.loads(path.read_text(encoding="utf-8")))
    return Cues(
        scores=scores,
        foreground=foreground,
        background=[name for name in classes if name not in foreground],
        guess=best_guess(pixels),
        images=len(experiment.val),
    )


def _settings(experiment: Experiment) -> dict[str, object]:
    return {
        "foreground": experiment.foreground,
        "classes": experiment.train.classes,
        "train_images": len(experiment.train),
        "validation_images": len(experiment.val),
        "seed": experiment.seed,
        **experiment.setup.settings(),
    }


def _train(experiment: Experiment, name: str, workers: int, callbacks: Sequence[Callback]) -> None:
    """Train or resume the network of a condition, with the same initial weights, order and crops for all conditions."""
    setup, folder, condition = experiment.setup, RunFolder(experiment.output / name), CONDITIONS[name]
    CallbackList(tuple(callbacks)).on_log(f"Training {condition.title}: {folder.path}")
    torch.manual_seed(experiment.seed)
    net = setup.build()
    net.classes = list(experiment.train.classes)
    load_initial_weights(net, setup.weights)
    if setup.recipe.class_weights == "median":
        net.class_weights = torch.tensor(median_frequency_weights(experiment.train))
    with closing(folder):
        fit(
            net,
            experiment.masked(experiment.train, condition.trained, net.preprocessing),
            experiment.masked(experiment.val, condition.tested, net.preprocessing),
            setup.recipe,
            folder,
            max_side=setup.max_side,
            dtype=getattr(torch, choose_precision(net, head_only=setup.head_only).name),
            head_only=setup.head_only,
            seed=experiment.seed,
            workers=workers,
            resume=folder.open({"row": name}, resume=True),
            provenance={"row": condition.title, **_settings(experiment)},
            callbacks=callbacks,
        )


def _score(experiment: Experiment, name: str, callback: Callback) -> CueScores:
    condition = CONDITIONS[name]
    model = experiment.model_for(name)
    masked = experiment.masked(experiment.val, condition.tested, model.preprocessing)
    scores = evaluate(model, masked, progress=partial(callback.on_progress, f"Testing {condition.title}"))
    assert isinstance(scores, SemanticScores)
    return cue_scores(torch.tensor(scores.confusion), experiment.val.classes, experiment.foreground)


def _remove_state(folder: RunFolder) -> None:
    """Delete the state and the last model of a finished run, which are not needed any more."""
    (folder.path / "state.pt").unlink(missing_ok=True)
    rmtree(folder.last, ignore_errors=True)
