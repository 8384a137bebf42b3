"""Box regression, clipping and NMS, compared with torchvision's."""

import math
import subprocess
import sys

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.ops import nms as torchvision_nms

from upscore.models.mask_rcnn.boxes import MAX_LOG_SCALE, UNIT_WEIGHTS, class_nms, clip, decode, encode, nms, nonempty

BOX_HEAD = (10.0, 10.0, 5.0, 5.0)


def boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(*shape, 2, generator=generator) * 300 - 40
    return torch.cat([start, start + 4 + torch.rand(*shape, 2, generator=generator) * 150], dim=-1)


@pytest.mark.parametrize("weights", [UNIT_WEIGHTS, BOX_HEAD])
@pytest.mark.parametrize("count", [0, 1, 513])
def test_encoding_equals_torchvisions(weights, count):
    truth, anchors = boxes(count), boxes(count, seed=1)
    deltas = encode(truth, anchors, weights)
    assert torch.allclose(deltas, BoxCoder(weights).encode_single(truth, anchors), rtol=1e-5, atol=1e-5)
    noise = deltas + torch.randn(count, 4)
    assert torch.equal(decode(noise, anchors, weights), BoxCoder(weights).decode_single(noise, anchors))
    assert torch.allclose(decode(deltas, anchors, weights), truth, atol=1e-3)


def test_deltas_follow_the_papers_equations():
    anchor, box = torch.tensor([10.0, 20.0, 30.0, 60.0]), torch.tensor([20.0, 20.0, 60.0, 40.0])
    assert encode(box, anchor).tolist() == pytest.approx([1.0, -0.25, math.log(2), -math.log(2)])
    assert encode(box, anchor, BOX_HEAD).tolist() == pytest.approx([10.0, -2.5, 5 * math.log(2), -5 * math.log(2)])


def test_anchors_are_broadcast_over_classes():
    anchors, deltas = boxes(6), torch.randn(6, 3, 4)
    together = decode(deltas, anchors[:, None], BOX_HEAD)
    for k in range(3):
        assert torch.equal(together[:, k], decode(deltas[:, k], anchors, BOX_HEAD))


def test_scales_are_clamped_above_only():
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    wide, narrow = decode(torch.tensor([[0.0, 0.0, 99.0, 1.0], [0.0, 0.0, -99.0, 1.0]]), anchor)
    assert (wide[2] - wide[0]).item() == pytest.approx(1000, rel=1e-5)
    assert (narrow[2] - narrow[0]).item() == 0
    assert math.exp(MAX_LOG_SCALE) * 16 == pytest.approx(1000)


def test_clipping_equals_torchvisions_and_does_not_modify_its_input():
    wild = torch.cat([boxes(200) * 2, torch.tensor([[-9.0, -9.0, -1.0, -1.0], [500.0, 500.0, 600.0, 600.0]])])
    before = wild.clone()
    assert torch.equal(clip(wild, (97, 203)), clip_boxes_to_image(wild, (97, 203)))
    assert torch.equal(wild, before)
    assert clip(wild[:0], (97, 203)).shape == (0, 4)
    assert torch.equal(clip(wild[:6].view(2, 3, 4), (97, 203)).view(6, 4), clip(wild[:6], (97, 203)))


@pytest.mark.parametrize(("min_size", "kept"), [(0.0, [True, True, False, False]), (1.0, [True, False, False, False])])
def test_nonempty_boxes_have_two_sides_above_the_minimum_and_above_zero(min_size, kept):
    sides = torch.tensor([[1.0, 1.0], [0.5, 9.0], [9.0, 0.0], [-1.0, -1.0]])
    assert nonempty(torch.cat([torch.ones(4, 2), 1 + sides], dim=1), min_size).tolist() == kept
    assert nonempty(torch.zeros(0, 4), min_size).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
@pytest.mark.parametrize("which", range(4))
def test_boxes_of_extreme_deltas_are_finite_and_within_the_image(value, which):
    deltas = torch.zeros(1, 4)
    deltas[0, which] = value
    decoded = clip(decode(deltas, torch.tensor([[30.0, 30.0, 70.0, 80.0]])), (100, 120))
    survivors = decoded[nonempty(decoded, 0)]
    assert survivors.isfinite().all()
    assert (survivors >= 0).all()
    assert (survivors <= torch.tensor([120.0, 100.0, 120.0, 100.0])).all()
    assert len(survivors) == (which > 1 and value > 0)  # a scale that is too large is clamped, other boxes are dropped


@pytest.mark.parametrize("count", [0, 1, 300, 1500])  # torchvision uses another algorithm above 1000
def test_suppression_is_limited_to_groups(count):
    crowd, scores = boxes(count), torch.rand(count, generator=torch.Generator().manual_seed(2))
    groups = torch.arange(count) % 3
    kept = class_nms(crowd, scores, groups, 0.3, count)
    members = [(groups == group).nonzero()[:, 0] for group in range(3)]
    expected = [index[torchvision_nms(crowd[index], scores[index], 0.3)] for index in members]
    assert set(kept.tolist()) == set(torch.cat(expected).tolist())
    assert (scores[kept].diff() <= 0).all()
    assert count < 300 or len(kept) > len(torchvision_nms(crowd, scores, 0.3))


@pytest.mark.parametrize("groups", [1, 7])
@pytest.mark.parametrize("wanted", [1, 20, 300, 5000])
@pytest.mark.parametrize("count", [900, 4000])
def test_the_best_boxes_equal_those_of_suppressing_all_boxes(groups, wanted, count):
    """Only some candidates are tried, but the kept boxes are torchvision's, in its order."""
    crowd, scores = boxes(count), torch.rand(count, generator=torch.Generator().manual_seed(2))
    group = torch.arange(count) % groups
    expected = batched_nms(crowd, scores, group, 0.3)
    assert torch.equal(class_nms(crowd, scores, group, 0.3, wanted), expected[:wanted])


def test_more_candidates_are_tried_if_the_best_suppress_each_other():
    same, apart = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(2000, 4), boxes(40)
    scores = torch.linspace(1, 0, 2040)
    kept = class_nms(torch.cat([same, apart]), scores, torch.zeros(2040, dtype=torch.long), 0.3, 10)
    assert len(kept) == 10
    assert kept[0] == 0
    assert (kept[1:] >= 2000).all()


WITHOUT_TORCHVISION = """
import sys, torch
from upscore.models.mask_rcnn.boxes import nms
boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
assert nms(boxes, torch.tensor([0.5, 0.6, 0.1]), 0.5).tolist() == [1, 2]
assert "torchvision" not in sys.modules
import torchvision
from torchvision.ops import nms, roi_align
assert nms(boxes, torch.tensor([0.5, 0.6, 0.1]), 0.5).tolist() == [1, 2]
image = torch.ones(1, 1, 32, 32, requires_grad=True)
roi_align(image, [boxes], 2).sum().backward()
assert image.grad.sum() > 0
"""


def test_nms_does_not_import_torchvision_which_can_be_imported_afterwards():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCHVISION], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_nms_equals_torchvisions():
    start = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 90
    boxes, scores = torch.cat([start, start + 30], dim=1), torch.linspace(0, 1, 200)
    assert torch.equal(nms(boxes, scores, 0.5), torchvision_nms(boxes, scores, 0.5))
