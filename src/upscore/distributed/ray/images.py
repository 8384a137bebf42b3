"""Images in local folders and object stores, indexed by the names of their outputs."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from upscore.data.io.decoding import SUFFIXES
from upscore.distributed.storage import Place, list_files, place
from upscore.errors import UserError
from upscore.inference.outputs import ENDINGS, GEOMETRIC, find_images, refuse_overwriting
from upscore.inference.run_manifest import Fingerprint
from upscore.results.writers.coco import RESULTS


def list_images(sources: Sequence[str | Path], output: Place) -> tuple[dict[str, Place], dict[Place, Fingerprint]]:
    """Find images in local folders and object stores, like `upscore.inference.outputs.find_images`.

    Files below `output` are excluded.

    Returns:
        The images by the names of their outputs, and the fingerprints of those in stores.

    Raises:
        UserError: there are no images, or two images have the same output files.
    """
    places = [place(source) for source in sources]
    images: dict[str, Place] = {}
    if local := [where.local for where in places if where.local is not None]:
        images = {name: place(path) for name, path in find_images(local, output=output.local).items()}
    stored: dict[Place, Fingerprint] = {}
    for where in dict.fromkeys(places):
        if where.local is None:
            for name, image in _list_store(where, output, stored).items():
                if images.setdefault(name, image) != image:
                    raise UserError(
                        f"{image} and {images[name]} would be written to the same files: use separate --output folders"
                    )
    return images, stored


def _list_store(where: Place, output: Place, stored: dict[Place, Fingerprint]) -> dict[str, Place]:
    found: dict[PurePosixPath, Place] = {}
    for name, file in list_files(where).items():
        image = where.below(name) if name else where
        path = PurePosixPath(name or image.path.rpartition("/")[2])
        written = _is_below(image, output) and where != output
        hidden = any(part.startswith(".") for part in path.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and not written:
            found[path] = image
            stored[image] = {"file": path.name, "bytes": file.bytes, "modified": file.modified}
    if not found:
        raise UserError(f"{where} contains no images: supported suffixes are {', '.join(sorted(SUFFIXES))}")
    counts = Counter(path.with_suffix("") for path in found)
    return {_name(path, alone=counts[path.with_suffix("")] == 1): image for path, image in found.items()}


def _name(path: PurePosixPath, *, alone: bool) -> str:
    """Return the name of an output: the path without suffix, or with `_suffix` if another image has the same name."""
    named = path.with_suffix("") if alone else path.with_name(f"{path.stem}_{path.suffix.lstrip('.')}")
    return unicodedata.normalize("NFC", str(named))


def _is_below(image: Place, folder: Place) -> bool:
    return image.store == folder.store and image.path.startswith(f"{folder.path}/")


def require_distinct_outputs(images: dict[str, Place], output: Place, task: str, *, geometric: bool) -> None:
    """Check, before the first prediction, that no output overwrites an image or another output.

    Raises:
        UserError: an output would overwrite a file.
    """
    if output.local is not None:
        own = {name: image.local for name, image in images.items() if image.local is not None}
        refuse_overwriting(own, output.local, task, geometric=geometric)
    sources, written = set(images.values()), {output.below(RESULTS)}
    for name in images:
        for ending in (*ENDINGS[task], *(GEOMETRIC if geometric else ())):
            target = output.below(name + ending)
            if target in sources:
                raise UserError(f"{target} is an input image and would be overwritten: choose another --output")
            if target in written:
                raise UserError(f"two images would both be written to {target}: use separate --output folders")
            written.add(target)
