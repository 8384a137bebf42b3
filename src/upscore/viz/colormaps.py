"""Colour maps of label maps, overlays and heat maps.

C: classes. Colours are RGB, uint8.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import ImageColor

# Seven colours that are distinct in colour-blind vision (after Okabe and Ito), then greedily the most distant colour
# from those before it in normal, deuteranope and protanope vision.
# fmt: off
COLORS = [
    "#56b4e9", "#e67e00", "#009e73", "#cc79a7", "#f0dc3c", "#005fb2", "#cd3e2a", "#4bf2d8", "#7a7af5", "#a11d6c",
    "#f6a88d", "#8fce3c", "#8c5a2b", "#674f8d", "#90c9d3", "#ac1730", "#a672cb", "#e9d1a8", "#4d68dc", "#a8aa5d",
]
# fmt: on


def palette(num_classes: int) -> np.ndarray:
    """Return the colour map of PASCAL VOC, (C, 3) uint8 for up to 256 labels; 0 is black, 255 (void) is cream.

    As in the VOC development kit, the bits of a label, from the lowest, set the bits of red, green and blue in turn,
    from the highest.
    """
    label = np.arange(num_classes)[:, None]
    channel = np.arange(3)
    color = np.zeros((num_classes, 3), np.int64)
    for bit in range(8):
        color |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return color.astype(np.uint8)


def class_colors(num_classes: int) -> np.ndarray:
    """Return the colours of overlays, (C, 3) uint8; none is black, the first seven suit colour-blind viewers."""
    colors = [_rgb(color) for color in COLORS[:num_classes]]
    for k in range(len(colors), num_classes):
        hue, lightness = k * 0.618034 % 1, (0.42, 0.58, 0.74)[k % 3]
        colors.append(255 * np.array(colorsys.hls_to_rgb(hue, lightness, 0.6)))
    return np.rint(colors).astype(np.uint8).reshape(-1, 3)


def heat_colors() -> np.ndarray:
    """Return matplotlib's "inferno" colour map, (256, 3) uint8."""
    from matplotlib import colormaps

    return colormaps["inferno"](np.arange(256), bytes=True)[:, :3]


def _rgb(color: str) -> np.ndarray:
    return np.array(ImageColor.getrgb(color), np.float64)
