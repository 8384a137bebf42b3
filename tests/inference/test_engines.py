from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from upscore.errors import UserError
from upscore.inference import Predictor
from upscore.inference.engines.graphs import MOST, REPEATS, Graphs
from upscore.models import build
from upscore.models.fcn import FCN

BACKBONE = "efficientnet_lite0"
ENGINES = ("torch", "openvino", "onnxruntime")
VARIANTS = {
    "8s": {"name": "fcn8s"},
    "32s": {"name": "fcn32s"},
    "pool4": {"name": "fcn-pool4"},
    "at once": {"name": "fcn8s-atonce"},
    "learned": {"name": "fcn8s", "upsampling": "learned"},
    "dense": {"name": "fcn16s", "upsampling": "intermediate", "grouped": False},
    "null background": {"name": "fcn8s", "pixel_loss": "sigmoid", "null_background": True},
    "two heads": {"name": "fcn8s", "geometric_classes": 3},
    "caffe": {"name": "fcn8s", "backbone": "alexnet"},
}


def network(name: str, **options) -> FCN:
    """With scores that differ from class to class, but for AlexNet, which has strides of 32 alone."""
    torch.manual_seed(0)
    options = {"backbone": BACKBONE} | options
    net = build("fcn32s" if options["backbone"] == "alexnet" else name, num_classes=5, **options)
    assert isinstance(net, FCN)
    for name_, parameter in net.named_parameters():
        if "score." in name_:
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def photo(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("engine", ENGINES[1:])
def test_engines_agree_at_any_size(variant: str, engine: str) -> None:
    """Compiled once, run at sizes that it was not traced at."""
    net = network(**VARIANTS[variant])
    reference, other = (Predictor(net, e, "float32") for e in ("torch", engine))
    for size in ((64, 96), (97, 131), (50, 333), (1, 1), (160, 32)):
        expected, found = (p.predict(photo(*size), scores=True) for p in (reference, other))
        assert found.scores == pytest.approx(expected.scores, abs=2e-3)
        assert (found.class_map == expected.class_map).mean() > 0.99
        if expected.geometric_map is not None:
            assert (found.geometric_map == expected.geometric_map).mean() > 0.99
