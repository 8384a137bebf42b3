"""COCO's precision and recall of objects, computed by pycocotools in memory and in silence (Mask R-CNN section 4).

N regions in a photo (objects labelled, or objects found), C classes; T IoU thresholds .50:.05:.95; 101 recalls 0:.01:1;
A areas (all, small < 32^2, medium, large > 96^2 pixels); M limits of objects found per photo and class.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from upscore.objects import Objects

ALL, SMALL, MEDIUM, LARGE = range(4)
"""Positions on the axis of areas."""


@dataclass(slots=True, kw_only=True)
class Regions:
    """What is kept of the N objects of one photo."""

    size: tuple[int, int]
    """(H, W)."""
    rles: list[dict[str, Any]]
    """Compressed COCO RLE."""
    boxes: np.ndarray
    """(N, 4) float64, (x1, y1, x2, y2)."""
    areas: np.ndarray
    """(N,) float64, of the masks in pixels, or as annotated."""
    labels: np.ndarray
    """(N,) int64"""
    scores: np.ndarray
    """(N,) float64; 1 for what is labelled."""
    crowd: np.ndarray
    """(N,) bool"""


class Curves(NamedTuple):
    """NaN where a class has no object to find."""

    precision: np.ndarray
    """(T, 101, C, A, M)"""
    recall: np.ndarray
    """(T, C, A, M)"""


def precision_recall(
    labelled: Sequence[Regions],
    found: Sequence[Regions],
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


def _coco(photos: Sequence[Regions], num_classes: int, box_areas: bool = False) -> COCO:
    """Numbers start at 1: pycocotools takes a match with number 0 for none."""
    annotations: list[dict[str, Any]] = []
    ids = count(1)
    for number, photo in enumerate(photos, start=1):
        corners = photo.boxes[:, :2]
        sides = photo.boxes[:, 2:] - corners
        areas = sides.prod(1) if box_areas else photo.areas
        columns = (photo.labels, np.hstack([corners, sides]), areas, photo.scores, photo.crowd)
        annotations += [
            {
                "id": next(ids),
                "image_id": number,
                "category_id": label,
                "segmentation": rle,
                "bbox": box,
                "area": area,
                "score": score,
                "iscrowd": int(crowd),
            }
            for rle, label, box, area, score, crowd in zip(
                photo.rles, *(column.tolist() for column in columns), strict=True
            )
        ]
    images = [{"id": number, "height": photo.size[0], "width": photo.size[1]} for number, photo in enumerate(photos, 1)]
    categories = [{"id": label} for label in range(num_classes)]
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}  # pyright: ignore
    coco.createIndex()
    return coco


def run_lengths(objects: Objects) -> list[dict[str, Any]]:
    """The compressed COCO RLE of each object, all read off an id map's layer in one pass."""
    height, width = objects.size
    rles: dict[int, dict[str, Any]] = {}
    layers, numbers = objects.layers.numpy(), objects.numbers.numpy()
    for layer in np.unique(layers):
        pixels = objects.id_map[layer].numpy().T.ravel()  # column by column, as COCO counts
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        bounds = np.concatenate([[0], changes, [len(pixels)]])
        values = pixels[bounds[:-1]]
        runs = np.argsort(values, kind="stable")
        members = np.flatnonzero(layers == layer)
        first = np.searchsorted(values[runs], numbers[members], side="left")
        last = np.searchsorted(values[runs], numbers[members], side="right")
        for member, own in zip(members.tolist(), map(slice, first, last), strict=True):
            edges = np.stack([bounds[runs[own]], bounds[runs[own] + 1]], axis=1).ravel()
            counts = np.diff(edges, prepend=0, append=len(pixels))
            rles[member] = {"size": [height, width], "counts": counts[:-1] if counts[-1] == 0 else counts}
    in_order: Any = [rles[position] for position in range(len(rles))]
    return coco_mask.frPyObjects(in_order, height, width) if rles else []


def mask_areas(rles: Sequence[Any]) -> np.ndarray:
    """(N,) float64, the pixels of each mask; one by one, since pycocotools fails at lists of over 255."""
    return np.array([coco_mask.area(rle) for rle in rles], np.float64)
