"""Class heat maps from an image classifier that is applied convolutionally (FCN figure 2).

H W image height and width, h w number of cells of the heat map, s stride of the classifier, f step between cells.
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
"""Largest number of pixels of a resized image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Probability of some classes at each pixel of an image."""

    label: str
    """Names of the classes, joined by "or"."""
    heat: np.ndarray
    """(H, W) float32, probability of the classes around each pixel, in 0..1."""
    top: list[tuple[str, float]]
    """The five most probable classes of the whole image with their probabilities, in descending order."""


def heat_map(classifier: Classifier, image: Tensor, labels: Sequence[str] = (), scale: float | None = None) -> HeatMap:
    """Compute a class heat map of an image with an image classifier.

    The classifier is converted to a convolutional network and applied to s/f x s/f shifts of the image
    (shift-and-stitch). The heat is the softmax probability of the classes at each cell, smoothed over one stride and
    resampled to the pixels. Networks with global average pooling classify each cell before the pooling, so that the
    mean of the logits is the result for the whole image; for networks with fully connected layers (VGG) each cell is
    the result for one window of the training size. The receptive field of a cell is much larger than its stride: the
    heat map shows evidence, not outlines.

    Args:
        classifier: an ImageNet classifier.
        image: (3, H, W) uint8, RGB.
        labels: names of ImageNet classes, whose probabilities are summed; without any, the most probable class.
        scale: shorter side of the image in training sizes; larger values find smaller objects. None is 1.25 for
            networks with global average pooling and 2 for others.

    Raises:
        UserError: ImageNet has no such class, or the image is too large at this scale.
    """
    top = _top_classes(classifier, image)
    names = classifier.classes
    indices = list(dict.fromkeys(class_index(names, label) for label in labels)) or [top[0][0]]
    dense = convolutionalize(classifier.net, classifier.input_size, pool=False)
    stride, cells, first = _layout(dense, classifier.input_size)
    step = stride // 2 if cells == 1 else stride // 4

    if scale is None:
        scale = 2.0 if cells == 1 else 1.25
    resized = _resized(image, classifier.input_size, scale)
    # Reflection padding, so that a cell is centred near every pixel.
    border = stride * max(1, math.ceil(first / stride))
    mirrored = F.pad(classifier.preprocessing(resized), [border] * 4, mode="reflect")

    def probability(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        whole_cells = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        return dense(whole_cells).softmax(1)[:, indices].sum(1, keepdim=True)

    with torch.inference_mode():
        probabilities = _smoothed(shift_and_stitch(probability, mirrored, stride, step), stride // step)
    heat = _sampled(probabilities, image.shape[-2:], resized.shape[-2:], border - first, step)
    label = " or ".join(names[i] for i in indices)
    return HeatMap(label=label, heat=heat.clamp(0, 1).numpy(), top=[(names[i], p) for i, p in top])


def class_index(classes: list[str], label: str) -> int:
    """Return the index of a class by any of its ImageNet names ("tabby", "tabby cat"), case-insensitively.

    Raises:
        UserError: no class has this name; similar names are listed.
    """
    if label in classes:  # the case distinguishes the dog Cardigan from the jacket
        return classes.index(label)
    index_of = {name.lower(): index for index, name in reversed(list(enumerate(classes)))}  # the first of equal names
    index_of = {**_synonyms(), **index_of}
    normalised = " ".join(label.lower().replace("_", " ").split())
    if normalised in index_of:
        return index_of[normalised]
    close = [name for name in index_of if normalised in name.split()] + get_close_matches(normalised, index_of, 5)
    hint = (
        f"did you mean {', '.join(dict.fromkeys(close[:8]))}?"
        if close
        else "leave --label out for the most probable class"
    )
    raise UserError(f'ImageNet has no class "{label}": {hint}')


@cache
def _synonyms() -> dict[str, int]:
    """Return all lower-case names of ImageNet classes; an ambiguous name belongs to the first class."""
    info, index_of = ImageNetInfo(), {}
    for index in range(info.num_classes()):
        for name in str(info.index_to_description(index)).lower().split(", "):
            index_of.setdefault(name, index)
    return index_of


def _top_classes(classifier: Classifier, image: Tensor) -> list[tuple[int, float]]:
    """Return the five most probable classes of the whole image, in its own aspect ratio."""
    resized = _resized(image, classifier.input_size, scale=1.0)
    with torch.inference_mode():
        probabilities, classes = classifier.net(classifier.preprocessing(resized)).softmax(1)[0].topk(5)
    return list(zip(classes.tolist(), probabilities.tolist(), strict=True))


def _layout(dense: nn.Module, side: int) -> tuple[int, int, float]:
    """Return the stride, the number of cells per side at the training size, and the centre of the first cell.

    The cells are assumed to be centred in the image, since networks trained with horizontal flips are symmetric
    whatever their padding.
    """
    with torch.inference_mode():
        cells, larger = (dense(torch.zeros(1, 3, length, length)).shape[-1] for length in (side, side + 256))
    stride = 256 // (larger - cells)
    return stride, cells, (side - 1) / 2 - stride * (cells - 1) / 2


def _resized(image: Tensor, input_size: int, scale: float) -> Tensor:
    """Resize an image (3, H, W) to (1, 3, h, w) with a shorter side of `scale` training sizes."""
    if not scale >= 1:
        raise UserError(f"scale={scale} is too small: use 1 or more")
    factor = scale * input_size / min(image.shape[-2:])
    height, width = (max(1, round(factor * length)) for length in image.shape[-2:])
    if height * width > MAX_PIXELS:
        raise UserError(
            f"at scale {scale:g} the image would be {width}x{height} pixels, more than {MAX_PIXELS // 10**6} million: "
            "use a smaller --scale, or a part of the image"
        )
    pixels = F.interpolate(image[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return pixels.clamp(0, 255)


def _smoothed(cells: Tensor, stride: int) -> Tensor:
    """Smooth a map (1, 1, h, w) with the triangular kernel of bilinear upsampling by `stride`."""
    triangle = 1 - (torch.arange(1 - stride, stride) / stride).abs()
    kernel = torch.outer(triangle, triangle)[None, None] / stride**2
    return F.conv2d(F.pad(cells, [stride - 1] * 4, mode="replicate"), kernel)


def _sampled(cells: Tensor, size: torch.Size, resized: torch.Size, origin: float, step: int) -> Tensor:
    """Sample a map (1, 1, h, w) at the pixels of an image whose first pixel is `origin` pixels after the first cell."""
    axes = []
    for pixels, length, count in zip(size, resized, cells.shape[-2:], strict=True):
        position = (torch.arange(pixels) + 0.5) * length / pixels - 0.5
        cell = (position + origin) / step
        axes.append((2 * cell + 1) / count - 1)  # grid_sample: -1 and 1 are the edges of the map
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], -1)[None]
    return F.grid_sample(cells, grid, padding_mode="border", align_corners=False)[0, 0]
