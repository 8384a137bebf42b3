"""The class map of an image of any size, from file to file, in the same memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from upscore.data.georeference import read_georeference
from upscore.data.rasters import open_raster
from upscore.errors import UserError
from upscore.inference.map_files import check_output, overlay_of
from upscore.inference.pieces import BLOCK, Pieces
from upscore.inference.predictor import Predictor
from upscore.inference.raster_output import write_class_map, write_overview
from upscore.inference.run_manifest import Setting, image_settings, locked, run_settings
from upscore.inference.tiles import TilePlan, class_map_tiles, core_size, tile_plan
from upscore.models.fcn import FCN
from upscore.models.receptive import Geometry, receptive_field, with_layers
from upscore.progress import ProgressCallback
from upscore.results import as_semantic

LONGEST_NAME = 255
"""Bytes that file systems allow."""

MEMORY = 768 * 2**20
"""Bytes that a tile may need in the network, by default."""

"""Tiles done, of how many."""


def predict_raster(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    *,
    level: int = 0,
    core: int | None = None,
    memory: int = MEMORY,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Write the class of each pixel of an image of any size, and a picture to look at.

    Tiles are seen at full resolution, whatever the longest side of the photos that the model was trained on. Finished
    ones are kept in `.NAME.partial` beside the output until all are there: the same call goes on with them.

    Args:
        predictor: of a network that classifies pixels of photos.
        source: see `upscore.data.rasters.open_raster`.
        output: a .tif or .zarr; `NAME_overlay.jpg` is written beside it, and with a second head `NAME_geometric` too.
        level: of a pyramid; 0 is the finest.
        core: side of a tile without its halo, in pixels, a multiple of 256; by default what `memory` has room for.
        memory: bytes that a tile may need in the network.
        progress: told after each tile.

    Returns:
        The files that were written.

    Raises:
        UserError: the image can't be read or the output not written, the network sees the whole image or finds
            objects, or tiles of a run with other settings are there.
    """
    source, output = Path(source), Path(output)
    job = plan_classes(predictor, source, output, level=level, core=core, memory=memory)
    raster, georeference = open_raster(source, level=level), read_georeference(source, level=level)
    with locked(job.folder), _full_size(predictor):
        pieces = job.pieces()
        done = pieces.done()
        tiles = class_map_tiles(lambda pixels: class_maps_of(predictor, pixels), raster, job.plan, done)
        for number, (tile, class_maps, pixels) in enumerate(tiles, start=len(done) + 1):
            pieces.write(tile, class_maps, pixels)
            if progress is not None:
                progress(number, len(job.plan))
        photo, overviews = pieces.overview()
        names = [predictor.classes, predictor.geometric_classes]
        for index, path in enumerate(job.outputs):
            write_class_map(pieces, index, path, names[index], georeference)
            write_overview(photo, overviews[index], overlay_of(path), names[index])
        pieces.remove()
    return [file for path in job.outputs for file in (path, overlay_of(path))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """How the class map of an image is made, and where its finished tiles are kept."""

    outputs: tuple[Path, ...]
    """A map for each head of the network."""
    plan: TilePlan
    settings: dict[str, Setting]
    """All that the result depends on."""

    def pieces(self) -> Pieces:
        """The folder of finished tiles, made where it is not there.

        Raises:
            UserError: it was begun with other settings, or can't be written.
        """
        return Pieces(self.folder, self.plan, self.settings, len(self.outputs))

    @property
    def folder(self) -> Path:
        """The folder of finished tiles."""
        return partial_of(self.outputs[0])


def plan_classes(
    predictor: Predictor,
    source: Path,
    output: Path,
    *,
    level: int = 0,
    core: int | None = None,
    memory: int = MEMORY,
) -> Classification:
    """What `predict_raster` does by these arguments.

    Raises:
        UserError: as `predict_raster`, before the work.
    """
    net = require_pixels(predictor)
    outputs = [output]
    if predictor.geometric_classes:
        outputs.append(output.with_name(f"{output.stem}_geometric{output.suffix}"))
    for path in outputs:
        check_output(path, source)
    raster = open_raster(source, level=level)
    plan = exact_plan(net, raster.height, raster.width, core=core, memory=memory)
    settings = raster_facts(predictor, source, level) | asdict(plan)
    return Classification(outputs=tuple(outputs), plan=plan, settings=settings)


def partial_of(output: Path) -> Path:
    """The folder of an output's finished tiles: `.NAME.partial`, with a digest in place of a very long name."""
    name = f".{output.name}.partial"
    if len(name.encode()) > LONGEST_NAME:
        name = f".{hashlib.sha256(output.name.encode()).hexdigest()}.partial"
    return output.with_name(name)


def exact_plan(
    net: FCN, height: int, width: int, *, core: int | None = None, halo: int | None = None, memory: int = MEMORY
) -> TilePlan:
    """Tiles that together have the class map of the whole image.

    Raises:
        UserError: the network sees the whole image, or the core is not a multiple of 256.
    """
    geometry = _geometry(net)
    halo = geometry.halo if halo is None else halo
    unit = int(np.lcm(BLOCK, geometry.grid))
    if core is not None and (core < unit or core % unit):
        raise UserError(f"core={core}: the side of a tile's core is a multiple of {unit} pixels")
    chosen = core_size(with_layers(net), halo, unit, memory) if core is None else core
    return tile_plan(height, width, core=chosen, halo=halo, grid=geometry.grid)


_geometries: WeakKeyDictionary[FCN, Geometry] = WeakKeyDictionary()


def _geometry(net: FCN) -> Geometry:
    """Found by running the network, which takes a second; not for each of many images again."""
    if net not in _geometries:
        _geometries[net] = receptive_field(net)
    return _geometries[net]


def require_pixels(predictor: Predictor) -> FCN:
    """The network, where it classifies pixels of photos.

    Raises:
        UserError: it finds objects, or sees depth.
    """
    if not isinstance(predictor.net, FCN):
        raise UserError("this model finds objects: their tiles are joined in another way than the classes of pixels")
    if predictor.depth_channels:
        raise UserError("this model sees depth beside the photo, which huge images don't have: use one for photos")
    return predictor.net


def class_maps_of(predictor: Predictor, pixels: Tensor) -> Sequence[np.ndarray]:
    """A tile (3, h, w) uint8, RGB -> its class maps (h, w) uint8, one for each head."""
    result = as_semantic(predictor.predict(pixels))
    return [result.class_map] if result.geometric is None else [result.class_map, result.geometric.class_map]


@contextmanager
def _full_size(predictor: Predictor) -> Iterator[None]:
    """Tiles are not reduced, as photos may be."""
    max_side, predictor.max_side = predictor.max_side, 0
    try:
        yield
    finally:
        predictor.max_side = max_side


def raster_facts(predictor: Predictor, source: Path, level: int) -> dict[str, Setting]:
    """The image and the model, as settings of a run over this image."""
    return {**image_settings(source), "level": level, **run_settings(predictor)}
