"""What a segment looks like, in numbers that no label went into.

H W: pixels; S: segments.
"""

from __future__ import annotations

import numpy as np
from skimage.color import rgb2gray, rgb2lab
from skimage.filters import sobel

FEATURES = (
    "lightness",
    "green to red",
    "blue to yellow",
    "spread of lightness",
    "spread of green to red",
    "spread of blue to yellow",
    "strength of edges",
    "logarithm of the share of the photo",
    "height in the photo",
    "distance from the middle",
)


def describe(photo: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and (H, W) segments -> (S, 10) float32, a column for each of `FEATURES`.

    Colours are means in Lab, spreads their standard deviations, the strength of edges is the mean of Sobel's; places
    are from 0 (top, middle) to 1 (bottom) or 0.5 (left and right alike).
    """
    height, width = segments.shape
    flat = segments.ravel()
    sizes = np.bincount(flat)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(flat, weights=values.ravel()) / sizes

    lab = rgb2lab(photo)
    colors = [mean(lab[..., channel]) for channel in range(3)]
    squares = [mean(lab[..., channel] ** 2) for channel in range(3)]
    spreads = [np.sqrt(np.maximum(square - color**2, 0)) for color, square in zip(colors, squares, strict=True)]
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    x = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    columns = [
        *colors,
        *spreads,
        mean(sobel(rgb2gray(photo))),
        np.log(sizes / flat.size),
        mean(y),
        np.abs(mean(x) - 0.5),
    ]
    return np.stack(columns, axis=1).astype(np.float32)
