"""The parts for inference, compared with the complete network."""

import pytest
import torch

from tests.models.mask_rcnn.test_mask_rcnn import ARCHITECTURES, SMALL
from upscore.models import build
from upscore.models.mask_rcnn.inference_parts import BoxPart, DensePart, MaskPart, make_branches, to_outputs, to_rows
from upscore.models.mask_rcnn.roi_heads import BoxHead

SIZES = [(90, 120), (70, 80)]


@pytest.fixture(params=ARCHITECTURES, scope="module")
def net(request):
    torch.manual_seed(0)
    net = build("mask_rcnn", **SMALL, **ARCHITECTURES[request.param]).eval()
    net.settings = type(net.settings)(score_threshold=0.0, max_detections=9)
    return net


def pooled(net):
    return len(net.box_pooler.strides)


def traced(part, *examples):
    return torch.jit.trace(part.eval(), examples, check_trace=False)


@pytest.mark.slow
@torch.inference_mode()
def test_traced_parts_detect_the_networks_objects_at_other_image_sizes(net):
    dense = traced(DensePart(net), torch.randn(1, 3, 64, 96))
    part = MaskPart(net)
    box, mask = (traced(part, torch.randn(2, part.inputs)) for part in (BoxPart(net), part))
    images = torch.randn(2, 3, 90, 120)
    outputs, whole = to_outputs(dense(net.backbone.padded(images)), pooled(net)), net(images)
    for ours, expected in zip((outputs.maps, *outputs.proposals), (whole.maps, *whole.proposals), strict=True):
        assert len(ours) in (
            len(expected),
            len(expected) - 1,
        )  # the coarsest map is for proposals only
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, expected, strict=False))
    for block in (None, 4):  # 9 objects
        found = net.decode(outputs, SIZES, make_branches(box, mask, part, block))
        for ours, expected in zip(found, net.decode(whole, SIZES), strict=True):
            assert len(ours.boxes) == len(expected.boxes) == 9
            assert torch.allclose(ours.boxes, expected.boxes, atol=1e-2)
            assert torch.allclose(ours.scores, expected.scores, atol=1e-4)
            assert torch.equal(ours.labels, expected.labels)
            assert torch.allclose(ours.masks, expected.masks, atol=1e-3)
            assert ours.masks.std() > 0


@torch.inference_mode()
def test_low_scores_give_no_detections(net):
    net_settings, net.settings = net.settings, type(net.settings)(score_threshold=1.0)
    box, mask = BoxPart(net), MaskPart(net)
    outputs = to_outputs(DensePart(net)(torch.randn(1, 3, 64, 64)), pooled(net))
    (found,) = net.decode(outputs, [(64, 64)], make_branches(box, mask, mask, 4))
    net.settings = net_settings
    assert len(found.boxes) == 0


@torch.inference_mode()
def test_half_precision_maps_are_pooled_in_half_precision(net):
    outputs = to_outputs(DensePart(net, torch.bfloat16)(torch.randn(1, 3, 64, 128)), pooled(net))
    assert {features.dtype for features in outputs.maps} == {torch.bfloat16}
    assert {level.dtype for level in (*outputs.proposals.objectness, *outputs.proposals.deltas)} == {torch.float32}
    regions = net.box_pooler(outputs.maps, [torch.tensor([[3.0, 4.0, 50.0, 40.0]])])
    assert regions.dtype == torch.bfloat16
    logits, _ = BoxPart(net)(to_rows(regions))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@torch.inference_mode()
def test_regions_are_passed_to_parts_without_a_copy():
    torch.manual_seed(0)
    net = build("mask_rcnn", **SMALL)
    regions = net.box_pooler(net.eval()(torch.randn(1, 3, 64, 96)).maps, [torch.tensor([[3.0, 4.0, 50.0, 40.0]])])
    assert to_rows(regions).data_ptr() == regions.data_ptr()
    assert isinstance(net.box_head, BoxHead)
    assert BoxPart(net).head is not net.box_head  # a copy with permuted weights
