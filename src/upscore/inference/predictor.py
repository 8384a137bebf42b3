"""A network with all that surrounds it: reading, resizing, preprocessing, decoding.

C classes, N objects; H W pixels of the photo, h w of what the network sees of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from upscore.data.resizing import longest_size, resize_longest
from upscore.errors import UserError
from upscore.inference.depths import Depth, as_depth
from upscore.inference.detections import instance_result
from upscore.inference.engines import Engine, EngineName, Precision, choose_engine
from upscore.inference.engines.cache import Store
from upscore.inference.finder import ObjectFinder
from upscore.inference.photos import Photo, as_photo
from upscore.inference.pixels import PixelClassifier
from upscore.models.fcn import FCN
from upscore.models.mask_rcnn import MaskRCNN
from upscore.models.two_heads import TwoHeads
from upscore.results import InstanceResult, SemanticResult
from upscore.structures import Sample

if TYPE_CHECKING:
    import openvino as ov


class Predictor:
    """Predicts photos of any size with a network that knows its preprocessing and its classes.

    Args:
        net: a network of `upscore.models.build`.
        engine: what runs it, by its name or made before; "auto" is the fastest that this machine has.
        precision: "auto" is the fastest that is safe on this machine, and never int8, which needs `quantized`.
        max_side: photos whose longer side is over this many pixels are reduced to it for the network; 0: never. What
            finds objects has a size of its own for each photo.
        quantized: the network's parts in int8, as `upscore.inference.calibration.quantize` makes them.
        store: where compiled parts are kept for the next start, if they are.

    Raises:
        UserError: there is no such engine or precision, or it is not installed.
    """

    def __init__(
        self,
        net: FCN | MaskRCNN,
        engine: EngineName | Engine = "auto",
        precision: Precision = "auto",
        *,
        max_side: int = 0,
        quantized: Mapping[str, ov.Model] | None = None,
        store: Store | None = None,
    ) -> None:
        self.net = net.eval()
        self.training: dict[str, Any] = {}
        """Where the weights come from, as the model folder has it; empty for a bare network."""
        self.folder: Path | None = None
        """The model folder that it was loaded from; None for a bare network."""
        if isinstance(engine, str):
            engine = choose_engine(net, engine, precision, quantized=quantized, store=store)
        self.engine: Engine = engine
        self.max_side = max_side
        self._run = ObjectFinder(net, self.engine) if isinstance(net, MaskRCNN) else PixelClassifier(net, self.engine)
        self._one_at_a_time = threading.Lock()

    @property
    def classes(self) -> list[str]:
        """The C class names."""
        return self.net.classes

    @property
    def task(self) -> str:
        """ "semantic": predictions have a class for each pixel; "instances": they have objects."""
        return self.net.task

    @property
    def display_threshold(self) -> float:
        """Score threshold of the objects that overlays show; 0 for a model that classifies pixels."""
        return self.net.final_threshold if isinstance(self.net, MaskRCNN) else 0.0

    @property
    def geometric_classes(self) -> list[str]:
        """The names of the second set of classes; empty without a second head."""
        return self.net.geometric_classes if isinstance(self.net, TwoHeads) else []

    @property
    def depth_channels(self) -> int:
        """Of the depth that the network sees; 0 for one that sees photos alone."""
        return 0 if self.net.trunk.depth_preprocessing is None else len(self.net.trunk.depth_preprocessing.mean)

    def expect(self, *sizes: tuple[int, int]) -> None:
        """Be ready for photos of these sizes (height, width), instead of those expected before; others may come too.

        OpenVINO compiles a network for each of them when its first photo comes, which is then predicted faster, in int8
        by up to 40%, and differs from what the network for all sizes says by rounding. Each takes the network's memory
        again: one or two sizes are enough. Other engines gain nothing from it.
        """
        if isinstance(self._run, PixelClassifier):
            sizes = tuple(longest_size(*size, self.max_side) for size in sizes)
        self._run.expect(*sizes)

    def predict(
        self, photo: Photo, *, depth: Depth | None = None, scores: bool = False, min_score: float | None = None
    ) -> SemanticResult | InstanceResult:
        """The most probable class of each pixel, or the objects, at the photo's own size.

        Args:
            photo: a path; a PIL image; an (H, W, 3) or (H, W) uint8 array; or a (3, H, W) uint8 tensor, RGB.
            depth: for a network that sees depth too, in the unit that it was trained on: the path of a 16-bit PNG, a
                TIFF or a .npy file, or an (H, W) or (D, H, W) array.
            scores: keep the class probabilities of pixels too, (C, H, W) float16.
            min_score: objects of at least this score; by default the model's own threshold. With 0 every object that
                the network detects is returned, as average precision ranks them, without suppression by masks.

        Raises:
            UserError: a file can't be read, an array is of another shape or type, an option is for the other task, or
                depth is missing or given in vain.
        """
        image = as_photo(photo)
        known = self._depth(depth, (image.shape[-2], image.shape[-1]))
        if isinstance(self.net, MaskRCNN):
            if scores:
                raise UserError("this model finds objects: it has no class probabilities of pixels to keep")
            return self._find(self.net, image, self.net.min_score if min_score is None else min_score)
        if min_score is not None:
            raise UserError("this model classifies pixels: min_score is for models that find objects")
        height, width = image.shape[-2:]
        seen = resize_longest(Sample(name="", image=image, depth=known), self.max_side)
        inputs = self.net.trunk.prepare(seen.image[None], None if seen.depth is None else seen.depth[None])
        assert isinstance(self._run, PixelClassifier)
        with self._one_at_a_time:
            (class_map, *surfaces), kept = self._run(inputs, (height, width), probabilities=scores)
        pixels = image.permute(1, 2, 0).numpy()
        geometric = None
        if surfaces:
            geometric = SemanticResult(
                class_map=surfaces[0].cpu().numpy(), classes=self.geometric_classes, image=pixels
            )
        return SemanticResult(
            class_map=class_map.cpu().numpy(),
            classes=self.classes,
            image=pixels,
            scores=None if kept is None else kept.cpu().numpy(),
            geometric=geometric,
        )

    def _depth(self, depth: Depth | None, size: tuple[int, int]) -> Tensor | None:
        if depth is None and self.depth_channels:
            raise UserError(f"this model sees depth beside the photo ({self.depth_channels} channels): give it too")
        if depth is not None and not self.depth_channels:
            raise UserError("this model sees photos alone: leave the depth out, or train one with --depth")
        return None if depth is None else as_depth(depth, self.depth_channels, size)

    def _find(self, net: MaskRCNN, image: Tensor, min_score: float) -> InstanceResult:
        if not 0 <= min_score <= 1:
            raise UserError(f"min_score={min_score}: scores are from 0 to 1")
        seen = net.resizing(image, net.preprocessing)
        assert isinstance(self._run, ObjectFinder)
        with self._one_at_a_time:
            found = self._run(seen[None])
        result = instance_result(net, found).filter(score_threshold=min_score)
        result = result.resized((image.shape[-2], image.shape[-1]))
        result = result.mask_nms() if net.mask_nms and min_score > 0 else result
        result.image = image.permute(1, 2, 0).numpy()
        return result
