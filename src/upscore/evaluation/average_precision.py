"""COCO's precision and recall of objects, computed by pycocotools in memory (Mask R-CNN section 4).

C classes; T IoU thresholds .50:.05:.95; 101 recalls 0:.01:1;
A areas (all, small < 32^2, medium, large > 96^2 pixels); M limits of the number of objects per image and class.
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
"""Indices on the axis of areas."""


class CocoImage(NamedTuple):
    """The annotated or predicted objects of an image."""

    size: tuple[int, int]
    """(H, W) in pixels."""
    annotations: list[dict[str, Any]]
    """COCO annotations, with the class index as `category_id`."""


class Curves(NamedTuple):
    """Precision and recall; NaN for classes without ground truth."""

    precision: np.ndarray
    """(T, 101, C, A, M)"""
    recall: np.ndarray
    """(T, C, A, M)"""


def precision_recall(
    annotated: Sequence[CocoImage],
    predicted: Sequence[CocoImage],
    num_classes: int,
    *,
    overlap: Literal["segm", "bbox"],
    limits: Sequence[int],
) -> Curves:
    """Match predicted with annotated objects in each image by the IoU of their masks or boxes.

    Args:
        annotated: ground truth of each image.
        predicted: predicted objects of each image.
        num_classes: number of classes.
        overlap: "segm" for masks, "bbox" for boxes. With boxes, only the area "all" is evaluated. Areas of annotated
            objects are mask areas in both cases.
        limits: largest numbers of objects per image and class, in ascending order.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        engine = COCOeval(
            _coco(annotated, num_classes),
            _coco(predicted, num_classes, box_areas=overlap == "bbox"),
            overlap,
        )
        engine.params.maxDets = list(limits)
        if overlap == "bbox":
            engine.params.areaRng = engine.params.areaRng[:1]
        engine.evaluate()
        engine.accumulate()
    precision, recall = engine.eval["precision"], engine.eval["recall"]
    return Curves(np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall))


def coco_detections(result: InstanceResult) -> CocoImage:
    """Convert the objects of a prediction."""
    return CocoImage(result.size, result.to_coco(category_ids=range(len(result.classes))))


def coco_annotations(objects: ObjectAnnotations) -> CocoImage:
    """Convert the objects of the ground truth."""
    rles = _rles(objects)
    corners = objects.boxes.double().numpy()
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    columns = (objects.labels, boxes, objects.areas, objects.crowd)
    return CocoImage(
        objects.size,
        [
            {"category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd), "segmentation": encoded}
            for encoded, label, box, area, crowd in zip(rles, *(column.tolist() for column in columns), strict=True)
        ],
    )


def _coco(images: Sequence[CocoImage], num_classes: int, box_areas: bool = False) -> COCO:
    """Create a data set of pycocotools; ids start at 1, since pycocotools treats a match with id 0 as no match."""
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
        "images": [
            {"id": number, "height": image.size[0], "width": image.size[1]} for number, image in enumerate(images, 1)
        ],
        "categories": [{"id": label} for label in range(num_classes)],
        "annotations": annotations,
    }
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _rles(objects: ObjectAnnotations) -> list[dict[str, Any]]:
    """Return the run-length encoding of each object, computed from its box in the id map."""
    empty = np.zeros((0, 0), bool)
    rles = [rle.encode(empty, 0, 0, objects.size)] * len(objects)
    for layer, plane in enumerate(objects.id_map.numpy()):
        boxes = ndimage.find_objects(plane)
        for position in np.flatnonzero(objects.layers.numpy() == layer).tolist():
            number = int(objects.ids[position])
            if number <= len(boxes) and (box := boxes[number - 1]) is not None:
                rows, columns = box
                rles[position] = rle.encode(plane[box] == number, rows.start, columns.start, objects.size)
    return rles
