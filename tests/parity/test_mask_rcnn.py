"""Mask R-CNN compared with torchvision's two versions with the same weights: results, losses and each stage.

N detections, H W pixels of the image. If the overlap of two boxes is close to the NMS threshold, rounding decides which
of them is kept, so that a hundredth of the boxes may differ.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN as Peer

from tests.parity.torchvision_peers import MAX_SIDE, MIN_SIDE, PROPOSALS, synthetic_image, torchvision_peer
from upscore.annotations import ObjectAnnotations
from upscore.checkpoints import save_model
from upscore.checkpoints.importers.torchvision import import_torchvision_mask_rcnn
from upscore.inference import load
from upscore.inference.model import Model
from upscore.models import MaskRCNN
from upscore.models.mask_rcnn.presets import PRESETS, Limits
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.results import InstanceResult, as_instances
from upscore.results.mask_paste import paste_soft

pytestmark = pytest.mark.slow

SIZES = [(480, 640), (333, 500), (97, 301)]
TOLERATED = 0.01
"""Fraction of boxes that may differ because of rounding."""


@pytest.fixture(scope="module", params=["v1", "v2"])
def peer(request: pytest.FixtureRequest) -> Peer:
    return torchvision_peer(request.param)


@pytest.fixture
def net(peer: Peer) -> MaskRCNN:
    return imported(peer)


def imported(peer: Peer) -> MaskRCNN:
    """Return our network with the weights of the peer, and its reduced image size and number of proposals."""
    net = import_torchvision_mask_rcnn(peer.state_dict())
    net.resizing = Resizing(min_side=MIN_SIDE, max_side=MAX_SIDE, rule="floats")
    net.rpn.training_limits = net.rpn.inference_limits = PROPOSALS
    return net


@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.inference_mode()
def test_detections_equal_torchvisions(peer: Peer, net: MaskRCNN, height: int, width: int) -> None:
    image = synthetic_image(height, width)
    (expected,) = peer([image / 255])
    found = as_instances(Model(net, precision="float32").predict(image.byte(), score_threshold=0))
    assert len(found) == len(expected["boxes"]) > 30
    assert len(expected["labels"].unique()) > 5

    columns = [found.boxes, found.scores[:, None], found.labels[:, None] + 1]
    ours = torch.cat([torch.from_numpy(column) for column in columns], dim=1)
    theirs = torch.cat([expected["boxes"], expected["scores"][:, None], expected["labels"][:, None]], dim=1)
    nearest, index = nearest_rows(ours, theirs)
    same = nearest < 1e-3
    assert same.float().mean() >= 1 - TOLERATED
    soft, binary = pasted(found)
    assert (soft[index] - expected["masks"][:, 0])[same].abs().max() < 1e-3
    decided = (expected["masks"][:, 0] - 0.5).abs() > 1e-4
    assert torch.equal((binary[index] & decided)[same], ((expected["masks"][:, 0] >= 0.5) & decided)[same])
    assert 0.2 < expected["masks"].amax(dim=(1, 2, 3)).mean() <= 1


@torch.inference_mode()
def test_an_imported_model_returns_what_torchvision_returns(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default settings of a model folder keep low scores and overlapping objects."""
    few = Limits(before_nms=100, after_nms=100)  # with 1000 proposals, more than 100 objects would have high scores
    monkeypatch.setitem(PRESETS, "torchvision", replace(PRESETS["torchvision"], inference=few))
    monkeypatch.setitem(peer.rpn._pre_nms_top_n, "testing", few.before_nms)
    net = import_torchvision_mask_rcnn(peer.state_dict())
    net.resizing = Resizing(min_side=MIN_SIDE, max_side=MAX_SIDE, rule="floats")
    net.architecture |= {"min_side": MIN_SIDE, "max_side": MAX_SIDE}
    save_model(tmp_path / "model", net, classes=net.classes)
    model = load(tmp_path / "model", engine="torch", precision="float32")
    image = synthetic_image(333, 500)
    (expected,) = peer([image / 255])
    found = as_instances(model.predict(image.byte()))
    assert len(found) == len(expected["boxes"]) == len(found.boxes)
    assert expected["scores"].min() < 0.5
    assert len(found.mask_nms()) < len(found)
    columns = [found.boxes, found.scores[:, None], found.labels[:, None] + 1]
    ours = torch.cat([torch.from_numpy(column) for column in columns], dim=1)
    theirs = torch.cat([expected["boxes"], expected["scores"][:, None], expected["labels"][:, None]], dim=1)
    nearest, index = nearest_rows(ours, theirs)
    same = nearest < 1e-3
    assert same.float().mean() >= 1 - TOLERATED
    decided = (expected["masks"][:, 0] - 0.5).abs() > 1e-4
    masks = torch.from_numpy(found.bitmasks())[index]
    assert torch.equal((masks & decided)[same], ((expected["masks"][:, 0] >= 0.5) & decided)[same])
    assert model.display_threshold == 0.5


def nearest_rows(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest difference of each of their rows from our most similar row, and the index of that row."""
    return (theirs[:, None] - ours[None]).abs().amax(dim=2).min(dim=1)


def pasted(found: InstanceResult) -> tuple[Tensor, Tensor]:
    """Return pasted probabilities (N, H, W) float32 and masks (N, H, W) bool."""
    soft = torch.zeros(len(found), *found.size)
    for canvas, mask, box in zip(soft, found.masks, found.boxes, strict=True):
        crop, top, left = paste_soft(mask, box, found.size, found.mask_paste)
        canvas[top : top + crop.shape[0], left : left + crop.shape[1]] = torch.from_numpy(crop)
    return soft, torch.from_numpy(found.bitmasks())


@pytest.mark.parametrize(("height", "width"), SIZES)
@torch.inference_mode()
def test_each_stage_equals_torchvisions(peer: Peer, net: MaskRCNN, height: int, width: int) -> None:
    image = synthetic_image(height, width)
    images, _ = peer.transform([image / 255])
    resized = net.resizing(image.byte(), net.preprocessing)
    size = (resized.shape[-2], resized.shape[-1])
    assert images.image_sizes == [size]
    assert (images.tensors[0, :, : size[0], : size[1]] - resized).abs().max() < 1e-5

    maps = peer.backbone(images.tensors)
    outputs = net(resized[None])
    for ours, theirs in zip(outputs.maps, maps.values(), strict=True):
        assert difference(ours, theirs) < 1e-4

    (expected,), _ = peer.rpn(images, maps)
    (found,), _ = net.rpn.proposals(outputs.proposals, [size], PROPOSALS)
    assert len(found) == len(expected) > 50
    assert (nearest_rows(found, expected)[0] < 1e-3).float().mean() >= 1 - TOLERATED

    theirs = peer.roi_heads.box_head(peer.roi_heads.box_roi_pool(maps, [expected], [size]))
    ours = net.box_head(net.box_pooler(outputs.maps, [expected]))
    assert difference(ours, theirs) < 1e-4
    logits, deltas = peer.roi_heads.box_predictor(theirs)
    our_logits, our_deltas = net.box_predictor(ours)
    assert difference(our_logits, logits.roll(-1, dims=1)) < 1e-4
    assert difference(our_deltas, deltas.view(len(deltas), -1, 4)[:, 1:]) < 1e-4

    regions = peer.roi_heads.mask_roi_pool(maps, [expected[:20]], [size])
    mask_logits = peer.roi_heads.mask_predictor(peer.roi_heads.mask_head(regions))
    our_mask_logits = net.mask_head(net.mask_pooler(outputs.maps, [expected[:20]]))
    assert difference(our_mask_logits, mask_logits[:, 1:]) < 1e-4


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest absolute value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_losses_equal_torchvisions(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = torchvision_peer(version)  # not the fixture, because running statistics change
    net = imported(peer)
    everything = 1 << 20
    for sampler in (peer.rpn.fg_bg_sampler, peer.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image = everything
    net.rpn.batch_size = everything
    net.settings = replace(net.settings, batch_size=everything)

    height, width = MIN_SIDE, 176  # so that neither network resizes
    image = synthetic_image(height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    discs = [(40, 45, 30), (90, 100, 34), (60, 150, 20), (20, 20, 8)]
    masks = torch.stack([(y - row) ** 2 + (x - column) ** 2 < radius**2 for row, column, radius in discs])
    objects = ObjectAnnotations.from_masks(masks, torch.tensor([0, 16, 89, 3]))
    target = {"boxes": objects.boxes, "labels": objects.labels + 1, "masks": masks.byte()}

    proposed: list[Tensor] = []
    peer.rpn.register_forward_hook(lambda _, inputs, output: proposed.extend(output[0]))
    expected = peer.train()([image / 255], [target])
    net.train()
    outputs = net(net.resizing(image.byte(), net.preprocessing)[None])
    monkeypatch.setattr(net.rpn, "proposals", lambda *_: (proposed, []))
    losses = net.losses(outputs, [objects])
    for ours, theirs in (
        ("objectness", "loss_objectness"),
        ("rpn_box", "loss_rpn_box_reg"),
        ("class", "loss_classifier"),
        ("box", "loss_box_reg"),
        ("mask", "loss_mask"),
    ):
        assert losses[ours].item() == pytest.approx(expected[theirs].item(), rel=1e-4), ours
        assert losses[ours] > 1e-5, ours
