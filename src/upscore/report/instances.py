"""Chapter: Mask R-CNN tells objects of one class apart, where a class map can't."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from upscore.data.datasets import Dataset
from upscore.evaluation.instances import InstanceScores
from upscore.report.charts import line_chart, ranking, score_table
from upscore.report.detector import ROUND, TITLE, Detector, parts
from upscore.report.networks import Settings, Trained
from upscore.report.object_pictures import (
    boxes_picture,
    classes_picture,
    mask_picture,
    object_colors,
    object_names,
    object_picture,
    objects_picture,
    region_picture,
    scene_picture,
)
from upscore.report.page import Chapter, Html, figure, heading, join, picture, row, stressed, text, tile
from upscore.report.touching import Pair, largest, merged, pairs, told_apart
from upscore.results import InstanceResult

SHOWN, PROPOSALS = 3, 40
"""Scenes and proposals in the page."""

AMBER = (230, 126, 0)
"""Of proposals, which have no class yet."""

PARTS = {
    "objectness": ("proposals, something or not", "c32"),
    "rpn_box": ("proposals, box", "c16"),
    "class": ("class", "green"),
    "box": ("box", "pink"),
    "mask": ("mask", "c8"),
}
"""What the five losses are called in the page, and their colours."""


def chapter(detector: Detector, fcn: Trained, scenes: Dataset, settings: Settings) -> Chapter:
    """What the two make of touching objects, how many objects are found, and what happens inside."""
    found = pairs(scenes)
    chosen = largest(found, SHOWN) or [0]
    return Chapter(
        anchor="objects",
        title="Which object does each pixel belong to?",
        body=join(
            stressed(_verdict(found, detector, fcn)),
            text(
                f"A class map has no word for *two*: where shapes of one class touch, {fcn.title} paints one region. "
                "*Mask R-CNN* goes the other way round: it first finds the objects, one by one, and then asks of each "
                "which pixels are its own (Mask R-CNN section 3).",
                f"Its convolutions start as those of {fcn.title}, for what these know of shapes serves both; then it "
                f"learns from the same scenes, {settings.detector_images:,} looks in all. What it says is not a map "
                "but a list: a box, a class, a score and a mask for each object.",
            ),
            figure(
                join(*[_compared(detector, fcn, scenes, index) for index in chosen]),
                "Test scenes, chosen by the truth alone: those where the largest shapes touch another of their class. "
                f"In the middle each region of {fcn.title} has the name of its class; on the right each object has a "
                "number of its own.",
            ),
            heading("From proposal to mask"),
            text(
                "A small network looks at every place of the maps and proposes boxes that may hold something, whatever "
                "it is (Faster R-CNN section 3.1). *RoIAlign* cuts the features of each box out of the maps, without "
                "rounding a corner to a cell (Mask R-CNN section 3). One branch then names the box and corrects it; "
                "beside it, another paints a mask of 28 by 28 points, whose only question is: the object, or not?"
            ),
            _inside(detector, scenes[chosen[0]].image, detector.found[chosen[0]]),
            heading("How many it finds"),
            figure(
                score_table(("mask AP", "AP50", "box AP", "F1"), {TITLE: _shown_scores(detector.scores)}),
                _count(detector.scores),
            ),
            row([_losses(detector), tile(_by_class(detector.scores), "mask AP of each class, in per cent")], "charts"),
            text(
                "The loss is the sum of five. Those of the proposals fall first, for telling something from nothing is "
                "easiest; a mask is learned only from regions that hold an object, and only the true class's mask is "
                "held against the truth, so that classes do not compete for pixels (Mask R-CNN section 3, table 2b)."
            ),
        ),
    )


def _verdict(found: Sequence[Pair], detector: Detector, fcn: Trained) -> str:
    if not found:
        return "In these test scenes no two shapes of one class touch."
    apart = sum(told_apart(pair, detector.found[pair.scene]) for pair in found)
    one = sum(merged(pair, fcn.class_maps[pair.scene]) for pair in found)
    return (
        f"In the test scenes two shapes of one class touch {len(found)} times. {TITLE} finds both shapes in {apart} of "
        f"these pairs; for {fcn.title}, {one} of them are one region."
    )


def _shown_scores(scores: InstanceScores) -> tuple[float, ...]:
    return scores.AP, scores.AP50, scores.box_AP, scores.f1["0.5"]


def _count(scores: InstanceScores) -> str:
    return (
        f"In per cent, on {scores.objects:,} objects in {scores.images:,} test scenes. AP, average precision: COCO's, "
        "the mean over ten demands on the overlap of masks, or of boxes; AP50: an overlap (IoU) of one half is enough. "
        "F1: 2 TP / (2 TP + FP + FN) of the objects shown, matched at the same overlap."
    )


def _losses(detector: Detector) -> Html:
    points = {
        PARTS[name][0]: [(epoch * ROUND, loss) for epoch, loss in losses]
        for name, losses in parts(detector.records).items()
    }
    highest = max(loss for losses in points.values() for _, loss in losses)
    return line_chart(
        points,
        dict(PARTS.values()),
        x_title="scenes seen",
        title="the five losses while training",
        top=0.4 * math.ceil(highest / 0.4),
        percent=False,
        dots=False,
    )


def _by_class(scores: InstanceScores) -> Html:
    shares = [(name, one.AP) for name, one in scores.per_class.items() if not math.isnan(one.AP)]
    return ranking(sorted(shares, key=lambda share: -share[1]))


def _compared(detector: Detector, fcn: Trained, scenes: Dataset, index: int) -> Html:
    """The scene, its classes and its objects."""
    image, instances = scenes[index].image, detector.found[index]
    classes = classes_picture(image, fcn.class_maps[index], scenes.classes)
    objects = objects_picture(image, instances, detector.net.classes)
    return row(
        [
            tile(picture(scene_picture(image), f"Scene {index}"), "scene"),
            tile(picture(classes, f"The classes of its pixels, by {fcn.title}"), f"{fcn.title}: classes"),
            tile(picture(objects, f"The objects that {TITLE} finds in it"), f"{TITLE}: objects"),
        ],
        "three",
    )


def _inside(detector: Detector, image: Tensor, instances: InstanceResult) -> Html:
    """Proposals, detections, and how the largest object gets its pixels."""
    proposals = detector.proposals(image)[:PROPOSALS].numpy()
    amber = np.tile(AMBER, (len(proposals), 1))
    colors, names = object_colors(len(instances)), object_names(instances, detector.net.classes)
    tiles = [
        tile(picture(boxes_picture(image, proposals, amber), "Boxes of proposals"), f"{len(proposals)} proposals"),
        tile(picture(boxes_picture(image, instances.boxes, colors), "Boxes of objects"), f"{len(instances)} objects"),
    ]
    if len(instances):
        k = int(instances.areas().argmax())
        box, mask = instances.boxes[k], instances.masks[k]
        side = len(mask)
        tiles += [
            tile(
                picture(region_picture(image, box), f"The scene inside the box of {names[k]}"), f"{names[k]}: its box"
            ),
            tile(picture(mask_picture(image, mask, colors[k]), f"The mask of {names[k]}"), f"{side} by {side} points"),
            tile(picture(object_picture(image, instances, k), f"The pixels of {names[k]}"), "its pixels"),
        ]
    return figure(
        row(tiles, "five"),
        f"The {PROPOSALS} best of up to {detector.net.rpn.inference_limits.after_nms:,} proposals; those of them that "
        "became objects; the largest one's box, as a square; its mask, the brighter the surer; and the mask "
        "brought back to the box, where what is surer than a half is the object.",
    )
