"""Mask R-CNN with ResNet-50-FPN compared with torchvision's, from a uint8 image to the masks of 100 objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.measure import Row, Side, Sides

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models.detection import MaskRCNN

HEIGHT, WIDTH, OBJECTS, CLASSES = 480, 640, 100, 91
DEVIATIONS = {
    "rpn.head.cls_logits": 0.3,
    "rpn.head.bbox_pred": 0.03,
    "roi_heads.mask_predictor.mask_fcn_logits": 0.3,
}
"""Standard deviations of the weights of layers whose initial outputs are nearly equal for all regions."""

BLOCK = 8
"""Size in pixels of the blocks of the noise image."""


def row() -> Row:
    """Both networks have the same weights and torchvision's settings: images of 800x1066, 1000 proposals and at most
    100 objects."""
    return Row(
        name="mask-rcnn",
        work=f"Mask R-CNN R-50-FPN, {HEIGHT}x{WIDTH}, {OBJECTS} objects, to masks",
        peer_name="torchvision maskrcnn_resnet50_fpn",
        target={"int8": 12, "bfloat16": 8},
        prepare=prepare,
    )


def prepare() -> Sides:
    """Build both networks with random weights that detect many objects; int8 is calibrated on the same image."""
    import torch

    from upscore.checkpoints.importers.torchvision import import_torchvision_mask_rcnn
    from upscore.inference import Model
    from upscore.inference.calibration import quantize
    from upscore.inference.engines import Precision
    from upscore.results import as_instances

    image = _image()
    peer_net = _peer(image)
    net = import_torchvision_mask_rcnn(peer_net.state_dict())

    @torch.inference_mode()
    def peer() -> object:
        return peer_net([image / 255])[0]["masks"]

    def ours(precision: Precision) -> Side:
        parts = quantize(net, [image]) if precision == "int8" else None
        predictor = Model(net, "openvino", precision, quantized=parts)
        predictor.warmup((HEIGHT, WIDTH))

        def side() -> object:
            found = as_instances(predictor.predict(image, score_threshold=0))  # all objects, as the peer returns
            return found.bitmasks()

        return side

    return {"int8": ours("int8"), "bfloat16": ours("bfloat16"), "float32": ours("float32")}, peer


def _image() -> Tensor:
    """Return an image of blurred noise, (3, H, W) uint8."""
    import torch
    from torch.nn import functional as F

    noise = torch.rand(1, 3, HEIGHT // BLOCK, WIDTH // BLOCK, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(HEIGHT, WIDTH), mode="bilinear")[0].mul(255).byte()


def _peer(image: Tensor) -> MaskRCNN:
    """Build torchvision's network with defaults, and random weights whose outputs differ enough to detect objects."""
    import torch
    from torch import nn
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    peer = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    predictor = peer.get_submodule("roi_heads.box_predictor")
    weight, bias = (predictor.get_parameter(f"cls_score.{name}") for name in ("weight", "bias"))
    features: list[Tensor] = []
    with torch.no_grad():
        for name, layer in peer.named_modules():
            if isinstance(layer, nn.BatchNorm2d) and name.endswith("bn3"):
                layer.weight.fill_(0.3)  # otherwise the sums over blocks overflow
        for layer, deviation in DEVIATIONS.items():
            peer.get_parameter(f"{layer}.weight").normal_(std=deviation)
        hook = predictor.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        peer([image / 255])
        hook.remove()
        # the features of a random network are nearly equal for all regions: scale the classifier by their differences
        differences = features[0] - features[0].mean(dim=0)
        weight.normal_(std=3 / differences.norm(dim=1).mean().item())
        bias.copy_(-(weight @ features[0].mean(dim=0)))
    return peer
