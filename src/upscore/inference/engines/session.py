"""A network compiled by an engine: preprocessed images in, class maps or objects out.

N images, C classes, H W pixels of an image, h w of what the network sees of it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from upscore.inference.detector import DetectorRunner
from upscore.inference.engines.base import Engine
from upscore.inference.semantic import PixelScores, SegmenterRunner
from upscore.models.fcn.fcn import FCN
from upscore.models.mask_rcnn.mask_rcnn import Detections, MaskRCNN


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
