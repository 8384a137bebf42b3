"""Chapter: a classifier made convolutional shows where (FCN figure 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from upscore.inference.heatmap import HeatMap, heat_map
from upscore.models.classifiers import imagenet_classifier
from upscore.rendering import heat_overlay
from upscore.report.charts import ranking
from upscore.report.page import Chapter, Html, figure, heading, join, picture, row, text, tile

SUBJECTS = {
    "cat": ("chelsea.png", ("tabby cat", "tiger cat", "Egyptian cat")),
    "espresso": ("coffee.png", ("espresso",)),
    "tripod": ("camera.png", ("tripod",)),
    "moped": ("motorcycle_left.png", ("moped",)),
}
"""Photos inside scikit-image's wheel, and the ImageNet classes to look for in them."""


class Found(NamedTuple):
    """A photo and where something is in it."""

    name: str
    photo: Image.Image
    map: HeatMap

    @property
    def picture(self) -> Image.Image:
        """The photo under its heat, with a strip that has the label and the scale."""
        return heat_overlay(np.asarray(self.photo), self.map.heat, self.map.label)

    @property
    def bare_picture(self) -> Image.Image:
        """The photo under its heat alone."""
        return self.picture.crop((0, 0, *self.photo.size))


def look() -> Iterator[Found]:
    """Find each subject with EfficientNet-Lite0 and the ImageNet weights that are installed."""
    classifier = imagenet_classifier("efficientnet_lite0")
    for name, (file_name, labels) in SUBJECTS.items():
        with files("skimage").joinpath("data", file_name).open("rb") as file:
            photo = Image.open(file).convert("RGB")
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        yield Found(name, photo, heat_map(classifier, pixels, labels))


def chapter(found: Sequence[Found]) -> Chapter:
    """What the first photo's heat map shows, and those of the others."""
    first, others = found[0], found[1:]
    label = first.map.label
    return Chapter(
        anchor="where",
        title="A classifier already knows where",
        body=join(
            text(
                "A photo classifier gives one answer for the whole photo. It looks everywhere, then averages what it "
                "has found, and only then decides. But the deciding layer can just as well be applied at each place: "
                "the same weights, read as a convolution of size one. The network is then *fully convolutional*. It "
                "takes a photo of any size and gives a map of answers instead of one.",
                "Nothing was trained for the pictures below. The classifier, EfficientNet-Lite0, learned ImageNet's "
                "thousand classes from photos with a single label each, and nobody ever told it where in a photo the "
                "thing is.",
            ),
            row(
                [
                    tile(picture(first.photo, "A photo, as it is"), "the photo"),
                    tile(picture(first.bare_picture, f"The same photo under its heat map of {label}"), label),
                ],
                "pair",
            ),
            figure(
                ranking(first.map.top),
                "One answer: what the classifier says of the photo as a whole. The heat map adds up the probabilities "
                f"of {label}, place by place. A place sees far around itself, so heat says where the evidence "
                "is; it is no outline.",
            ),
            *_more(others),
        ),
    )


def _more(found: Sequence[Found]) -> list[Html]:
    if not found:
        return []
    tiles = [tile(picture(one.bare_picture, f"A heat map of {one.map.label}"), one.map.label) for one in found]
    return [heading("The same network, other questions"), row(tiles, "few")]
