"""Chapter about strides: FCN-32s, FCN-16s and FCN-8s, trained on generated scenes and compared.

N scenes, C classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from upscore.data.datasets import VALIDATION_SEEDS, Dataset
from upscore.data.samples import Sample
from upscore.data.synthetic import SceneDataset
from upscore.demo.page import (
    Chapter,
    Html,
    confusion_table,
    figure,
    grouped_bars,
    heading,
    join,
    legend,
    line_chart,
    picture,
    row,
    score_table,
    summary,
    text,
    tile,
)
from upscore.evaluation.semantic import ConfusionMatrix, SemanticScores, semantic_scores
from upscore.inference import load
from upscore.models.build import build
from upscore.progress import ProgressCallback, ignore_progress
from upscore.results import as_semantic
from upscore.training.callbacks import Callback
from upscore.training.loop import fit
from upscore.training.recipes import MODERN, Recipe
from upscore.training.run_folder import RunFolder
from upscore.viz.colormaps import class_colors
from upscore.viz.overlays import overlay, side_by_side

BACKBONE = "efficientnet_lite0"

TITLES = {"fcn32s": "FCN-32s", "fcn16s": "FCN-16s", "fcn8s": "FCN-8s"}

STRIDES = {"fcn32s": 32, "fcn16s": 16, "fcn8s": 8}

COLORS = {"FCN-32s": "c32", "FCN-16s": "c16", "FCN-8s": "c8"}
"""Title -> class of the style sheet."""

THIN = ("bar", "cross")
"""Classes that are a few pixels wide."""

ENLARGED = 3
"""Factor by which scenes are enlarged on the page."""

PICTURE_WIDTH = 1000
"""Width in pixels of the figure in the folder of images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes of the data and of training."""

    side: int = 128
    """Height and width of a scene in pixels."""
    train: int = 600
    """Number of training scenes."""
    validation: int = 48
    """Number of validation scenes."""
    test: int = 150
    """Number of test scenes."""
    images: int = 1800
    """Number of training images of each FCN, counting repetitions."""
    batch_size: int = 8

    @property
    def recipe(self) -> Recipe:
        """Short training without augmentation, since the scenes vary, and with a short average of the weights."""
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
    """Generated scenes in memory, for training several networks."""

    def __init__(self, count: int, seed: int, side: int, advance: ProgressCallback = ignore_progress) -> None:
        dataset = SceneDataset(count, seed=seed, size=(side, side))
        self.classes = dataset.classes
        self.samples: list[Sample] = []
        for index in range(count):
            self.samples.append(dataset[index])
            advance(index + 1, count)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Disjoint sets of scenes for training, validation and test."""

    train: Dataset
    validation: Dataset
    test: Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained network, its losses, and its predictions and scores on the test scenes."""

    name: str
    records: list[dict[str, Any]]
    """One record per epoch, as in metrics.jsonl."""
    losses: list[float]
    """One loss per step."""
    class_maps: list[np.ndarray]
    """Predictions for the test scenes, each (H, W) uint8."""
    counts: Tensor
    """(N, C, C) int64, confusion matrix of each test scene."""
    scores: SemanticScores
    """Scores over all test scenes."""

    @property
    def title(self) -> str:
        return TITLES[self.name]


def draw_scenes(settings: Settings, seed: int, advance: ProgressCallback) -> Splits:
    """Generate all scenes; validation and test scenes have seeds that training scenes never have."""
    evaluation_seed = VALIDATION_SEEDS + 2 * seed
    return Splits(
        train=Scenes(settings.train, seed, settings.side, advance),
        validation=Scenes(settings.validation, evaluation_seed, settings.side),
        test=Scenes(settings.test, evaluation_seed + 1, settings.side),
    )


def train(name: str, splits: Splits, settings: Settings, output: Path, seed: int, advance: ProgressCallback) -> Trained:
    """Train a network with an ImageNet backbone into `output`/`name`, and evaluate its best epoch on the test scenes.

    Raises:
        UserError: training diverged.
        KeyboardInterrupt: training was interrupted; no file is incomplete.
    """
    net = build(name, backbone=BACKBONE, num_classes=len(splits.train.classes), pretrained=True)
    net.classes = splits.train.classes
    folder, recorder = RunFolder(output / name), _Losses(advance)
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
            callbacks=[recorder],
        )
    finally:
        (folder.path / "state.pt").unlink(missing_ok=True)  # a demo is not resumed
    class_maps, counts = _predictions(folder.best, splits.test)
    return Trained(
        name=name,
        records=progress.records,
        losses=recorder.losses,
        class_maps=class_maps,
        counts=counts,
        scores=semantic_scores(counts.sum(0), splits.test.classes),
    )


def chapter(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int], settings: Settings) -> Chapter:
    """Return the chapter: architecture, predictions, scores and training of the three networks."""
    return Chapter(
        anchor="strides",
        title="The stride of a network limits its masks",
        body=join(
            summary(compare_mean_iu(networks)),
            *_introduction(scenes, chosen[0], settings),
            heading("Predictions on test scenes"),
            *_prediction_figures(networks, scenes, chosen),
            heading("Scores"),
            *_scores(networks),
            heading("Training"),
            *_training(networks, settings),
        ),
    )


def choose_scenes(scenes: Dataset, count: int) -> list[int]:
    """Return the indices of the first `count` scenes with a thin class and at least two other classes."""
    thin = {scenes.classes.index(name) for name in THIN}

    def is_unsuitable(index: int) -> bool:
        shapes = set(_truth(scenes, index).unique().tolist()) - {0}
        return not shapes & thin or len(shapes - thin) < 2

    return sorted(range(len(scenes)), key=is_unsuitable)[:count]


def predictions_picture(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int]) -> Image.Image:
    """Draw scenes in rows, with the scene, its labels and the predictions in columns."""
    columns = [
        [_image(scenes, index) for index in chosen],
        [_overlay(scenes, index, _truth(scenes, index).numpy()) for index in chosen],
        *[[_overlay(scenes, index, net.class_maps[index]) for index in chosen] for net in networks],
    ]
    sheet = side_by_side([_column(pictures) for pictures in columns], ["scene", "labels", *(n.title for n in networks)])
    sheet.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH), Image.Resampling.LANCZOS)
    return sheet


def compare_mean_iu(networks: Sequence[Trained]) -> str:
    """Return a sentence that compares the mean IoU of the networks."""
    coarsest, finest = networks[0], networks[-1]
    ious = ", ".join(f"{net.title} {net.scores.mean_iu:.1%}" for net in networks)
    total_gain = 100 * (finest.scores.mean_iu - coarsest.scores.mean_iu)
    if increases(networks):
        return f"Mean IoU increases with every finer stride: {ious}. The total gain is {_points(total_gain)}."
    if total_gain > 0:
        return f"The finest stride has a higher mean IoU than the coarsest, but not every finer stride gains: {ious}."
    return f"Finer strides do not increase mean IoU in this run: {ious}. Another seed or longer training may differ."


def describe_gains(networks: Sequence[Trained]) -> list[str]:
    """Return sentences about the gain by each finer stride, with its 95 % interval."""
    sentences = []
    for coarse, fine in pairwise(networks):
        difference, low, high = (100 * value for value in bootstrap_gain(coarse, fine))
        change = f"gains {_points(difference)}" if difference >= 0 else f"loses {_points(-difference)}"
        significance = "" if low * high > 0 else "; the interval contains 0, so the order of these two is uncertain"
        sentences.append(
            f"From {coarse.title} to {fine.title}, mean IoU {change} (95 % interval over test scenes by bootstrap: "
            f"{low:+.1f} to {high:+.1f}{significance})."
        )
    return [" ".join([*sentences, "Other seeds give other scores: `upscore demo --seed 1`."])]


def compare_thin_classes(networks: Sequence[Trained], thin: Sequence[str]) -> str:
    """Return a sentence that compares the IoU of thin and other classes at the coarsest and the finest stride."""
    coarsest, finest = networks[0], networks[-1]
    other = [name for name in finest.scores.per_class if name not in thin and name != "background"]
    gains = [100 * (class_mean_iu(finest, names) - class_mean_iu(coarsest, names)) for names in (thin, other)]
    before, after = (f"{class_mean_iu(net, thin):.0%}" for net in (coarsest, finest))
    names = " and ".join(thin)
    ends = f"from {before} with {coarsest.title} to {after} with {finest.title}"
    change = f"The IoU of the thin classes ({names}) changes {ends}"
    if gains[0] <= 0:
        return f"{change}: finer strides do not increase it in this run."
    return f"{change}, on average; that of the other shapes changes by {gains[1]:+.1f} points."


def increases(networks: Sequence[Trained]) -> bool:
    """Return whether mean IoU increases with every finer stride."""
    ius = [net.scores.mean_iu for net in networks]
    return all(coarse < fine for coarse, fine in pairwise(ius))


def bootstrap_gain(coarse: Trained, fine: Trained, rounds: int = 1000) -> tuple[float, float, float]:
    """Compute the difference of mean IoU between two networks, and its 95 % interval by a paired bootstrap.

    Args:
        coarse: network with the coarser stride.
        fine: network with the finer stride.
        rounds: number of sets that are drawn from the test scenes with replacement.

    Returns:
        The difference, and the lower and upper end of the interval.
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


def class_mean_iu(trained: Trained, classes: Sequence[str]) -> float:
    """Return the mean IoU over some classes, without those that do not occur."""
    ious = [iu for name in classes if (iu := trained.scores.per_class[name]) is not None]
    return sum(ious) / max(1, len(ious))


class _Losses(Callback):
    """Records the loss of each step, and reports the progress."""

    def __init__(self, progress: ProgressCallback) -> None:
        self.progress = progress
        self.losses: list[float] = []

    def on_step_end(self, step: int, total_steps: int, loss: float) -> None:
        self.losses.append(loss)
        self.progress(step, total_steps)


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


def _mean_iu(counts: Tensor, weights: Tensor) -> Tensor:
    """Return the mean IoU (R,) of confusion matrices (N, C, C) summed with each row of weights (R, N)."""
    summed = (weights @ counts.double().flatten(1)).unflatten(1, counts.shape[1:])
    correct = summed.diagonal(dim1=1, dim2=2)
    return (correct / (summed.sum(1) + summed.sum(2) - correct)).nanmean(1)


def _points(value: float) -> str:
    return f"{value:.1f} points"


def _introduction(scenes: Dataset, example: int, settings: Settings) -> list[Html]:
    scene = picture(_image(scenes, example), "A generated scene")
    cells = []
    for name, title in TITLES.items():
        stride = STRIDES[name]
        count = -(-settings.side // stride)
        grid = f'<div class="cells" style="--cell:{100 * stride / settings.side:.4f}%">{scene}</div>'
        cells.append(tile(Html(grid), f"{title}: {count} x {count} predictions"))
    return [
        text(
            "*Semantic segmentation* gives every pixel a class. A fully convolutional network (FCN) replaces the "
            "last layer of a classifier by a 1 x 1 convolution that scores the classes, and upsamples the scores to "
            "the size of the image. The classifier reduces its feature maps five times by two, so FCN-32s predicts "
            "once every 32 pixels. FCN-16s adds scores from the feature map at stride 16, FCN-8s also those at "
            "stride 8.",
        ),
        figure(
            row(cells, "three"),
            "A scene with the grids of the three networks. Every cell has one set of scores; values in between are "
            "interpolated.",
        ),
        text(
            "The scenes are generated: shapes of seven classes on photographs, filled with other photographs, so that "
            f"classes differ by outline only. Two classes, {' and '.join(THIN)}, are a few pixels wide. The three "
            f"networks start from the same ImageNet weights, are trained on the same {settings.images:,} scenes "
            f"({settings.train:,} different ones) in the same order, and are scored on {settings.test:,} other scenes.",
        ),
    ]


def _prediction_figures(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int]) -> list[Html]:
    rows = []
    for index in chosen:
        truth = _truth(scenes, index).numpy()
        tiles = [
            tile(picture(_image(scenes, index), f"Scene {index}"), "scene"),
            tile(picture(_overlay(scenes, index, truth), "The same scene with its labels"), "labels"),
        ]
        for net in networks:
            iou = semantic_scores(net.counts[index], scenes.classes).mean_iu
            shown = picture(_overlay(scenes, index, net.class_maps[index]), f"The prediction of {net.title}")
            tiles.append(tile(shown, f"{net.title} · {iou:.0%}"))
        rows.append(row(tiles, "five"))
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(len(scenes.classes)).tolist()]
    return [
        legend(list(zip(scenes.classes, colors, strict=True))[1:]),
        figure(
            join(*rows),
            f"The first {len(chosen)} of {len(scenes)} test scenes with a thin class and two other classes, with the "
            "mean IoU of each prediction. Compare the thin bars and crosses, and the tips of the stars.",
        ),
    ]


def _scores(networks: Sequence[Trained]) -> list[Html]:
    names = ("pixel accuracy", "mean accuracy", "mean IoU", "frequency-weighted IoU")
    table = {
        net.title: (
            net.scores.pixel_accuracy,
            net.scores.mean_accuracy,
            net.scores.mean_iu,
            net.scores.frequency_weighted_iu,
        )
        for net in networks
    }
    classes = {name: {net.title: net.scores.per_class[name] for net in networks} for name in networks[0].scores.pixels}
    return [
        text(*describe_gains(networks)),
        figure(
            score_table(names, table),
            "In per cent, over all pixels of all test scenes. The IoU (intersection over union) of a class is the "
            "number of its correctly predicted pixels divided by the number of pixels that are labelled or predicted "
            "as the class.",
        ),
        text(compare_thin_classes(networks, THIN)),
        figure(grouped_bars(classes, COLORS), "IoU of each class in per cent."),
    ]


def _training(networks: Sequence[Trained], settings: Settings) -> list[Html]:
    losses = {net.title: _smoothed(net.losses, settings.images) for net in networks}
    ious = {
        net.title: [(record["epoch"] * settings.train, record["mean_iu"]) for record in net.records] for net in networks
    }
    best = networks[-1]
    return [
        row(
            [
                line_chart(
                    losses,
                    COLORS,
                    x_title="scenes seen",
                    title="training loss",
                    top=_round_up(losses, 0.4),
                    percent=False,
                    dots=False,
                ),
                line_chart(
                    ious,
                    COLORS,
                    x_title="scenes seen",
                    title="mean IoU on validation scenes",
                    top=min(1, _round_up(ious, 0.2)),
                    percent=True,
                    dots=True,
                ),
            ],
            "charts",
        ),
        figure(
            confusion_table(best.scores.confusion, list(best.scores.per_class)),
            f"Confusion matrix of {best.title}: of 100 pixels of the class on the left, how many were predicted as the "
            "class above.",
        ),
    ]


def _round_up(lines: Mapping[str, Sequence[tuple[float, float]]], step: float) -> float:
    """Return the next multiple of `step` above all lines."""
    return step * math.ceil(max(y for points in lines.values() for _, y in points) / step)


def _column(pictures: list[Image.Image], gap: int = 8) -> Image.Image:
    width, height = pictures[0].size
    column = Image.new("RGB", (width, len(pictures) * (height + gap) - gap), "white")
    for number, part in enumerate(pictures):
        column.paste(part, (0, number * (height + gap)))
    return column


def _truth(scenes: Dataset, index: int) -> Tensor:
    class_map = scenes[index].class_map
    assert class_map is not None
    return class_map


def _image(scenes: Dataset, index: int) -> Image.Image:
    image = Image.fromarray(scenes[index].image.permute(1, 2, 0).numpy())
    return image.resize((ENLARGED * image.width, ENLARGED * image.height), Image.Resampling.LANCZOS)


def _overlay(scenes: Dataset, index: int, class_map: np.ndarray) -> Image.Image:
    enlarged = class_map.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    return overlay(np.asarray(_image(scenes, index)), enlarged, scenes.classes, opacity=0.75, legend=False)


def _smoothed(losses: Sequence[float], images: int) -> list[tuple[float, float]]:
    """Return (number of scenes, loss), where each loss is the mean of up to nine steps around it."""
    means = [float(np.mean(losses[max(0, k - 4) : k + 5])) for k in range(len(losses))]
    return [((k + 1) / len(losses) * images, mean) for k, mean in enumerate(means)]
