"""Legends, colour bars and titles, drawn with Pillow."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from upscore.text import printable

BACKGROUND, FOREGROUND, MUTED = (252, 252, 250), (38, 38, 42), (120, 120, 126)
"""Colours of the strips around an image."""

LONGEST_TEXT = 500
"""Largest number of characters of a line; longer text is truncated."""


class LegendEntry(NamedTuple):
    """Entry of a legend: a patch, a name and a note.

    The patch is striped if it has several colours, and hollow if it has none.
    """

    name: str
    note: str
    colors: Sequence[tuple[int, ...]]


def font(size: float, text: str) -> ImageFont.FreeTypeFont:
    """Return Pillow's default font, or DejaVu Sans from matplotlib for text that is not ASCII."""
    return _load_font(size, text.isascii())


@lru_cache(maxsize=16)
def _load_font(size: float, is_ascii: bool) -> ImageFont.FreeTypeFont:
    if not is_ascii and (matplotlib := find_spec("matplotlib")) and matplotlib.origin:
        return ImageFont.truetype(Path(matplotlib.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return face


def font_size(picture: Image.Image) -> int:
    """Return the font size in pixels for a strip below an image."""
    return max(12, round((picture.width * picture.height) ** 0.5 / 48))


def fit(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Return the text on one line, truncated with an ellipsis if it is wider than `width` pixels."""
    text = printable(" ".join(text[:LONGEST_TEXT].split()))
    if face.getlength(text) <= width:
        return text
    fitting = bisect_right(range(1, len(text)), width, key=lambda end: face.getlength(text[:end] + "..."))
    return text[:fitting].rstrip() + "..."


def draw_legend(entries: list[LegendEntry], width: int, size: int) -> Image.Image:
    """Draw a legend as a strip, with as many rows as the entries need."""
    names = "".join(entry.name for entry in entries)
    face, small = font(size, names), font(size * 0.85, "")
    pad, row_height = round(size * 0.8), round(size * 1.75)
    places, x, row = [], pad, 0
    for entry in entries:
        extra = 1.9 * size + small.getlength(entry.note)
        name = fit(entry.name, face, width - 2 * pad - extra)
        taken = extra + face.getlength(name)
        if x > pad and x + taken > width - pad:
            x, row = pad, row + 1
        places.append((entry, name, x, pad + (row + 0.5) * row_height))
        x += taken + 1.3 * size

    strip = Image.new("RGB", (width, 2 * pad + (row + 1) * row_height), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for entry, name, x, y in places:
        _patch(draw, x, y - size * 0.5, size, entry.colors)
        draw.text((x + 1.45 * size, y), name, FOREGROUND, face, anchor="lm")
        draw.text((x + 1.9 * size + face.getlength(name), y), entry.note, MUTED, small, anchor="lm")
    return strip


def draw_color_bar(title: str, colors: Image.Image, width: int, size: int) -> Image.Image:
    """Draw a strip with a title on the left and a colour bar from 0 to 1 on the right."""
    face, small = font(size, title), font(size * 0.85, "")
    pad = round(size * 0.8)
    strip = Image.new("RGB", (width, 2 * pad + round(size * 1.75)), BACKGROUND)
    draw, y = ImageDraw.Draw(strip), strip.height / 2
    bar = colors.resize((min(width // 3, 12 * size), size))
    left = width - pad - round(1.2 * size) - bar.width
    strip.paste(bar, (left, round(y - size / 2)))
    draw.text((left - size * 0.5, y), "0", MUTED, small, anchor="rm")
    draw.text((left + bar.width + size * 0.5, y), "1", MUTED, small, anchor="lm")
    draw.text((pad, y), fit(title, face, left - pad - 2 * size), FOREGROUND, face, anchor="lm")
    return strip


def stack(pictures: list[Image.Image]) -> Image.Image:
    """Stack pictures vertically, centred."""
    width = max(picture.width for picture in pictures)
    sheet = Image.new("RGB", (width, sum(picture.height for picture in pictures)), BACKGROUND)
    top = 0
    for picture in pictures:
        sheet.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height
    return sheet


def percent(share: float) -> str:
    """Format a fraction as a percentage."""
    if share < 0.001:
        return "<0.1%"
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def _patch(draw: ImageDraw.ImageDraw, left: float, top: float, size: int, colors: Sequence[tuple[int, ...]]) -> None:
    radius, stripe = size * 0.22, size / max(1, len(colors))
    if not colors:
        box = (left, top, left + size, top + size)
        draw.rounded_rectangle(box, radius, outline=MUTED, width=max(1, size // 12))
    for k, color in enumerate(colors):
        box = (left + k * stripe, top, left + (k + 1) * stripe, top + size)
        first, last = k == 0, k == len(colors) - 1
        draw.rounded_rectangle(box, radius, fill=color, corners=(first, last, last, first))
