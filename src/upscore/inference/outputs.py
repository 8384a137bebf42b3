"""Predictions as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from upscore.data.decoding import SUFFIXES
from upscore.errors import UserError
from upscore.files import atomic_path
from upscore.rendering import index_image
from upscore.structures import Prediction


def find_photos(paths: Sequence[Path]) -> dict[str, Path]:
    """Photos, and those in and below folders, by the name of their output: the path in its folder without the suffix.

    Where two photos would have the same name (a.jpg and a.png), their suffixes join it. A path that is not there is
    kept, to be reported with those that can't be read.

    Raises:
        UserError: there are no photos.
    """
    found: list[tuple[Path, Path]] = []
    for path in paths:
        if path.is_dir():
            inside = (file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
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


def refuse_overwriting(photos: dict[str, Path], output: Path) -> None:
    """Make sure, before the first is written, that no output takes the place of a photo or of another output.

    Raises:
        UserError: one would.
    """
    sources = {photo.resolve() for photo in photos.values()}
    written: dict[Path, Path] = {}
    for name, photo in photos.items():
        for path in _outputs(output / name):
            if path.resolve() in sources:
                raise UserError(f"{path} is a photo and would be overwritten: choose another --output")
            if path in written:
                raise UserError(f"{photo} and {written[path]} would both be written to {path}: predict them apart")
            written[path] = photo


def _outputs(base: Path) -> tuple[Path, Path, Path]:
    mask, overlay, scores = (base.with_name(base.name + ending) for ending in (".png", "_overlay.png", "_scores.npz"))
    return mask, overlay, scores


def write_prediction(prediction: Prediction, base: Path) -> None:
    """Write `base.png` (class indices with a palette), `base_overlay.png` and, where it has scores, `base_scores.npz`.

    Raises:
        UserError: a file can't be written.
    """
    mask, overlay, scores = _outputs(base)
    try:
        with atomic_path(mask) as temporary:
            index_image(prediction.class_map, len(prediction.classes)).save(temporary)
        with atomic_path(overlay) as temporary:
            prediction.overlay().save(temporary)
        if prediction.scores is not None:
            with atomic_path(scores) as temporary:
                np.savez_compressed(temporary, scores=prediction.scores, classes=np.array(prediction.classes))
    except OSError as error:
        raise UserError(f"{base}: can't be written ({error.strerror or error})") from error
