"""The class map of an image of any size, from file to file, in the same memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from upscore.checkpoints.folder import WEIGHTS
from upscore.data.georeference import read_georeference
from upscore.data.rasters import open_raster
from upscore.errors import UserError
from upscore.inference.engines.cache import digest_of
from upscore.inference.pieces import BLOCK, Pieces, Setting
from upscore.inference.predictor import Predictor
from upscore.inference.raster_output import check_output, write_class_map, write_overview
from upscore.inference.tiles import TilePlan, class_map_tiles, core_size, tile_plan
from upscore.models.fcn import FCN
from upscore.models.receptive import receptive_field, with_layers

MEMORY = 768 * 2**20
"""Bytes that a tile may need in the network, by default."""

Progress = Callable[[int, int], None]
"""Tiles done, of how many."""


def predict_raster(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    *,
    level: int = 0,
    core: int | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the class of each pixel of an image of any size, and a picture to look at.

    Tiles are seen at full resolution, whatever the longest side of the photos that the model was trained on. Finished
    ones are kept in `.NAME.partial` beside the output until all are there: the same call goes on with them.

    Args:
        predictor: of a network that classifies pixels of photos.
        source: see `upscore.data.rasters.open_raster`.
        output: a .tif or .zarr; `NAME_overlay.png` is written beside it, and with a second head `NAME_geometric` too.
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
    net = require_pixels(predictor)
    check_output(output, source)
    raster = open_raster(source, level=level)
    georeference = read_georeference(source, level=level)
    plan = exact_plan(net, raster.height, raster.width, core=core, memory=memory)
    settings = tile_settings(predictor, source, level, plan)
    names = [predictor.classes] + [predictor.geometric_classes] * bool(predictor.geometric_classes)
    pieces = Pieces(output.with_name(f".{output.name}.partial"), plan, settings, maps=len(names))
    done = pieces.done()
    with _full_size(predictor):
        tiles = class_map_tiles(lambda pixels: class_maps_of(predictor, pixels), raster, plan, done)
        for number, (tile, class_maps, pixels) in enumerate(tiles, start=len(done) + 1):
            pieces.write(tile, class_maps, pixels)
            if progress is not None:
                progress(number, len(plan))
    written = []
    photo, overviews = pieces.overview()
    for index, classes in enumerate(names):
        path = output.with_name(output.stem + "_geometric" * index + output.suffix)
        picture = path.with_name(f"{path.stem}_overlay.png")
        write_class_map(pieces, index, path, classes, georeference)
        write_overview(photo, overviews[index], picture, classes)
        written += [path, picture]
    pieces.remove()
    return written


def exact_plan(
    net: FCN, height: int, width: int, *, core: int | None = None, halo: int | None = None, memory: int = MEMORY
) -> TilePlan:
    """Tiles that together have the class map of the whole image.

    Raises:
        UserError: the network sees the whole image, or the core is not a multiple of 256.
    """
    net = with_layers(net)
    geometry = receptive_field(net)
    halo = geometry.halo if halo is None else halo
    unit = int(np.lcm(BLOCK, geometry.grid))
    if core is not None and (core < unit or core % unit):
        raise UserError(f"core={core}: the side of a tile's core is a multiple of {unit} pixels")
    chosen = core_size(net, halo, unit, memory) if core is None else core
    return tile_plan(height, width, core=chosen, halo=halo, grid=geometry.grid)


def require_pixels(predictor: Predictor) -> FCN:
    if not isinstance(predictor.net, FCN):
        raise UserError("this model finds objects: their tiles are joined in another way than the classes of pixels")
    if predictor.depth_channels:
        raise UserError("this model sees depth beside the photo, which huge images don't have: use one for photos")
    return predictor.net


def class_maps_of(predictor: Predictor, pixels: Tensor) -> Sequence[np.ndarray]:
    prediction = predictor.predict(pixels)
    maps = (prediction.class_map, prediction.geometric_map)
    return [class_map for class_map in maps if class_map is not None]


@contextmanager
def _full_size(predictor: Predictor) -> Iterator[None]:
    """Tiles are not reduced, as photos may be."""
    max_side, predictor.max_side = predictor.max_side, 0
    try:
        yield
    finally:
        predictor.max_side = max_side


def tile_settings(predictor: Predictor, source: Path, level: int, plan: TilePlan) -> dict[str, Setting]:
    """All that the result depends on."""
    return raster_facts(predictor, source, level) | asdict(plan)


def raster_facts(predictor: Predictor, source: Path, level: int) -> dict[str, Setting]:
    """The image and the network, such that a change of either shows."""
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]  # Zarr's chunks
    stats = [path.stat() for path in files]
    return {
        "source": str(source.resolve()),
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max(stat.st_mtime_ns for stat in stats),
        "level": level,
        "model": model_digest(predictor),
        "engine": predictor.engine.name,
        "precision": predictor.engine.precision,
    }


def model_digest(predictor: Predictor) -> str:
    """Of a network's weights and of what it does beside them."""
    net = predictor.net
    facts = [net.architecture, predictor.training, predictor.classes, str(net.preprocessing)]
    digest = hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode())
    if predictor.folder is not None:  # what is loaded may be without its layers, whose weights are in the file
        return digest_of(predictor.folder / WEIGHTS) + digest.hexdigest()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()
