"""Sessions, which are networks compiled by an engine, and the choice of the engine and the precision.

N images, C channels, H W height and width of an image, h w height and width of the network's input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.inference.engines import onnxruntime, openvino
from upscore.inference.engines.base import Device, Engine, EngineName, Precision
from upscore.inference.engines.cache import Store, code_version
from upscore.inference.engines.torch_engine import TorchEngine
from upscore.inference.fcn_runner import PixelScores, SegmenterRunner
from upscore.inference.mask_rcnn_runner import DetectorRunner
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import Detections, MaskRCNN
from upscore.models.precision import has_bfloat16_instructions
from upscore.timing import Choice, fastest

if TYPE_CHECKING:
    import openvino as ov

ENGINES, PRECISIONS = ("auto", "torch", "openvino", "onnxruntime"), ("auto", "float32", "bfloat16", "int8")

POSSIBLE = {
    "torch": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32",),
}
"""Precisions that each engine supports."""

MEASURED_SIZE = (256, 256)
"""Height and width of the image on which precisions are compared."""


class Session:
    """Network compiled by an engine.

    Only one thread at a time runs the network, because an engine overwrites its outputs.

    Args:
        net: network in evaluation mode, which the session owns and does not change. Its backbone may be a
            `BackboneSpec` without layers if the engine has the compiled backbone.
        engine: engine that compiles and runs the heavy parts.

    Raises:
        NotImplementedError: the engine lacks a compiled part, and `net` lacks the layers of this part.
    """

    def __init__(self, net: FCN | MaskRCNN, engine: Engine) -> None:
        self.net, self.engine = net, engine
        self._lock = threading.Lock()
        self.segmenter = SegmenterRunner(net, engine) if isinstance(net, FCN) else None
        self.detector = DetectorRunner(net, engine) if isinstance(net, MaskRCNN) else None
        self.batches = engine.device.type == "cuda"
        """Whether a batch of images runs faster than one image after the other."""

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Prepare for network inputs of these sizes (h, w), which replace those of an earlier call."""
        runner = self.segmenter or self.detector
        assert runner is not None
        with self._lock:
            runner.warmup(*sizes)

    def run_once(self, size: tuple[int, int]) -> None:
        """Run the convolutions of the network on a black image (h, w), to measure their time."""
        height, width = self.net.backbone.padded_size(*size)
        with self._lock, torch.inference_mode():
            if self.segmenter is not None:
                self.segmenter.coarse_scores(torch.zeros(1, self.segmenter.channels, height, width))
            else:
                assert self.detector is not None
                self.detector.dense(torch.zeros(1, 3, height, width))

    def classify(
        self, inputs: Sequence[Tensor], sizes: Sequence[tuple[int, int]], *, probabilities: bool = False
    ) -> list[PixelScores]:
        """Compute class maps of preprocessed images.

        Args:
            inputs: N images (C, h, w) that have equal sizes after padding.
            sizes: size (H, W) of each class map.
            probabilities: whether to compute class probabilities too.
        """
        assert self.segmenter is not None
        input_sizes = [(image.shape[-2], image.shape[-1]) for image in inputs]
        with self._lock:
            return self.segmenter(self._batch(inputs), input_sizes, sizes, probabilities=probabilities)

    def detect(self, inputs: Sequence[Tensor]) -> list[Detections]:
        """Detect the objects of preprocessed images (3, h, w) that have equal sizes after padding.

        Returns:
            The detections of each image, in pixels of the network's input.
        """
        assert self.detector is not None
        input_sizes = [(image.shape[-2], image.shape[-1]) for image in inputs]
        with self._lock:
            return self.detector(self._batch(inputs), input_sizes)

    def _batch(self, inputs: Sequence[Tensor]) -> Tensor:
        """Stack images to (N, C, h, w), zero-padded at the bottom and right to multiples of the backbone's stride."""
        if len(inputs) == 1:
            return self.net.backbone.padded(inputs[0][None])
        height, width = self.net.backbone.padded_size(*inputs[0].shape[-2:])
        batch = inputs[0].new_empty(len(inputs), inputs[0].shape[0], height, width)
        for target, image in zip(batch, inputs, strict=True):
            target.copy_(F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])))
        return batch


def resolve_device(device: Device) -> torch.device:
    """Return the device of a name; "auto" is the first GPU, or the CPU if there is none.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f'device={device!r} is unknown: use "cpu", "cuda" or "cuda:0"') from error
    if found.type not in ("cpu", "cuda"):
        raise UserError(f'device={device} is not supported: use "cpu" or "cuda"')
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise UserError(f"device={device} does not exist: torch can use {count or 'no'} GPUs on this machine")
    return found


def resolve_engine(engine: EngineName, precision: Precision, device: Device = "auto") -> str:
    """Return the name of the engine; "auto" is torch on a GPU, and on a CPU OpenVINO, or torch if it is not installed.

    Raises:
        UserError: the engine, the precision or the device is unknown, or they cannot be combined.
    """
    if engine not in ENGINES:
        raise UserError(f"no engine is called {engine!r}: choose one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UserError(f"no precision is called {precision!r}: choose one of {', '.join(PRECISIONS)}")
    gpu = resolve_device(device).type == "cuda"
    if engine == "auto":
        gpu = gpu and (precision != "int8" or device != "auto")
        engine = "openvino" if openvino.available() and not gpu else "torch"
    if engine != "torch" and gpu and device != "auto":
        raise UserError(f"{engine} runs on CPUs only: leave device={device} out, or choose the engine torch")
    if precision not in ("auto", *POSSIBLE[engine]):
        raise UserError(
            f"{engine} does not support {precision}: choose {' or '.join(POSSIBLE[engine])}, or another engine"
        )
    return engine


def has_bfloat16(engine: str, device: Device = "auto") -> bool:
    """Return whether the device has bfloat16 instructions that an engine uses."""
    if engine == "openvino":
        return openvino.has_bfloat16()
    if engine == "torch" and resolve_device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return has_bfloat16_instructions()


def choose_precision(
    architecture: str,
    complete: Callable[[], FCN | MaskRCNN],
    engine: str,
    precision: Precision,
    *,
    device: Device = "auto",
) -> Choice:
    """Return the precision and the reason for it; "auto" is the faster of float32 and bfloat16, and never int8.

    On a CPU with bfloat16 instructions, both are measured on a small image, once for each machine and architecture.

    Args:
        architecture: text that identifies the architecture of the network.
        complete: returns a private copy of the network with all layers; called only for a measurement.
        engine: name of the engine, from `resolve_engine`.
        precision: the requested precision.
        device: device on which the network runs.
    """
    if precision != "auto":
        return Choice(precision, "as requested", is_automatic=False)
    if engine == "onnxruntime":
        return Choice("float32", "the only precision of ONNX Runtime here")
    if engine == "torch" and resolve_device(device).type == "cuda":
        supported = has_bfloat16(engine, device)
        return Choice("bfloat16" if supported else "float32", f"this GPU has {'' if supported else 'no '}bfloat16")
    if not has_bfloat16(engine, device):
        return Choice("float32", "this processor has no bfloat16 instructions")
    nets: list[FCN | MaskRCNN] = []

    def prepare(name: str) -> Callable[[], object]:
        nets.extend([] if nets else [complete()])
        session = Session(nets[0], create_engine(engine, name, device=device))
        return lambda: session.run_once(MEASURED_SIZE)

    return fastest(["float32", "bfloat16"], prepare, key=["inference", engine, architecture, *code_version()])


def create_engine(
    name: str,
    precision: str,
    *,
    device: Device = "auto",
    quantized: Mapping[str, ov.Model] | None = None,
    store: Store | None = None,
) -> Engine:
    """Create an engine.

    Args:
        name: name of the engine, from `resolve_engine`.
        precision: "float32", "bfloat16" or "int8".
        device: device for torch.
        quantized: parts of the network in int8 by their names, for OpenVINO.
        store: cache of compiled parts, for OpenVINO; None disables it.

    Raises:
        UserError: the engine is not installed.
    """
    if name == "onnxruntime":
        return onnxruntime.ONNXRuntimeEngine()
    if name == "torch":
        return TorchEngine(precision, resolve_device(device))
    return openvino.OpenVINOEngine(precision, quantized=quantized, store=store)
