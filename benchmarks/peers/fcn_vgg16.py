"""FCN-8s over VGG16 against pytorch-fcn's, from an image's bytes to the class of each pixel."""

from __future__ import annotations

from peers.measure import Row, Side, Sides
from peers.shared import noise, torchfcn_models, with_random_weights

SIDE, CLASSES = 512, 21


def row() -> Row:
    """Batch 1. Ours pads as much as convolutions take away; pytorch-fcn pads by 100, as the authors did."""
    return Row(
        name="fcn-vgg16",
        work=f"FCN-8s VGG16, {SIDE}x{SIDE}, batch 1, image to class map",
        peer_name="torchfcn.models.FCN8s + argmax",
        target={"int8": 30, "bfloat16": 16},
        prepare=prepare,
    )


def prepare() -> Sides:
    """Random weights on both sides; int8 is calibrated on noise, which is enough for its speed."""
    import torch

    from upscore.inference import Model
    from upscore.inference.calibration import quantize
    from upscore.inference.engines import Precision
    from upscore.models import build

    theirs = with_random_weights(torchfcn_models().FCN8s(n_class=CLASSES))
    net = build("fcn8s", backbone="vgg16", num_classes=CLASSES)
    with_random_weights(net)
    image = noise(SIDE, SIDE)

    @torch.inference_mode()
    def peer() -> object:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return theirs(net.backbone.prepare(pixels)).argmax(1)[0].numpy()

    def ours(precision: Precision) -> Side:
        parts = quantize(net, [image]) if precision == "int8" else None
        predictor = Model(net, "openvino", precision, quantized=parts)
        predictor.warmup((SIDE, SIDE))
        return lambda: predictor.predict(image)

    return {"int8": ours("int8"), "bfloat16": ours("bfloat16"), "float32": ours("float32")}, peer
