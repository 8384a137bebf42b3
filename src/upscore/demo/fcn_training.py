"""The three networks: trained alike on generated scenes, then asked about scenes that none has seen.

N scenes, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from upscore.data.datasets import VALIDATION_SEEDS, Dataset
from upscore.data.sample import Sample
from upscore.data.synthetic.scenes import SceneDataset
from upscore.evaluation.semantic import ConfusionMatrix, SemanticScores, semantic_scores
from upscore.inference import load
from upscore.models.build import build
from upscore.progress import ProgressCallback, ignore_progress
from upscore.results import as_semantic
from upscore.training.callbacks import Callback
from upscore.training.loop import fit
from upscore.training.recipes import MODERN, Recipe
from upscore.training.run_folder import RunFolder

BACKBONE = "efficientnet_lite0"
TITLES = {"fcn32s": "FCN-32s", "fcn16s": "FCN-16s", "fcn8s": "FCN-8s"}
STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}
COLORS = {"FCN-32s": "c32", "FCN-16s": "c16", "FCN-8s": "c8"}
"""Of each network in the charts, by the style sheet's names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much the demo does."""

    side: int = 128
    """Height and width of a scene."""
    train: int = 750
    """Scenes to train on."""
    validation: int = 48
    test: int = 200
    images: int = 3000
    """How many each FCN sees in training."""
    batch_size: int = 16

    @property
    def recipe(self) -> Recipe:
        """Short training: scenes vary enough by themselves, and the average of the weights forgets quickly."""
        changes = {
            "images": self.images,
            "batch_size": self.batch_size,
            "learning_rate": 2e-3,
            "crop": 0,
            "scale": None,
            "colour": 0,
            "ema": 0.97,
            "patience": 0,
        }
        return MODERN.model_copy(update=changes)


class Scenes:
    """Generated scenes that are kept, so that each network sees the same without drawing them again."""

    def __init__(self, count: int, seed: int, side: int, advance: ProgressCallback = ignore_progress) -> None:
        drawn = SceneDataset(count, seed=seed, size=(side, side))
        self.classes = drawn.classes
        self.samples: list[Sample] = []
        for index in range(count):
            self.samples.append(drawn[index])
            advance(index + 1, count)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Scenes to train on, to follow the training with, and to score in the end; no scene is in two of them."""

    train: Dataset
    validation: Dataset
    test: Dataset


def draw_scenes(settings: Settings, seed: int, advance: ProgressCallback) -> Splits:
    """Draw all scenes; those for the scores have seeds that no training has."""
    unseen = VALIDATION_SEEDS + 2 * seed
    return Splits(
        train=Scenes(settings.train, seed, settings.side, advance),
        validation=Scenes(settings.validation, unseen, settings.side),
        test=Scenes(settings.test, unseen + 1, settings.side),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A network, how it learned, and what it says of the test scenes."""

    name: str
    records: list[dict[str, Any]]
    """One for each epoch: `upscore.training.loop`."""
    losses: list[float]
    """One for each step."""
    class_maps: list[np.ndarray]
    """(H, W) uint8 for each test scene."""
    counts: Tensor
    """(N, C, C) int64, each scene's confusion matrix."""
    scores: SemanticScores

    @property
    def title(self) -> str:
        return TITLES[self.name]


class _Losses(Callback):
    """Keeps the loss of each step."""

    def __init__(self, progress: ProgressCallback) -> None:
        self.progress = progress
        self.losses: list[float] = []

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.losses.append(loss)
        self.progress(step, total_steps)


def train(name: str, splits: Splits, settings: Settings, output: Path, seed: int, advance: ProgressCallback) -> Trained:
    """Train one network from the classifier's weights into `output`/`name`, and try its best state on the test scenes.

    Raises:
        UserError: training diverged.
        KeyboardInterrupt: nothing is left half written.
    """
    net = build(name, backbone=BACKBONE, num_classes=len(splits.train.classes), pretrained=True)
    net.classes = splits.train.classes
    folder, follower = RunFolder(output / name), _Losses(advance)
    provenance = {"data": "generated scenes", "weights": "imagenet", "recipe": settings.recipe.model_dump(mode="json")}
    try:
        progress = fit(
            net,
            splits.train,
            splits.validation,
            settings.recipe,
            folder,
            max_side=0,
            seed=seed,
            provenance={**provenance, "seed": seed, "train_images": len(splits.train)},
            callbacks=[follower],
        )
    finally:
        (folder.path / "state.pt").unlink(missing_ok=True)  # nobody resumes a demo
    class_maps, counts = _predictions(folder.best, splits.test)
    return Trained(
        name=name,
        records=progress.records,
        losses=follower.losses,
        class_maps=class_maps,
        counts=counts,
        scores=semantic_scores(counts.sum(0), splits.test.classes),
    )


def _predictions(model: Path, scenes: Dataset) -> tuple[list[np.ndarray], Tensor]:
    predictor = load(model)
    class_maps, counts = [], []
    for index in range(len(scenes)):
        sample = scenes[index]
        assert sample.class_map is not None
        class_map = as_semantic(predictor.predict(sample.image)).class_map
        assert class_map is not None
        confusion = ConfusionMatrix(len(scenes.classes))
        confusion.update(class_map, sample.class_map)
        class_maps.append(class_map)
        counts.append(confusion.counts)
    return class_maps, torch.stack(counts)


def gain(coarse: Trained, fine: Trained, rounds: int = 1000) -> tuple[float, float, float]:
    """How much higher `fine`'s mean IoU is, and from where to where that lies for 95 % of sets of scenes like this one.

    The sets are drawn from the test scenes with replacement, the same for both (a paired bootstrap).
    """
    scenes = len(coarse.counts)
    drawn = torch.randint(scenes, (rounds, scenes), generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(rounds, scenes, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(rounds, scenes, dtype=torch.float64)
    )
    low, high = (_mean_iu(fine.counts, weights) - _mean_iu(coarse.counts, weights)).quantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    return fine.scores.mean_iu - coarse.scores.mean_iu, float(low), float(high)


def _mean_iu(counts: Tensor, weights: Tensor) -> Tensor:
    """Confusion matrices (N, C, C) summed with each row of weights (R, N) -> (R,) mean IoU."""
    summed = (weights @ counts.double().flatten(1)).unflatten(1, counts.shape[1:])
    right = summed.diagonal(dim1=1, dim2=2)
    return (right / (summed.sum(1) + summed.sum(2) - right)).nanmean(1)


def mean_iu_of(trained: Trained, classes: Sequence[str]) -> float:
    """The mean IoU over some classes, of those that occur."""
    found = [iu for name in classes if (iu := trained.scores.per_class[name]) is not None]
    return sum(found) / max(1, len(found))
