"""How far two ways to run one network agree, whatever the truth may be.

H W pixels of a photo.
"""

from __future__ import annotations

import torch

from upscore.evaluation.matched_f import matched_f, pairs
from upscore.objects import Objects
from upscore.structures import Prediction

IOU = 0.5
"""From which overlap on two objects are the same."""


def agreement(reference: Prediction, other: Prediction) -> float:
    """Of class maps, the share of equal pixels; of objects, matched F: found by both / found by either. 0 to 1."""
    if reference.class_map is not None and other.class_map is not None:
        return float((reference.class_map == other.class_map).mean())
    expected, found = reference.instances, other.instances
    assert expected is not None
    assert found is not None
    if not len(expected) and not len(found):
        return 1.0
    truth = Objects.from_id_map(torch.from_numpy(expected.id_map().astype("int32")), expected.labels)
    return matched_f([pairs(found.id_map(), found.scores.numpy(), found.labels.numpy(), truth)], 0.0, IOU)
