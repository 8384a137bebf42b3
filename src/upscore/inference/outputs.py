"""Names of output files, and writers of predictions."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from upscore.data.formats.folder import walk_files
from upscore.data.io.decoding import SUFFIXES
from upscore.errors import UserError
from upscore.files import atomic_path, not_own
from upscore.results import InstanceResult, SemanticResult
from upscore.results.writers.coco import RESULTS, require_results
from upscore.results.writers.pictures import is_own_picture, require_own_picture, save_labels, save_overlay
from upscore.viz.overlays import index_image

ENDINGS = {
    "semantic": (".png", "_overlay.jpg", "_scores.npz"),
    "instances": ("_ids.png", "_overlay.jpg"),
}
"""Endings of output files by the task of the model."""

ImagePath = TypeVar("ImagePath")
"""Path of an image, or its location in an object store."""

GEOMETRIC = ("_geometric.png", "_geometric_overlay.jpg")
"""Endings of the output files of a second head."""

SCORES = {"scores.npy", "classes.npy"}
"""Members of `NAME_scores.npz`."""


def find_images(paths: Sequence[Path], *, output: Path | None = None) -> dict[str, Path]:
    """Find images in files and folders, by the names of their outputs.

    The name of an output is the path of the image in its folder, without the suffix. If two images have the same name
    (a.jpg and a.png), the suffixes become part of the names. Paths that do not exist are kept, to be reported with
    images that cannot be read. Links to folders are followed. Hidden files and folders, labels beside `images/` and the
    folder `output` are skipped. If `output` is one of the folders, files that upscore wrote are skipped there.

    Args:
        paths: images and folders of images.
        output: output folder of the prediction.

    Raises:
        UserError: there are no images, a folder cannot be read, or two images have the same output files.
    """
    found: list[tuple[str, str, Path]] = []
    for path in dict.fromkeys(paths):
        if not path.is_dir():
            found.append((unicodedata.normalize("NFC", path.stem), path.suffix, path))
            continue
        in_place = output is not None and _real(output) == _real(path)
        files = walk_files(path, labels=False, exclude=None if in_place else output)
        inside = [(key, Path(file).suffix, Path(file)) for file, key, suffix in files if suffix in SUFFIXES]
        if in_place:
            inside = [entry for entry in inside if not is_own_picture(entry[2])]
        found += sorted(inside, key=lambda entry: (entry[0].split("/"), entry[1]))
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))}: no images found; supported suffixes are {', '.join(sorted(SUFFIXES))}"
        )
    return by_name(found)


def by_name(found: Iterable[tuple[str, str, ImagePath]]) -> dict[str, ImagePath]:
    """Return images by the names of their outputs.

    Args:
        found: (name, suffix, path) of each image; the suffix becomes part of names that occur more than once.

    Raises:
        UserError: two images would be written to the same files.
    """
    found = list(found)
    counts = Counter(name for name, _, _ in found)
    images: dict[str, ImagePath] = {}
    for name, suffix, path in found:
        key = name if counts[name] == 1 else f"{name}_{suffix.lstrip('.')}"
        if images.setdefault(key, path) != path:
            raise UserError(
                f"{path} and {images[key]} would be written to the same files: use separate --output folders"
            )
    return images


def refuse_overwriting(
    images: dict[str, Path], output: Path, task: str = "semantic", *, geometric: bool = False
) -> None:
    """Check, before the first is written, that no output replaces an image, another output, or a foreign file.

    Args:
        images: images by the names of their outputs.
        output: output folder.
        task: task of the model, "semantic" or "instances".
        geometric: whether the model has a second head.

    Raises:
        UserError: an output would replace a file.
    """
    sources = {_real(image) for image in images.values()}
    written: dict[Path, Path] = {}
    for name, image in images.items():
        for path in _outputs(output / name, ENDINGS[task] + GEOMETRIC * geometric):
            if _real(path) in sources:
                raise UserError(f"{path} is an input image and would be overwritten: choose another --output")
            if path.suffix == ".npz":
                _require_own_scores(path)
            else:
                require_own_picture(path)
            if path in written:
                raise UserError(
                    f"{image} and {written[path]} would both be written to {path}: use separate --output folders"
                )
            written[path] = image
    if task == "instances":
        require_results(output / RESULTS)


def _real(path: Path) -> str:
    """Return the path without symbolic links; unlike `Path.resolve`, this accepts circular links."""
    return os.path.realpath(path)


def _require_own_scores(path: Path) -> None:
    if not path.exists():
        return
    try:
        with zipfile.ZipFile(path) as file:
            own = {*file.namelist()} == SCORES
    except (OSError, zipfile.BadZipFile):
        own = False
    if not own:
        raise not_own(path)


def _outputs(base: Path, endings: Sequence[str]) -> list[Path]:
    return [base.with_name(base.name + ending) for ending in endings]


def write_prediction(
    prediction: SemanticResult | InstanceResult, base: Path, *, overlays: bool = True, display_threshold: float = 0.0
) -> list[Path]:
    """Write the prediction of an image at the size of the image.

    Semantic segmentation: `base.png` (class indices with a palette), `base_overlay.jpg` and, where there are scores,
    `base_scores.npz`; from two heads `base_geometric.png` and `base_geometric_overlay.jpg` too.

    Object detection: `base_ids.png` (16-bit object numbers from 1, 0 for background) and `base_overlay.jpg`, which
    shows objects with scores of at least `display_threshold`.

    Returns:
        The paths of the written files.

    Raises:
        WriteError: a file cannot be written.
    """
    if isinstance(prediction, InstanceResult):
        ids, overlay = _outputs(base, ENDINGS["instances"])
        save_labels(Image.fromarray(prediction.label_map()), ids)
        if not overlays:
            return [ids]
        save_overlay(prediction.filter(score_threshold=display_threshold).overlay(), overlay)
        return [ids, overlay]
    mask, overlay, scores = _outputs(base, ENDINGS["semantic"])
    save_labels(index_image(prediction.class_map, len(prediction.classes)), mask)
    written = [mask]
    if overlays:
        save_overlay(prediction.overlay(), overlay)
        written.append(overlay)
    if (geometric := prediction.geometric) is not None:
        geometric_map, geometric_overlay = _outputs(base, GEOMETRIC)
        save_labels(index_image(geometric.class_map, len(geometric.classes)), geometric_map)
        written.append(geometric_map)
        if overlays:
            save_overlay(geometric.overlay(), geometric_overlay)
            written.append(geometric_overlay)
    if prediction.scores is not None:
        with atomic_path(scores) as temporary:
            np.savez_compressed(temporary, scores=prediction.scores, classes=np.array(prediction.classes))
        written.append(scores)
    return written
