"""Trains and scores the networks of `upscore.experiments.cues.conditions`: what does a network look at?

N photos, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    ROWS,
    TRAINED,
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
from upscore.training.init_weights import start_from
from upscore.training.loop import fit
from upscore.training.precision import choose_precision
from upscore.training.run_folder import RunFolder

BACKGROUND_NAMES = ("background", "bg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The data, and which of its classes are the foreground."""

    train: Dataset
    val: Dataset
    foreground: list[str]
    setup: TrainingSetup
    output: Path
    """Of each row that is trained, a run of its name; scores/ROW.json of each that is finished."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.foreground) < 2:
            raise UserError(
                f"{self.foreground[0]} is the only foreground class: where a photo is masked by it, the mask is the "
                "answer; name two or more with --foreground"
            )

    @property
    def indices(self) -> list[int]:
        """Of the foreground classes."""
        return [self.train.classes.index(name) for name in self.foreground]

    @property
    def fill(self) -> Color:
        """The colour of what is hidden; the network of the last row stands for all."""
        return mean_color(self.predictor("shape").preprocessing)

    def masked(self, dataset: Dataset, visible: Visible, preprocessing: Preprocessing) -> MaskedDataset:
        """The photos as a network with this preprocessing is to see them."""
        return MaskedDataset(
            dataset,
            self.indices,
            keep_foreground=visible.foreground,
            keep_background=visible.background,
            fill=mean_color(preprocessing),
        )

    def predictor(self, row: str) -> Model:
        """The trained network that a row tests."""
        network = network_of(row)
        given = self.setup.reference if network == "reference" else None
        return load(given or RunFolder(self.output / network).best)


def foreground_of(classes: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """The foreground classes in the order of the classes: those named, or by default all but the background.

    Raises:
        UserError: a name is unknown, no class is left for one of the two, or none is called background.
    """
    if names is None:
        if classes[0].strip().lower() not in BACKGROUND_NAMES:
            raise UserError(
                f"the first class is {classes[0]}, not background: name those that are objects with --foreground, out "
                f"of {', '.join(classes)}"
            )
        names = classes[1:]
    if unknown := [name for name in names if name not in classes]:
        raise UserError(f"--foreground {unknown[0]}: there is no such class; there are {', '.join(classes)}")
    chosen = [name for name in classes if name in names]
    if not chosen or len(chosen) == len(classes):
        ground = "background" if chosen else "foreground"
        raise UserError(f"--foreground {','.join(names)}: no class is left for the {ground} of {', '.join(classes)}")
    return chosen


def count_classes(dataset: Dataset, advance: ProgressCallback = ignore_progress) -> np.ndarray:
    """(N, C) labelled pixels of each photo and class.

    Raises:
        UserError: a photo has no class map.
    """
    counts = np.zeros((len(dataset), len(dataset.classes)), np.int64)
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.class_map is None:
            raise UserError(f"{sample.name} has no class map to compare with")
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
    """Train what is not trained yet and score what is not scored yet; `counts` are the held-out photos' (N, C).

    Raises:
        UserError: the folder holds another experiment, or fewer than two foreground classes are held out.
        KeyboardInterrupt: the state was saved, and the next call goes on from it.
    """
    classes, foreground = experiment.val.classes, experiment.foreground
    pixels = {name: int(counts[:, classes.index(name)].sum()) for name in foreground}
    if sum(count > 0 for count in pixels.values()) < 2:
        there = ", ".join(name for name, count in pixels.items() if count) or "none"
        raise UserError(f"of the foreground classes, the held-out photos have {there}: hold out photos of two or more")
    RunFolder(experiment.output).open(_settings(experiment), resume=True)
    scores = {}
    for name in ROWS:
        path = experiment.output / "scores" / f"{name}.json"
        if not path.exists():
            if name in TRAINED and not (name == "reference" and experiment.setup.reference):
                _train(experiment, name, workers, callbacks)
            write_text(path, json.dumps(_score(experiment, name, CallbackList(tuple(callbacks))).to_json()) + "\n")
            _tidy(RunFolder(experiment.output / name))
        scores[name] = CueScores(**json.loads(path.read_text(encoding="utf-8")))
    return Cues(
        scores=scores,
        foreground=foreground,
        background=[name for name in classes if name not in foreground],
        guess=best_guess(pixels),
        photos=len(experiment.val),
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
    """Train a row's network, or go on with it; every row starts from the same weights and sees the same pieces."""
    setup, folder, row = experiment.setup, RunFolder(experiment.output / name), ROWS[name]
    CallbackList(tuple(callbacks)).on_log(f"Training {row.title}: {folder.path}")
    torch.manual_seed(experiment.seed)
    net = setup.build()
    net.classes = list(experiment.train.classes)
    start_from(net, setup.weights)
    if setup.recipe.class_weights == "median":
        net.class_weights = torch.tensor(median_frequency_weights(experiment.train))
    fit(
        net,
        experiment.masked(experiment.train, row.trained, net.preprocessing),
        experiment.masked(experiment.val, row.tested, net.preprocessing),
        setup.recipe,
        folder,
        max_side=setup.max_side,
        dtype=getattr(torch, choose_precision(net, head_only=setup.head_only).name),
        head_only=setup.head_only,
        seed=experiment.seed,
        workers=workers,
        resume=folder.open({"row": name}, resume=True),
        provenance={"row": row.title, **_settings(experiment)},
        callbacks=callbacks,
    )


def _score(experiment: Experiment, name: str, callback: Callback) -> CueScores:
    row = ROWS[name]
    predictor = experiment.predictor(name)
    seen = experiment.masked(experiment.val, row.tested, predictor.preprocessing)
    found = evaluate(predictor, seen, progress=partial(callback.on_progress, f"Testing {row.title}"))
    assert isinstance(found, SemanticScores)
    return cue_scores(torch.tensor(found.confusion), experiment.val.classes, experiment.foreground)


def _tidy(folder: RunFolder) -> None:
    """Of a finished run, only the model and the curves are of any further use."""
    (folder.path / "state.pt").unlink(missing_ok=True)
    rmtree(folder.last, ignore_errors=True)
