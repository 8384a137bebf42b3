"""Agreement of two ways to run one network.

H W pixels of a photo.
"""

from __future__ import annotations

import torch

from upscore.evaluation.object_matching import count_matches, pairs
from upscore.objects import Objects
from upscore.results import InstanceResult, SemanticResult

IOU = 0.5
"""IoU from which on two objects are the same."""


def agreement(reference: SemanticResult | InstanceResult, other: SemanticResult | InstanceResult) -> float:
    """The share of equal pixels of class maps, or `ap_dsb` of objects: those of both / those of either. 0 to 1."""
    if isinstance(reference, SemanticResult) and isinstance(other, SemanticResult):
        return float((reference.class_map == other.class_map).mean())
    assert isinstance(reference, InstanceResult)
    assert isinstance(other, InstanceResult)
    if not len(reference) and not len(other):
        return 1.0
    truth = Objects.from_id_map(
        torch.from_numpy(reference.label_map().astype("int32")), torch.from_numpy(reference.labels)
    )
    return count_matches([pairs(other.label_map(), other.scores, other.labels, truth)], 0.0, IOU).ap_dsb
