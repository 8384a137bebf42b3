"""Charts as markup: they follow the page's colours, width and dark mode, and need no script.

Shares are 0..1. The colours --c32, --c16 and --c8 of the style sheet are those of the three networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from upscore.report.page import Html

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
