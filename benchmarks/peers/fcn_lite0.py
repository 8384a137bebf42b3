"""FCN-8s with EfficientNet-Lite0 compared with torchvision's LR-ASPP, from a uint8 image to the class map."""

from __future__ import annotations

from peers.measure import Row, Side, Sides
from peers.shared import noise, with_random_weights

HEIGHT, WIDTH, CLASSES = 360, 480, 21


def row() -> Row:
    """Return the row: batch size 1, random weights."""
    return Row(
        name="fcn-lite0",
        work=f"FCN-8s Lite0, {WIDTH}x{HEIGHT}, batch 1, image to class map",
        peer_name="torchvision lraspp_mobilenet_v3_large + argmax",
        target={"bfloat16": 1.5},
        prepare=prepare,
    )


def prepare() -> Sides:
    """Build both networks, each with its own preprocessing."""
    import torch
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    from upscore.inference import Model
    from upscore.inference.engines import Precision
    from upscore.models import build

    peer_net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    mean, deviation = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    net = build("fcn8s", backbone="efficientnet_lite0", num_classes=CLASSES)
    with_random_weights(net)
    image = noise(HEIGHT, WIDTH)

    @torch.inference_mode()
    def peer() -> object:
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        return peer_net((pixels / 255 - mean) / deviation)["out"].argmax(1)[0].numpy()

    def ours(precision: Precision) -> Side:
        model = Model(net, "openvino", precision)
        return lambda: model.predict(image)

    return {"bfloat16": ours("bfloat16"), "float32": ours("float32")}, peer
