"""COCO's precision and recall of objects, computed by pycocotools in memory and in silence (Mask R-CNN section 4).

C classes; T IoU thresholds .50:.05:.95; 101 recalls 0:.01:1;
A areas (all, small < 32^2, medium, large > 96^2 pixels); M limits of objects found per image and class.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from upscore.annotations import ObjectAnnotations
from upscore.results import InstanceResult, rle

ALL, SMALL, MEDIUM, LARGE = range(4)
"""Positions on the axis of areas."""


class Annotated(NamedTuple):
    """The objects of one image, labelled or found."""

    size: tuple[int, int]
    """(H, W)."""
    annotations: list[dict[str, Any]]
    """In COCO's form, with the class index as `category_id`."""


class Curves(NamedTuple):
    """NaN where a class has no object to find."""

    precision: np.ndarray
    """(T, 101, C, A, M)"""
    recall: np.ndarray
    """(T, C, A, M)"""


def precision_recall(
    labelled: Sequence[Annotated],
    found: Sequence[Annotated],
    num_classes: int,
    *,
    overlap: Literal["segm", "bbox"],
    limits: Sequence[int],
) -> Curves:
    """Match what was found with what is labelled, photo by photo, by the IoU of masks or of boxes.

    `limits` ascend; by boxes there is but one area, all. The area of what is labelled is that of its mask also there.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        engine = COCOeval(
            _coco(labelled, num_classes),
            _coco(found, num_classes, box_areas=overlap == "bbox"),
            overlap,
        )
        engine.params.maxDets = list(limits)
        if overlap == "bbox":
            engine.params.areaRng = engine.params.areaRng[:1]
        engine.evaluate()
        engine.accumulate()
    precision, recall = engine.eval["precision"], engine.eval["recall"]
    return Curves(np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall))


def found_in(result: InstanceResult) -> Annotated:
    """The objects of a prediction."""
    return Annotated(result.size, result.to_coco(category_ids=range(len(result.classes))))


def labelled_in(objects: ObjectAnnotations) -> Annotated:
    """The objects of the ground truth."""
    rles = _rles(objects)
    corners = objects.boxes.double().numpy()
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    columns = (objects.labels, boxes, objects.areas, objects.crowd)
    return Annotated(
        objects.size,
        [
            {"category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd), "segmentation": encoded}
            for encoded, label, box, area, crowd in zip(rles, *(column.tolist() for column in columns), strict=True)
        ],
    )


def _coco(images: Sequence[Annotated], num_classes: int, box_areas: bool = False) -> COCO:
    """pycocotools' data set of these images; ids start at 1, for pycocotools takes a match with id 0 for none."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        for annotation in image.annotations:
            *_, width, height = annotation["bbox"]
            own = {"id": len(annotations) + 1, "image_id": number, "iscrowd": annotation.get("iscrowd", 0)}
            if box_areas:
                own["area"] = width * height
            annotations.append(annotation | own)
    coco = COCO()
    dataset: Any = {
        "images": [{"id": number, "height": of.size[0], "width": of.size[1]} for number, of in enumerate(images, 1)],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": annotations,
    }
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _rles(objects: ObjectAnnotations) -> list[dict[str, Any]]:
    """The run-length encoding of each object, made from its crop of the id map."""
    nothing = np.zeros((0, 0), bool)
    rles = [rle.encode(nothing, 0, 0, objects.size)] * len(objects)
    for layer, plane in enumerate(objects.id_map.numpy()):
        places = ndimage.find_objects(plane)
        for position in np.flatnonzero(objects.layers.numpy() == layer).tolist():
            number = int(objects.ids[position])
            if number <= len(places) and (place := places[number - 1]) is not None:
                rows, columns = place
                rles[position] = rle.encode(plane[place] == number, rows.start, columns.start, objects.size)
    return rles
