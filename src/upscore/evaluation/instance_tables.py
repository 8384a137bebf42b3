"""The scores of instance segmentation as rows of text, for a terminal."""

from __future__ import annotations

import math

from upscore.evaluation.instances import InstanceScores

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
