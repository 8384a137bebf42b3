"""Chapters about FCN-32s, 16s and 8s: what sets them apart, what they see, how they score, how they learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from upscore.colormaps import class_colors
from upscore.data.datasets import Dataset
from upscore.evaluation.metrics import semantic_scores
from upscore.rendering import overlay, side_by_side
from upscore.report import words
from upscore.report.charts import confusion_table, grouped_bars, line_chart, score_table
from upscore.report.networks import COLORS, STRIDES, TITLES, Settings, Trained
from upscore.report.page import Chapter, Html, figure, heading, join, legend, picture, row, stressed, text, tile

THIN = ("bar", "cross")
"""Classes a few pixels wide."""

ENLARGED = 3
"""Times a scene is enlarged in the page, so that its pixels stay sharp."""

STRIP_WIDTH = 1000
"""Pixels of the picture to show elsewhere."""


def choose(scenes: Dataset, count: int) -> list[int]:
    """The first scenes with a thin shape and at least two kinds of others; chosen by the truth alone."""
    thin = {scenes.classes.index(name) for name in THIN}

    def tells_little(index: int) -> bool:
        shapes = set(_truth(scenes, index).unique().tolist()) - {0}
        return not shapes & thin or len(shapes - thin) < 2

    return sorted(range(len(scenes)), key=tells_little)[:count]


def idea(scenes: Dataset, example: int, settings: Settings) -> Chapter:
    """How the three differ, and how they are trained."""
    photo = picture(_photo(scenes, example), "A generated scene")
    cells = []
    for name, title in TITLES.items():
        stride = STRIDES[name]
        count = -(-settings.side // stride)
        grid = f'<div class="cells" style="--cell:{100 * stride / settings.side:.4f}%">{photo}</div>'
        cells.append(tile(Html(grid), f"{title}: {count} by {count} answers"))
    return Chapter(
        anchor="idea",
        title="But it answers only once every 32 pixels",
        body=join(
            text(
                "A map of answers is nearly a segmentation. Two things are missing. The last layer has to speak of "
                "*our* classes, so it is replaced, and the whole network is fine-tuned with one small exam per pixel. "
                "And the map has to grow back to the photo's size, for on its way to an answer the classifier has "
                "halved its maps five times: one answer is left for every 32 by 32 pixels. Upsampling makes that map "
                "larger. It does not make it sharper.",
                "The remedy is to ask earlier layers too. They understand less, but they are finer. *FCN-16s* adds "
                "the scores of the layer at 1/16 to the upsampled coarse ones, and *FCN-8s* also those at 1/8, before "
                "the sum is brought to full size: the coarse scores say what, the fine ones say where.",
            ),
            figure(
                row(cells, "three"),
                "The same scene under the grids of the three networks. Each cell gets one set of scores; what lies "
                "between is interpolated.",
            ),
            heading("A fair race"),
            text(
                "The scenes are made for the purpose: shapes lie on real photographs, filled with other photographs, "
                "so colour and texture give nothing away. Only the outline tells a star from a disk. Two of the seven "
                f"shapes, {' and '.join(THIN)}, are a few pixels thin.",
                "All three networks start from the classifier's ImageNet weights, see the same "
                f"{settings.images:,} scenes ({settings.train:,} different ones) in the same order, and take the same "
                "number of steps. (The paper starts 16s from the finished 32s and 8s from 16s, which also works, but "
                "gives the finer networks more training. Here nobody has a head start.) They are scored on "
                f"{settings.test:,} other scenes that played no part in training.",
            ),
        ),
    )


def answers(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int]) -> Chapter:
    """Scenes, the truth, and what each network says, side by side."""
    rows = []
    for index in chosen:
        truth = _truth(scenes, index).numpy()
        tiles = [
            tile(picture(_photo(scenes, index), f"Scene {index}"), "scene"),
            tile(picture(_painted(scenes, index, truth), "The same scene with its true classes"), "truth"),
        ]
        for net in networks:
            iu = semantic_scores(net.counts[index], scenes.classes).mean_iu
            shown = picture(_painted(scenes, index, net.class_maps[index]), f"What {net.title} says of it")
            tiles.append(tile(shown, f"{net.title} · {iu:.0%}"))
        rows.append(row(tiles, "five"))
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in class_colors(len(scenes.classes)).tolist()]
    return Chapter(
        anchor="answers",
        title="What they say of scenes they have never seen",
        body=join(
            text(
                "Follow the thin bars and crosses from left to right, and the tips of the stars. The number beside "
                "each network is its mean IU on that one scene."
            ),
            legend(list(zip(scenes.classes, colors, strict=True))[1:]),
            figure(
                join(*rows),
                f"{len(chosen)} of the {len(scenes)} test scenes: the first with a thin shape and two other kinds, "
                "whatever the networks made of them.",
            ),
        ),
    )


def scores(networks: Sequence[Trained]) -> Chapter:
    """The four scores, each class, and what they amount to in words."""
    names = ("pixel accuracy", "mean accuracy", "mean IU", "f.w. IU")
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
    return Chapter(
        anchor="scores",
        title="By how much the finer ones win" if words.finer_wins(networks) else "Do the finer ones win?",
        body=join(
            stressed(words.verdict(networks)),
            text(*words.certainty(networks)),
            figure(
                score_table(names, table),
                "In per cent, over all pixels of all test scenes. IU, intersection over union: the pixels that are "
                "rightly given a class, as a share of those that have it or were given it. f.w.: weighted by how "
                "often a class occurs, which background dominates.",
            ),
            heading("Class by class"),
            text(words.thin_classes(networks, THIN)),
            figure(grouped_bars(classes, COLORS), "IU in per cent."),
        ),
    )


def learning(networks: Sequence[Trained], settings: Settings) -> Chapter:
    """Curves of the three, and the confusions of the last."""
    losses = {net.title: _smoothed(net.losses, settings.images) for net in networks}
    ius = {
        net.title: [(record["epoch"] * settings.train, record["mean_iu"]) for record in net.records] for net in networks
    }
    best = networks[-1]
    return Chapter(
        anchor="learning",
        title="How they learned, and what is still confused",
        body=join(
            row(
                [
                    line_chart(
                        losses,
                        COLORS,
                        x_title="scenes seen",
                        title="loss while training",
                        top=_ceiling(losses, 0.4),
                        percent=False,
                        dots=False,
                    ),
                    line_chart(
                        ius,
                        COLORS,
                        x_title="scenes seen",
                        title="mean IU on validation scenes",
                        top=min(1, _ceiling(ius, 0.2)),
                        percent=True,
                        dots=True,
                    ),
                ],
                "charts",
            ),
            text(
                "The score layers start at zero, where every class is as likely as every other; most of what is "
                "learned early on is that most pixels are background. The curves are of this run."
            ),
            heading(f"{best.title}, class by class"),
            figure(
                confusion_table(best.scores.confusion, list(best.scores.per_class)),
                "Of a hundred pixels of the class on the left, how many were taken for the class above.",
            ),
        ),
    )


def _ceiling(lines: Mapping[str, Sequence[tuple[float, float]]], step: float) -> float:
    """The next whole multiple of `step` above all lines."""
    return step * math.ceil(max(y for points in lines.values() for _, y in points) / step)


def strip(networks: Sequence[Trained], scenes: Dataset, chosen: Sequence[int]) -> Image.Image:
    """Scenes in rows; photo, truth and each network in columns."""
    columns = [
        [_photo(scenes, index) for index in chosen],
        [_painted(scenes, index, _truth(scenes, index).numpy()) for index in chosen],
        *[[_painted(scenes, index, net.class_maps[index]) for index in chosen] for net in networks],
    ]
    sheet = side_by_side([_column(pictures) for pictures in columns], ["scene", "truth", *(n.title for n in networks)])
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
