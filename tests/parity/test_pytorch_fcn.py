"""FCNs compared with the four networks of pytorch-fcn with the same weights.

C classes, H W pixels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.parity.peers import torchfcn_models
from tests.weights import he_weights
from upscore.checkpoints.importers.pytorch_fcn import import_pytorch_fcn
from upscore.models import FCN, build
from upscore.models.fcn.fcn import Upsampling

pytestmark = pytest.mark.slow

C = 21
PEERS = {"fcn32s": "FCN32s", "fcn16s": "FCN16s", "fcn8s": "FCN8s", "fcn8s-atonce": "FCN8sAtOnce"}
UNDO_SCALE = {"score_pool4.weight": 1e2, "score_pool3.weight": 1e4}
"""Factors that undo the scales of the at-once network, so that its scores equal those of the staged one."""


@pytest.fixture(scope="module")
def peers() -> dict[str, nn.Module]:
    """Return name -> pytorch-fcn's network; all have the same backbone weights."""
    models = torchfcn_models()
    with torch.device("meta"):
        nets = {name: getattr(models, peer)(C) for name, peer in PEERS.items()}
    shared = he_weights({key: t for key, t in nets["fcn8s"].state_dict().items() if not key.startswith("upscore")})
    for name, net in nets.items():
        state = {}
        for key, like in net.state_dict().items():
            if key.startswith("upscore"):
                state[key] = models.fcn32s.get_upsampling_weight(C, C, like.shape[-1])
            else:
                state[key] = shared[key] * (UNDO_SCALE.get(key, 1) if name == "fcn8s-atonce" else 1)
        net.load_state_dict(state, assign=True)
        net.eval()
    return nets


@pytest.fixture(scope="module")
def ours(peers: dict[str, nn.Module]) -> dict[str, FCN]:
    return {name: import_pytorch_fcn(peer.state_dict(), at_once=name == "fcn8s-atonce") for name, peer in peers.items()}


def run_backbone_once(nets: dict[str, FCN], images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all networks use the feature maps of the first, because their backbones have the same weights."""
    maps = nets["fcn32s"].backbone(images)
    for net in nets.values():
        monkeypatch.setattr(net.backbone, "forward", lambda _: maps)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def synthetic_image(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height)) * 60


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 334), (64, 64), (97, 301)])
@torch.inference_mode()
def test_logits_equal_those_of_pytorch_fcn(
    peers: dict[str, nn.Module],
    ours: dict[str, FCN],
    height: int,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = synthetic_image(height, width)
    run_backbone_once(ours, images, monkeypatch)
    logits = {name: net(images) for name, net in ours.items()}
    for name, peer in peers.items():
        assert relative_difference(logits[name], peer(images)) < 1e-4, name
    assert relative_difference(logits["fcn8s-atonce"], logits["fcn8s"]) < 1e-4  # the weights undo the scales
    assert relative_difference(logits["fcn16s"], logits["fcn8s"]) > 1e-2  # the skips contribute
    assert relative_difference(logits["fcn32s"], logits["fcn16s"]) > 1e-2


@pytest.mark.parametrize("grouped", [False, True], ids=["dense", "grouped"])
@pytest.mark.parametrize("upsampling", ["intermediate", "learned"])
@torch.inference_mode()
def test_learned_upsampling_initially_equals_fixed(
    ours: dict[str, FCN], upsampling: Upsampling, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = synthetic_image(40, 70)
    run_backbone_once(ours, images, monkeypatch)
    for name, fixed in ours.items():
        with torch.device("meta"):
            learned = build(
                name, backbone="vgg16", num_classes=C, geometry="caffe", upsampling=upsampling, grouped=grouped
            )
        learned.load_state_dict(fixed.state_dict(), assign=True, strict=False)
        for layer in learned.upscore.values():
            layer.to_empty(device="cpu").reset_parameters()
        learned.backbone = fixed.backbone
        assert relative_difference(learned(images), fixed(images)) < 1e-5, name
