"""Chapter: FCN-32s, FCN-16s and FCN-8s on generated scenes; how their output strides change masks and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.demo import text as words
from upscore.demo.fcn_training import COLORS, STRIDES, TITLES, Settings, Trained
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
    stressed,
    text,
    tile,
)
from upscore.evaluation.semantic import semantic_scores
from upscore.viz.colormaps import class_colors
from upscore.viz.overlays import overlay, side_by_side

THIN = ("bar", "cross")
"""Classes a few pixels wide."""

ENLARGED = 3
"""Times a scene is enlarged in the page, so that its pixels stay sharp."""

STRIP_WIDTH = 1000
"""Pixels of the picture to show elsewhere."""


def choose(scenes: Dataset, count: int) -> list[int]:
    """The first scenes with a thin shape and at least two kinds of others, by their labels."""
    thin = {scenes.classes.index(name) for name in THIN}

    def tells_little(index: int) -> bool:
        shapes = set(_truth(scenes, index).unique().tolist()) - {0}
        return not shapes & thin or len(shapes - thin) < 2

    return sorted(range(len(scenes)), key=tells_little)[:count]


def chapter(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int], settings: Settings) -> Chapter:
    """How the three networks differ and are trained, what they predict, and their scores."""
    return Chapter(
        anchor="strides",
        title="The stride of a network limits its masks",
        body=join(
            stressed(words.verdict(networks)),
            *_idea(scenes, chosen[0], settings),
            heading("Predictions on test scenes"),
            *_predictions(networks, scenes, chosen),
            heading("Scores"),
            *_scores(networks),
            heading("Training"),
            *_learning(networks, settings),
        ),
    )


def _idea(scenes: Dataset, example: int, settings: Settings) -> list[Html]:
    photo = picture(_photo(scenes, example), "A generated scene")
    cells = []
    for name, title in TITLES.items():
        stride = STRIDES[name]
        count = -(-settings.side // stride)
        grid = f'<div class="cells" style="--cell:{100 * stride / settings.side:.4f}%">{photo}</div>'
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
            "The same scene under the grids of the three networks. Every cell has one set of scores; values in between "
            "are interpolated.",
        ),
        text(
            "The scenes are generated: seven kinds of shapes on photographs, filled with other photographs, so that "
            f"only their outlines tell them apart. Two kinds, {' and '.join(THIN)}, are a few pixels wide. The three "
            f"networks start from the same ImageNet weights, see the same {settings.images:,} scenes "
            f"({settings.train:,} different ones) in the same order, and are scored on {settings.test:,} other scenes.",
        ),
    ]


def _predictions(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int]) -> list[Html]:
    rows = []
    for index in chosen:
        truth = _truth(scenes, index).numpy()
        tiles = [
            tile(picture(_photo(scenes, index), f"Scene {index}"), "scene"),
            tile(picture(_painted(scenes, index, truth), "The same scene with its labels"), "labels"),
        ]
        for net in networks:
            iou = semantic_scores(net.counts[index], scenes.classes).mean_iu
            shown = picture(_painted(scenes, index, net.class_maps[index]), f"The prediction of {net.title}")
            tiles.append(tile(shown, f"{net.title} · {iou:.0%}"))
        rows.append(row(tiles, "five"))
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(len(scenes.classes)).tolist()]
    return [
        legend(list(zip(scenes.classes, colors, strict=True))[1:]),
        figure(
            join(*rows),
            f"The first {len(chosen)} of {len(scenes)} test scenes with a thin shape and two other kinds, with the "
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
        text(*words.certainty(networks)),
        figure(
            score_table(names, table),
            "In per cent, over all pixels of all test scenes. The IoU (intersection over union) of a class is the "
            "number of its correctly predicted pixels divided by the number of pixels that are labelled or predicted "
            "as the class.",
        ),
        text(words.thin_classes(networks, THIN)),
        figure(grouped_bars(classes, COLORS), "IoU of each class in per cent."),
    ]


def _learning(networks: Sequence[Trained], settings: Settings) -> list[Html]:
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
                    top=_ceiling(losses, 0.4),
                    percent=False,
                    dots=False,
                ),
                line_chart(
                    ious,
                    COLORS,
                    x_title="scenes seen",
                    title="mean IoU on validation scenes",
                    top=min(1, _ceiling(ious, 0.2)),
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


def _ceiling(lines: Mapping[str, Sequence[tuple[float, float]]], step: float) -> float:
    """The next whole multiple of `step` above all lines."""
    return step * math.ceil(max(y for points in lines.values() for _, y in points) / step)


def strip(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int]) -> Image.Image:
    """Scenes in rows; image, labels and each network in columns."""
    columns = [
        [_photo(scenes, index) for index in chosen],
        [_painted(scenes, index, _truth(scenes, index).numpy()) for index in chosen],
        *[[_painted(scenes, index, net.class_maps[index]) for index in chosen] for net in networks],
    ]
    sheet = side_by_side([_column(pictures) for pictures in columns], ["scene", "labels", *(n.title for n in networks)])
    sheet.thumbnail((STRIP_WIDTH, STRIP_WIDTH), Image.Resampling.LANCZOS)
    return sheet


def _column(pictures: list[Image.Image], gap: int = 8) -> Image.Image:
    width, height = pictures[0].size
    column = Image.new("RGB", (width, len(pictures) * (height + gap) - gap), "white")
    for number, one in enumerate(pictures):
        column.paste(one, (0, number * (height + gap)))
    return column


def _truth(scenes: Dataset, index: int) -> Tensor:
    class_map = scenes[index].class_map
    assert class_map is not None
    return class_map


def _photo(scenes: Dataset, index: int) -> Image.Image:
    photo = Image.fromarray(scenes[index].image.permute(1, 2, 0).numpy())
    return photo.resize((ENLARGED * photo.width, ENLARGED * photo.height), Image.Resampling.LANCZOS)


def _painted(scenes: Dataset, index: int, class_map: np.ndarray) -> Image.Image:
    enlarged = class_map.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    return overlay(np.asarray(_photo(scenes, index)), enlarged, scenes.classes, opacity=0.75, legend=False)


def _smoothed(losses: Sequence[float], images: int) -> list[tuple[float, float]]:
    """(scenes seen, loss), each loss the mean of up to nine steps around it."""
    means = [float(np.mean(losses[max(0, k - 4) : k + 5])) for k in range(len(losses))]
    return [((k + 1) / len(losses) * images, mean) for k, mean in enumerate(means)]
