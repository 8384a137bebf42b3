"""Mask R-CNN in all its architectures."""

import pytest
import torch

from upscore.annotations import ObjectAnnotations
from upscore.errors import UserError
from upscore.models import build
from upscore.models.mask_rcnn.build import build_mask_rcnn

SMALL = {"num_classes": 3, "min_side": 64, "max_side": 512, "channels": 16, "box_features": 32}
ARCHITECTURES = {
    "lite0": {},
    "paper's resnet": {"backbone": "resnet50"},
    "detectron2's": {"backbone": "resnet50", "preset": "detectron2", "stride_in": "1x1"},
    "torchvision's": {"backbone": "resnet50", "preset": "torchvision", "norm": "frozen", "norm_eps": 0.0},
    "torchvision's v2": {
        "backbone": "resnet50",
        "preset": "torchvision",
        "norm": "batch",
        "rpn_convs": 2,
        "box_convs": 4,
        "head_norm": True,
    },
    "c4": {"backbone": "resnet50", "neck": "c4"},
    "small c4": {"neck": "c4"},
    "roi pool": {"pooling": "pool"},
    "roi warp": {"pooling": "warp"},
    "softmax": {"mask_loss": "softmax"},
    "class-agnostic": {"class_agnostic": True},
    "mlp": {"mask_head": "mlp"},
}


def squares(*boxes, size=(90, 120), labels=None):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return ObjectAnnotations.from_masks(masks, None if labels is None else torch.tensor(labels))


TWO = squares((10, 12, 60, 50), (50, 40, 110, 88), labels=[2, 0])
NONE = squares()


@pytest.fixture(params=ARCHITECTURES, scope="module")
def net(request):
    torch.manual_seed(0)
    return build("mask_rcnn", **SMALL, **ARCHITECTURES[request.param])


@pytest.mark.slow
def test_every_architecture_trains_and_detects(net):
    net.train()
    torch.manual_seed(1)
    outputs = net(torch.randn(2, 3, 90, 120))
    losses = net.losses(outputs, [TWO, squares((0, 0, 64, 90), size=(90, 100), labels=[1])])
    assert list(losses) == ["objectness", "rpn_box", "class", "box", "mask"]
    total = sum(losses.values())
    assert torch.isfinite(total)
    assert all(loss.item() > 0 for loss in losses.values())
    total.backward()
    without = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    net.zero_grad()

    net.eval()
    net.settings = type(net.settings)(score_threshold=0.0, max_detections=7)
    with torch.inference_mode():
        first, second = net.decode(net(torch.randn(2, 3, 90, 120)), [(90, 120), (70, 80)])
    assert len(first.boxes) == len(first.masks) == 7
    assert first.size == (90, 120)
    boxes = second.boxes
    assert (boxes[:, 2] <= 80).all()
    assert (boxes[:, 3] <= 70).all()
    assert (first.scores[:-1] >= first.scores[1:]).all()
    assert ((first.masks >= 0) & (first.masks <= 1)).all()


def test_images_without_objects_train_and_give_no_detections(net):
    net.train()
    losses = net.losses(net(torch.randn(1, 3, 64, 64)), [squares(size=(64, 64))])
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["mask"].item() == losses["box"].item() == losses["rpn_box"].item() == 0
    sum(losses.values()).backward()
    net.zero_grad()
    net.eval()
    net.settings = type(net.settings)(score_threshold=1.0)
    with torch.inference_mode():
        (found,) = net.decode(net(torch.randn(1, 3, 64, 64)), [(64, 64)])
    assert len(found.boxes) == 0
    assert found.masks.shape[0] == 0


@pytest.fixture(scope="module")
def lite():
    torch.manual_seed(0)
    return build("mask_rcnn", **SMALL)


def test_losses_are_available_in_evaluation_mode(lite):
    lite.eval()
    images = torch.randn(1, 3, 90, 120)
    with torch.no_grad():
        torch.manual_seed(3)
        first = lite.losses(lite(images), [TWO])
        torch.manual_seed(3)
        again = lite.losses(lite(images), [TWO])
    assert {name: loss.item() for name, loss in first.items()} == {name: loss.item() for name, loss in again.items()}


def test_crowds_and_boxes_without_area_are_ignored(lite):
    lite.eval()
    images = torch.randn(1, 3, 90, 120)
    odd = squares((10, 12, 60, 50), (50, 40, 110, 88), (0, 0, 20, 20), (30, 60, 45, 80), labels=[2, 0, 1, 1])
    odd.crowd[2] = True
    odd.boxes[3] = torch.tensor([30.0, 60.0, 30.0, 80.0])
    with torch.no_grad():
        outputs = lite(images)
        torch.manual_seed(3)
        expected = lite.losses(outputs, [TWO])
        torch.manual_seed(3)
        losses = lite.losses(outputs, [odd])
    assert {name: loss.item() for name, loss in losses.items()} == {n: loss.item() for n, loss in expected.items()}


def test_thousands_of_objects_are_trained_on(lite):
    lite.eval()
    id_map = torch.zeros(256, 256, dtype=torch.int32)
    id_map.view(64, 4, 64, 4)[:, :3, :, :3] = torch.arange(1, 64 * 64 + 1, dtype=torch.int32).view(64, 1, 64, 1)
    many = ObjectAnnotations.from_id_map(id_map)
    assert len(many) == 4096
    with torch.no_grad():
        losses = lite.losses(lite(torch.randn(1, 3, 256, 256)), [many])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_mask_branch_does_not_affect_the_class(lite):
    """Other class logits give other labels, but the mask of each class does not change."""
    lite.eval()
    with torch.inference_mode():
        outputs = lite(torch.randn(1, 3, 90, 120))
        boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0]])
        before = [lite._masks(outputs.maps, boxes, torch.tensor([k]), lite.mask_branch) for k in range(3)]
        lite.box_predictor.classes.weight.mul_(-3).add_(1)
        after = [lite._masks(outputs.maps, boxes, torch.tensor([k]), lite.mask_branch) for k in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not torch.equal(before[0], before[1])


def test_masks_are_computed_for_detections_only(lite, monkeypatch):
    lite.eval()
    lite.settings = type(lite.settings)(score_threshold=0.0, max_detections=11)
    counts = []
    monkeypatch.setattr(lite.mask_head, "forward", lambda r, f=lite.mask_head.forward: counts.append(len(r)) or f(r))
    with torch.inference_mode():
        lite.decode(lite(torch.randn(1, 3, 90, 120)), [(90, 120)])
    assert sum(counts) == 11


def test_padding_in_a_batch_does_not_change_detections(lite):
    lite.eval()
    lite.settings = type(lite.settings)(score_threshold=0.0, max_detections=20)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        (alone,) = lite.decode(lite(image), [(64, 96)])
        padded = torch.nn.functional.pad(image, (0, 64, 0, 32))
        (in_batch,) = lite.decode(lite(padded), [(64, 96)])
    assert in_batch.size == alone.size
    assert (in_batch.boxes[:, 2] <= 96).all()


def test_only_scores_above_the_threshold_are_detected(lite):
    lite.eval()
    lite.settings = type(lite.settings)(score_threshold=0.3)
    with torch.inference_mode():
        (found,) = lite.decode(lite(torch.randn(1, 3, 90, 120)), [(90, 120)])
    assert (found.scores > 0.3).all()


def test_published_networks_have_the_published_parameter_counts():
    with torch.device("meta"):
        ours = build_mask_rcnn(backbone="resnet50", num_classes=90, preset="torchvision", norm="frozen")
    # torchvision has box deltas and masks of the background too
    background = 4 * (1024 + 1) + (256 + 1)
    constants = 2 * sum(m.weight.numel() for m in ours.modules() if type(m).__name__ == "FrozenBatchNorm2d")
    assert sum(p.numel() for p in ours.parameters()) + background == 44_401_393
    assert constants > 0


def test_a_pretrained_resnet_keeps_its_first_layers_frozen():
    from upscore.models.backbones.resnet import ResNetBackbone, resnet

    backbone = ResNetBackbone(resnet("resnet18", norm="frozen"))
    backbone.freeze_at(2)
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_stride_in_selects_the_convolution_with_stride_2(stride_in):
    from upscore.models.backbones.resnet import resnet

    block = resnet("resnet50", stride_in=stride_in).layer2[0]
    strided = {"1x1": block.conv1, "3x3": block.conv2}
    assert {name: conv.stride for name, conv in strided.items()} == {
        name: (2, 2) if name == stride_in else (1, 1) for name in strided
    }


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"backbone": "vgg16"}, "stride 4"),
        ({"backbone": "vgg16", "neck": "c4"}, "res5"),
        ({"backbone": "resnet18", "neck": "c4"}, "res5"),
        ({"num_classes": 0}, "num_classes"),
        ({"max_detections": 0}, "max_detections"),
        ({"min_side": 900, "max_side": 800}, "min_side"),
        ({"preset": "mmdetection"}, "preset"),
        ({"class_agnostic": True, "mask_loss": "softmax"}, "softmax"),
        ({"geometry": "caffe"}, "geometry"),
        ({"stride_in": "1x1"}, "ResNets"),
    ],
)
def test_invalid_options_are_named_in_the_error(options, word):
    with pytest.raises(UserError, match=word):
        build("mask_rcnn", **{"num_classes": 2, **options})
