"""The photos of folders and of stores, by the names of their outputs."""

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


def list_photos(sources: Sequence[str | Path], output: Place) -> tuple[dict[str, Place], dict[Place, Fingerprint]]:
    """Find images as `upscore.inference.outputs.find_images` does, in folders and stores.

    What lies below `output`, should it be inside one of the folders, is left out.

    Returns:
        The images by the names of their outputs, and the fingerprints of those in stores.

    Raises:
        UserError: there are no photos, or two would be written to the same files.
    """
    places = [place(source) for source in sources]
    photos: dict[str, Place] = {}
    if local := [where.local for where in places if where.local is not None]:
        photos = {name: place(path) for name, path in find_images(local, output=output.local).items()}
    stored: dict[Place, Fingerprint] = {}
    for where in dict.fromkeys(places):
        if where.local is None:
            for name, photo in _list_store(where, output, stored).items():
                if photos.setdefault(name, photo) != photo:
                    raise UserError(
                        f"{photo} and {photos[name]} would be written to the same files: predict them apart"
                    )
    return photos, stored


def _list_store(where: Place, output: Place, stored: dict[Place, Fingerprint]) -> dict[str, Place]:
    found: dict[PurePosixPath, Place] = {}
    for name, file in list_files(where).items():
        photo = where.below(name) if name else where
        path = PurePosixPath(name or photo.path.rpartition("/")[2])
        written = _is_below(photo, output) and where != output
        hidden = any(part.startswith(".") for part in path.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and not written:
            found[path] = photo
            stored[photo] = {"file": path.name, "bytes": file.bytes, "modified": file.modified}
    if not found:
        raise UserError(f"no photos in {where}: they end in {', '.join(sorted(SUFFIXES))}")
    counts = Counter(path.with_suffix("") for path in found)
    return {_name(path, alone=counts[path.with_suffix("")] == 1): photo for path, photo in found.items()}


def _name(path: PurePosixPath, *, alone: bool) -> str:
    """Without the suffix; but a.jpg beside an a.png is a_jpg."""
    named = path.with_suffix("") if alone else path.with_name(f"{path.stem}_{path.suffix.lstrip('.')}")
    return unicodedata.normalize("NFC", str(named))


def _is_below(photo: Place, folder: Place) -> bool:
    return photo.store == folder.store and photo.path.startswith(f"{folder.path}/")


def refuse_photos_output(photos: dict[str, Place], output: Place, task: str, *, geometric: bool) -> None:
    """Make sure, before the first is written, that no output takes the place of a photo or of another output.

    Raises:
        UserError: one would.
    """
    if output.local is not None:
        own = {name: photo.local for name, photo in photos.items() if photo.local is not None}
        refuse_overwriting(own, output.local, task, geometric=geometric)
    sources, written = set(photos.values()), {output.below(RESULTS)}
    for name in photos:
        for ending in (*ENDINGS[task], *(GEOMETRIC if geometric else ())):
            target = output.below(name + ending)
            if target in sources:
                raise UserError(f"{target} is a photo and would be overwritten: choose another --output")
            if target in written:
                raise UserError(f"two photos would both be written to {target}: predict them apart")
            written.add(target)
