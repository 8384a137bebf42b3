"""Matching and sampling, compared with torchvision's."""

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from upscore.models.mask_rcnn import matcher
from upscore.models.mask_rcnn.anchors import AnchorGenerator
from upscore.models.mask_rcnn.matcher import IGNORED, NEGATIVE, match_boxes, sample_matches


def boxes(count, seed, largest=60.0):
    generator = torch.Generator().manual_seed(seed)
    start = (torch.rand(count, 2, generator=generator) * 90).round()
    return torch.cat([start, start + 4 + (torch.rand(count, 2, generator=generator) * largest).round()], dim=1)


@pytest.fixture
def anchors():
    """Return anchors on a regular grid, many of which overlap an object equally."""
    return torch.cat(AnchorGenerator([[16], [32]], [4, 8])([(27, 33), (14, 17)], torch.device("cpu")))


@pytest.mark.parametrize("anchors_per_chunk", [10_000, 500, 333])
@pytest.mark.parametrize("allow_low_quality", [True, False])
@pytest.mark.parametrize(("positive", "negative"), [(0.7, 0.3), (0.5, 0.5)])
@pytest.mark.parametrize("count", [1, 2, 37])
def test_matches_equal_torchvisions_for_any_chunk_size(
    anchors, monkeypatch, anchors_per_chunk, allow_low_quality, positive, negative, count
):
    monkeypatch.setattr(matcher, "MAX_TABLE_SIZE", anchors_per_chunk * count)
    objects = boxes(count, seed=count)
    expected = Matcher(positive, negative, allow_low_quality_matches=allow_low_quality)(box_iou(objects, anchors))
    found = match_boxes(objects, anchors, positive, negative, allow_low_quality=allow_low_quality)
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)


def test_all_ties_for_the_best_anchor_are_matched():
    anchors = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [50, 50, 60, 60]])
    between = torch.tensor([[6.0, 4, 8, 6]])  # 4 pixels in common with each of the first two anchors
    assert match_boxes(between, anchors, 0.7, 0.3, allow_low_quality=True).tolist() == [0, 0, NEGATIVE]
    assert match_boxes(between, anchors, 0.7, 0.3, allow_low_quality=False).tolist() == [NEGATIVE] * 3


def test_a_low_quality_match_is_the_object_with_the_anchors_highest_overlap():
    anchors = torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 40]])
    objects = torch.tensor(
        [[0.0, 0, 2, 10], [0, 0, 6, 10]]
    )  # the best anchor of the first object overlaps the second more
    assert match_boxes(objects, anchors, 0.7, 0.3, allow_low_quality=True).tolist() == [1, NEGATIVE]


def test_anchors_between_the_thresholds_are_ignored_and_thresholds_are_inclusive():
    objects = torch.tensor([[0.0, 0, 10, 10]])
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 10, 2.5], [0, 0, 2, 10]])
    assert match_boxes(objects, anchors, 0.5, 0.25, allow_low_quality=False).tolist() == [0, 0, IGNORED, NEGATIVE]


def test_an_object_without_overlap_matches_no_anchor(anchors):
    outside = torch.tensor([[900.0, 900.0, 950.0, 950.0], [50.0, 50.0, 50.0, 70.0]])
    assert (match_boxes(outside, anchors, 0.7, 0.3, allow_low_quality=True) == NEGATIVE).all()


def test_without_objects_all_anchors_are_negative_and_without_anchors_the_result_is_empty(anchors):
    found = match_boxes(torch.zeros(0, 4), anchors, 0.7, 0.3, allow_low_quality=True)
    assert found.shape == (len(anchors),)
    assert (found == NEGATIVE).all()
    assert match_boxes(boxes(3, seed=0), anchors[:0], 0.7, 0.3, allow_low_quality=True).shape == (0,)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [(500, 500, (128, 128)), (5, 500, (5, 251)), (300, 10, (128, 10))]
)
def test_samples_have_the_sizes_of_torchvisions(positives, negatives, expected):
    matched = torch.cat([torch.arange(positives), torch.full((negatives,), NEGATIVE), torch.full((40,), IGNORED)])
    matched = matched[torch.randperm(len(matched))]
    torch.manual_seed(3)
    ours = sample_matches(matched, 256, 0.5)
    labels = torch.where(matched >= 0, 1, torch.where(matched == NEGATIVE, 0, -1))
    torch.manual_seed(3)
    theirs = BalancedPositiveNegativeSampler(256, 0.5)([labels])
    assert tuple(map(len, ours)) == expected
    for mine, (mask,) in zip(ours, theirs, strict=True):
        assert torch.equal(mine.sort().values, mask.nonzero()[:, 0])


def test_samples_are_random_and_may_be_empty():
    matched = torch.full((1000,), NEGATIVE)
    first, second = sample_matches(matched, 64, 0.5)[1], sample_matches(matched, 64, 0.5)[1]
    assert len(first.unique()) == 64
    assert set(first.tolist()) != set(second.tolist())
    assert [len(part) for part in sample_matches(matched[:0], 64, 0.5)] == [0, 0]
