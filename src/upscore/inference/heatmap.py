"""Where in a photo is the tiger cat? A classifier, slid over the whole photo (FCN figure 2).

H W pixels of the photo, h w cells of the heat map, s the stride of the classifier, f the step between two cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

from upscore.errors import UserError
from upscore.models.classifiers import Classifier
from upscore.models.convolutionalize import cell_coordinates, convolutionalize
from upscore.models.dense import shift_and_stitch

MAX_PIXELS = 4_000_000
"""The largest photo, after resizing, that is run at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """How much of a class there is at each pixel of a photo."""

    label: str
    heat: np.ndarray
    """(H, W) float32, the probability of the class where it is looked for, 0..1."""
    top: list[tuple[str, float]]
    """The five most probable classes of the whole photo, the best first."""


def heat_map(classifier: Classifier, image: Tensor, label: str | None = None, scale: float | None = None) -> HeatMap:
    """Find a class in a photo, (3, H, W) uint8 RGB, with nothing but an image classifier.

    The classifier is made convolutional and run on the photo at s/f x s/f shifts (shift-and-stitch); the softmax over
    its classes at each cell is the heat, smoothed over one stride, as bilinear upsampling would, and drawn over the
    pixel that the cell is centred on. Where the network averages its last map before it classifies, each cell is
    classified before that average, so that it speaks for its own surroundings: the average of those logits is the
    answer for the whole photo. Where it has fully connected layers, as VGG, each cell is the answer for one window of
    the training size. Either way a cell sees far more than the pixels it colours: heat shows where the evidence is, and
    is no outline.

    Args:
        label: any of the names of an ImageNet class; without one, the most probable class of the photo.
        scale: the photo's shorter side in training sizes. A larger one looks for smaller things. By default 1 for
            networks that average their last map, and 2 for the others, which need room to slide.

    Raises:
        UserError: there is no such label, or the photo is too large at this scale.
    """
    top = _top_classes(classifier, image)
    names = classifier.classes
    index = top[0][0] if label is None else class_index(names, label)
    dense = convolutionalize(classifier.net, classifier.input_size, pool=False)
    coordinates = cell_coordinates(dense)
    stride = round(1 / coordinates.scale)
    sees_windows = _cells_at_training_size(dense, classifier.input_size) == 1
    step = stride // 2 if sees_windows else stride // 4

    photo = _resized(image, classifier.input_size, scale or (2.0 if sees_windows else 1.0))
    # The photo is mirrored at its border, so that there is a cell over every pixel.
    border = stride * max(1, math.ceil(-coordinates.shift))
    mirrored = F.pad(classifier.preprocessing(photo), [border] * 4, mode="reflect")

    def probability(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        whole_cells = F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
        return dense(whole_cells).softmax(1)[:, index : index + 1]

    with torch.inference_mode():
        cells = _smoothed(shift_and_stitch(probability, mirrored, stride, step), stride // step)
    origin = float(coordinates.shift) * stride + border
    heat = _sampled(cells, image.shape[-2:], photo.shape[-2:], origin, step)
    return HeatMap(label=names[index], heat=heat.numpy(), top=[(names[i], p) for i, p in top])


def class_index(classes: list[str], label: str) -> int:
    """The index of a class by any of its ImageNet names ("tabby", "tabby cat"), in capitals or not.

    Raises:
        UserError: no class has this name; names like it are listed.
    """
    synonyms = ImageNetInfo()
    index_of = {name.lower(): index for index, name in reversed(list(enumerate(classes)))}  # of two cranes, the first
    for index in range(len(classes)):
        for name in str(synonyms.index_to_description(index)).lower().split(", "):
            index_of.setdefault(name, index)
    wanted = " ".join(label.lower().replace("_", " ").split())
    if wanted in index_of:
        return index_of[wanted]
    close = [name for name in index_of if wanted in name.split()] + get_close_matches(wanted, index_of, 5)
    hint = f"did you mean {', '.join(dict.fromkeys(close[:8]))}?" if close else "leave --label out to see the photo's own"
    raise UserError(f'ImageNet has no class "{label}": {hint}')


def _top_classes(classifier: Classifier, image: Tensor) -> list[tuple[int, float]]:
    """The classifier as it is, on the whole photo at its training size."""
    size = classifier.input_size
    whole = F.interpolate(image[None].float(), (size, size), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.inference_mode():
        probabilities, classes = classifier.net(classifier.preprocessing(whole)).softmax(1)[0].topk(5)
    return list(zip(classes.tolist(), probabilities.tolist(), strict=True))


def _cells_at_training_size(dense: nn.Module, input_size: int) -> int:
    with torch.inference_mode():
        return dense(torch.zeros(1, 3, input_size, input_size)).shape[-1]


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
    """A (1, 1, h, w) map, whose first cell is `origin` pixels before the resized photo's first, at the photo's pixels."""
    axes = []
    for pixels, length, count in zip(size, resized, cells.shape[-2:], strict=True):
        position = (torch.arange(pixels) + 0.5) * length / pixels - 0.5
        cell = (position + origin) / step
        axes.append((2 * cell + 1) / count - 1)  # grid_sample's own scale: -1 and 1 are the map's edges
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], -1)[None]
    return F.grid_sample(cells, grid, padding_mode="border", align_corners=False)[0, 0]
