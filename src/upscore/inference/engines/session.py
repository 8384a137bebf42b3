"""Sessions: a network compiled by an engine, and the choice of the engine and the number format.

N images, C classes, H W pixels of an image, h w of the network's input.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.inference.detector import DetectorRunner
from upscore.inference.engines import onnxruntime, openvino
from upscore.inference.engines.base import Device, Engine, EngineName, Precision
from upscore.inference.engines.cache import Store, code_version
from upscore.inference.engines.torch_engine import TorchEngine
from upscore.inference.semantic import PixelScores, SegmenterRunner
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import Detections, MaskRCNN
from upscore.models.precision import has_bfloat16_instructions
from upscore.timing import Choice, fastest

if TYPE_CHECKING:
    import openvino as ov


class Session:
    """Runs a network; calls from several threads take turns, since an engine overwrites its outputs.

    Args:
        net: the network in evaluation mode. It belongs to the session, and is not changed afterwards. Where the engine
            has the compiled backbone already, the backbone may be known by its `BackboneSpec` alone.
        engine: what compiles and runs the heavy parts.

    Raises:
        NotImplementedError: the engine lacks a part of which `net` does not have the layers.
    """

    def __init__(self, net: FCN | MaskRCNN, engine: Engine) -> None:
        self.net, self.engine = net, engine
        self._turn = threading.Lock()
        self._pixels = SegmenterRunner(net, engine) if isinstance(net, FCN) else None
        self._objects = DetectorRunner(net, engine) if isinstance(net, MaskRCNN) else None
        self.batches = engine.device.type == "cuda"
        """Whether several images run faster together than one after the other."""

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Compile for network inputs of these sizes (h, w), instead of those expected before; others may come too."""
        run = self._pixels or self._objects
        assert run is not None
        with self._turn:
            run.warmup(*sizes)

    def run_once(self, size: tuple[int, int]) -> None:
        """Run the network's convolutions on a black image (h, w), to measure them."""
        height, width = self.net.backbone.padded_size(*size)
        with self._turn, torch.inference_mode():
            if self._pixels is not None:
                self._pixels.coarse_scores(torch.zeros(1, self._pixels.channels, height, width))
            else:
                assert self._objects is not None
                self._objects.dense(torch.zeros(1, 3, height, width))

    def classify(
        self, inputs: Sequence[Tensor], sizes: Sequence[tuple[int, int]], *, probabilities: bool = False
    ) -> list[PixelScores]:
        """Class maps of preprocessed images (C, h, w) that are equal in size once padded, each at its size (H, W)."""
        assert self._pixels is not None
        seen = [(image.shape[-2], image.shape[-1]) for image in inputs]
        with self._turn:
            return self._pixels(self._stacked(inputs), seen, sizes, probabilities=probabilities)

    def find(self, inputs: Sequence[Tensor]) -> list[Detections]:
        """The objects in preprocessed images (3, h, w) that are equal in size once padded, in their pixels."""
        assert self._objects is not None
        seen = [(image.shape[-2], image.shape[-1]) for image in inputs]
        with self._turn:
            return self._objects(self._stacked(inputs), seen)

    def _stacked(self, inputs: Sequence[Tensor]) -> Tensor:
        """(N, C, h, w), padded by zeros at the bottom and the right to multiples of the backbone's largest stride."""
        if len(inputs) == 1:
            return self.net.backbone.padded(inputs[0][None])
        height, width = self.net.backbone.padded_size(*inputs[0].shape[-2:])
        stacked = inputs[0].new_empty(len(inputs), inputs[0].shape[0], height, width)
        for place, image in zip(stacked, inputs, strict=True):
            place.copy_(F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])))
        return stacked


ENGINES, PRECISIONS = ("auto", "torch", "openvino", "onnxruntime"), ("auto", "float32", "bfloat16", "int8")
POSSIBLE = {
    "torch": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
    "onnxruntime": ("float32",),
}

MEASURED_SIZE = (256, 256)
"""Height and width of the image on which number formats are compared."""


def resolve_device(device: Device) -> torch.device:
    """The device; "auto" is the first GPU, or the CPU where there is none.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f'no device is called {device!r}: give "cpu", "cuda" or "cuda:0"') from error
    if found.type not in ("cpu", "cuda"):
        raise UserError(f'device {device}: networks run on "cpu" and "cuda"')
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise UserError(f"device {device}: this machine has {count or 'no'} GPUs that torch can use")
    return found


def resolve_engine(engine: EngineName, precision: Precision, device: Device = "auto") -> str:
    """The engine's name; "auto" is torch on a GPU, otherwise OpenVINO, and torch where that is missing.

    Raises:
        UserError: there is no such engine or device, or it has no such precision.
    """
    if engine not in ENGINES:
        raise UserError(f"no engine is called {engine!r}; choose one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UserError(f"no precision is called {precision!r}; choose one of {', '.join(PRECISIONS)}")
    gpu = resolve_device(device).type == "cuda"
    if engine == "auto":
        gpu = gpu and (precision != "int8" or device != "auto")
        engine = "openvino" if openvino.available() and not gpu else "torch"
    if engine != "torch" and gpu and device != "auto":
        raise UserError(f"{engine} runs on CPUs: leave device={device} out, or choose the engine torch")
    if precision not in ("auto", *POSSIBLE[engine]):
        raise UserError(f"{engine} has no {precision} here: choose {' or '.join(POSSIBLE[engine])}, or another engine")
    return engine


def choose_precision(
    architecture: str,
    complete: Callable[[], FCN | MaskRCNN],
    engine: str,
    precision: Precision,
    *,
    device: Device = "auto",
) -> Choice:
    """The number format, and why; "auto" is float32 or bfloat16, whichever is faster, and never int8.

    On a CPU with bfloat16 instructions both are measured on a small image, once for each machine and network.

    Args:
        architecture: what tells the network from others, whatever their weights.
        complete: gives a private copy of the network with all layers, if a measurement needs it.
        engine: a name that `resolve_engine` returned.
        precision: what is asked for.
        device: where the network runs.
    """
    if precision != "auto":
        return Choice(precision, "as asked for", is_automatic=False)
    if engine == "onnxruntime":
        return Choice("float32", "the only number format of ONNX Runtime here")
    if engine == "torch" and resolve_device(device).type == "cuda":
        supported = torch.cuda.is_bf16_supported()
        return Choice("bfloat16" if supported else "float32", f"this GPU has {'' if supported else 'no '}bfloat16")
    if not (openvino.has_bfloat16() if engine == "openvino" else has_bfloat16_instructions()):
        return Choice("float32", "this processor has no bfloat16 instructions")
    layers: list[FCN | MaskRCNN] = []

    def prepare(name: str) -> Callable[[], object]:
        layers.extend([] if layers else [complete()])
        session = Session(layers[0], create_engine(engine, name, device=device))
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
    """An engine.

    Args:
        name: as `resolve_engine` returns it.
        precision: the name of a number format.
        device: for torch.
        quantized: the network's parts in int8, for that precision.
        store: where compiled parts are kept, if they are.

    Raises:
        UserError: it is not installed.
    """
    if name == "onnxruntime":
        return onnxruntime.ONNXRuntimeEngine()
    if name == "torch":
        return TorchEngine(precision, resolve_device(device))
    return openvino.OpenVINOEngine(precision, quantized=quantized, store=store)
