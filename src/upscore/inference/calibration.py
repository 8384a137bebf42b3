"""Post-training quantization to int8 with NNCF for OpenVINO, and the agreement of its results with float32.

The value ranges of activations are measured while the float32 network predicts images. Heavy layers then use 8-bit
weights and activations.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from upscore.annotations import ObjectAnnotations
from upscore.errors import UserError
from upscore.evaluation.object_matching import candidate_pairs, count_matches
from upscore.inference.engines import Run
from upscore.inference.engines.openvino import HINTS, OpenVINOEngine, convert, import_openvino
from upscore.inference.inputs import ImageInput
from upscore.inference.model import Model
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.progress import ProgressCallback
from upscore.results import InstanceResult, SemanticResult

if TYPE_CHECKING:
    import openvino as ov

MAX_IMAGES = 100
"""Default number of calibration images; more images hardly change the ranges."""

MAX_REGIONS = 64
"""Largest number of regions per image that calibrate the box and mask heads."""

IOU = 0.5
"""Smallest IoU of matching objects."""

T = TypeVar("T")


def evenly_spaced(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` items, evenly spaced and in order."""
    count = min(len(items), limit)
    return [items[index * len(items) // count] for index in range(count)]


class Recorder(OpenVINOEngine):
    """OpenVINO engine in float32 that records the parts of a network and their inputs for quantization."""

    def __init__(self) -> None:
        super().__init__("int8")
        self.config["INFERENCE_PRECISION_HINT"] = HINTS["float32"]
        self.parts: dict[str, tuple[nn.Module, Tensor]] = {}
        self.inputs: dict[str, list[np.ndarray]] = {}

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> Run:
        """See `Engine`."""
        self.parts[name], self.inputs[name] = (part, example), []
        return Recorded(super().compile(part, example, name=name), self.inputs[name])


@dataclass(frozen=True, slots=True)
class Recorded:
    """`Run` that records its inputs."""

    run: Run
    inputs: list[np.ndarray]

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """See `Run`."""
        if len(tensor):
            self.inputs.append(_calibration_input(tensor).float().clone().numpy())
        return self.run(tensor)

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """See `Run`."""
        self.run.warmup(*shapes)


def quantize(
    net: FCN | MaskRCNN,
    images: Sequence[ImageInput],
    *,
    max_images: int = MAX_IMAGES,
    progress: ProgressCallback | None = None,
) -> dict[str, ov.Model]:
    """Quantize the parts of a network to int8, for `Model(net, "openvino", "int8", quantized=...)`.

    Parts without any input, such as the mask head if no objects were detected, are omitted; they run in bfloat16.

    Args:
        net: a trained network.
        images: representative images; some dozens to a hundred.
        max_images: largest number of images that are used, evenly spaced; the inputs of each part stay in memory.
        progress: called after each image.

    Raises:
        UserError: NNCF is not installed, there are no images, an image cannot be read, or the network requires depth.
    """
    require_quantizable(net)
    if not len(images):
        raise UserError("there are no calibration images: give some dozens")
    recorder = Recorder()
    predictor = Model(net, recorder)
    chosen = evenly_spaced(images, max_images)
    for done, image in enumerate(chosen, start=1):
        predictor.predict(image)
        if progress:
            progress(done, len(chosen))
    return {
        name: _with_input_type(_quantized(convert(part, example.float()), recorder.inputs[name]), example.dtype)
        for name, (part, example) in recorder.parts.items()
        if recorder.inputs[name]
    }


def require_quantizable(net: FCN | MaskRCNN) -> None:
    """Check, before images are predicted, that a network can be quantized.

    Raises:
        UserError: NNCF is not installed, or the network requires depth.
    """
    if find_spec("nncf") is None:
        raise UserError('NNCF is not installed: run `pip install "upscore[int8]"` for int8')
    if net.backbone.depth_preprocessing is not None:
        raise UserError("this model requires depth, which int8 does not support: use bfloat16")


def _with_input_type(model: ov.Model, dtype: torch.dtype) -> ov.Model:
    """Add a conversion of the input of a float32 model from another dtype."""
    if dtype == torch.float32:
        return model
    ov = import_openvino()
    from openvino.preprocess import PrePostProcessor

    preprocessing = PrePostProcessor(model)
    preprocessing.input().tensor().set_element_type(ov.Type.bf16)
    return preprocessing.build()


def _quantized(model: ov.Model, inputs: list[np.ndarray]) -> ov.Model:
    nncf = _import_nncf()
    with redirect_stdout(StringIO()):  # NNCF prints progress bars to stdout
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            # Symmetric ranges: asymmetric ones are slower, and OpenVINO crashes in a 1 x 1 convolution at some sizes.
            preset=nncf.QuantizationPreset.PERFORMANCE,
            fast_bias_correction=True,
        )


def _import_nncf() -> Any:
    """Import NNCF without its telemetry, which `import_openvino` disables."""
    import logging

    import_openvino()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    with redirect_stdout(sys.stderr):  # NNCF chooses its log stream at import
        import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def _calibration_input(tensor: Tensor) -> Tensor:
    """Return the part of an input that is recorded: a whole image, or evenly spaced regions."""
    return tensor if tensor.ndim == 4 else tensor[:: max(1, len(tensor) // MAX_REGIONS)][:MAX_REGIONS]


def agreement(reference: SemanticResult | InstanceResult, other: SemanticResult | InstanceResult) -> float:
    """Return the fraction of equal pixels of two class maps, or `ap_dsb` between two sets of objects, from 0 to 1."""
    if isinstance(reference, SemanticResult) and isinstance(other, SemanticResult):
        return float((reference.class_map == other.class_map).mean())
    assert isinstance(reference, InstanceResult)
    assert isinstance(other, InstanceResult)
    if not len(reference) and not len(other):
        return 1.0
    truth = ObjectAnnotations.from_id_map(
        torch.from_numpy(reference.label_map().astype("int32")), torch.from_numpy(reference.labels)
    )
    return count_matches([candidate_pairs(other.label_map(), other.scores, other.labels, truth)], 0.0, IOU).ap_dsb
