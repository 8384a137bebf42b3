"""A network with all that surrounds it: reading, resizing, preprocessing, compiled engines, decoding.

C classes, N objects; H W pixels of the image, h w of what the network sees of it.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, overload

import numpy as np
from torch import Tensor, nn

from upscore.data.io.depth import Depth, as_depth
from upscore.data.resizing import longest_size, resize_longest
from upscore.data.samples import Sample
from upscore.errors import UserError
from upscore.inference.detector import instance_result
from upscore.inference.engines import Device, Engine, EngineName, Precision
from upscore.inference.engines.cache import Store
from upscore.inference.engines.session import Session, choose_precision, create_engine, resolve_engine
from upscore.inference.inputs import FORMS, ImageInput, as_image
from upscore.inference.semantic import PixelScores
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
from upscore.results import InstanceResult, SemanticResult
from upscore.timing import Choice

if TYPE_CHECKING:
    import openvino as ov

BATCH_SIZE = 8
"""Images that are read ahead, and on a GPU run together, by default."""

Result = SemanticResult | InstanceResult

MAX_BATCH_PIXELS = 2**23
"""Pixels that a GPU is given in one batch."""

SMALL_PIXELS = 2**19
"""Pixels in the network up to which the free memory is not looked at."""

REMEDY = "reduce it, use a machine with more memory, or save it as a tiled TIFF and predict it with --tiled"

TILE_REMEDY = "choose smaller tiles with --tile-size, or use a machine with more memory"

MAX_REDUCTION = 4
"""An image that is reduced by more than this factor for the network is warned of."""


class Source(Protocol):
    """Where the network of a `Model` comes from."""

    @property
    def facts(self) -> FCN | MaskRCNN:
        """The network for its attributes alone; its backbone may have no layers."""
        ...

    @property
    def module(self) -> FCN | MaskRCNN:
        """The complete network, which belongs to the user."""
        ...

    @property
    def bytes_per_pixel(self) -> float | None:
        """What `bytes_per_pixel` says of the network, if that is known."""
        ...

    def private(self, *, complete: bool) -> FCN | MaskRCNN:
        """A network in evaluation mode for a session alone; without `complete`, its backbone may have no layers."""
        ...

    def compiled(self, net: FCN | MaskRCNN) -> None:
        """Called when `net` is compiled."""
        ...


class GivenModule:
    """A network that the user made, as the `Source` of a `Model`."""

    bytes_per_pixel = None

    def __init__(self, module: FCN | MaskRCNN) -> None:
        self.module = self.facts = module

    def private(self, *, complete: bool) -> FCN | MaskRCNN:
        """A copy of the network as it is now, without gradients."""
        parameters = self.module.parameters()
        copies = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in parameters}
        return copy.deepcopy(self.module, copies).eval()

    def compiled(self, net: FCN | MaskRCNN) -> None:
        """See `Source`."""


@dataclass(frozen=True, slots=True)
class Options:
    """How the network of a `Model` runs."""

    engine: str
    """A name that `resolve_engine` returned."""
    precision: Precision
    device: Device = "auto"
    quantized: Mapping[str, ov.Model] | None = None
    """The network's parts in int8."""
    choice: Choice | None = None
    """The number format, where it is resolved already."""
    store: Store | None = None
    """Where compiled parts are kept, if they are."""
    instance: Engine | None = None
    """An engine that was made before."""


@dataclass(frozen=True, slots=True)
class _Item:
    """An image that was read."""

    image: Tensor
    """(3, H, W) uint8, RGB."""
    depth: Tensor | None = None
    """(D, H, W) float32."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8; a view."""
        return self.image.permute(1, 2, 0).numpy()


class Model:
    """Predicts images of any size with a network that knows its preprocessing and its classes.

    Results are thread-safe. They change neither their inputs nor the module, nor any state of the process: the
    first one compiles a private copy of the module as it is then. Make a new `Model` after the weights have changed.

    Args:
        module: a network of `upscore.models.build`.
        engine: what runs it: "torch", "openvino", "onnxruntime", or an engine made before; "auto" is torch on a
            machine with a GPU and OpenVINO on others.
        precision: "float32", "bfloat16" or, with `quantized`, "int8"; "auto" is the faster of the first two.
        device: "cpu", or a GPU such as "cuda:0" for the engine torch; "auto" is the first GPU, or else the CPU.
        max_side: images whose longer side is over this many pixels are reduced to it for the network; 0: never. A
            model that finds objects has a size of its own for each image.
        quantized: the network's parts in int8, as `upscore.inference.calibration.quantize` makes them.

    Raises:
        UserError: there is no such engine, precision or device, or it is not installed.
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
            raise UserError(f"{type(module).__name__} is no network of upscore.models.build: give an FCN or a MaskRCNN")
        if isinstance(engine, str):
            options = Options(resolve_engine(engine, precision, device), precision, device, quantized)
        else:
            choice = Choice(engine.precision, "as the engine was made", is_automatic=False)
            options = Options(engine.name, precision, device, choice=choice, instance=engine)
        if precision == "int8" and isinstance(engine, str) and not quantized:
            raise UserError(
                "int8 needs a calibrated model: make one with `upscore calibrate MODEL PHOTOS`, and load its folder by "
                'upscore.load(MODEL, precision="int8")'
            )
        self._begin(GivenModule(module), options, max_side)

    @classmethod
    def of_source(
        cls, source: Source, options: Options, *, max_side: int, training: dict[str, Any], folder: Path
    ) -> Self:
        """What `upscore.load` returns."""
        model = cls.__new__(cls)
        model._begin(source, options, max_side, training, folder)
        return model

    def _begin(
        self,
        source: Source,
        options: Options,
        max_side: int,
        training: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._source, self._options = source, options
        self.max_side = max_side
        self.training: dict[str, Any] = training or {}
        """Where the weights come from, as the model folder has it; empty for a module that was given."""
        self.folder = folder
        """The model folder that it was loaded from; None for a module that was given."""
        self._lock = threading.RLock()
        self._choice, self._session = options.choice, None
        self._per_pixel = source.bytes_per_pixel
        self._expected: tuple[tuple[int, int], ...] = ()
        self._reduction_told = False

    # What it is

    @property
    def module(self) -> FCN | MaskRCNN:
        """The complete network. Of a model that was loaded, the weights are read at the first access."""
        with self._lock:
            return self._source.module

    @property
    def task(self) -> str:
        """ "semantic": predictions have a class for each pixel; "instances": they have objects."""
        return self._facts.task

    @property
    def classes(self) -> list[str]:
        """The C class names."""
        return self._facts.classes

    @property
    def category_ids(self) -> list[int] | None:
        """The id of each class in the COCO data set that the network was trained on; None where there is none."""
        return self._facts.category_ids if isinstance(self._facts, MaskRCNN) else None

    @property
    def geometric_classes(self) -> list[str]:
        """The names of the second set of classes; empty without a second head."""
        return self._facts.geometric_classes if isinstance(self._facts, TwoHeads) else []

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns pixels into the network's input."""
        return self._facts.preprocessing

    @property
    def depth_channels(self) -> int:
        """Of the depth that the network sees; 0 for one that sees images alone."""
        depth = self._facts.backbone.depth_preprocessing
        return 0 if depth is None else len(depth.mean)

    @property
    def score_threshold(self) -> float:
        """Of the objects that `predict` returns by default; 0 for a model that classifies pixels."""
        return self._facts.score_threshold if isinstance(self._facts, MaskRCNN) else 0.0

    @property
    def display_threshold(self) -> float:
        """Of the objects that overlays show; 0 for a model that classifies pixels."""
        return self._facts.final_threshold if isinstance(self._facts, MaskRCNN) else 0.0

    @property
    def max_detections(self) -> int:
        """The most objects that the network finds in one image or tile; 0 for a model that classifies pixels."""
        return self._facts.max_detections if isinstance(self._facts, MaskRCNN) else 0

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of `upscore.models.build` that make the network; empty for one put together by hand."""
        return self._facts.architecture

    @property
    def resizing(self) -> Resizing | None:
        """At which size a network that finds objects sees an image; None for a model that classifies pixels."""
        return self._facts.resizing if isinstance(self._facts, MaskRCNN) else None

    @property
    def engine(self) -> str:
        """The name of the engine."""
        return self._options.engine

    @property
    def precision(self) -> str:
        """The number format of the heavy layers: "float32", "bfloat16" or "int8"."""
        return self.precision_choice.name

    @property
    def precision_choice(self) -> Choice:
        """The number format and why it was chosen; "auto" may measure for a second, once per machine and network."""
        with self._lock:
            if self._choice is None:
                facts, options = self._facts, self._options
                architecture = json.dumps(facts.architecture, sort_keys=True) if facts.architecture else repr(facts)
                complete = partial(self._source.private, complete=True)
                self._choice = choose_precision(
                    architecture, complete, options.engine, options.precision, device=options.device
                )
            return self._choice

    @property
    def session(self) -> Session:
        """The compiled network; compiled at the first access or prediction."""
        if self._session is None:
            with self._lock:
                if self._session is None:
                    with memory_errors("compiling the network", "use a machine with more memory"):
                        session = self._compiled()
                    session.warmup(*self._expected)
                    self._session = session
        return self._session

    def _compiled(self) -> Session:
        options = self._options
        engine = options.instance or create_engine(
            options.engine, self.precision, device=options.device, quantized=options.quantized, store=options.store
        )
        net = self._source.private(complete=False)
        try:
            session = Session(net, engine)
        except NotImplementedError:  # a compiled part has gone from the cache, and there are no layers to make it of
            net = self._source.private(complete=True)
            session = Session(net, engine)
        self._source.compiled(net)
        return session

    def _tile_budget(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """For an image that is seen at (h, w) and is too large for the memory that is free: the bytes that it would
        need in the network, and those that a tile may need."""
        if size[0] * size[1] < SMALL_PIXELS:
            return None
        with self._lock:
            if self._per_pixel is None:
                net = self._source.private(complete=True)
                self._per_pixel = bytes_per_pixel(net) if isinstance(net, FCN) else 0.0
        needed = int(self._per_pixel * size[0] * size[1])
        budget = tile_budget(needed, self.session.engine.device)
        return None if budget is None else (needed, budget)

    @property
    def _facts(self) -> FCN | MaskRCNN:
        return self._source.facts

    # What it does

    def warmup(self, *sizes: tuple[int, int]) -> None:
        """Prepare for images of these sizes (height, width), instead of those expected before; others may come too.

        OpenVINO compiles a network for each of them when its first image comes, which is then predicted faster, in int8
        by up to 40%, and differs from what the network for all sizes says by rounding. Each takes the network's memory
        again: one or two sizes are enough. Other engines gain nothing from it.
        """
        with self._lock:
            self._expected = tuple(self._seen_size(size) for size in sizes)
            if self._session is not None:
                self._session.warmup(*self._expected)

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
        """The most probable class of each pixel, or the objects, at the image's own size.

        Images that are too large for the free memory are predicted in tiles, which gives the same classes; images with
        more objects than the network finds at once are searched in tiles too. Both is said by a warning.

        Args:
            image: an image in any form that `upscore.inference.inputs.as_image` takes: a path, bytes, a file object, a
                PIL image, an array or a tensor; or a list or tuple of images.
            depth: for a network that sees depth too, in the unit that it was trained on: the path of a 16-bit PNG, a
                TIFF or a .npy file, or an (H, W) or (D, H, W) array. For a list of images, a list.
            scores: keep the class probabilities of pixels too, (C, H, W) float16.
            score_threshold: objects of at least this score; by default the model's own threshold. With 0 every object
                that the network detects is returned, as average precision ranks them, without suppression by masks.

        Returns:
            A result, or a list of results for a list of images.

        Raises:
            UserError: an image can't be read or is of another shape or type, an option is for the other task, depth is
                missing or given in vain, or memory is short even for tiles.
        """
        if isinstance(image, list | tuple):
            if depth is not None and (not isinstance(depth, list | tuple) or len(depth) != len(image)):
                raise UserError(f"{len(image)} images are given: give depth as a list of as many")
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
        """Predict one image after the other, in order; threads read ahead meanwhile.

        `images` is iterated in the thread that asks for results. Close the generator to stop the reading threads.

        Args:
            images: in any form that `predict` takes.
            batch_size: how many images are read ahead. On a GPU, those of like size run as one batch, with scores that
                differ from those of single images by rounding (1e-4 in float32). On a CPU each runs by itself, and
                results are equal to the last bit.
            depth: as many items as images.
            scores, score_threshold: see `predict`.

        Raises:
            UserError: as `predict`; for an image at fault, when its turn comes.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: give at least 1")
        if isinstance(images, str | bytes | bytearray | Path | np.ndarray | Tensor) or not isinstance(images, Iterable):
            raise UserError(f"stream takes an iterable of images, each as predict takes it: {FORMS}")
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
        """The objects in an image or tile that the network sees at a given scale, whatever its size.

        Args:
            image: (3, H, W) uint8, RGB.
            factor: pixels of the network's input per pixel of the image.
            score_threshold: see `predict`.
        """
        with memory_errors(f"a tile of {image.shape[-1]}x{image.shape[-2]} pixels", TILE_REMEDY):
            return self._detect_scaled(image, factor, score_threshold)[0]

    def class_maps(self, image: Tensor) -> list[np.ndarray]:
        """The class maps (H, W) uint8 of an image (3, H, W) uint8 that is not reduced, one for each head."""
        size = _Item(image).size
        with memory_errors(f"a tile of {size[1]}x{size[0]} pixels", TILE_REMEDY):
            return self._classify_seen([Sample(name="", image=image)], [size], scores=False)[0].class_maps

    # How

    def _check_options(self, *, scores: bool, score_threshold: float | None) -> None:
        if self.task == "instances" and scores:
            raise UserError("this model finds objects: it has no class probabilities of pixels to keep")
        if self.task != "instances" and score_threshold is not None:
            raise UserError("this model classifies pixels: score_threshold is for models that find objects")
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise UserError(f"score_threshold={score_threshold}: scores are from 0 to 1")

    def _read(self, image: Any, depth: Any) -> _Item:
        pixels = as_image(image)
        if depth is None and self.depth_channels:
            raise UserError(f"this model sees depth beside the photo ({self.depth_channels} channels): give it too")
        if depth is not None and not self.depth_channels:
            raise UserError("this model sees photos alone: leave the depth out, or train one with --depth")
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
        """Those that are equal in size once padded run together, up to `MAX_BATCH_PIXELS`."""
        results: dict[int, Result] = {}
        sizes = [self._facts.backbone.padded_size(*self._seen_size(item.size)) for item in items]
        for size in dict.fromkeys(sizes):
            positions = [n for n, other in enumerate(sizes) if other == size]
            for some in _parts(positions, max(1, MAX_BATCH_PIXELS // (size[0] * size[1]))):
                chosen = [items[n] for n in some]
                height, width = chosen[0].size
                with memory_errors(f"an image of {width}x{height} pixels", REMEDY):
                    found = (
                        self._find(chosen, score_threshold) if self.task == "instances" else self._map(chosen, scores)
                    )
                results.update(zip(some, found, strict=True))
        return [results[n] for n in range(len(items))]

    def _seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) -> (h, w)."""
        facts = self._facts
        return facts.resizing.size(*size) if isinstance(facts, MaskRCNN) else longest_size(*size, self.max_side)

    def _map(self, items: Sequence[_Item], scores: bool) -> list[SemanticResult]:
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
        seen = [resize_longest(Sample(name="", image=item.image, depth=item.depth), self.max_side) for item in items]
        size = seen[0].image.shape[-2], seen[0].image.shape[-1]
        if len(items) == 1 and (large := self._tile_budget(size)) is not None:
            needed, budget = large

            def classify(tile: Sample, tile_size: tuple[int, int]) -> PixelScores:
                return self._classify_seen([tile], [tile_size], scores)[0]

            net = self.module
            assert isinstance(net, FCN)
            return [classify_in_tiles(classify, net, seen[0], items[0].size, budget, needed=needed)]
        return self._classify_seen(seen, [item.size for item in items], scores)

    def _classify_seen(
        self, seen: Sequence[Sample], sizes: Sequence[tuple[int, int]], scores: bool
    ) -> list[PixelScores]:
        backbone = self.session.net.backbone
        inputs = [
            backbone.prepare(sample.image[None], None if sample.depth is None else sample.depth[None])[0]
            for sample in seen
        ]
        return self.session.classify(inputs, sizes, probabilities=scores)

    def _find(self, items: Sequence[_Item], score_threshold: float | None) -> list[InstanceResult]:
        """The objects in images that are seen at the model's own size, or in tiles where that is too small."""
        net = self.session.net
        assert isinstance(net, MaskRCNN)
        results: dict[int, InstanceResult] = {}
        for n, item in enumerate(items):
            seen = net.resizing.size(*item.size)
            if net.resizing.shrink:
                self._warn_if_reduced(item.size)
            elif is_much_reduced(item.size, seen):
                reason = (
                    f"an image of {item.size[1]}x{item.size[0]} pixels would be reduced to {seen[1]}x{seen[0]}, much "
                    "smaller than the images that this model was trained on"
                )
                results[n] = self._detect_in_tiles(item, 1.0, score_threshold, reason)
        whole = [n for n in range(len(items)) if n not in results]
        found = self._detect([items[n] for n in whole], score_threshold, net.resizing) if whole else []
        for n, (result, is_full) in zip(whole, found, strict=True):
            again = self._searched_again(items[n], score_threshold) if is_full else None
            results[n] = result if again is None else again
        return [results[n] for n in range(len(items))]

    def _searched_again(self, item: _Item, score_threshold: float | None) -> InstanceResult | None:
        """The objects of an image that holds as many as the network finds at once, in tiles where these help."""
        net = self.session.net
        assert isinstance(net, MaskRCNN)
        factor = max(net.resizing.size(*item.size)) / max(item.size)
        if not net.resizing.shrink:
            factor = max(1.0, factor)
        if len(Tiling.for_min_side(net.resizing.min_side, factor).windows(item.size)) < MIN_TILES:
            warn_about_limit(item.size, net.max_detections)
            return None
        reason = (
            f"an image of {item.size[1]}x{item.size[0]} pixels holds {net.max_detections} objects or more, as many as "
            "the network finds at once"
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
        return self._detect([_Item(image)], score_threshold, resizing)[0]

    def _detect(
        self, items: Sequence[_Item], score_threshold: float | None, resizing: Resizing
    ) -> list[tuple[InstanceResult, bool]]:
        """The objects in images, and whether they are as many as the network finds at once."""
        session = self.session
        net = session.net
        assert isinstance(net, MaskRCNN)
        threshold = self.score_threshold if score_threshold is None else score_threshold
        detections = session.find([resizing(item.image, net.preprocessing) for item in items])
        results = []
        for item, found in zip(items, detections, strict=True):
            result = instance_result(net, found).filter(score_threshold=threshold).resized(item.size)
            # a ranking of all candidates is full as a rule; what counts is objects that are shown
            shown = np.count_nonzero(result.scores >= max(threshold, self.display_threshold))
            if net.mask_nms and threshold > 0:
                result = result.mask_nms()
            result.image = item.pixels
            results.append((result, bool(threshold > 0 and shown >= net.max_detections)))
        return results

    def _warn_if_reduced(self, size: tuple[int, int]) -> None:
        """Once for a model."""
        seen = self._seen_size(size)
        if not self._reduction_told and max(size) > MAX_REDUCTION * max(seen):
            self._reduction_told = True
            warn_if_reduced(size, seen)


def _paired(images: Iterable[Any], depth: Iterable[Any] | None) -> Iterator[tuple[Any, Any]]:
    """Each image with its depth.

    Raises:
        UserError: there are more of the one than of the other.
    """
    if depth is None:
        yield from ((image, None) for image in images)
        return
    missing = object()
    for image, beside in zip_longest(images, depth, fillvalue=missing):
        if image is missing or beside is missing:
            raise UserError(f"there is {'more depth than images' if image is missing else 'depth missing'}")
        yield image, beside


def _batches(read: Iterable[tuple[Any, _Item | UserError]], size: int) -> Iterator[list[_Item | UserError]]:
    """Up to so many at a time; a batch ends with an error."""
    batch: list[_Item | UserError] = []
    for _, item in read:
        batch.append(item)
        if len(batch) == size or isinstance(item, UserError):
            yield batch
            batch = []
    if batch:
        yield batch


def _parts(items: list[int], most: int) -> list[list[int]]:
    return [items[start : start + most] for start in range(0, len(items), most)]
