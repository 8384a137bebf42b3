"""The demo's page: HTML elements, and figures of images, objects and the steps from a proposal to a mask.

N objects, P boxes; H W pixels of the image. Images are (H, W, 3) uint8 RGB, label maps (H, W) integers with 0 for the
background; boxes are (x1, y1, x2, y2) in pixels of the image. All figures are enlarged by `ENLARGED`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import NewType

import numpy as np
from PIL import Image, ImageDraw
from skimage.measure import regionprops

from upscore.viz.legend import BACKGROUND, FOREGROUND
from upscore.viz.overlays import blend, borders, object_colors

ENLARGED = 2
OPACITY = 0.5
LINE = 2
"""Width of outlines, in pixels of the picture."""

DARK, BRIGHT = 128, 235
"""An image whose brightest pixels are below DARK is shown brighter, so that they reach BRIGHT."""


def image_picture(image: np.ndarray) -> Image.Image:
    """The image; a dark one is brightened."""
    brightest = np.percentile(image, 99.7)
    if brightest < DARK:
        image = np.minimum(255, image * (BRIGHT / max(1.0, brightest))).astype(np.uint8)
    picture = Image.fromarray(image)
    return picture.resize(_size(image), Image.Resampling.LANCZOS)


def objects_picture(image: np.ndarray, label_map: np.ndarray) -> Image.Image:
    """The image in grey, with every object of the label map outlined and in a colour unlike its neighbours'."""
    ids, label_map = np.unique(label_map, return_inverse=True)
    if ids[0] != 0:
        label_map = label_map + 1
    return _painted(image, label_map, colors_of(label_map))


def colors_of(label_map: np.ndarray) -> np.ndarray:
    """(N, 3) uint8: the colours of objects 1 to N of a label map."""
    boxes = np.array([region.bbox for region in regionprops(label_map)], np.float32).reshape(-1, 4)
    return object_colors(boxes[:, [1, 0, 3, 2]])


def boxes_picture(image: np.ndarray, boxes: np.ndarray, colors: np.ndarray) -> Image.Image:
    """The image, paled, under boxes (P, 4) in colours (P, 3), the first in front."""
    picture = Image.blend(image_picture(image), Image.new("RGB", _size(image), BACKGROUND), 0.25)
    draw = ImageDraw.Draw(picture)
    for box, color in reversed(list(zip((ENLARGED * boxes).tolist(), colors.tolist(), strict=True))):
        draw.rectangle(box, outline=tuple(color), width=LINE)
    return picture


def region_picture(image: np.ndarray, box: np.ndarray) -> Image.Image:
    """The part of the image inside a box (4,), stretched to a square, as RoIAlign samples it."""
    picture, (x1, y1, x2, y2) = image_picture(image), (ENLARGED * box).tolist()
    return picture.resize(picture.size, Image.Resampling.BICUBIC, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def mask_picture(image: np.ndarray, mask: np.ndarray, color: np.ndarray) -> Image.Image:
    """Mask probabilities (m, m) as the network gives them: dark for 0, the colour for 1."""
    probability = mask[..., None]
    cells = np.rint(np.array(FOREGROUND) * (1 - probability) + color * probability).astype(np.uint8)
    return Image.fromarray(cells).resize(_size(image), Image.Resampling.NEAREST)


def object_picture(image: np.ndarray, bitmask: np.ndarray, color: np.ndarray) -> Image.Image:
    """The image with one object, whose pixels (H, W) bool have the colour (3,)."""
    return _painted(image, bitmask.astype(int), color[None])


def _painted(image: np.ndarray, label_map: np.ndarray, colors: np.ndarray) -> Image.Image:
    """The image in grey under a map (H, W) of objects 1 to N in colours (N, 3)."""
    numbers = np.asarray(label_map, np.int64).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    of_id = np.concatenate([np.zeros((1, 3), np.uint8), colors.astype(np.uint8)])
    light = (of_id * 0.35 + 255 * 0.65).astype(np.uint8)
    picture = (
        image_picture(image).convert("L").convert("RGB")
    )  # the colors of a stained image would hide those of masks
    painted = blend(picture, Image.fromarray(of_id[numbers]), OPACITY)
    painted.paste(Image.fromarray(light[numbers]), mask=Image.fromarray(borders(numbers, LINE) * np.uint8(230)))
    return Image.composite(painted, picture, Image.fromarray((numbers > 0) * np.uint8(255)))


def _size(image: np.ndarray) -> tuple[int, int]:
    return ENLARGED * image.shape[1], ENLARGED * image.shape[0]


Html = NewType("Html", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A numbered part of the page."""

    anchor: str
    """The end of its address, as in report.html#scores."""
    title: str
    body: Html


def page(title: str, lead: str, facts: Sequence[tuple[str, str]], chapters: Sequence[Chapter], colophon: str) -> str:
    """The whole document; `facts` are a few numbers, each with what it counts."""
    style = files("upscore.demo").joinpath("style.css").read_text(encoding="utf-8")
    numbers = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for value, name in facts)
    contents = "".join(f'<li><a href="#{c.anchor}">{escape(c.title)}</a></li>' for c in chapters)
    sections = "".join(
        f'<section id="{chapter.anchor}"><p class="number">{number}</p><h2>{escape(chapter.title)}</h2>'
        f"{chapter.body}</section>\n"
        for number, chapter in enumerate(chapters, start=1)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">\n'
        f"<title>{escape(title)} · upscore</title>\n<style>\n{style}</style></head>\n<body>\n"
        f'<header><p class="name">upscore</p><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f'<dl class="facts">{numbers}</dl><nav aria-label="Chapters"><ol>{contents}</ol></nav></header>\n'
        f"<main>\n{sections}</main>\n<footer><p>{escape(colophon)}</p></footer>\n</body></html>\n"
    )


def join(*parts: Html) -> Html:
    """Pieces of markup one after the other."""
    return Html("\n".join(parts))


def text(*paragraphs: str) -> Html:
    """Paragraphs of plain text; words between backquotes are set as code, between asterisks stressed."""
    return Html("".join(f"<p>{_marked(paragraph)}</p>" for paragraph in paragraphs))


def stressed(sentence: str) -> Html:
    """The sentence that a chapter comes down to."""
    return Html(f'<p class="verdict">{_marked(sentence)}</p>')


def heading(words: str) -> Html:
    """A heading within a chapter."""
    return Html(f"<h3>{escape(words)}</h3>")


def picture(image: Image.Image, description: str) -> Html:
    """A picture inside the page; the description is for those who cannot see it."""
    return Html(
        f'<img src="{data_uri(image)}" width="{image.width}" height="{image.height}" alt="{escape(description)}">'
    )


def figure(content: Html, caption: str, kind: str = "") -> Html:
    """Something to look at, with a line beneath; `kind` is a class of the style sheet."""
    return Html(f'<figure class="{escape(kind)}">{content}<figcaption>{_marked(caption)}</figcaption></figure>')


def tile(content: Html, label: str, kind: str = "") -> Html:
    """One of several things side by side, under its label."""
    return Html(f'<div class="tile {escape(kind)}"><p class="label">{escape(label)}</p>{content}</div>')


def row(tiles: Sequence[Html], kind: str) -> Html:
    """Tiles side by side, as `kind` of the style sheet arranges them."""
    return Html(f'<div class="row {escape(kind)}">{"".join(tiles)}</div>')


def legend(colors: Sequence[tuple[str, str]]) -> Html:
    """Names, each with the colour that stands for it."""
    items = "".join(f'<li><i style="background:{escape(color)}"></i>{escape(name)}</li>' for name, color in colors)
    return Html(f'<ul class="key">{items}</ul>')


def terminal(lines: Sequence[str]) -> Html:
    """Commands to copy, one click each: a line that begins with "#" is a remark."""
    shown = "".join(
        f'<span class="remark">{escape(line)}</span>\n' if line.startswith("#") else f"<kbd>{escape(line)}</kbd>\n"
        for line in lines
    )
    return Html(f'<pre class="terminal">{shown}</pre>')


def data_uri(image: Image.Image) -> str:
    """The picture as an address that contains it."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"


def _marked(words: str) -> str:
    """Escaped text with `code` and *stress*; no line breaks inside "R-CNN" and "FCN-8s"."""
    for name in ("R-CNN", "FCN-"):
        words = words.replace(name, name.replace("-", "\N{NON-BREAKING HYPHEN}"))
    for mark, tag in (("`", "code"), ("*", "em")):
        pieces = (escape(words) if mark == "`" else words).split(mark)
        assert len(pieces) % 2, f"an odd number of {mark} in: {words}"
        words = "".join(f"<{tag}>{piece}</{tag}>" if odd % 2 else piece for odd, piece in enumerate(pieces))
    return words


WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 640, 300, 46, 14, 40, 14
"""Of line charts, in units of their own."""


def ranking(shares: Sequence[tuple[str, float]]) -> Html:
    """Names with their shares, each with a bar."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="track">{_bar(share, "accent")}</td>'
        f'<td class="value">{share:.0%}</td></tr>'
        for name, share in shares
    )
    return Html(f'<table class="ranking"><tbody>{lines}</tbody></table>')


def score_table(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Html:
    """Names with several shares each; the highest of each column is stressed."""
    best = [max(column) for column in zip(*rows.values(), strict=True)]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = ""
    for name, shares in rows.items():
        cells = "".join(
            f'<td class="{"best" if share == highest else ""}">{100 * share:.1f}</td>'
            for share, highest in zip(shares, best, strict=True)
        )
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    table = f'<table class="scores"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Html(f'<div class="scroll">{table}</div>')


def grouped_bars(groups: Mapping[str, Mapping[str, float | None]], colors: Mapping[str, str]) -> Html:
    """group -> series -> share, each group's bars under one another; a share of None is left empty."""
    key = "".join(f'<li><i class="{color}"></i>{escape(series)}</li>' for series, color in colors.items())
    blocks = ""
    for group, shares in groups.items():
        bars = "".join(
            f'<li><span class="track">{_bar(share or 0, colors[series])}</span>'
            f'<span class="value">{_percent(share)}</span><span class="unseen">{escape(series)}</span></li>'
            for series, share in shares.items()
        )
        blocks += f'<li><p class="label">{escape(group)}</p><ul>{bars}</ul></li>'
    return Html(f'<ul class="key">{key}</ul><ul class="groups">{blocks}</ul>')


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    colors: Mapping[str, str],
    *,
    x_title: str,
    title: str,
    top: float,
    percent: bool,
    dots: bool,
) -> Html:
    """series -> (x, y) from zero up to `top`; a title at the upper left, and each line's name at its end."""
    right = max(x for points in lines.values() for x, _ in points)

    def place(x: float, y: float) -> str:
        across = LEFT + x / right * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - min(y, top) / top * (HEIGHT - BOTTOM - TOP):.1f}"

    marks = ""
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = float(place(0, tick * top).split(",")[1])
        value = f"{tick * top:.0%}" if percent else f"{tick * top:.2g}"
        marks += f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/><text x="{LEFT - 8}" y="{y + 4}">{value}</text>'
        x = float(place(tick * right, 0).split(",")[0])
        marks += f'<text class="x" x="{x}" y="{HEIGHT - BOTTOM + 18}">{tick * right:,.0f}</text>'
    for series, points in lines.items():
        path = " ".join(place(x, y) for x, y in points)
        marks += f'<polyline class="{colors[series]}" points="{path}"><title>{escape(series)}</title></polyline>'
        for x, y in points if dots else []:
            across, down = place(x, y).split(",")
            marks += f'<circle class="{colors[series]}" cx="{across}" cy="{down}" r="4"/>'
    marks += f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">{escape(x_title)}</text>'
    key = "".join(f'<li><i class="{color}"></i>{escape(series)}</li>' for series, color in colors.items())
    return Html(
        f'<div class="chart"><p class="label">{escape(title)}</p><ul class="key">{key}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{marks}</svg></div>'
    )


def confusion_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Html:
    """Row i: of each hundred pixels of class i, how many were taken for which class."""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    body = ""
    for name, counts in zip(classes, confusion, strict=True):
        cells = ""
        for count in counts:
            share = count / max(1, sum(counts))
            ink = "deep" if share > 0.5 else ""
            value = f"{100 * share:.0f}" if share >= 0.005 else ""
            cells += f'<td class="{ink}" style="--share:{100 * share:.1f}%">{value}</td>'
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    table = f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Html(f'<div class="scroll">{table}</div>')


def _bar(share: float, color: str) -> str:
    return f'<i class="bar {color}" style="width:{100 * share:.1f}%"></i>'


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"
