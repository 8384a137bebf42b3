"""Scores of instance segmentation over a data set: COCO's average precision, StarDist's average precision, and F1.

C classes; IoU: intersection over union.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from upscore.annotations import ObjectAnnotations
from upscore.errors import UserError
from upscore.evaluation.average_precision import (
    ALL,
    LARGE,
    MEDIUM,
    SMALL,
    CocoImage,
    coco_annotations,
    coco_detections,
    precision_recall,
)
from upscore.evaluation.object_matching import (
    THRESHOLDS,
    Pairs,
    Threshold,
    best_threshold,
    candidate_pairs,
    count_matches,
)
from upscore.results import InstanceResult

AT_50, AT_75 = 0, 5
"""Indices on the axis of IoU thresholds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """The scores of one class; NaN if it has no annotated object."""

    objects: int
    """Number of annotated objects, without crowds."""
    AP: float
    AP50: float
    box_AP: float  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceScores:
    """Scores of a data set, each in 0..1, or NaN if it is undefined.

    AP is COCO's average precision of masks: the mean over IoU thresholds .50:.05:.95, 101 recalls, and the classes that
    have objects. `box_AP` is the same for boxes.
    """

    AP: float
    AP50: float
    """AP at IoU 0.5."""
    AP75: float
    """AP at IoU 0.75."""
    APs: float
    """AP of objects smaller than 32 x 32 pixels."""
    APm: float
    """AP of objects from 32 x 32 to 96 x 96 pixels."""
    APl: float
    """AP of objects larger than 96 x 96 pixels."""
    AR1: float
    """Mean recall with at most one predicted object per image and class."""
    AR10: float
    """Mean recall with at most 10 predicted objects per image and class."""
    AR_max: float
    """Mean recall with at most `max_detections` predicted objects per image and class."""
    box_AP: float  # noqa: N815
    box_AP50: float  # noqa: N815
    box_AP75: float  # noqa: N815
    ap_dsb: dict[str, float]
    """TP / (TP + FP + FN) by IoU threshold; StarDist and DSB2018 call it average precision."""
    f1: dict[str, float]
    """2 TP / (2 TP + FP + FN) by IoU threshold."""
    score_threshold: float
    """Score threshold of `ap_dsb` and `f1`; the other scores rank all objects."""
    per_class: dict[str, ClassScores]
    """Scores by class name, in the order of the classes."""
    precision: dict[str, list[float]]
    """Precision at the recalls 0:.01:1, averaged over classes, for IoU "0.5" and "0.75" and the "mean" of all IoUs."""
    max_detections: int
    images: int
    objects: int
    """Number of annotated objects, without crowds."""
    crowds: int
    """Number of annotated crowds."""
    detections: int
    """Number of predicted objects."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-serialisable dictionary, with None instead of NaN."""
        return _without_nan(asdict(self))


class InstanceEvaluator:
    """Compares predicted with annotated objects, one image at a time.

    Args:
        classes: class names.
        max_detections: number of predicted objects per image and class that count for average precision, in order of
            their scores.

    Raises:
        UserError: two classes have the same name.
    """

    def __init__(self, classes: Sequence[str], *, max_detections: int = 100) -> None:
        self.classes = list(classes)
        self.max_detections = max_detections
        self._annotated: list[CocoImage] = []
        self._predicted: list[CocoImage] = []
        self._pairs: list[Pairs] = []
        for name in self.classes:
            if self.classes.count(name) > 1:
                raise UserError(f"two classes are named {name!r}: rename one, since scores are reported by name")

    def update(self, instances: InstanceResult, objects: ObjectAnnotations) -> None:
        """Add an image; masks are stored run-length encoded."""
        assert instances.size == objects.size, f"predicted for {instances.size}, annotated for {objects.size}"
        self._predicted.append(coco_detections(instances))
        self._annotated.append(coco_annotations(objects))
        visible = instances.mask_nms()
        scores = visible.scores.astype(np.float64)
        self._pairs.append(candidate_pairs(visible.label_map(), scores, visible.labels, objects))

    def extend(self, other: InstanceEvaluator) -> None:
        """Add the images of another evaluator with the same classes."""
        assert self.classes == other.classes, f"{len(self.classes)} classes and {len(other.classes)}, or other names"
        self._annotated += other._annotated
        self._predicted += other._predicted
        self._pairs += other._pairs

    def best_score_threshold(self) -> Threshold:
        """Return the score threshold with the highest `ap_dsb` at IoU 0.5, and that value."""
        return best_threshold(self._pairs)

    def scores(self, score_threshold: float | None = None) -> InstanceScores:
        """Compute the scores of all images so far.

        Args:
            score_threshold: applies to `ap_dsb` and `f1` only; None counts all objects. COCO's measures rank all
                objects.
        """
        score_threshold = score_threshold or 0.0
        counts = {f"{iou:g}": count_matches(self._pairs, score_threshold, iou) for iou in THRESHOLDS}
        limits = [min(limit, self.max_detections) for limit in (1, 10, self.max_detections)]
        masks, boxes = (
            precision_recall(self._annotated, self._predicted, len(self.classes), overlap=overlap, limits=limits)
            for overlap in ("segm", "bbox")
        )
        precision, recall, box_precision = masks.precision[..., -1], masks.recall, boxes.precision[:, :, :, ALL, -1]
        all_areas = precision[:, :, :, ALL]
        return InstanceScores(
            AP=_mean(all_areas),
            AP50=_mean(all_areas[AT_50]),
            AP75=_mean(all_areas[AT_75]),
            APs=_mean(precision[..., SMALL]),
            APm=_mean(precision[..., MEDIUM]),
            APl=_mean(precision[..., LARGE]),
            AR1=_mean(recall[:, :, ALL, 0]),
            AR10=_mean(recall[:, :, ALL, 1]),
            AR_max=_mean(recall[:, :, ALL, 2]),
            box_AP=_mean(box_precision),
            box_AP50=_mean(box_precision[AT_50]),
            box_AP75=_mean(box_precision[AT_75]),
            ap_dsb={iou: count.ap_dsb for iou, count in counts.items()},
            f1={iou: count.f1 for iou, count in counts.items()},
            score_threshold=score_threshold,
            per_class=self._per_class(all_areas, box_precision),
            precision={
                "0.5": _class_means(all_areas[AT_50]),
                "0.75": _class_means(all_areas[AT_75]),
                "mean": _class_means(all_areas.mean(0)),
            },
            max_detections=self.max_detections,
            images=len(self._pairs),
            objects=sum(image.objects for image in self._pairs),
            crowds=sum(annotation["iscrowd"] for image in self._annotated for annotation in image.annotations),
            detections=sum(len(image.annotations) for image in self._predicted),
        )

    def _per_class(self, precision: np.ndarray, box_precision: np.ndarray) -> dict[str, ClassScores]:
        counts = np.zeros(len(self.classes), np.int64)
        for image in self._annotated:
            for annotation in image.annotations:
                counts[annotation["category_id"]] += not annotation["iscrowd"]
        return {
            name: ClassScores(
                objects=int(counts[label]),
                AP=_mean(precision[:, :, label]),
                AP50=_mean(precision[AT_50, :, label]),
                box_AP=_mean(box_precision[:, :, label]),
            )
            for label, name in enumerate(self.classes)
        }


def _mean(values: np.ndarray) -> float:
    """Return the mean without NaN."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _class_means(precision: np.ndarray) -> list[float]:
    """Return the mean over classes without NaN: (101, C) -> 101 values."""
    return [_mean(values) for values in precision]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


CLASS_COLUMNS = ("class", "objects", "AP", "AP50", "box AP")


def class_rows(scores: InstanceScores) -> list[tuple[str, ...]]:
    """Return a table row for each class, with the columns `CLASS_COLUMNS`."""
    return [
        (name, str(entry.objects), *map(_percent, (entry.AP, entry.AP50, entry.box_AP)))
        for name, entry in scores.per_class.items()
    ]


def summary_rows(scores: InstanceScores) -> list[tuple[str, str]]:
    """Return a table of the scores, as names and formatted values."""
    values = {
        "mask AP": scores.AP,
        "mask AP50": scores.AP50,
        "mask AP75": scores.AP75,
        "mask AP small": scores.APs,
        "mask AP medium": scores.APm,
        "mask AP large": scores.APl,
        "recall, 1 object": scores.AR1,
        "recall, 10 objects": scores.AR10,
        f"recall, {scores.max_detections} objects": scores.AR_max,
        "box AP": scores.box_AP,
        "box AP50": scores.box_AP50,
        "box AP75": scores.box_AP75,
        **{f"AP at IoU {iou} (StarDist, DSB2018)": scores.ap_dsb[iou] for iou in ("0.5", "0.7", "0.9")},
        **{f"F1 at IoU {iou}": scores.f1[iou] for iou in ("0.5", "0.7", "0.9")},
    }
    return [(name, _percent(value)) for name, value in values.items()]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
