"""Small torchvision Mask R-CNNs with random weights that detect many objects."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from upscore.models.mask_rcnn.presets import Limits

Version = Literal["v1", "v2"]

MIN_SIDE, MAX_SIDE = 128, 224
PROPOSALS = Limits(before_nms=60, after_nms=100)


def torchvision_peer(version: Version) -> MaskRCNN:
    """Return a network in evaluation mode; v1 has frozen batch normalisation with an epsilon of 0, as published."""
    torch.manual_seed(7)
    if version == "v1":
        backbone = resnet50(weights=None, norm_layer=partial(FrozenBatchNorm2d, eps=0.0))
        peer = MaskRCNN(_resnet_fpn_extractor(backbone, 3), num_classes=91, min_size=MIN_SIDE, max_size=MAX_SIDE)
    else:
        peer = maskrcnn_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=91, min_size=MIN_SIDE, max_size=MAX_SIDE
        )
    peer.rpn._pre_nms_top_n = dict.fromkeys(("training", "testing"), PROPOSALS.before_nms)
    peer.rpn._post_nms_top_n = dict.fromkeys(("training", "testing"), PROPOSALS.after_nms)
    with torch.no_grad():
        for name, layer in peer.named_modules():
            if isinstance(layer, FrozenBatchNorm2d | nn.BatchNorm2d):
                _randomise_norm(layer, 0.3 if name.endswith("bn3") else 1.0)
        _randomise_heads(peer)
    return peer.eval()


def _randomise_norm(norm: nn.Module, scale: float) -> None:
    """Randomise statistics and weights; a small `scale` for the last norm of a block keeps residual sums bounded."""
    norm.weight.uniform_(0.8 * scale, 1.2 * scale)
    norm.bias.normal_(std=0.1)
    norm.running_mean.normal_(std=0.1)
    norm.running_var.uniform_(0.5, 1.5)


def _randomise_heads(peer: MaskRCNN) -> None:
    """Randomise the heads so that scores are distinct, deltas nonzero, and masks neither empty nor full."""
    heads, predictor = peer.roi_heads, peer.roi_heads.box_predictor
    peer.rpn.head.cls_logits.weight.normal_(std=0.3)
    peer.rpn.head.bbox_pred.weight.normal_(std=0.03)
    predictor.bbox_pred.weight.normal_(std=0.05)
    heads.mask_predictor.mask_fcn_logits.weight.normal_(std=0.3)
    # regions of a random network are similar: scale the classifier by their differences
    features: list[torch.Tensor] = []
    hook = predictor.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    peer.eval()([synthetic_image(128, 176) / 255])
    hook.remove()
    differences = features[0] - features[0].mean(dim=0)
    predictor.cls_score.weight.normal_(std=3 / differences.norm(dim=1).mean().item())
    predictor.cls_score.bias.copy_(-(predictor.cls_score.weight @ features[0].mean(dim=0)))


def synthetic_image(height: int, width: int) -> torch.Tensor:
    """Return blurred noise (3, H, W) float32 with integer values 0..255, the same at each call."""
    noise = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(height))
    return F.interpolate(noise, size=(height, width), mode="bilinear")[0].mul(255).floor()
