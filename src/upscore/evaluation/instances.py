"""Scores of instance segmentation over a whole set: COCO's average precision, and StarDist's with F1.

N objects found, K objects labelled in a photo; C classes; H W pixels. IoU: intersection over union.
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
    Annotated,
    found_in,
    labelled_in,
    precision_recall,
)
from upscore.evaluation.object_matching import THRESHOLDS, Pairs, Threshold, best_threshold, count_matches, pairs
from upscore.results import InstanceResult

AT_50, AT_75 = 0, 5
"""Positions on the axis of IoU thresholds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScores:
    """The scores of one class; NaN where it has no object."""

    objects: int
    """Objects labelled, without crowds."""
    AP: float
    AP50: float
    box_AP: float  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceScores:
    """The scores of a whole set, each in 0..1, or NaN where there is nothing to score.

    Average precision is COCO's: the mean over IoU thresholds .50:.05:.95, 101 recalls, and the classes that have
    objects, of masks unless the name says boxes.
    """

    AP: float
    AP50: float
    """At an IoU of 0.5 alone."""
    AP75: float
    APs: float
    """Of objects smaller than 32 x 32 pixels."""
    APm: float
    APl: float
    """Of objects larger than 96 x 96 pixels."""
    AR1: float
    """The mean recall with one object found per photo and class."""
    AR10: float
    AR_max: float
    """With `max_detections` objects found per photo and class."""
    box_AP: float  # noqa: N815
    box_AP50: float  # noqa: N815
    box_AP75: float  # noqa: N815
    ap_dsb: dict[str, float]
    """TP / (TP + FP + FN) by IoU threshold, which StarDist and DSB2018 call average precision."""
    f1: dict[str, float]
    """2 TP / (2 TP + FP + FN) by IoU threshold."""
    score_threshold: float
    """Score threshold of the objects that count for `ap_dsb` and `f1`; it does not apply to the other scores."""
    per_class: dict[str, ClassScores]
    """By class name, in the order of the classes."""
    precision: dict[str, list[float]]
    """Precision at the recalls 0:.01:1, the mean of the classes, at an IoU of "0.5" and "0.75", and the "mean"."""
    max_detections: int
    images: int
    objects: int
    """Objects labelled, without crowds."""
    crowds: int
    detections: int
    """Objects found."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name, of types that JSON has; None for what is NaN."""
        return _without_nan(asdict(self))


class InstanceEvaluator:
    """Compares what was found in photos with what is labelled there, one photo at a time."""

    def __init__(self, classes: Sequence[str], *, max_detections: int = 100) -> None:
        """`max_detections` objects per photo and class count for average precision, those with the highest scores.

        Raises:
            UserError: two classes have the same name.
        """
        self.classes = list(classes)
        self.max_detections = max_detections
        self._labelled: list[Annotated] = []
        self._found: list[Annotated] = []
        self._pairs: list[Pairs] = []
        for name in self.classes:
            if self.classes.count(name) > 1:
                raise UserError(
                    f"two classes are called {name!r}: scores are reported by name, give each class its own"
                )

    def update(self, instances: InstanceResult, objects: ObjectAnnotations) -> None:
        """Add one image; masks are kept run-length encoded."""
        assert instances.size == objects.size, f"found in {instances.size}, labelled in {objects.size}"
        self._found.append(found_in(instances))
        self._labelled.append(labelled_in(objects))
        seen = instances.mask_nms()
        self._pairs.append(pairs(seen.label_map(), seen.scores.astype(np.float64), seen.labels, objects))

    def extend(self, other: InstanceEvaluator) -> None:
        """Add the photos that another one has seen, of the same classes."""
        assert self.classes == other.classes, f"{len(self.classes)} classes and {len(other.classes)}, or other names"
        self._labelled += other._labelled
        self._found += other._found
        self._pairs += other._pairs

    def best_score_threshold(self) -> Threshold:
        """The score threshold with the highest `ap_dsb` at an IoU of 0.5, and that value."""
        return best_threshold(self._pairs)

    def scores(self, score_threshold: float | None = None) -> InstanceScores:
        """Score what was seen so far.

        `score_threshold` applies to `ap_dsb` and `f1` alone, where None counts all objects: COCO's measures rank all
        of them.
        """
        score_threshold = score_threshold or 0.0
        counts = {f"{iou:g}": count_matches(self._pairs, score_threshold, iou) for iou in THRESHOLDS}
        limits = [min(limit, self.max_detections) for limit in (1, 10, self.max_detections)]
        masks, boxes = (
            precision_recall(self._labelled, self._found, len(self.classes), overlap=overlap, limits=limits)
            for overlap in ("segm", "bbox")
        )
        precision, recall, box_precision = masks.precision[..., -1], masks.recall, boxes.precision[:, :, :, ALL, -1]
        everywhere = precision[:, :, :, ALL]
        return InstanceScores(
            AP=_mean(everywhere),
            AP50=_mean(everywhere[AT_50]),
            AP75=_mean(everywhere[AT_75]),
            APs=_mean(precision[..., SMALL]),
            APm=_mean(precision[..., MEDIUM]),
            APl=_mean(precision[..., LARGE]),
            AR1=_mean(recall[:, :, ALL, 0]),
            AR10=_mean(recall[:, :, ALL, 1]),
            AR_max=_mean(recall[:, :, ALL, 2]),
            box_AP=_mean(box_precision),
            box_AP50=_mean(box_precision[AT_50]),
            box_AP75=_mean(box_precision[AT_75]),
            ap_dsb={iou: found.ap_dsb for iou, found in counts.items()},
            f1={iou: found.f1 for iou, found in counts.items()},
            score_threshold=score_threshold,
            per_class=self._per_class(everywhere, box_precision),
            precision={
                "0.5": _class_means(everywhere[AT_50]),
                "0.75": _class_means(everywhere[AT_75]),
                "mean": _class_means(everywhere.mean(0)),
            },
            max_detections=self.max_detections,
            images=len(self._pairs),
            objects=sum(photo.objects for photo in self._pairs),
            crowds=sum(annotation["iscrowd"] for image in self._labelled for annotation in image.annotations),
            detections=sum(len(image.annotations) for image in self._found),
        )

    def _per_class(self, precision: np.ndarray, box_precision: np.ndarray) -> dict[str, ClassScores]:
        counts = np.zeros(len(self.classes), np.int64)
        for image in self._labelled:
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
    """The mean of what is defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _class_means(precision: np.ndarray) -> list[float]:
    """(101, C) precision to 101 means of what is defined."""
    return [_mean(values) for values in precision]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


CLASS_COLUMNS = ("class", "objects", "AP", "AP50", "box AP")


def class_rows(scores: InstanceScores) -> list[tuple[str, ...]]:
    """A row of `CLASS_COLUMNS` for each class."""
    return [
        (name, str(entry.objects), *map(_share, (entry.AP, entry.AP50, entry.box_AP)))
        for name, entry in scores.per_class.items()
    ]


def summary_rows(scores: InstanceScores) -> list[tuple[str, str]]:
    """Names and values of the scores of the whole set."""
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
    return [(name, _share(value)) for name, value in values.items()]


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
