"""Prediction with a network: reading, resizing, preprocessing, the compiled network, decoding, tiling.

C classes, N objects, D depth channels, H W image height and width, h w height and width of the network's input.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from torch import Tensor

from upscore.data.io.depth import Depth, as_depth
from upscore.data.resizing import longest_size, resize_longest
from upscore.data.samples import Sample
from upscore.errors import UserError, require_integer, require_unit_interval
from upscore.inference.engines import Device, Engine, EngineName, Precision
from upscore.inference.engines.cache import Store
from upscore.inference.engines.session import Session, choose_precision, create_engine, resolve_engine
from upscore.inference.fcn_runner import PixelScores
from upscore.inference.inputs import FORMS, ImageInput, as_image
from upscore.inference.mask_rcnn_runner import instance_result
from upscore.inference.model_sources import ModuleSource, Source
from upscore.inference.threading import THREADS, in_threads
from upscore.inference.tiled.detection import Tiling
from upscore.inference.tiled.in_memory import (
    MIN_TILES,
    bytes_per_pixel,
    classify_in_tiles,
    detect_in_tiles,
    is_much_reduced,
    tile_budget,
    warn_about_limit,
    warn_if_reduced,
)
from upscore.memory import memory_errors
from upscore.models.fcn.fcn import FCN
from upscore.models.fcn.two_heads import TwoHeads
from upscore.models.mask_rcnn.mask_rcnn import MaskRCNN
from upscore.models.mask_rcnn.resizing import Resizing
from upscore.models.preprocessing import Preprocessing
from upscore.results import InstanceResult, Result, SemanticResult
from upscore.timing import Choice

if TYPE_CHECKING:
    import openvino as ov

BATCH_SIZE = 8
"""Default number of images that are read ahead, and that form a batch on a GPU."""

MAX_BATCH_PIXELS = 2**23
"""Largest number of pixels in a batch."""

SMALL_PIXELS = 2**19
"""Network inputs of fewer pixels are not compared with the free memory."""

REMEDY = "reduce the image, use a machine with more memory, or save it as a tiled TIFF and use --tiled"

TILE_REMEDY = "choose smaller tiles with --tile-size, or use a machine with more memory"

MAX_REDUCTION = 4
"""Reduction factor of an image above which a warning is issued."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Engine, precision and device of a `Model`."""

    engine: str
    """Name of the engine, from `resolve_engine`."""
    precision: Precision
    device: Device = "auto"
    quantized: Mapping[str, ov.Model] | None = None
    """Parts of the network in int8, by their names."""
    choice: Choice | None = None
    """The precision, if it is already decided."""
    store: Store | None = None
    """Cache of the compiled parts; None disables it."""
    instance: Engine | None = None
    """Engine to use; None creates one."""


@dataclass(frozen=True, slots=True)
class _Item:
    """Image in memory, with its depth map."""

    image: Tensor
    """(3, H, W) uint8, RGB."""
    depth: Tensor | None = None
    """(D, H, W) float32."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8; a view."""
        return self.image.permute(1, 2, 0).numpy()


class Model:
    """Network, classes and preprocessing for the prediction of images of any size.

    Prediction is thread-safe and changes neither its inputs, nor the module, nor the state of the process. The first
    prediction compiles a private copy of the module; create another `Model` after the weights have changed.

    Args:
        module: a network from `upscore.models.build`.
        engine: "torch", "openvino", "onnxruntime" or an `Engine`; "auto" is torch on a machine with a GPU, and
            OpenVINO on others.
        precision: "float32", "bfloat16" or, with `quantized`, "int8"; "auto" is the faster of the first two.
        device: "cpu", or a GPU such as "cuda:0" for the engine torch; "auto" is the first GPU, or the CPU if there is
            none.
        max_side: longest side in pixels of the network's input for semantic segmentation; larger images are reduced. 0
            never reduces. Object detection uses `MaskRCNN.resizing` instead.
        quantized: parts of the network in int8, from `upscore.inference.calibration.quantize`.

    Raises:
        UserError: the engine, precision or device is unknown, not installed, or cannot be combined; or `max_side` is
            negative or not an integer.
    """

    def __init__(
        self,
        module: FCN | MaskRCNN,
        engine: EngineName | Engine = "auto",
        precision: Precision = "auto",
        *,
        device: Device = "auto",
        max_side: int = 0,
        quantized: Mapping[str, ov.Model] | None = None,
    ) -> None:
        if not isinstance(module, FCN | MaskRCNN):
            raise UserError(f"module is a {type(module).__name__}: give an FCN or a MaskRCNN from upscore.models.build")
        require_integer("max_side", max_side, 0)
        if isinstance(engine, str):
            options = EngineOptions(resolve_engine(engine, precision, device), precision, device, quantized)
        else:
            choice = Choice(engine.precision, "the precision of the given engine", is_automatic=False)
            options = EngineOptions(engine.name, precision, device, choice=choice, instance=engine)
        if precision == "int8" and isinstance(engine, str) and not quantized:
            raise UserError(
                "int8 requires a calibrated model: run `upscore calibrate MODEL PHOTOS` and load the model with "
                'upscore.load(MODEL, precision="int8")'
            )
        self._initialize(ModuleSource(module), options, max_side)

    @classmethod
    def from_source(
        cls, source: Source, options: EngineOptions, *, max_side: int, training: dict[str, Any], folder: Path
    ) -> Self:
        """Create the model of a `Source`; see `upscore.load`.

        Args:
            source: source of the network.
            options: engine, precision and device.
            max_side: see `Model`.
            training: training metadata of the model folder.
            folder: the model folder.
        """
        model = cls.__new__(cls)
        model._initialize(source, options, max_side, training, folder)
        return model

    def _initialize(
        self,
        source: Source,
        options: EngineOptions,
        max_side: int,
        training: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._source, self._options = source, options
        self.max_side = max_side
        self.training: dict[str, Any] = training or {}
        """Training metadata of the model folder; empty for a module in memory."""
        self.folder = folder
        """Folder of the model; None for a module in memory."""
        self._lock = threading.RLock()
        self._choice, self._session = options.choice, None
        self._bytes_per_pixel = source.bytes_per_pixel
        self._expected_sizes: tuple[tuple[int, int], ...] = ()
        self._warned_of_reduction = False

    def __repr__(self) -> str:
        architecture = self.architecture
        name = " ".join(str(architecture[key]) for key in ("name", "backbone") if key in architecture)
        precision = self._choice.name if self._choice else self._options.precision
        return (
            f"Model({self.task}: {name or type(self._spec).__name__}, {len(self.classes)} classes, "
            f"engine {self.engine}, precision {precision})"
        )

    @property
    def module(self) -> FCN | MaskRCNN:
        """The complete network. For a loaded model, the first access may read the weights."""
        with self._lock:
            return self._source.module

    @property
    def task(self) -> str:
        """Task of the model: "semantic" or "instances"."""
        return self._spec.task

    @property
    def classes(self) -> list[str]:
        """Names of the C classes, in the order of the class indices."""
        return self._spec.classes

    @property
    def category_ids(self) -> list[int] | None:
        """Category id of each class in the COCO data set that the model was trained on, or None."""
        return self._spec.category_ids if isinstance(self._spec, MaskRCNN) else None

    @property
    def geometric_classes(self) -> list[str]:
        """Class names of the second head; empty if there is none."""
        return self._spec.geometric_classes if isinstance(self._spec, TwoHeads) else []

    @property
    def preprocessing(self) -> Preprocessing:
        """Normalisation of pixels for the network."""
        return self._spec.preprocessing

    @property
    def depth_channels(self) -> int:
        """Number of depth channels D; 0 for a model of RGB images."""
        depth = self._spec.backbone.depth_preprocessing
        return 0 if depth is None else len(depth.mean)

    @property
    def score_threshold(self) -> float:
        """Lowest score of the objects that `predict` returns by default; 0 for semantic segmentation."""
        return self._spec.score_threshold if isinstance(self._spec, MaskRCNN) else 0.0

    @property
    def display_threshold(self) -> float:
        """Lowest score of the objects that overlays show; 0 for semantic segmentation."""
        return self._spec.final_threshold if isinstance(self._spec, MaskRCNN) else 0.0

    @property
    def max_detections(self) -> int:
        """Largest number of objects that the network detects per image or tile; 0 for semantic segmentation."""
        return self._spec.max_detections if isinstance(self._spec, MaskRCNN) else 0

    @property
    def architecture(self) -> dict[str, Any]:
        """Arguments of `upscore.models.build` for this network; empty if it was built in another way."""
        return self._spec.architecture

    @property
    def resizing(self) -> Resizing | None:
        """Resizing of images for object detection; None for semantic segmentation."""
        return self._spec.resizing if isinstance(self._spec, MaskRCNN) else None

    @property
    def result_settings(self) -> dict[str, Any]:
        """All attributes of the network, besides its weights, that change results."""
        net = self._spec
        objects = ("score_threshold", "mask_nms", "display_threshold", "category_ids", "resizing", "settings")
        return {
            "architecture": net.architecture,
            "classes": net.classes,
            "geometric_classes": self.geometric_classes,
            "preprocessing": net.preprocessing,
            "depth_preprocessing": net.backbone.depth_preprocessing,
            "max_side": self.max_side,
            **{name: getattr(net, name) for name in objects if isinstance(net, MaskRCNN)},
        }

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._options.engine

    @property
    def precision(self) -> str:
        """Number format of the heavy layers: "float32", "bfloat16" or "int8"."""
        return self.precision_choice.name

    @property
    def precision_choice(self) -> Choice:
        """The precision and the reason for it; "auto" may measure for a second, once per machine and network."""
        with self._lock:
            if self._choice is None:
                facts, options = self._spec, self._options
                architecture = json.dumps(facts.architecture, sort_keys=True) if facts.architecture else repr(facts)
                complete = partial(self._source.private_copy, complete=True)
                self._choice = choose_precision(
                    architecture, complete, options.engine, options.precision, device=options.device
                )
            return self._choice

    @property
    def session(self) -> Session:
        """The compiled network; the first access or prediction compiles it."""
        if self._session is None:
            with self._lock:
                if self._session is None:
                    with memory_errors("compiling the network", "use a machine with more memory"):
                        session = self._compiled()
                    session.warmup(*self._expected_sizes)
                    self._session = session
        return self._session

    def _compiled(self) -> Session:
        options = self._options
        engine = options.instance or create_engine(
            options.engine, self.precision, device=options.device, quantized=options.quantized, store=options.store
        )
        net = self._source.private_copy(complete=False)
        try:
            session = Session(net, engine)
        except NotImplementedError:  # a part is missing in the cache, and the backbone has no layers to compile
            net = self._source.private_copy(complete=True)
            session = Session(net, engine)
        self._source.on_compiled(net)
        return session

    def _tile_budget(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the bytes that an input (h, w) needs and those that a tile may need; None if tiles are unnecessary."""
        if size[0] * size[1] < SMALL_PIXELS:
            return None
        with self._lock:
            if self._bytes_per_pixel is None:
                net = self._source.private_copy(complete=True)
                self._bytes_per_pixel = bytes_per_pixel(net) if isinstance(net, FCN) else 0.0
        needed = int(self._bytes_per_pixel * size[0] * size[1])
        budget = tile_budget(needed, self.session.engine.device)
        return None if budget is None else (needed, budget)

    @property
    def _spec(self) -> FCN | MaskRCNN:
        return self._source.spec

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Prepare for images of these sizes (H, W), which replace those of an earlier call.

        OpenVINO compiles a separate network for each size at its first image. It is faster, by up to 40% in int8, and
        its results differ by rounding. Each size needs the memory of the network again, so give one or two sizes only.
        Other sizes remain possible. Other engines ignore the call.
        """
        with self._lock:
            self._expected_sizes = tuple(self._input_size(size) for size in sizes)
            if self._session is not None:
                self._session.warmup(*self._expected_sizes)

    @overload
    def predict(
        self,
        image: ImageInput,
        *,
        depth: Depth | None = None,
        scores: bool = False,
        score_threshold: float | None = None,
    ) -> Result: ...
    @overload
    def predict(
        self,
        image: list[Any] | tuple[Any, ...],
        *,
        depth: Sequence[Depth] | None = None,
        scores: bool = False,
        score_threshold: float | None = None,
    ) -> list[Result]: ...
    def predict(
        self, image: Any, *, depth: Any = None, scores: bool = False, score_threshold: float | None = None
    ) -> Result | list[Result]:
        """Predict the class of each pixel, or the objects, at the size of the image.

        Images that are too large for the free memory are predicted in tiles with the same classes. Images with more
        objects than the network detects at once are predicted in tiles, too.

        Args:
            image: an image in any form that `upscore.inference.inputs.as_image` accepts: a path, bytes, a file object,
                a PIL image, an array or a tensor; or a list or tuple of images.
            depth: depth map, for a network with depth input, in the unit of the training data: the path of a 16-bit
                PNG, a TIFF or a .npy file, or an array (H, W) or (D, H, W). A list for a list of images.
            scores: whether to return class probabilities, (C, H, W) float16.
            score_threshold: lowest score of a returned object, 0 to 1; None is the model's own threshold. 0 returns all
                detections, without suppression of masks, as average precision requires.

        Returns:
            A result, or a list of results for a list of images.

        Warns:
            LargeImageWarning: an image is predicted in tiles.
            ObjectLimitWarning: the number of detections reached the limit of the network.
            ReducedImageWarning: an image is strongly reduced; shown once per model.

        Raises:
            UserError: an image cannot be read or has an invalid shape or type, an option belongs to the other task,
                depth is missing or not supported, or the memory does not suffice even for tiles.
        """
        if isinstance(image, list | tuple):
            if depth is not None and (not isinstance(depth, list | tuple) or len(depth) != len(image)):
                raise UserError(f"depth must be a list of {len(image)} depth maps, one for each image")
            with closing(self.stream(image, depth=depth, scores=scores, score_threshold=score_threshold)) as results:
                return [*results]
        self._check_options(scores=scores, score_threshold=score_threshold)
        return self._predict_item(self._read(image, depth), scores=scores, score_threshold=score_threshold)

    def stream(
        self,
        images: Iterable[ImageInput],
        *,
        batch_size: int = BATCH_SIZE,
        depth: Iterable[Depth] | None = None,
        scores: bool = False,
        score_threshold: float | None = None,
    ) -> Generator[Result, None, None]:
        """Predict images one after the other and yield the results in order; background threads read ahead.

        `images` is iterated in the thread that requests the results. Close the generator to stop the threads.

        Args:
            images: images in any form that `predict` accepts.
            batch_size: number of images that are read ahead. On a GPU, images of the same size form a batch, and their
                scores differ from those of single images by rounding (1e-4 in float32). On a CPU, images are predicted
                one by one, and the results are bit-identical.
            depth: depth maps, one for each image.
            scores, score_threshold: see `predict`.

        Raises:
            UserError: see `predict`. The error of an image is raised in its place in the order of the images.
        """
        require_integer("batch_size", batch_size, 1)
        if isinstance(images, str | bytes | bytearray | Path | np.ndarray | Tensor) or not isinstance(images, Iterable):
            raise UserError(f"images is not an iterable of images: give a list or a generator of images, each {FORMS}")
        self._check_options(scores=scores, score_threshold=score_threshold)
        return self._stream(images, batch_size, depth, scores, score_threshold)

    def _stream(
        self,
        images: Iterable[Any],
        batch_size: int,
        depth: Iterable[Any] | None,
        scores: bool,
        score_threshold: float | None,
    ) -> Generator[Result, None, None]:
        with closing(in_threads(_paired(images, depth), self._try_reading, waiting=batch_size + THREADS)) as read:
            for batch in _batches(read, batch_size if self.session.batches else 1):
                items = [item for item in batch if isinstance(item, _Item)]
                yield from self._predict_batch(items, scores=scores, score_threshold=score_threshold)
                for item in batch:
                    if isinstance(item, UserError):
                        raise item

    def detect_at_factor(self, image: Tensor, factor: float, *, score_threshold: float | None = None) -> InstanceResult:
        """Detect the objects of an image or tile at a fixed scale.

        Args:
            image: (3, H, W) uint8, RGB.
            factor: pixels of the network's input per pixel of the image.
            score_threshold: see `predict`.

        Raises:
            UserError: the memory does not suffice.
        """
        with memory_errors(f"a tile of {image.shape[-1]}x{image.shape[-2]} pixels", TILE_REMEDY):
            return self._detect_scaled(image, factor, score_threshold)[0]

    def class_maps(self, image: Tensor) -> list[np.ndarray]:
        """Return the class maps (H, W) uint8 of an image (3, H, W) uint8 without resizing, one for each head."""
        size = _Item(image).size
        with memory_errors(f"a tile of {size[1]}x{size[0]} pixels", TILE_REMEDY):
            return self._classify_resized([Sample(name="", image=image)], [size], scores=False)[0].class_maps

    def _check_options(self, *, scores: bool, score_threshold: float | None) -> None:
        if self.task == "instances" and scores:
            raise UserError(
                "scores=True applies to semantic segmentation, but this model detects objects: leave it out"
            )
        if self.task != "instances" and score_threshold is not None:
            raise UserError(
                "score_threshold applies to object detection, but this model does semantic segmentation: leave it out"
            )
        if score_threshold is not None:
            require_unit_interval("score_threshold", score_threshold)

    def _read(self, image: Any, depth: Any) -> _Item:
        pixels = as_image(image)
        if depth is None and self.depth_channels:
            raise UserError(f"this model requires depth with {self.depth_channels} channels: give a depth map")
        if depth is not None and not self.depth_channels:
            raise UserError("this model has no depth input: leave depth out, or train a model with --depth")
        size = pixels.shape[-2], pixels.shape[-1]
        return _Item(pixels, None if depth is None else as_depth(depth, self.depth_channels, size))

    def _try_reading(self, pair: tuple[Any, Any]) -> _Item | UserError:
        try:
            return self._read(*pair)
        except UserError as error:
            return error

    def _predict_item(self, item: _Item, *, scores: bool = False, score_threshold: float | None = None) -> Result:
        return self._predict_batch([item], scores=scores, score_threshold=score_threshold)[0]

    def _predict_batch(self, items: Sequence[_Item], *, scores: bool, score_threshold: float | None) -> list[Result]:
        """Predict images; those of equal padded size form batches of up to `MAX_BATCH_PIXELS` pixels."""
        results: dict[int, Result] = {}
        sizes = [self._spec.backbone.padded_size(*self._input_size(item.size)) for item in items]
        for size in dict.fromkeys(sizes):
            positions = [n for n, other in enumerate(sizes) if other == size]
            for batch in _chunks(positions, max(1, MAX_BATCH_PIXELS // (size[0] * size[1]))):
                chosen = [items[n] for n in batch]
                height, width = chosen[0].size
                with memory_errors(f"an image of {width}x{height} pixels", REMEDY):
                    found = (
                        self._detect(chosen, score_threshold)
                        if self.task == "instances"
                        else self._segment(chosen, scores)
                    )
                results.update(zip(batch, found, strict=True))
        return [results[n] for n in range(len(items))]

    def _input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (h, w) at which the network gets an image (H, W)."""
        net = self._spec
        return net.resizing.size(*size) if isinstance(net, MaskRCNN) else longest_size(*size, self.max_side)

    def _segment(self, items: Sequence[_Item], scores: bool) -> list[SemanticResult]:
        results = []
        for item, found in zip(items, self._classify(items, scores), strict=True):
            pixels, (class_map, *others) = item.pixels, found.class_maps
            geometric = None
            if others:
                geometric = SemanticResult(class_map=others[0], classes=self.geometric_classes, image=pixels)
            results.append(
                SemanticResult(
                    class_map=class_map,
                    classes=self.classes,
                    image=pixels,
                    scores=found.probabilities,
                    geometric=geometric,
                )
            )
        return results

    def _classify(self, items: Sequence[_Item], scores: bool) -> list[PixelScores]:
        for item in items:
            self._warn_if_reduced(item.size)
        resized = [resize_longest(Sample(name="", image=item.image, depth=item.depth), self.max_side) for item in items]
        size = resized[0].image.shape[-2], resized[0].image.shape[-1]
        if len(items) == 1 and (large := self._tile_budget(size)) is not None:
            needed, budget = large

            def classify(tile: Sample, tile_size: tuple[int, int]) -> PixelScores:
                return self._classify_resized([tile], [tile_size], scores)[0]

            net = self.module
            assert isinstance(net, FCN)
            return [classify_in_tiles(classify, net, resized[0], items[0].size, budget, needed=needed)]
        return self._classify_resized(resized, [item.size for item in items], scores)

    def _classify_resized(
        self, resized: Sequence[Sample], sizes: Sequence[tuple[int, int]], scores: bool
    ) -> list[PixelScores]:
        backbone = self.session.net.backbone
        inputs = [
            backbone.prepare(sample.image[None], None if sample.depth is None else sample.depth[None])[0]
            for sample in resized
        ]
        return self.session.classify(inputs, sizes, probabilities=scores)

    def _detect(self, items: Sequence[_Item], score_threshold: float | None) -> list[InstanceResult]:
        """Detect the objects of images at the usual input size of the network, or in tiles if that is too small."""
        net = self.session.net
        assert isinstance(net, MaskRCNN)
        results: dict[int, InstanceResult] = {}
        for n, item in enumerate(items):
            input_size = net.resizing.size(*item.size)
            if net.resizing.shrink:
                self._warn_if_reduced(item.size)
            elif is_much_reduced(item.size, input_size):
                reason = (
                    f"an image of {item.size[1]}x{item.size[0]} pixels would be reduced to {input_size[1]}x"
                    f"{input_size[0]}, much smaller than the images that this model was trained on"
                )
                results[n] = self._detect_in_tiles(item, 1.0, score_threshold, reason)
        whole = [n for n in range(len(items)) if n not in results]
        found = self._detect_resized([items[n] for n in whole], score_threshold, net.resizing) if whole else []
        for n, (result, is_full) in zip(whole, found, strict=True):
            again = self._detect_again_in_tiles(items[n], score_threshold) if is_full else None
            results[n] = result if again is None else again
        return [results[n] for n in range(len(items))]

    def _detect_again_in_tiles(self, item: _Item, score_threshold: float | None) -> InstanceResult | None:
        """Detect in tiles the objects of an image whose number of detections reached the limit.

        Returns None, with a warning, if the image is too small for tiles.
        """
        net = self.session.net
        assert isinstance(net, MaskRCNN)
        factor = max(net.resizing.size(*item.size)) / max(item.size)
        if not net.resizing.shrink:
            factor = max(1.0, factor)
        if len(Tiling.for_min_side(net.resizing.min_side, factor).windows(item.size)) < MIN_TILES:
            warn_about_limit(item.size, net.max_detections)
            return None
        reason = (
            f"an image of {item.size[1]}x{item.size[0]} pixels has {net.max_detections} objects or more, the limit of "
            "the network"
        )
        return self._detect_in_tiles(item, factor, score_threshold, reason)

    def _detect_in_tiles(
        self, item: _Item, factor: float, score_threshold: float | None, reason: str
    ) -> InstanceResult:
        assert self.resizing is not None
        tiling, full = Tiling.for_min_side(self.resizing.min_side, factor), 0

        def find(tile: Tensor) -> InstanceResult:
            nonlocal full
            result, is_full = self._detect_scaled(tile, factor, score_threshold)
            full += is_full
            return result

        result = detect_in_tiles(find, item.image, tiling, reason)
        if full:
            warn_about_limit(item.size, self.max_detections, tiles=full)
        result.image = item.pixels
        return result

    def _detect_scaled(
        self, image: Tensor, factor: float, score_threshold: float | None
    ) -> tuple[InstanceResult, bool]:
        net = self.session.net
        assert isinstance(net, MaskRCNN)
        shorter, longer = sorted(image.shape[-2:])
        side = max(1, round(shorter * factor))
        resizing = Resizing(min_side=side, max_side=side * longer, rule=net.resizing.rule)
        return self._detect_resized([_Item(image)], score_threshold, resizing)[0]

    def _detect_resized(
        self, items: Sequence[_Item], score_threshold: float | None, resizing: Resizing
    ) -> list[tuple[InstanceResult, bool]]:
        """Detect objects; also return for each image whether the number of detections reached the limit."""
        session = self.session
        net = session.net
        assert isinstance(net, MaskRCNN)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        detections = session.detect([resizing(item.image, net.preprocessing) for item in items])
        results = []
        for item, found in zip(items, detections, strict=True):
            result = instance_result(net, found).filter(score_threshold=threshold).resized(item.size)
            # a ranking of all candidates usually reaches the limit, so only objects that overlays show are counted
            displayed = np.count_nonzero(result.scores >= max(threshold, self.display_threshold))
            if net.mask_nms and threshold > 0:
                result = result.mask_nms()
            result.image = item.pixels
            results.append((result, bool(threshold > 0 and displayed >= net.max_detections)))
        return results

    def _warn_if_reduced(self, size: tuple[int, int]) -> None:
        """Warn about a strong reduction of an image, once per model."""
        input_size = self._input_size(size)
        if not self._warned_of_reduction and max(size) > MAX_REDUCTION * max(input_size):
            self._warned_of_reduction = True
            warn_if_reduced(size, input_size)


def _paired(images: Iterable[Any], depth: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
    """Yield each image with its depth map.

    Raises:
        UserError: the numbers of images and depth maps differ.
    """
    if depth is None:
        yield from ((image, None) for image in images)
        return
    missing = object()
    for image, depth_map in zip_longest(images, depth, fillvalue=missing):
        if image is missing or depth_map is missing:
            raise UserError(
                f"there are {'more' if image is missing else 'fewer'} depth maps than images: give one for each image"
            )
        yield image, depth_map


def _batches(read: Iterable[tuple[Any, _Item | UserError]], size: int) -> Iterator[list[_Item | UserError]]:
    """Yield batches of up to `size` items; an error ends its batch."""
    batch: list[_Item | UserError] = []
    for _, item in read:
        batch.append(item)
        if len(batch) == size or isinstance(item, UserError):
            yield batch
            batch = []
    if batch:
        yield batch


def _chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
