"""HTML, and nothing else: a page of chapters in one file that asks for no other.

Text is escaped where it enters; what is typed `Html` is markup already and goes in as it is.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from io import BytesIO
from typing import NewType

from PIL import Image

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
