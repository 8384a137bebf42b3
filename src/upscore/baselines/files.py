"""The segments of photos as files, and a comparison as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from upscore.baselines.comparison import Comparison
from upscore.baselines.pictures import comparison_picture, plot_oracle, segments_picture
from upscore.baselines.words import as_json, markdown
from upscore.errors import UserError
from upscore.files import atomic_path, write_text

ENDINGS = ("_segments.png", "_ids.png")
MOST_IDS = 65_535


def refuse_overwriting(photos: dict[str, Path], output: Path) -> None:
    """Make sure that no photo, by the name of its output, is written over.

    Raises:
        UserError: one would be.
    """
    sources = {photo.resolve() for photo in photos.values()}
    for name in photos:
        for path in _beside(output / name):
            if path.resolve() in sources:
                raise UserError(f"{path} is a photo and would be overwritten: choose another --output")


def write_segments(photo: np.ndarray, segments: np.ndarray, base: Path, title: str) -> None:
    """Write `base_segments.png`, a picture, and `base_ids.png`: (H, W) 16-bit numbers of the segments, from 1.

    Raises:
        UserError: there are more segments than 16 bits can count, or a file can't be written.
    """
    picture, ids = _beside(base)
    if segments.max() >= MOST_IDS:
        raise UserError(f"{ids}: {segments.max() + 1:,} segments don't fit in 16 bits: give a lower --segments")
    with _writing(base):
        _save(Image.fromarray((segments + 1).astype(np.uint16)), ids)
        _save(segments_picture(photo, segments, title), picture)


def write_comparison(comparison: Comparison, output: Path, about: dict[str, object]) -> list[Path]:
    """Write METHOD.md, METHOD.json (with what it is `about`), METHOD_oracle.png and, where rows were kept, METHOD.png.

    Returns the paths. Raises:
        UserError: a file can't be written.
    """
    base = output / comparison.method
    written = [base.with_suffix(".md"), base.with_suffix(".json"), output / f"{comparison.method}_oracle.png"]
    with _writing(base):
        write_text(written[0], markdown(comparison, f"{comparison.method} on {about['data']}"))
        write_text(written[1], json.dumps({**about, **as_json(comparison)}, indent=2, allow_nan=False) + "\n")
        plot_oracle(comparison, written[2])
        if comparison.rows:
            written.append(base.with_suffix(".png"))
            _save(comparison_picture(comparison), written[-1])
    return written


def _beside(base: Path) -> list[Path]:
    return [base.with_name(base.name + ending) for ending in ENDINGS]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)


@contextmanager
def _writing(base: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or base}: can't be written ({error.strerror or error})") from error
