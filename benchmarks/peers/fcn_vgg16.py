"""FCN-8s with VGG16 compared with pytorch-fcn, from a uint8 image to the class map."""

from __future__ import annotations

from peers.measure import Row, Side, Sides
from peers.shared import noise, torchfcn_models, with_random_weights

SIDE, CLASSES = 512, 21


def row() -> Row:
    """Return the row: batch size 1; upscore uses the geometry "same", pytorch-fcn a padding of 100 as in the paper."""
    return Row(
        name="fcn-vgg16",
        work=f"FCN-8s VGG16, {SIDE}x{SIDE}, batch 1, image to class map",
        peer_name="torchfcn.models.FCN8s + argmax",
        target={"int8": 30, "bfloat16": 16},
        prepare=prepare,
    )


def prepare() -> Sides:
    """Build both networks with random weights; int8 is calibrated on noise, which does not affect its speed."""
    import torch

    from upscore.inference import Model
    from upscore.inference.calibration import quantize
    from upscore.inference.engines import Precision
    from upscore.models import build

    peer_net = with_random_weights(torchfcn_models().FCN8s(n_class=CLASSES))
    net = build("fcn8s", backbone="vgg16", num_classes=CLASSES)
    with_random_weights(net)
    image = noise(SIDE, SIDE)

    @torch.inference_mode()
    def peer() -> object:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return peer_net(net.backbone.prepare(pixels)).argmax(1)[0].numpy()

    def ours(precision: Precision) -> Side:
        parts = quantize(net, [image]) if precision == "int8" else None
        model = Model(net, "openvino", precision, quantized=parts)
        model.warmup((SIDE, SIDE))
        return lambda: model.predict(image)

    return {"int8": ours("int8"), "bfloat16": ours("bfloat16"), "float32": ours("float32")}, peer
