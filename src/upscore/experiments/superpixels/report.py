"""Report of a superpixel comparison: Markdown, JSON and figures.

H W pixels of an image, h w of the resized image that was segmented.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from PIL import Image, ImageDraw

from upscore.errors import UserError
from upscore.evaluation.semantic import SemanticScores
from upscore.experiments.superpixels.comparison import Comparison, Row
from upscore.files import atomic_path, write_text
from upscore.labels import VOID
from upscore.text import markdown_table
from upscore.viz import plots as plot_style
from upscore.viz.colormaps import class_colors
from upscore.viz.legend import BACKGROUND, FOREGROUND, LegendEntry, draw_legend, fit, font, stack
from upscore.viz.overlays import BACKGROUNDS, borders, enlarged, enlargement, overlay, resize_longer_side, side_by_side
from upscore.viz.plots import BLUE, GREEN, MUTED, ORANGE, new_figure, save, style

PANEL, GAP, TITLE = 400, 10, 20
"""In the picture of a comparison: the longer side of a photo, the space between two, the size of letters; in pixels."""

CROWDED = 0.35
"""Of a picture's pixels: where more are borders, lines tell nothing."""

LINE = (255, 236, 120)


def segments_picture(photo: np.ndarray, segments: np.ndarray, title: str) -> Image.Image:
    """An (H, W, 3) uint8 photo with its (H, W) segments' borders, and beside it each segment in its mean colour."""
    factor = enlargement(photo)
    photo, segments = enlarged(photo, factor), enlarged(segments, factor)
    return side_by_side(
        [outlined(photo, segments), Image.fromarray(mean_colors(photo, segments))], [title, "mean colours"]
    )


def outlined(photo: np.ndarray, segments: np.ndarray) -> Image.Image:
    """The photo with a light line along the borders of its segments, in a dark hem that sets it off.

    Where lines would hide the photo, as those of scattered colours do, there are none.
    """
    width = max(1, round(min(photo.shape[:2]) / 500))
    picture = Image.fromarray(photo)
    hem = borders(segments, width + 1)
    line = borders(segments, width)
    if line.mean() > CROWDED:
        return picture
    picture.paste((20, 20, 24), mask=Image.fromarray(hem * np.uint8(110)))
    picture.paste(LINE, mask=Image.fromarray(line * np.uint8(225)))
    return picture


def mean_colors(photo: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, each pixel in the mean colour of its segment."""
    flat = segments.ravel()
    sizes = np.bincount(flat)
    sums = [np.bincount(flat, weights=photo[..., channel].ravel()) for channel in range(3)]
    return np.rint(np.stack(sums, axis=1) / sizes[:, None]).astype(np.uint8)[segments]


def comparison_picture(comparison: Comparison) -> Image.Image:
    """A row for each photo: photo, truth, segments, oracle, unsupervised, network; the classes' colours beneath.

    Over each map stands the share of the photo's labelled pixels that are right.
    """
    rows = [_row(row, comparison.classes) for row in comparison.rows]
    occurring = np.unique(np.concatenate([row.truth.ravel() for row in comparison.rows] + [_said(comparison)]))
    colors = class_colors(len(comparison.classes))
    chips = [
        LegendEntry(name, "", [] if _is_bare(index, name) else [tuple(colors[index].tolist())])
        for index, name in enumerate(comparison.classes)
        if index in occurring
    ]
    return stack([*rows, draw_legend(chips, rows[0].width, TITLE)])


def plot_oracle(comparison: Comparison, path: str | Path) -> None:
    """Mean IoU of the oracle against the number of segments a photo, beside what needs no oracle."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style(axes, f"What {comparison.method}'s segments would be worth", f"{comparison.photos:,} photos")
    counts = [oracle.segments for oracle in comparison.oracles]
    values = [oracle.scores.mean_iu for oracle in comparison.oracles]
    axes.set_xscale("log")
    axes.plot(counts, values, "o-", color=BLUE, linewidth=1.8, markersize=5.5, zorder=4)
    for count, value in zip(counts, values, strict=True):
        axes.annotate(
            f"{value:.0%}", (count, value), (0, 8), textcoords="offset points", ha="center", size=9.5, color=BLUE
        )
    levels = [("without labels", comparison.unsupervised.mean_iu, ORANGE)]
    if comparison.network is not None:
        levels.append(("trained FCN", comparison.network.mean_iu, GREEN))
    low, high = min(counts) / 1.6, max(counts) * 1.6
    for name, value, color in levels:
        axes.axhline(value, color=color, linewidth=1.6, linestyle=(0, (5, 3)), zorder=3)
        label = axes.text(
            high / 1.03, value + 0.014, f"{name}: {value:.0%}", ha="right", va="bottom", size=9.5, color=color
        )
        label.set_bbox({"facecolor": plot_style.BACKGROUND, "edgecolor": "none", "pad": 1})
    axes.text(
        low * 1.05, 0.975, "the oracle nears 100% as segments become single pixels", va="top", size=9, color=MUTED
    )
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("segments a photo (mean)", color=MUTED)
    axes.set_ylabel("mean IoU of the oracle", color=MUTED)
    save(figure, path)


def _said(comparison: Comparison) -> np.ndarray:
    maps = [image for row in comparison.rows for image in (row.oracle, row.unsupervised, row.network)]
    return np.concatenate([image.ravel() for image in maps if image is not None])


def _is_bare(index: int, name: str) -> bool:
    """Whether overlays leave the class as the bare photo."""
    return index == 0 and name.lower().replace("_", " ").strip() in BACKGROUNDS


def _row(row: Row, classes: list[str]) -> Image.Image:
    photo = resize_longer_side(row.photo, PANEL)
    maps = {"oracle": row.oracle, "unsupervised": row.unsupervised, "FCN": row.network}
    panels = {row.name: Image.fromarray(photo), "truth": _over(photo, row.truth, classes)}
    segments = resize_longer_side(row.segments, PANEL)
    crowded = borders(segments, 1).mean() > CROWDED
    drawn = Image.fromarray(mean_colors(photo, segments)) if crowded else outlined(photo, segments)
    panels[f"{row.segments.max() + 1} segments"] = drawn
    for name, class_map in maps.items():
        if class_map is not None:
            panels[f"{name}: {_right(class_map, row.truth)}"] = _over(photo, class_map, classes)
    width, height = photo.shape[1], photo.shape[0]
    sheet = Image.new("RGB", (len(panels) * (PANEL + GAP) + GAP, height + 2 * TITLE + GAP), BACKGROUND)
    draw, face = ImageDraw.Draw(sheet), font(TITLE, row.name)
    for k, (title, panel) in enumerate(panels.items()):
        left = GAP + k * (PANEL + GAP) + (PANEL - width) // 2
        draw.text((left, TITLE), fit(title, face, max(width, PANEL // 2)), FOREGROUND, face, anchor="lm")
        sheet.paste(panel, (left, 2 * TITLE))
    return sheet


def _right(class_map: np.ndarray, truth: np.ndarray) -> str:
    labelled = truth != VOID
    return f"{(class_map == truth)[labelled].mean():.0%} right" if labelled.any() else "nothing labelled"


def _over(photo: np.ndarray, class_map: np.ndarray, classes: list[str]) -> Image.Image:
    return overlay(photo, resize_longer_side(class_map, PANEL), classes, opacity=0.75, legend=False)


ENDINGS = ("_segments.png", "_ids.png")
MOST_IDS = 65_535


def refuse_overwriting(photos: dict[str, Path], output: Path) -> None:
    """Make sure that no photo, by the name of its output, is written over.

    Raises:
        UserError: one would be.
    """
    sources = {photo.resolve() for photo in photos.values()}
    for name in photos:
        for path in _beside(output / name):
            if path.resolve() in sources:
                raise UserError(f"{path} is a photo and would be overwritten: choose another --output")


def write_segments(photo: np.ndarray, segments: np.ndarray, base: Path, title: str) -> None:
    """Write `base_segments.png`, a picture, and `base_ids.png`: (H, W) 16-bit numbers of the segments, from 1.

    Raises:
        UserError: there are more segments than 16 bits can count, or a file can't be written.
    """
    picture, ids = _beside(base)
    if segments.max() >= MOST_IDS:
        raise UserError(f"{ids}: {segments.max() + 1:,} segments don't fit in 16 bits: give a lower --segments")
    with _writing(base):
        _save(Image.fromarray((segments + 1).astype(np.uint16)), ids)
        _save(segments_picture(photo, segments, title), picture)


def write_comparison(comparison: Comparison, output: Path, about: dict[str, object]) -> list[Path]:
    """Write METHOD.md, METHOD.json (with what it is `about`), METHOD_oracle.png and, where rows were kept, METHOD.png.

    Returns the paths. Raises:
        UserError: a file can't be written.
    """
    base = output / comparison.method
    written = [base.with_suffix(".md"), base.with_suffix(".json"), output / f"{comparison.method}_oracle.png"]
    with _writing(base):
        write_text(written[0], markdown(comparison, f"{comparison.method} on {about['data']}"))
        write_text(written[1], json.dumps({**about, **as_json(comparison)}, indent=2, allow_nan=False) + "\n")
        plot_oracle(comparison, written[2])
        if comparison.rows:
            written.append(base.with_suffix(".png"))
            _save(comparison_picture(comparison), written[-1])
    return written


def _beside(base: Path) -> list[Path]:
    return [base.with_name(base.name + ending) for ending in ENDINGS]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)


@contextmanager
def _writing(base: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or base}: can't be written ({error.strerror or error})") from error


CAVEAT = (
    "The oracle knows the answers: each segment gets the class that most of its labelled pixels have. It rises to 100% "
    "as segments shrink to single pixels, so it is read beside the number of segments: it says how well the outlines "
    "fit, not that anything was recognised."
)
PROTOCOL = (
    "Unsupervised looks at no label while it groups: the segments of the whole set are described by colour, texture, "
    "size and place, and k-means makes as many groups of them as there are classes. Labels then name each group, one "
    "class for one group over the whole set, so that most pixels are right (the Hungarian method)."
)
COLUMNS = ("", "segments", "pixel acc.", "mean acc.", "mean IoU", "f.w. IU")


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def score_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A line of `COLUMNS` for each way to give pixels their classes."""

    def row(name: str, segments: float | None, scores: SemanticScores) -> tuple[str, ...]:
        count = "" if segments is None else f"{segments:,.1f}"
        values = scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iu, scores.frequency_weighted_iu
        return (name, count, *map(share, values))

    rows = [row("commonest class only", None, comparison.commonest)]
    rows += [row(f"{comparison.method}, oracle", oracle.segments, oracle.scores) for oracle in comparison.oracles]
    rows.append(row(f"{comparison.method}, unsupervised", comparison.oracle.segments, comparison.unsupervised))
    if comparison.network is not None:
        rows.append(row("FCN, trained", None, comparison.network))
    return rows


def class_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """IU of each class: its name, oracle, unsupervised and, where there is one, the network."""
    columns = [comparison.oracle.scores.per_class, comparison.unsupervised.per_class]
    if comparison.network is not None:
        columns.append(_named(comparison.network.per_class, comparison.classes))
    return [(name, *(share(column[name]) for column in columns)) for name in comparison.classes]


def class_columns(comparison: Comparison) -> tuple[str, ...]:
    return ("IU of each class", "oracle", "unsupervised", *(("FCN",) if comparison.network is not None else ()))


def conclusion(comparison: Comparison) -> str:
    """What follows for who has to decide whether to train."""
    oracle, unsupervised = comparison.oracle.scores.mean_iu, comparison.unsupervised.mean_iu
    count = f"{comparison.oracle.segments:.0f} segments a photo"
    network = None if comparison.network is None else comparison.network.mean_iu
    if network is None:
        if unsupervised >= 0.8 * oracle:
            return (
                f"Grouping by looks reaches {share(unsupervised)} mean IoU of the {share(oracle)} that {count} allow: "
                "these classes are told apart by colour and place, so try that before training a network."
            )
        return (
            f"{comparison.method} draws outlines that would be worth {share(oracle)} mean IoU with the right names "
            f"({count}), but finds {share(unsupervised)} without labels: what things are takes training, as "
            "upscore train does."
        )
    if network <= unsupervised:
        return (
            f"The FCN's {share(network)} mean IoU is not higher than {share(unsupervised)} of grouping without labels: "
            "train the network longer or on more images, or use the grouping."
        )
    if network <= oracle:
        return (
            f"Looks alone give {share(unsupervised)} mean IoU and the FCN {share(network)}: labels are what was "
            f"missing, for the outlines were there, good for {share(oracle)} with the right names ({count})."
        )
    return (
        f"The FCN's {share(network)} mean IoU is beyond {share(oracle)}, which an oracle gets out of "
        f"{comparison.method}'s segments ({count}), and far from the {share(unsupervised)} of looks alone: train."
    )


def markdown(comparison: Comparison, title: str) -> str:
    parts = [
        f"# {title}",
        conclusion(comparison),
        markdown_table(COLUMNS, score_rows(comparison)),
        CAVEAT,
        PROTOCOL,
        markdown_table(class_columns(comparison), class_rows(comparison)),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Scores by name; segments are means per photo."""
    return {
        "method": comparison.method,
        "photos": comparison.photos,
        "conclusion": conclusion(comparison),
        "commonest": comparison.commonest.to_json(),
        "oracle": [
            {"aimed": oracle.aimed, "segments": oracle.segments, **oracle.scores.to_json()}
            for oracle in comparison.oracles
        ],
        "unsupervised": {
            "aimed": comparison.aimed,
            "segments": comparison.oracle.segments,
            **comparison.unsupervised.to_json(),
        },
        "network": None if comparison.network is None else comparison.network.to_json(),
    }


def _named(per_class: dict[str, float | None], classes: list[str]) -> dict[str, float | None]:
    """By the data's names; where the network has none of them, by order."""
    if set(per_class) & set(classes):
        return {name: per_class.get(name) for name in classes}
    return dict(zip(classes, per_class.values(), strict=True))
