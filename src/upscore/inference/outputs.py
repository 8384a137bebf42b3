"""Predictions as files."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from upscore.data.decoding import SUFFIXES
from upscore.data.folder import IMAGES, LABELS
from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.inference.png import is_own_picture, require_own_picture, save_marked, write_png
from upscore.inference.results import RESULTS, require_results
from upscore.rendering import index_image
from upscore.structures import Prediction

ENDINGS = {
    "semantic": (".png", "_overlay.png", "_scores.npz"),
    "instances": ("_ids.png", "_overlay.png"),
}
"""What is added to a photo's name, by what the network was trained for."""

GEOMETRIC = ("_geometric.png", "_geometric_overlay.png")
"""What a second head adds."""


def find_photos(paths: Sequence[Path], *, output: Path | None = None) -> dict[str, Path]:
    """Photos, and those in and below folders, by the name of their output: the path in its folder without the suffix.

    Where two photos would have the same name (a.jpg and a.png), their suffixes join it. A path that is not there is
    kept, to be reported with those that can't be read. What lies in `output`, should it be inside one of the folders,
    is left out; of what lies in a folder that is itself the output, what upscore wrote; and labels beside `images/`.

    Raises:
        UserError: there are no photos, or a folder can't be read.
    """
    found: list[tuple[Path, Path]] = []
    written = None if output is None else output.resolve()
    for path in paths:
        if path.is_dir():
            below = _files_below(path)
            if written == path.resolve():
                below = [file for file in below if file.suffix != ".png" or not is_own_picture(file)]
            elif written is not None:
                below = [file for file in below if not file.resolve().is_relative_to(written)]
            inside = (file.relative_to(path) for file in below)
            found += [(file, path / file) for file in sorted(inside) if not file.name.startswith(".")]
        else:
            found.append((Path(path.name), path))
    if not found:
        raise UserError(f"no photos in {', '.join(map(str, paths))}: they end in {', '.join(sorted(SUFFIXES))}")
    counts = Counter(name.with_suffix("") for name, _ in found)
    photos: dict[str, Path] = {}
    for name, path in found:
        key = name.with_suffix("")
        if counts[key] > 1:
            key = key.with_name(f"{key.name}_{name.suffix.lstrip('.')}")
        if str(key) in photos and photos[str(key)] != path:
            raise UserError(f"{path} and {photos[str(key)]} would be written to the same files: predict them apart")
        photos[str(key)] = path
    return photos


def _files_below(folder: Path) -> list[Path]:
    """Photos in a folder and below it, but for the labels beside those of a data set."""

    def failed(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read ({error.strerror})") from error

    below: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=failed):
        if not {*IMAGES}.isdisjoint(folders):
            folders[:] = [name for name in folders if name not in LABELS]
        below += [Path(place) / name for name in names if Path(name).suffix.lower() in SUFFIXES]
    return below


def refuse_overwriting(
    photos: dict[str, Path], output: Path, task: str = "semantic", *, geometric: bool = False
) -> None:
    """Make sure, before the first is written, that no output takes the place of a photo, of another output, or of a
    picture that upscore did not write.

    `task` is the network's: "semantic" or "instances"; `geometric` tells that it has a second head.

    Raises:
        UserError: one would.
    """
    sources = {photo.resolve() for photo in photos.values()}
    written: dict[Path, Path] = {}
    for name, photo in photos.items():
        for path in _outputs(output / name, ENDINGS[task] + GEOMETRIC * geometric):
            if path.resolve() in sources:
                raise UserError(f"{path} is a photo and would be overwritten: choose another --output")
            if path in written:
                raise UserError(f"{photo} and {written[path]} would both be written to {path}: predict them apart")
            if path.suffix == ".png":
                require_own_picture(path)
            written[path] = photo
    results = output / RESULTS
    if task == "instances":
        require_results(results)


def is_written(base: Path, task: str, *, geometric: bool = False, scores: bool = False, overlays: bool = True) -> bool:
    """Whether all pictures of a photo are there; each is written whole or not at all."""
    left_out = {*(() if scores else ("_scores.npz",)), *(() if overlays else ("_overlay.png", GEOMETRIC[1]))}
    endings = [ending for ending in ENDINGS[task] + GEOMETRIC * geometric if ending not in left_out]
    return all(path.is_file() for path in _outputs(base, endings))


def _outputs(base: Path, endings: Sequence[str]) -> list[Path]:
    return [base.with_name(base.name + ending) for ending in endings]


def write_prediction(prediction: Prediction, base: Path, *, overlays: bool = True) -> None:
    """Write what was predicted of a photo, at the photo's own size.

    Classes of pixels: `base.png` (class indices with a palette), `base_overlay.png` and, where there are scores,
    `base_scores.npz`; from two heads `base_geometric.png` and `base_geometric_overlay.png` too.

    Objects: `base_ids.png` (16-bit numbers of objects from 1, 0 for none) and `base_overlay.png`.

    Files are compressed with little effort: overlays are about a seventh larger than they could be.

    Raises:
        UserError: a file can't be written.
    """
    try:
        if prediction.instances is not None:
            ids, overlay = _outputs(base, ENDINGS["instances"])
            _save_indices(Image.fromarray(prediction.instances.id_map()), ids)
            if overlays:
                _save_colors(prediction.overlay(), overlay)
            return
        assert prediction.class_map is not None
        mask, overlay, scores = _outputs(base, ENDINGS["semantic"])
        _save_indices(index_image(prediction.class_map, len(prediction.classes)), mask)
        if overlays:
            _save_colors(prediction.overlay(), overlay)
        if prediction.geometric_map is not None:
            surfaces, surfaces_overlay = _outputs(base, GEOMETRIC)
            _save_indices(index_image(prediction.geometric_map, len(prediction.geometric_classes)), surfaces)
            if overlays:
                _save_colors(prediction.geometric_overlay(), surfaces_overlay)
        if prediction.scores is not None:
            with atomic_path(scores) as temporary:
                np.savez_compressed(temporary, scores=prediction.scores, classes=np.array(prediction.classes))
    except OSError as error:
        raise UserError(f"{base}: can't be written ({error.strerror or error})") from error


def _save_indices(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        save_marked(picture, temporary, compress_level=1, compress_type=zlib.Z_RLE)


def _save_colors(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        write_png(np.asarray(picture), temporary)
