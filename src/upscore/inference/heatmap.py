"""Where in a photo is the tiger cat? A classifier, slid over the whole photo (FCN figure 2).

H W pixels of the photo, h w cells of the heat map, s the stride of the classifier, f the step between two cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

import numpy as np
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.models.classifiers.convolutionalize import convolutionalize
from upscore.models.classifiers.dense import shift_and_stitch
from upscore.models.classifiers.imagenet import Classifier

MAX_PIXELS = 4_000_000
"""The largest photo, after resizing, that is run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """How much speaks for some classes, at each pixel of a photo."""

    label: str
    """The names of the classes looked for, with "or" between them."""
    heat: np.ndarray
    """(H, W) float32, the probability that the classifier gives them around a pixel, 0..1."""
    top: list[tuple[str, float]]
    """The five most probable classes of the whole photo, the best first."""


def heat_map(classifier: Classifier, image: Tensor, labels: Sequence[str] = (), scale: float | None = None) -> HeatMap:
    """Find classes in a photo, (3, H, W) uint8 RGB, with nothing but an image classifier.

    The classifier is made convolutional and run at s/f x s/f shifts of the photo (shift-and-stitch). The softmax over
    its classes at each cell is the heat, smoothed over one stride as by bilinear upsampling, and drawn at the pixel on
    which the cell is centred. Where the network averages its last map before it classifies, each cell is
    classified before that average, so that it speaks for its own surroundings: the average of those logits is the
    answer for the whole photo. Where it has fully connected layers, as VGG, each cell is the answer for one window of
    the training size. Either way a cell sees far more than the pixels it colours: heat shows where the evidence is, and
    is no outline.

    Args:
        labels: any of the names of ImageNet classes, whose probabilities are added up; without one, the most probable
            class of the photo.
        scale: the photo's shorter side in training sizes. A larger one looks for smaller things. By default 1.25 for
            networks that average their last map, and 2 for the others, which need room to slide.

    Raises:
        UserError: there is no such label, or the photo is too large at this scale.
    """
    top = _top_classes(classifier, image)
    names = classifier.classes
    indices = list(dict.fromkeys(class_index(names, label) for label in labels)) or [top[0][0]]
    dense = convolutionalize(classifier.net, classifier.input_size, pool=False)
    stride, cells, first = _layout(dense, classifier.input_size)
    step = stride // 2 if cells == 1 else stride // 4

    if scale is None:
        scale = 2.0 if cells == 1 else 1.25
    photo = _resized(image, classifier.input_size, scale)
    # The photo is mirrored at its border, so that there is a cell over every pixel.
    border = stride * max(1, math.ceil(first / stride))
    mirrored = F.pad(classifier.preprocessing(photo), [border] * 4, mode="reflect")

    def probability(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        whole_cells = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        return dense(whole_cells).softmax(1)[:, indices].sum(1, keepdim=True)

    with torch.inference_mode():
        probabilities = _smoothed(shift_and_stitch(probability, mirrored, stride, step), stride // step)
    heat = _sampled(probabilities, image.shape[-2:], photo.shape[-2:], border - first, step)
    label = " or ".join(names[i] for i in indices)
    return HeatMap(label=label, heat=heat.clamp(0, 1).numpy(), top=[(names[i], p) for i, p in top])


def class_index(classes: list[str], label: str) -> int:
    """The index of a class by any of its ImageNet names ("tabby", "tabby cat"), in capitals or not.

    Raises:
        UserError: no class has this name; names like it are listed.
    """
    if label in classes:  # a Cardigan is a dog, a cardigan is a jacket
        return classes.index(label)
    index_of = {name.lower(): index for index, name in reversed(list(enumerate(classes)))}  # of two cranes, the first
    index_of = {**_synonyms(), **index_of}
    wanted = " ".join(label.lower().replace("_", " ").split())
    if wanted in index_of:
        return index_of[wanted]
    close = [name for name in index_of if wanted in name.split()] + get_close_matches(wanted, index_of, 5)
    hint = (
        f"did you mean {', '.join(dict.fromkeys(close[:8]))}?" if close else "leave --label out to see the photo's own"
    )
    raise UserError(f'ImageNet has no class "{label}": {hint}')


@cache
def _synonyms() -> dict[str, int]:
    """All names of ImageNet's classes, in small letters; a name of two classes is the first one's."""
    info, index_of = ImageNetInfo(), {}
    for index in range(info.num_classes()):
        for name in str(info.index_to_description(index)).lower().split(", "):
            index_of.setdefault(name, index)
    return index_of


def _top_classes(classifier: Classifier, image: Tensor) -> list[tuple[int, float]]:
    """The classifier as it is, on the whole photo in its own proportions."""
    photo = _resized(image, classifier.input_size, scale=1.0)
    with torch.inference_mode():
        probabilities, classes = classifier.net(classifier.preprocessing(photo)).softmax(1)[0].topk(5)
    return list(zip(classes.tolist(), probabilities.tolist(), strict=True))


def _layout(dense: nn.Module, side: int) -> tuple[int, int, float]:
    """Stride, cells in a row at the training size, and the pixel that the first of them is centred on.

    The row is taken to lie in the middle of the image, the only place that is the same for a mirrored photo: networks
    trained on mirrored photos settle there, whatever their padding.
    """
    with torch.inference_mode():
        cells, more = (dense(torch.zeros(1, 3, length, length)).shape[-1] for length in (side, side + 256))
    stride = 256 // (more - cells)
    return stride, cells, (side - 1) / 2 - stride * (cells - 1) / 2


def _resized(image: Tensor, input_size: int, scale: float) -> Tensor:
    """(3, H, W) to (1, 3, h, w) with a shorter side of `scale` training sizes."""
    if not scale >= 1:
        raise UserError(f"a scale of {scale} would make the photo smaller than the classifier takes: give 1 or more")
    factor = scale * input_size / min(image.shape[-2:])
    height, width = (max(1, round(factor * length)) for length in image.shape[-2:])
    if height * width > MAX_PIXELS:
        raise UserError(
            f"at scale {scale:g} the photo would be {width}x{height} pixels, more than {MAX_PIXELS // 10**6} million: "
            "give a smaller --scale, or a part of the photo"
        )
    pixels = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return pixels.clamp(0, 255)


def _smoothed(cells: Tensor, stride: int) -> Tensor:
    """A (1, 1, h, w) map under a triangle as wide as bilinear upsampling by `stride` has it; borders are repeated."""
    triangle = 1 - (torch.arange(1 - stride, stride) / stride).abs()
    kernel = torch.outer(triangle, triangle)[None, None] / stride**2
    return F.conv2d(F.pad(cells, [stride - 1] * 4, mode="replicate"), kernel)


def _sampled(cells: Tensor, size: torch.Size, resized: torch.Size, origin: float, step: int) -> Tensor:
    """A (1, 1, h, w) map at the photo's pixels; its first cell is `origin` pixels before the resized photo's first."""
    axes = []
    for pixels, length, count in zip(size, resized, cells.shape[-2:], strict=True):
        position = (torch.arange(pixels) + 0.5) * length / pixels - 0.5
        cell = (position + origin) / step
        axes.append((2 * cell + 1) / count - 1)  # grid_sample's own scale: -1 and 1 are the map's edges
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], -1)[None]
    return F.grid_sample(cells, grid, padding_mode="border", align_corners=False)[0, 0]
