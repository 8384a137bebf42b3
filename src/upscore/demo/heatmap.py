"""Chapter: heat maps of an image classifier that is applied as a convolution (FCN, figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from upscore.demo.page import Chapter, Html, figure, heading, join, picture, ranking, row, terminal, text, tile
from upscore.inference.heatmap import HeatMap, heat_map
from upscore.models.classifiers.imagenet import imagenet_classifier
from upscore.viz.overlays import heat_overlay

SUBJECTS = {
    "cat": ("chelsea.png", ("tabby cat", "tiger cat", "Egyptian cat")),
    "espresso": ("coffee.png", ("espresso",)),
    "tripod": ("camera.png", ("tripod",)),
    "moped": ("motorcycle_left.png", ("moped",)),
}
"""Photographs in scikit-image's wheel, and the ImageNet classes whose heat maps are computed."""


class Found(NamedTuple):
    """A photograph and its heat map."""

    name: str
    photo: Image.Image
    map: HeatMap

    @property
    def picture(self) -> Image.Image:
        """The photograph under its heat map, above a strip with the label and the scale."""
        return heat_overlay(np.asarray(self.photo), self.map.heat, self.map.label)

    @property
    def bare_picture(self) -> Image.Image:
        """The photograph under its heat map."""
        return self.picture.crop((0, 0, *self.photo.size))


def look() -> Iterator[Found]:
    """Compute the heat map of each subject with EfficientNet-Lite0 and the installed ImageNet weights."""
    classifier = imagenet_classifier("efficientnet_lite0")
    for name, (file_name, labels) in SUBJECTS.items():
        with files("skimage").joinpath("data", file_name).open("rb") as file:
            photo = Image.open(file).convert("RGB")
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        yield Found(name, photo, heat_map(classifier, pixels, labels))


def chapter(found: Sequence[Found]) -> Chapter:
    """The heat map of the first photograph, and those of the others."""
    first, others = found[0], found[1:]
    label = first.map.label
    return Chapter(
        anchor="where",
        title="A classifier shows where it sees a cat",
        body=join(
            text(
                "An image classifier gives one answer for the whole image: it averages its last feature map and "
                "applies a linear layer to the average. The same layer can be applied at every position, as a 1 x 1 "
                "convolution. The network is then *fully convolutional*: it takes an image of any size and returns a "
                "map of class probabilities.",
                "Nothing was trained for these pictures. The classifier is EfficientNet-Lite0 with ImageNet weights, "
                "whose training images have one label each and no positions.",
            ),
            row(
                [
                    tile(picture(first.photo, "A photograph of a cat"), "image"),
                    tile(picture(first.bare_picture, f"The same photograph under its heat map of {label}"), label),
                ],
                "pair",
            ),
            figure(
                ranking(first.map.top),
                "The probabilities of the whole image. The heat map adds up those of "
                f"{label} at every position. A position depends on a large part of the image, so the map shows where "
                "the evidence is, not an outline.",
            ),
            terminal(['upscore heatmap photo.jpg --label "tiger cat" --label tabby']),
            *_more(others),
        ),
    )


def _more(found: Sequence[Found]) -> list[Html]:
    if not found:
        return []
    tiles = [tile(picture(one.bare_picture, f"A heat map of {one.map.label}"), one.map.label) for one in found]
    return [heading("Other classes"), row(tiles, "few")]
