"""Agreement of the engines, compilation for fixed sizes, CUDA graphs, and no telemetry."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.mask_rcnn.test_mask_rcnn import SMALL
from upscore.errors import UserError
from upscore.inference import Model
from upscore.inference.engines.openvino import OpenVINOPart
from upscore.inference.engines.torch_engine import MAX_GRAPHS, MIN_CALLS, CUDAGraphCache
from upscore.inference.mask_rcnn_runner import MASK_BLOCK, DetectorRunner
from upscore.models import build
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.inference_parts import to_outputs
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.results import InstanceResult

BACKBONE = "efficientnet_lite0"
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
    """Return a network whose scores differ between classes. AlexNet only has the stride 32."""
    torch.manual_seed(0)
    options = {"backbone": BACKBONE} | options
    net = build("fcn32s" if options["backbone"] == "alexnet" else name, num_classes=5, **options)
    assert isinstance(net, FCN)
    for name_, parameter in net.named_parameters():
        if "score." in name_:
            nn.init.normal_(parameter, std=0.1)
    return net.eval()


def random_image(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "variant"),
    [*(("openvino", variant) for variant in VARIANTS), ("onnxruntime", "8s"), ("onnxruntime", "two heads")],
)
def test_engines_agree_at_any_size(variant: str, engine: str) -> None:
    """The sizes differ from the one of the trace."""
    net = network(**VARIANTS[variant])
    reference, other = (Model(net, e, "float32") for e in ("torch", engine))
    for size in ((64, 96), (97, 131), (1, 1)):
        expected, found = (p.predict(random_image(*size), scores=True) for p in (reference, other))
        assert found.scores == pytest.approx(expected.scores, abs=2e-3)
        assert (found.class_map == expected.class_map).mean() > 0.99
        if expected.geometric is not None:
            assert (found.geometric.class_map == expected.geometric.class_map).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["8s", "two heads", "caffe"])
def test_warmup_does_not_change_the_scores(variant: str) -> None:
    """In float32. A part is compiled at its first image."""
    plain, ready = (Model(network(**VARIANTS[variant]), "openvino", "float32") for _ in range(2))
    ready.warmup((64, 96), (97, 131))
    assert ready.session.segmenter is not None
    part = ready.session.segmenter.coarse_scores
    assert isinstance(part, OpenVINOPart)
    assert not part.requests
    for size, compiled in (((97, 131), 1), ((64, 96), 2), ((97, 131), 2), ((50, 200), 3), ((64, 96), 3)):
        expected, found = (p.predict(random_image(*size), scores=True) for p in (plain, ready))
        assert found.scores == pytest.approx(expected.scores, abs=2e-3)
        assert len(part.requests) == compiled
    ready.warmup((50, 200))  # the other sizes are dropped
    assert len(part.requests) == 1


@pytest.mark.slow
def test_detection_at_a_fixed_size() -> None:
    """The number of objects exceeds the block size of the mask head and is not a multiple of it."""
    torch.manual_seed(0)
    net = build("mask_rcnn", **SMALL)
    assert isinstance(net, MaskRCNN)
    net.settings = type(net.settings)(score_threshold=0.0, max_detections=2 * MASK_BLOCK + 3)
    image = random_image(90, 131)
    reference = Model(net.eval(), "torch", "float32").predict(image, score_threshold=0)
    predictor = Model(net, "openvino", "float32")
    for _ in range(2):  # compiled for all sizes, then for this one
        found = predictor.predict(image, score_threshold=0)
        assert isinstance(reference, InstanceResult)
        assert isinstance(found, InstanceResult)
        assert len(found) == len(reference) == 2 * MASK_BLOCK + 3
        assert found.scores == pytest.approx(reference.scores, abs=1e-3)
        assert np.allclose(found.masks, reference.masks, atol=1e-2)
        predictor.warmup((90, 131))
    assert isinstance(predictor.session.detector, DetectorRunner)
    dense = predictor.session.detector.dense
    assert isinstance(dense, OpenVINOPart)
    (outputs,) = (outputs for shape, (_, outputs) in dense.requests.items() if shape)
    with torch.inference_mode():
        maps = to_outputs(outputs, len(net.box_pooler.strides)).maps
    assert maps[0].untyped_storage().data_ptr() == outputs[0].untyped_storage().data_ptr()  # pooled without a copy


def test_unknown_engines_and_precisions() -> None:
    net = network("fcn32s")
    for engine, precision, message in (
        ("tensorrt", "auto", "tensorrt"),
        ("torch", "float16", "float16"),
        ("torch", "int8", "torch .*int8"),
        ("onnxruntime", "bfloat16", "onnxruntime .*bfloat16"),
        ("openvino", "int8", "calibrat"),
    ):
        with pytest.raises(UserError, match=message):
            Model(net, engine, precision)  # type: ignore[arg-type]


def test_default_engine_and_precision() -> None:
    model = Model(network("fcn32s"))
    assert model.engine == ("torch" if torch.cuda.is_available() else "openvino")
    assert model.precision in ("float32", "bfloat16")  # never int8


def test_cuda_graphs_are_captured_for_repeated_shapes() -> None:
    captured: list[tuple[int, ...]] = []

    def capture(function, inputs):  # type: ignore[no-untyped-def]
        captured.append(tuple(inputs[0].shape))
        return lambda *given: tuple(10 * output for output in function(*given))

    graphs = CUDAGraphCache(lambda tensor: (tensor + 1,), capture)
    for _ in range(MIN_CALLS):
        assert graphs(torch.ones(2))[0].tolist() == [2, 2]
    assert captured == []
    assert graphs(torch.ones(2))[0].tolist() == [20, 20]
    assert graphs(torch.zeros(2))[0].tolist() == [10, 10]
    assert captured == [(2,)]
    for size in range(3, 3 + MAX_GRAPHS):
        for _ in range(MIN_CALLS + 1):
            graphs(torch.ones(size))
    assert len(captured) == 1 + MAX_GRAPHS
    assert len(graphs.captured) == MAX_GRAPHS
    assert graphs(torch.ones(2))[0].tolist() == [2, 2]  # the oldest graph was dropped, and its calls are counted again


TELEMETRY = """
import sys
events = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        events.append((event, str(arguments[1:])))
sys.addaudithook(watch)
import numpy as np
from tests.inference.test_engines import network
from upscore.inference import Model
from upscore.inference.calibration import quantize
net = network("fcn32s")
images = [np.random.randint(0, 256, (64, 64, 3), np.uint8) for _ in range(2)]
Model(net, "openvino", "float32").predict(images[0])
parts = quantize(net, images)
Model(net, "openvino", "int8", quantized=parts).predict(images[0])
loaded = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
assert not loaded, loaded
print(events)
"""


@pytest.mark.slow
def test_no_telemetry_is_sent() -> None:
    """OpenVINO and NNCF depend on a telemetry package, which is not imported; no connection is opened."""
    done = subprocess.run([sys.executable, "-c", TELEMETRY], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
