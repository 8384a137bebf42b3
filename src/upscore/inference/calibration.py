"""int8: what range each layer's numbers have is learned from photos; then what it costs is measured.

Post-training quantization (NNCF's, for OpenVINO): weights and activations of the heavy layers become 8-bit integers,
by ranges that were seen while float32 predicted the photos.
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
from upscore.evaluation.object_matching import count_matches, pairs
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

PHOTOS = 100
"""More tell little more of the ranges."""

REGIONS_AT_ONCE = 64
"""Of the regions of one photo, how many are kept to calibrate the branches with: thousands look alike."""

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many items, in their order and spread evenly over all of them."""
    count = min(len(items), most)
    return [items[index * len(items) // count] for index in range(count)]


class Recorder(OpenVINOEngine):
    """OpenVINO that computes in float32 the parts of a network for int8, and keeps them and what they were given."""

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
    """A `Run` that keeps what it is given."""

    run: Run
    inputs: list[np.ndarray]

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """See `Run`."""
        if len(tensor):
            self.inputs.append(_some(tensor).float().clone().numpy())
        return self.run(tensor)

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """See `Run`."""
        self.run.warmup(*shapes)


def quantize(
    net: FCN | MaskRCNN, photos: Sequence[ImageInput], *, most: int = PHOTOS, progress: ProgressCallback | None = None
) -> dict[str, ov.Model]:
    """Each part of a network in int8, for `Model(net, "openvino", "int8", quantized=...)`.

    A part that nothing reached in any of the photos is left out, as the masks' is where no objects were found; it then
    runs in bfloat16 beside the others.

    Args:
        net: one that was trained.
        photos: such as it will see; some dozens to a hundred.
        most: photos are used at most, spread evenly over all; what each part was given of them is kept in memory.
        progress: told of each photo.

    Raises:
        UserError: NNCF is not installed, there are no photos, one can't be read, or the network sees depth too.
    """
    require_quantizable(net)
    if not len(photos):
        raise UserError("int8 is calibrated on photos, and there are none: give some dozens")
    recorder = Recorder()
    predictor = Model(net, recorder)
    chosen = evenly(photos, most)
    for done, photo in enumerate(chosen, start=1):
        predictor.predict(photo)
        if progress:
            progress(done, len(chosen))
    return {
        name: _fed_with(_quantized(convert(part, example.float()), recorder.inputs[name]), example.dtype)
        for name, (part, example) in recorder.parts.items()
        if recorder.inputs[name]
    }


def require_quantizable(net: FCN | MaskRCNN) -> None:
    """Make sure, before photos are predicted, that a network can be had in int8.

    Raises:
        UserError: NNCF is not installed, or the network sees depth too.
    """
    if find_spec("nncf") is None:
        raise UserError('int8 needs NNCF: pip install "upscore[int8]"')
    if net.backbone.depth_preprocessing is not None:
        raise UserError("this model sees depth beside the photo, and int8 is calibrated on photos alone: use bfloat16")


def _fed_with(model: ov.Model, dtype: torch.dtype) -> ov.Model:
    """A model of float32 numbers that is given others."""
    if dtype == torch.float32:
        return model
    ov = import_openvino()
    from openvino.preprocess import PrePostProcessor

    processor = PrePostProcessor(model)
    processor.input().tensor().set_element_type(ov.Type.bf16)
    return processor.build()


def _quantized(model: ov.Model, inputs: list[np.ndarray]) -> ov.Model:
    nncf = _import_nncf()
    with redirect_stdout(StringIO()):  # its bars go there, which is for results alone
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            # symmetric ranges: of others, convolutions are slower, and OpenVINO has a 1 x 1 that crashes at some sizes
            preset=nncf.QuantizationPreset.PERFORMANCE,
            fast_bias_correction=True,
        )


def _import_nncf() -> Any:
    """NNCF, which reports its use by the package that `import_openvino` keeps out."""
    import logging

    import_openvino()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    with redirect_stdout(sys.stderr):  # where its log goes is decided when it is imported
        import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def _some(tensor: Tensor) -> Tensor:
    """What is kept of a part's input: an image, or some regions."""
    return tensor if tensor.ndim == 4 else tensor[:: max(1, len(tensor) // REGIONS_AT_ONCE)][:REGIONS_AT_ONCE]


IOU = 0.5
"""IoU from which on two objects are the same."""


def agreement(reference: SemanticResult | InstanceResult, other: SemanticResult | InstanceResult) -> float:
    """The share of equal pixels of class maps, or `ap_dsb` of objects: those of both / those of either. 0 to 1."""
    if isinstance(reference, SemanticResult) and isinstance(other, SemanticResult):
        return float((reference.class_map == other.class_map).mean())
    assert isinstance(reference, InstanceResult)
    assert isinstance(other, InstanceResult)
    if not len(reference) and not len(other):
        return 1.0
    truth = ObjectAnnotations.from_id_map(
        torch.from_numpy(reference.label_map().astype("int32")), torch.from_numpy(reference.labels)
    )
    return count_matches([pairs(other.label_map(), other.scores, other.labels, truth)], 0.0, IOU).ap_dsb
