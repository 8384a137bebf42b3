import numpy as np

from upscore.labels import VOID
from upscore.viz.colormaps import class_colors, heat_colors, palette


def test_palette_equals_that_of_voc():
    assert palette(21)[[0, 1, 2, 3, 8, 15, 20]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
    ]
    assert palette(256)[VOID].tolist() == [224, 224, 192]
    assert len(np.unique(palette(256), axis=0)) == 256


def test_colors_of_overlays_differ_and_none_is_dark():
    colors = class_colors(255)
    assert colors.shape == (255, 3)
    assert colors.dtype == np.uint8
    assert len(np.unique(colors, axis=0)) == 255
    assert colors.max(1).min() > 100
    assert (class_colors(5) == colors[:5]).all()


def test_heat_colors_are_even_in_lightness():
    """CIE lightness increases monotonically, in steps within a factor of two of their mean."""
    linear = (heat_colors() / 255) ** 2.2 @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(linear[::16]) - 16
    steps = np.diff(lightness)
    assert steps.min() > steps.mean() / 2
    assert steps.max() < steps.mean() * 2
