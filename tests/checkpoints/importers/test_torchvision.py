from __future__ import annotations

import pytest
import torch

from tests.checkpoints.detectors import frozen, marked, names_of_2019, torchvision_shapes
from upscore.checkpoints.importers.torchvision import import_torchvision_mask_rcnn, is_detector
from upscore.errors import UserError
from upscore.models.preprocessing import IMAGENET

NAMES = {
    "backbone.body.conv1.weight": "backbone.body.conv1.weight",
    "backbone.body.layer3.5.bn2.running_var": "backbone.body.layer3.5.bn2.running_var",
    "backbone.body.layer4.0.downsample.1.bias": "backbone.body.layer4.0.downsample.1.bias",
    "rpn.head.objectness.weight": "rpn.head.cls_logits.weight",
    "rpn.head.deltas.bias": "rpn.head.bbox_pred.bias",
    "mask_head.convs.2.0.weight": "roi_heads.mask_head.2.0.weight",
    "mask_head.upsample.weight": "roi_heads.mask_predictor.conv5_mask.weight",
}
V1_NAMES = {
    "neck.lateral.4.weight": "backbone.fpn.inner_blocks.0.0.weight",
    "neck.output.32.bias": "backbone.fpn.layer_blocks.3.0.bias",
    "rpn.head.convs.0.bias": "rpn.head.conv.0.0.bias",
    "box_head.fcs.0.weight": "roi_heads.box_head.fc6.weight",
    "box_head.fcs.1.bias": "roi_heads.box_head.fc7.bias",
}
V2_NAMES = {
    "neck.lateral.8.1.running_mean": "backbone.fpn.inner_blocks.1.1.running_mean",
    "rpn.head.convs.1.weight": "rpn.head.conv.1.0.weight",
    "box_head.convs.3.0.weight": "roi_heads.box_head.3.0.weight",
    "box_head.convs.0.1.running_var": "roi_heads.box_head.0.1.running_var",
    "box_head.fcs.0.weight": "roi_heads.box_head.5.weight",
    "mask_head.convs.3.1.bias": "roi_heads.mask_head.3.1.bias",
}


def v1_state(**options: int) -> dict[str, torch.Tensor]:
    """Return a state dict without counters, like the published weights."""
    return marked(frozen(torchvision_shapes(**options)))


@pytest.mark.parametrize("names", ["current", "2019"])
def test_version_1_with_both_naming_schemes(names: str) -> None:
    state = v1_state()
    net = import_torchvision_mask_rcnn(names_of_2019(state) if names == "2019" else state)
    assert {key: net.architecture[key] for key in ("backbone", "preset", "norm", "norm_eps", "stride_in")} == {
        "backbone": "resnet50",
        "preset": "torchvision",
        "norm": "frozen",
        "norm_eps": 0.0,
        "stride_in": "3x3",
    }
    assert net.preprocessing == IMAGENET
    assert net.resizing.size(480, 640) == (800, 1066)
    assert not net.training
    ours = net.state_dict()
    assert len(ours) == len(state)
    for key, name in (NAMES | V1_NAMES).items():
        assert torch.equal(ours[key], state[name]), key
    others = [t for key, t in ours.items() if not key.startswith("box_predictor.") and "predictor" not in key]
    assert len({t.flatten()[0].item() for t in others}) == len(others)  # each from a different tensor


def test_version_2_is_recognised_by_its_names() -> None:
    shapes = torchvision_shapes("v2")
    assert len(shapes) == 432
    state = marked(shapes)
    net = import_torchvision_mask_rcnn(state)
    wanted = {"norm": "batch", "norm_eps": 1e-5, "rpn_convs": 2, "box_convs": 4, "head_norm": True}
    assert {key: net.architecture[key] for key in wanted} == wanted
    ours = net.state_dict()
    assert len(ours) == 432
    for key, name in (NAMES | V2_NAMES).items():
        assert torch.equal(ours[key], state[name]), key


def test_the_background_is_the_last_class_without_boxes_and_masks() -> None:
    net = import_torchvision_mask_rcnn(v1_state())
    ids = torch.arange(1, 91)
    assert net.num_classes == 90
    assert net.box_predictor.classes.bias.tolist() == [*ids.tolist(), 0]
    assert torch.equal(net.box_predictor.classes.weight[:, 7], net.box_predictor.classes.bias)
    assert torch.equal(net.box_predictor.deltas.bias.view(90, 4), ids[:, None].expand(90, 4).float())
    assert torch.equal(net.mask_head.predictor.weight[:, 5, 0, 0], ids.float())
    assert net.classes[0] == "person"
    assert net.classes[24 - 1] == "zebra"
    assert net.classes[12 - 1] == "unused 12"
    assert net.classes[90 - 1] == "toothbrush"
    assert len(set(net.classes)) == 90
    unused = [int(name.removeprefix("unused ")) for name in net.classes if name.startswith("unused ")]
    assert unused == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_fine_tuned_networks_with_other_classes_and_backbones() -> None:
    net = import_torchvision_mask_rcnn(v1_state(depth=101, classes=3))
    assert net.architecture["backbone"] == "resnet101"
    assert net.architecture["norm_eps"] == 1e-5  # only the published ResNet-50 has an epsilon of 0
    assert net.classes == ["class_0", "class_1"]
    assert net.box_predictor.classes.bias.tolist() == [1, 2, 0]
    trained = import_torchvision_mask_rcnn(marked(torchvision_shapes(classes=2)))
    assert trained.architecture["norm"] == "batch"  # counters: not frozen
    assert trained.architecture["norm_eps"] == 1e-5


def test_detectors_and_classifiers_are_distinguished() -> None:
    assert is_detector(v1_state())
    assert not is_detector({"features.0.weight": 0, "classifier.6.bias": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("rpn.head.cls_logits.bias"), r"rpn\.head\.cls_logits\.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra"),
        (
            lambda s: s.update({"roi_heads.box_predictor.bbox_pred.bias": torch.zeros(360)}),
            r"bbox_pred\.bias .*\(360,\).*\(364,\)",
        ),
        (lambda s: s.pop("roi_heads.box_predictor.cls_score.bias"), r"roi_heads\.box_predictor\.cls_score\.bias"),
        (lambda s: [s.pop(k) for k in list(s) if "mask_predictor" in k], r"roi_heads\.mask_predictor"),
        (lambda s: [s.pop(k) for k in list(s) if "layer3.4" in k], "ResNet.* 5 blocks"),
    ],
)
def test_tensors_that_do_not_match_are_named(change, message) -> None:  # type: ignore[no-untyped-def]
    state = v1_state()
    change(state)
    with pytest.raises(UserError, match=message):
        import_torchvision_mask_rcnn(state)
