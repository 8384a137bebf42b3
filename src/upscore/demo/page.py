"""Page of the demo: HTML elements, charts and tables, and figures of images and objects.

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
"""Factor by which images are enlarged."""

OPACITY = 0.5
"""Opacity of objects."""

LINE = 2
"""Width of outlines in pixels of the figure."""

DARK, BRIGHT = 128, 235
"""Images whose brightest pixels are below DARK are brightened, so that they reach BRIGHT."""

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 640, 300, 46, 14, 40, 14
"""Size and margins of line charts in units of the viewBox."""

Html = NewType("Html", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A numbered chapter of the page."""

    anchor: str
    """Id of the chapter, as in report.html#nuclei."""
    title: str
    body: Html


def page(title: str, lead: str, facts: Sequence[tuple[str, str]], chapters: Sequence[Chapter], colophon: str) -> str:
    """Return the HTML document.

    Args:
        title: title of the page.
        lead: introduction.
        facts: numbers with their descriptions.
        chapters: the chapters.
        colophon: text at the end.
    """
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
    """Join elements."""
    return Html("\n".join(parts))


def text(*paragraphs: str) -> Html:
    """Return paragraphs of plain text, with `code` in backquotes and *emphasis* in asterisks."""
    return Html("".join(f"<p>{_format(paragraph)}</p>" for paragraph in paragraphs))


def summary(sentence: str) -> Html:
    """Return the summary of a chapter."""
    return Html(f'<p class="summary">{_format(sentence)}</p>')


def heading(title: str) -> Html:
    """Return a heading within a chapter."""
    return Html(f"<h3>{escape(title)}</h3>")


def picture(image: Image.Image, description: str) -> Html:
    """Return an image that is embedded in the page, with an alternative text."""
    return Html(
        f'<img src="{data_uri(image)}" width="{image.width}" height="{image.height}" alt="{escape(description)}">'
    )


def figure(content: Html, caption: str, kind: str = "") -> Html:
    """Return a figure with a caption; `kind` is a class of the style sheet."""
    return Html(f'<figure class="{escape(kind)}">{content}<figcaption>{_format(caption)}</figcaption></figure>')


def tile(content: Html, label: str, kind: str = "") -> Html:
    """Return an element of a row with a label above."""
    return Html(f'<div class="tile {escape(kind)}"><p class="label">{escape(label)}</p>{content}</div>')


def row(tiles: Sequence[Html], kind: str) -> Html:
    """Return tiles side by side; `kind` is the class of the style sheet that defines their layout."""
    return Html(f'<div class="row {escape(kind)}">{"".join(tiles)}</div>')


def legend(colors: Sequence[tuple[str, str]]) -> Html:
    """Return a legend of names and their colours."""
    items = "".join(f'<li><i style="background:{escape(color)}"></i>{escape(name)}</li>' for name, color in colors)
    return Html(f'<ul class="key">{items}</ul>')


def terminal(lines: Sequence[str]) -> Html:
    """Return commands that can be selected by a click; lines that begin with "#" are comments."""
    content = "".join(
        f'<span class="comment">{escape(line)}</span>\n' if line.startswith("#") else f"<kbd>{escape(line)}</kbd>\n"
        for line in lines
    )
    return Html(f'<pre class="terminal">{content}</pre>')


def data_uri(image: Image.Image) -> str:
    """Encode an image as a data URI."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=88, method=4)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"


def ranking(fractions: Sequence[tuple[str, float]]) -> Html:
    """Return a table of names and fractions with bars."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="track">{_bar(fraction, "accent")}</td>'
        f'<td class="value">{fraction:.0%}</td></tr>'
        for name, fraction in fractions
    )
    return Html(f'<table class="ranking"><tbody>{lines}</tbody></table>')


def score_table(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Html:
    """Return a table of fractions in per cent; the highest of each column is emphasised."""
    best = [max(column) for column in zip(*rows.values(), strict=True)]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = ""
    for name, fractions in rows.items():
        cells = "".join(
            f'<td class="{"best" if fraction == highest else ""}">{100 * fraction:.1f}</td>'
            for fraction, highest in zip(fractions, best, strict=True)
        )
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    table = f'<table class="scores"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Html(f'<div class="scroll">{table}</div>')


def grouped_bars(groups: Mapping[str, Mapping[str, float | None]], colors: Mapping[str, str]) -> Html:
    """Return bars of fractions by group and series; None gives an empty bar."""
    key = "".join(f'<li><i class="{color}"></i>{escape(series)}</li>' for series, color in colors.items())
    blocks = ""
    for group, fractions in groups.items():
        bars = "".join(
            f'<li><span class="track">{_bar(fraction or 0, colors[series])}</span>'
            f'<span class="value">{_percent(fraction)}</span><span class="visually-hidden">{escape(series)}</span></li>'
            for series, fraction in fractions.items()
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
    """Return a line chart.

    Args:
        lines: series -> points (x, y), from zero up.
        colors: series -> class of the style sheet.
        x_title: title of the x axis.
        title: title of the chart.
        top: upper end of the y axis.
        percent: show y as a percentage.
        dots: mark the points.
    """
    right = max(x for points in lines.values() for x, _ in points)

    def position(x: float, y: float) -> str:
        across = LEFT + x / right * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - min(y, top) / top * (HEIGHT - BOTTOM - TOP):.1f}"

    marks = ""
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = float(position(0, tick * top).split(",")[1])
        value = f"{tick * top:.0%}" if percent else f"{tick * top:.2g}"
        marks += f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/><text x="{LEFT - 8}" y="{y + 4}">{value}</text>'
        x = float(position(tick * right, 0).split(",")[0])
        marks += f'<text class="x" x="{x}" y="{HEIGHT - BOTTOM + 18}">{tick * right:,.0f}</text>'
    for series, points in lines.items():
        path = " ".join(position(x, y) for x, y in points)
        marks += f'<polyline class="{colors[series]}" points="{path}"><title>{escape(series)}</title></polyline>'
        for x, y in points if dots else []:
            across, down = position(x, y).split(",")
            marks += f'<circle class="{colors[series]}" cx="{across}" cy="{down}" r="4"/>'
    marks += f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">{escape(x_title)}</text>'
    key = "".join(f'<li><i class="{color}"></i>{escape(series)}</li>' for series, color in colors.items())
    return Html(
        f'<div class="chart"><p class="label">{escape(title)}</p><ul class="key">{key}</ul>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{marks}</svg></div>'
    )


def confusion_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Html:
    """Return a table of the confusion matrix in per cent of the true class; rows are true classes."""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    body = ""
    for name, counts in zip(classes, confusion, strict=True):
        cells = ""
        for count in counts:
            fraction = count / max(1, sum(counts))
            shade = "deep" if fraction > 0.5 else ""
            value = f"{100 * fraction:.0f}" if fraction >= 0.005 else ""
            cells += f'<td class="{shade}" style="--share:{100 * fraction:.1f}%">{value}</td>'
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    table = f'<table class="confusion"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return Html(f'<div class="scroll">{table}</div>')


def image_picture(image: np.ndarray) -> Image.Image:
    """Draw the image; dark images are brightened."""
    brightest = np.percentile(image, 99.7)
    if brightest < DARK:
        image = np.minimum(255, image * (BRIGHT / max(1.0, brightest))).astype(np.uint8)
    picture = Image.fromarray(image)
    return picture.resize(_size(image), Image.Resampling.LANCZOS)


def objects_picture(image: np.ndarray, label_map: np.ndarray) -> Image.Image:
    """Draw the objects of a label map on the image in grey, outlined and in colours that differ from their
    neighbours'."""
    ids, label_map = np.unique(label_map, return_inverse=True)
    if ids[0] != 0:
        label_map = label_map + 1
    return _draw_objects(image, label_map, label_colors(label_map))


def boxes_picture(image: np.ndarray, boxes: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Draw boxes (P, 4) in colours (P, 3) on the lightened image, the first in front."""
    picture = Image.blend(image_picture(image), Image.new("RGB", _size(image), BACKGROUND), 0.25)
    draw = ImageDraw.Draw(picture)
    for box, color in reversed(list(zip((ENLARGED * boxes).tolist(), colors.tolist(), strict=True))):
        draw.rectangle(box, outline=tuple(color), width=LINE)
    return picture


def region_picture(image: np.ndarray, box: np.ndarray) -> Image.Image:
    """Draw the part of the image inside a box (4,), resized to the size of the image, as RoIAlign samples it."""
    picture, (x1, y1, x2, y2) = image_picture(image), (ENLARGED * box).tolist()
    return picture.resize(picture.size, Image.Resampling.BICUBIC, (x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def mask_picture(image: np.ndarray, mask: np.ndarray, color: np.ndarray) -> Image.Image:
    """Draw the mask probabilities (m, m) of the network, from dark at 0 to the colour at 1."""
    probability = mask[..., None]
    cells = np.rint(np.array(FOREGROUND) * (1 - probability) + color * probability).astype(np.uint8)
    return Image.fromarray(cells).resize(_size(image), Image.Resampling.NEAREST)


def object_picture(image: np.ndarray, bitmask: np.ndarray, color: np.ndarray) -> Image.Image:
    """Draw one object, (H, W) bool, on the image in a colour (3,)."""
    return _draw_objects(image, bitmask.astype(int), color[None])


def label_colors(label_map: np.ndarray) -> np.ndarray:
    """Return the colours of objects 1 to N of a label map, (N, 3) uint8."""
    boxes = np.array([region.bbox for region in regionprops(label_map)], np.float32).reshape(-1, 4)
    return object_colors(boxes[:, [1, 0, 3, 2]])


def _format(content: str) -> str:
    """Escape text and format `code` and *emphasis*; "R-CNN" and "FCN-8s" are not broken at their hyphens."""
    for name in ("R-CNN", "FCN-"):
        content = content.replace(name, name.replace("-", "\N{NON-BREAKING HYPHEN}"))
    for mark, tag in (("`", "code"), ("*", "em")):
        pieces = (escape(content) if mark == "`" else content).split(mark)
        assert len(pieces) % 2, f"an odd number of {mark} in: {content}"
        content = "".join(f"<{tag}>{piece}</{tag}>" if number % 2 else piece for number, piece in enumerate(pieces))
    return content


def _bar(fraction: float, color: str) -> str:
    return f'<i class="bar {color}" style="width:{100 * fraction:.1f}%"></i>'


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.0f}"


def _draw_objects(image: np.ndarray, label_map: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Draw a map (H, W) of objects 1 to N in colours (N, 3) on the image in grey."""
    numbers = np.asarray(label_map, np.int64).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    id_colors = np.concatenate([np.zeros((1, 3), np.uint8), colors.astype(np.uint8)])
    light = (id_colors * 0.35 + 255 * 0.65).astype(np.uint8)
    # in grey, since the colours of a stained image would hide those of objects
    picture = image_picture(image).convert("L").convert("RGB")
    painted = blend(picture, Image.fromarray(id_colors[numbers]), OPACITY)
    painted.paste(Image.fromarray(light[numbers]), mask=Image.fromarray(borders(numbers, LINE) * np.uint8(230)))
    return Image.composite(painted, picture, Image.fromarray((numbers > 0) * np.uint8(255)))


def _size(image: np.ndarray) -> tuple[int, int]:
    return ENLARGED * image.shape[1], ENLARGED * image.shape[0]
