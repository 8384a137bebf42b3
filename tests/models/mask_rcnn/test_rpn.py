"""The region proposal network, compared with torchvision's with the same weights."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection import anchor_utils
from torchvision.models.detection import rpn as torchvision_rpn
from torchvision.models.detection.image_list import ImageList

from upscore.models.mask_rcnn.anchors import ASPECTS, AnchorGenerator
from upscore.models.mask_rcnn.boxes import encode
from upscore.models.mask_rcnn.matcher import match_boxes
from upscore.models.mask_rcnn.presets import DETECTRON2, PAPER, TORCHVISION, Limits
from upscore.models.mask_rcnn.rpn import RPN, RPNHead, RPNOutputs

CHANNELS = 8
STRIDES, SIZES = [8, 16, 32], [[24], [48], [96]]
LIMITS = Limits(before_nms=150, after_nms=100)
PADDED, IMAGES = (160, 224), [(160, 203), (131, 224), (97, 64)]
OBJECTS = [
    torch.tensor([[10.0, 12.0, 50.0, 61.0], [90.0, 40.0, 190.0, 150.0], [100.0, 60.0, 109.0, 66.0]]),
    torch.zeros(0, 4),
    torch.tensor([[3.0, 3.0, 60.0, 90.0]]),
]


def make(preset=TORCHVISION, convs=1, **settings):
    """Return an RPN whose weights give distinct scores and nonzero deltas."""
    torch.manual_seed(5)
    head = RPNHead(CHANNELS, 3, convs=convs)
    for layer, std in ((head.objectness, 2.0), (head.deltas, 0.3), *((conv, 0.2) for conv in head.convs)):
        torch.nn.init.normal_(layer.weight, std=std)
        torch.nn.init.normal_(layer.bias, std=0.1)
    rounded, outer = preset.rounded_anchors, preset.aspects_outer
    anchors = AnchorGenerator(SIZES, STRIDES, rounded=rounded, aspects_outer=outer, fitted=preset is TORCHVISION)
    return RPN(head, anchors, preset, **settings)


def torchvisions(ours, limits=LIMITS):
    head = torchvision_rpn.RPNHead(CHANNELS, 3, conv_depth=len(ours.head.convs))
    with torch.no_grad():
        own = [*ours.head.convs, ours.head.objectness, ours.head.deltas]
        theirs = [*(block[0] for block in head.conv), head.cls_logits, head.bbox_pred]
        for source, target in zip(own, theirs, strict=True):
            target.load_state_dict(source.state_dict())
    before, after = ({"training": n, "testing": n} for n in (limits.before_nms, limits.after_nms))
    anchors = anchor_utils.AnchorGenerator(tuple(map(tuple, SIZES)), (ASPECTS,) * len(SIZES))
    return torchvision_rpn.RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, before, after, 0.7)


def maps(image=PADDED, count=3):
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(count, CHANNELS, -(-image[0] // s), -(-image[1] // s), generator=generator) for s in STRIDES]


def run_torchvisions(peer, features, sizes, objects=None, image=PADDED):
    images = ImageList(torch.zeros(len(sizes), 3, *image), sizes)
    targets = [{"boxes": boxes} for boxes in objects] if objects else None
    return peer(images, {str(i): level for i, level in enumerate(features)}, targets)


@pytest.mark.parametrize("convs", [1, 2])
def test_the_head_equals_torchvisions(convs):
    ours = make(convs=convs)
    outputs, theirs = ours(maps()), torchvisions(ours).head(maps())
    for mine, other in zip([*outputs.objectness, *outputs.deltas], [*theirs[0], *theirs[1]], strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert outputs.deltas[0].shape == (3, 12, 20, 28)


@pytest.mark.parametrize("convs", [1, 2])
@pytest.mark.parametrize("limits", [LIMITS, Limits(before_nms=2000, after_nms=1000)])  # two algorithms of batched_nms
def test_proposals_equal_torchvisions_for_images_of_three_sizes(convs, limits):
    ours = make(convs=convs)
    with torch.inference_mode():
        boxes, scores = ours.proposals(ours(maps()), IMAGES, limits)
        peer = torchvisions(ours, limits).eval()
        expected, _ = run_torchvisions(peer, maps(), IMAGES)
    for mine, score, theirs, (height, width) in zip(boxes, scores, expected, IMAGES, strict=True):
        assert len(mine) > 20
        assert torch.allclose(mine, theirs, atol=1e-3)
        assert (score.sigmoid().diff() <= 0).all()
        assert (mine >= 0).all()
        assert (mine <= torch.tensor([width, height, width, height])).all()


def test_proposals_equal_torchvisions_if_level_sizes_are_rounded_up():
    image, ours = (96, 120), make()  # 120 is no multiple of 32: the map has four cells of 30 pixels
    with torch.inference_mode():
        boxes, _ = ours.proposals(ours(maps(image, 1)), [image], LIMITS)
        expected, _ = run_torchvisions(torchvisions(ours).eval(), maps(image, 1), [image], image=image)
    assert torch.allclose(boxes[0], expected[0], atol=1e-3)


def test_saturated_scores_are_ordered_as_in_torchvision():
    ours = make()
    with torch.inference_mode():
        objectness, deltas = ours(maps())
        outputs = RPNOutputs([20 + 3 * level for level in objectness], deltas)
        boxes, scores = ours.proposals(outputs, IMAGES, LIMITS)
        peer = torchvisions(ours).eval()
        peer.head.forward = lambda _: (outputs.objectness, outputs.deltas)
        expected, _ = run_torchvisions(peer, maps(), IMAGES)
    assert all((score.sigmoid() == 1).sum() > 10 for score in scores)
    for mine, theirs in zip(boxes, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)


def test_suppression_is_limited_to_levels():
    ours = make(PAPER)
    outputs = RPNOutputs([level * 0 for level in ours(maps()).objectness], [level * 0 for level in ours(maps()).deltas])
    same = torch.tensor([20.0, 20.0, 60.0, 60.0])
    anchors = ours.anchors([(20, 28), (10, 14), (5, 7)], same.device)
    for objectness, deltas, level in zip(*outputs, anchors, strict=True):
        index = 3 * (2 * level.shape[0] // 9)
        row, column = divmod(index // 3, objectness.shape[-1])
        objectness[:, 0, row, column] = 5
        deltas[:, :4, row, column] = encode(same, level[index])
    boxes, scores = ours.proposals(outputs, [PADDED] * 3, LIMITS)
    for mine, score in zip(boxes, scores, strict=True):
        assert (score == 5).sum() == 3
        assert torch.allclose(mine[:3], same.expand(3, 4), atol=1e-3)


def test_nan_proposals_are_dropped_and_have_no_gradient():
    ours = make()
    outputs = ours(maps())
    broken = RPNOutputs([o.clone() for o in outputs.objectness], [d.clone() for d in outputs.deltas])
    broken.deltas[0][0] = float("nan")
    broken.objectness[1][1, :, :4] = float("nan")
    broken.deltas[2][2, ::2] = float("inf")
    boxes, scores = ours.proposals(broken, IMAGES, LIMITS)
    assert all(len(b) and b.isfinite().all() and s.isfinite().all() for b, s in zip(boxes, scores, strict=True))
    assert not any(tensor.requires_grad for tensor in (*boxes, *scores))
    all_nan = RPNOutputs(outputs.objectness, [torch.full_like(d, float("nan")) for d in outputs.deltas])
    boxes, scores = ours.proposals(all_nan, IMAGES, LIMITS)
    assert [b.shape for b in boxes] == [(0, 4)] * 3
    assert [s.shape for s in scores] == [(0,)] * 3


@pytest.mark.parametrize("min_size", [0.0, 30.0])
def test_small_proposals_are_dropped(min_size):
    ours = make(replace(TORCHVISION, min_size=min_size))
    boxes, _ = ours.proposals(ours(maps()), IMAGES, LIMITS)
    smallest = min((b[:, 2:] - b[:, :2]).min().item() for b in boxes)
    assert smallest >= min_size
    assert smallest > 0
    assert min_size or smallest < 30


@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients_equal_torchvisions(training):
    ours = make().train(training)
    peer = torchvisions(ours).train()
    torch.manual_seed(8)  # both sample image by image, positives first
    mine = ours.losses(ours(maps()), OBJECTS, IMAGES)
    torch.manual_seed(8)
    _, theirs = run_torchvisions(peer, maps(), IMAGES, OBJECTS)
    assert list(mine) == ["objectness", "rpn_box"]
    assert mine["rpn_box"] > 0
    assert torch.allclose(mine["objectness"], theirs["loss_objectness"], rtol=1e-5)
    assert torch.allclose(mine["rpn_box"], theirs["loss_rpn_box_reg"], rtol=1e-5)
    sum(mine.values()).backward()
    sum(theirs.values()).backward()
    assert torch.allclose(ours.head.deltas.weight.grad, peer.head.bbox_pred.weight.grad, rtol=1e-3, atol=1e-6)
    assert torch.allclose(ours.head.convs[0].weight.grad, peer.head.conv[0][0].weight.grad, rtol=1e-3, atol=1e-5)


def test_detectron2s_losses_are_divided_by_the_intended_number_of_samples():
    ours = make(DETECTRON2, batch_size=100_000, positive_fraction=0.5)  # so that all anchors are sampled
    outputs = ours(maps())
    found = ours.losses(outputs, OBJECTS, IMAGES)
    anchors = torch.cat(ours.anchors([tuple(o.shape[-2:]) for o in outputs.objectness], torch.device("cpu")))
    classification, regression = 0, 0
    for image, objects in enumerate(OBJECTS):
        logits = torch.cat([o[image].permute(1, 2, 0).flatten() for o in outputs.objectness])
        deltas = torch.cat([d[image].permute(1, 2, 0).reshape(-1, 4) for d in outputs.deltas])
        matched = match_boxes(objects, anchors, 0.7, 0.3, allow_low_quality=True)
        positive, used = matched >= 0, matched > -2
        classification += F.binary_cross_entropy_with_logits(logits[used], positive[used].float(), reduction="sum")
        regression += (deltas[positive] - encode(objects[matched[positive]], anchors[positive])).abs().sum()
    assert regression > 0
    assert torch.allclose(found["objectness"], classification / 300_000, rtol=1e-5)
    assert torch.allclose(found["rpn_box"], regression / 300_000, rtol=1e-5)


@pytest.mark.parametrize("preset", [PAPER, TORCHVISION, DETECTRON2])
def test_without_objects_the_box_loss_is_zero_with_gradients(preset):
    ours = make(preset)
    losses = ours.losses(ours(maps()), [torch.zeros(0, 4)] * 3, IMAGES)
    assert losses["objectness"] > 0
    assert losses["rpn_box"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    assert ours.head.deltas.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("preset", [PAPER, TORCHVISION, DETECTRON2])
def test_losses_are_finite_for_objects_without_area_or_outside_the_image(preset):
    ours = make(preset)
    odd = torch.tensor([[20.0, 20.0, 20.0, 40.0], [5000.0, 5000.0, 5100.0, 5100.0], [30.0, 30.0, 30.01, 30.01]])
    losses = ours.losses(ours(maps()), [odd] * 3, IMAGES)
    assert all(loss.isfinite() for loss in losses.values())


def test_losses_are_in_float32_under_autocast():
    ours = make()
    plain = ours(maps())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = ours(maps())
        losses = ours.losses(outputs, OBJECTS, IMAGES)
    assert {level.dtype for level in (*outputs.objectness, *outputs.deltas)} == {torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert not torch.equal(outputs.objectness[0], plain.objectness[0])  # the 3x3 convolutions ran in bfloat16


def test_limits_come_from_the_preset_unless_given():
    assert make(DETECTRON2).training_limits == DETECTRON2.training
    assert make(DETECTRON2).inference_limits == DETECTRON2.inference
    assert make(DETECTRON2, inference=LIMITS).inference_limits == LIMITS


def test_the_rpn_can_be_built_on_the_meta_device_and_loaded_later():
    ours = make()
    with torch.device("meta"):
        empty = RPN(RPNHead(CHANNELS, 3), AnchorGenerator(SIZES, STRIDES), PAPER)
    assert all(p.is_meta for p in empty.parameters())
    assert set(empty.state_dict()) == {
        f"head.{layer}.{parameter}" for layer in ("convs.0", "objectness", "deltas") for parameter in ("weight", "bias")
    }
    filled = copy.deepcopy(empty)
    filled.load_state_dict(ours.state_dict(), assign=True)
    assert torch.equal(filled(maps()).objectness[0], ours(maps()).objectness[0])


def test_initial_weights_are_small_random_values():
    head = RPNHead(64, 3, convs=2)
    for layer in (*head.convs, head.objectness, head.deltas):
        assert 0.007 < layer.weight.std() < 0.013
        assert not layer.bias.any()
