"""Creates the example data set of the package: 56 crops of nuclei images, 256 x 256 pixels each.

    python recipes/nuclei_example.py NUCLEI

NUCLEI contains `images/` and `labels/` of the 2018 Data Science Bowl (BBBC038, CC0), as `recipes/nuclei.py` reads them.
`sources.csv` in the example lists the images and their crops: train/ has training images of the built-in nuclei model,
val/ has validation images of it.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from upscore.data.example import example_path
from upscore.files import atomic_path

SIDE = 256
QUALITY = 92
"""JPEG quality of colour images; grey images are PNG files."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=example_path(), help="folder with sources.csv")
    args = parser.parse_args(arguments)
    with (args.output / "sources.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            write_pair(row, args.data, args.output / row["split"])


def write_pair(row: dict[str, str], data: Path, folder: Path) -> None:
    """Write the image and the label map of a row of sources.csv."""
    left, top, side = (int(row[name]) for name in ("left", "top", "side"))
    box = (left, top, left + side, top + side)
    image = Image.open(data / "images" / f"{row['source']}.png").convert("RGB").crop(box)
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS) if side != SIDE else image
    channels = np.asarray(image)
    if np.array_equal(channels[..., 0], channels[..., 1]) and np.array_equal(channels[..., 0], channels[..., 2]):
        _save(Image.fromarray(channels[..., 0]), folder / "images" / f"{row['name']}.png", optimize=True)
    else:
        _save(image, folder / "images" / f"{row['name']}.jpg", quality=QUALITY, subsampling=0, optimize=True)

    label = np.asarray(Image.open(data / "labels" / f"{row['source']}.png"))[top : top + side, left : left + side]
    nearest = (np.arange(SIDE) * 2 + 1) * side // (2 * SIDE)
    ids = np.unique(label[np.ix_(nearest, nearest)], return_inverse=True)
    numbers = ids[1].reshape(SIDE, SIDE) + (ids[0][0] != 0)  # from 1, without gaps
    _save(Image.fromarray(numbers.astype(np.uint16)), folder / "labels" / f"{row['name']}.png", optimize=True)


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, **options)


if __name__ == "__main__":
    main()
