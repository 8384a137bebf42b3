"""Helpers that write small data sets in folder layouts."""

from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[2] / "../shared/data"


def write_image(path, height=4, width=6, value=100):
    """Write an RGB image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def label(path, values=(0, 1), height=4, width=6):
    """Write a label map whose rows repeat `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(values, np.uint8), (height, width))).save(path)
    return path


def pairs(root, names, images="images", labels="labels", values=(0, 1)):
    """Write images and labels with the given names."""
    for name in names:
        write_image(root / images / f"{name}.jpg")
        label(root / labels / f"{name}.png", values)
    return root


def names(dataset):
    """Return the names of the samples."""
    return [dataset[index].name for index in range(len(dataset))]
