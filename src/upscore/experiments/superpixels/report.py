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
from upscore.experiments.superpixels.comparison import Comparison, Example
from upscore.files import atomic_path, write_text
from upscore.labels import VOID
from upscore.text import markdown_table
from upscore.viz import plots as plot_style
from upscore.viz.colormaps import class_colors
from upscore.viz.legend import BACKGROUND, FOREGROUND, LegendEntry, draw_legend, fit, font, stack
from upscore.viz.overlays import BACKGROUNDS, borders, enlarged, enlargement, overlay, resize_longer_side, side_by_side
from upscore.viz.plots import BLUE, GREEN, MUTED, ORANGE, new_figure, save, style

PANEL, GAP, TITLE = 400, 10, 20
"""Longer side of an image, gap between images, and font size in the figure of a comparison, in pixels."""

CROWDED = 0.35
"""Fraction of border pixels above which borders are not drawn."""

LINE = (255, 236, 120)
"""Colour of borders."""

ENDINGS = ("_segments.png", "_ids.png")
"""Endings of the two files for an image."""

MAX_ID = 65_535
"""Largest number in a 16-bit file."""

CAVEAT = (
    "*Oracle*: each segment gets the class of most of its labelled pixels. It is an upper bound that approaches 100% "
    "for segments of one pixel, so compare it at equal numbers of segments. It measures how well the borders of "
    "segments agree with those of the classes, not recognition."
)

PROTOCOL = (
    "*Unsupervised*: the segments of all images are clustered by k-means over colour, texture, size and position, with "
    "one group per class. The labels are only used to match groups and classes one to one, so that most pixels are "
    "correct (Hungarian algorithm)."
)

COLUMNS = ("", "segments", "pixel acc.", "mean acc.", "mean IoU", "f.w. IoU")
"""Column titles of the table of scores."""


def write_segments(image: np.ndarray, segments: np.ndarray, base: Path, title: str) -> None:
    """Write `base_segments.png`, a figure, and `base_ids.png`, the numbers of the segments from 1 in 16 bits.

    Raises:
        UserError: there are more than 65,535 segments, or a file can't be written.
    """
    picture, ids = _output_paths(base)
    if segments.max() >= MAX_ID:
        raise UserError(f"{ids}: {segments.max() + 1:,} segments do not fit into 16 bits: lower --segments")
    with _user_errors(base):
        _save(Image.fromarray((segments + 1).astype(np.uint16)), ids)
        _save(segments_picture(image, segments, title), picture)


def refuse_overwriting_images(images: dict[str, Path], output: Path) -> None:
    """Check that no output file would overwrite an input image.

    Args:
        images: input path by the name of its output.
        output: output folder.

    Raises:
        UserError: a file would be overwritten.
    """
    sources = {image.resolve() for image in images.values()}
    for name in images:
        for path in _output_paths(output / name):
            if path.resolve() in sources:
                raise UserError(f"{path} is an input image and would be overwritten: choose another --output")


def write_comparison(comparison: Comparison, output: Path, about: dict[str, object]) -> list[Path]:
    """Write METHOD.md, METHOD.json, METHOD_oracle.png and, if there are examples, METHOD.png.

    Args:
        comparison: the scores.
        output: output folder.
        about: further entries of the JSON file; `data` is in the title.

    Returns:
        The paths of the files.

    Raises:
        UserError: a file can't be written.
    """
    base = output / comparison.method
    written = [base.with_suffix(".md"), base.with_suffix(".json"), output / f"{comparison.method}_oracle.png"]
    with _user_errors(base):
        write_text(written[0], markdown(comparison, f"{comparison.method} on {about['data']}"))
        write_text(written[1], json.dumps({**about, **as_json(comparison)}, indent=2, allow_nan=False) + "\n")
        plot_oracle(comparison, written[2])
        if comparison.examples:
            written.append(base.with_suffix(".png"))
            _save(comparison_picture(comparison), written[-1])
    return written


def markdown(comparison: Comparison, title: str) -> str:
    """Return the report as Markdown: summary, scores and definitions."""
    parts = [
        f"# {title}",
        summarize(comparison),
        markdown_table(COLUMNS, score_rows(comparison)),
        CAVEAT,
        PROTOCOL,
        markdown_table(class_columns(comparison), class_rows(comparison)),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return all scores as a JSON-serialisable dictionary."""
    return {
        "method": comparison.method,
        "images": comparison.images,
        "summary": summarize(comparison),
        "most_frequent": comparison.most_frequent.to_json(),
        "oracle": [
            {"requested": oracle.requested, "segments": oracle.segments, **oracle.scores.to_json()}
            for oracle in comparison.oracles
        ],
        "unsupervised": {
            "requested": comparison.requested,
            "segments": comparison.oracle.segments,
            **comparison.unsupervised.to_json(),
        },
        "network": None if comparison.network is None else comparison.network.to_json(),
    }


def summarize(comparison: Comparison) -> str:
    """Return a sentence that compares the mean IoU of the methods."""
    oracle, unsupervised = comparison.oracle.scores.mean_iu, comparison.unsupervised.mean_iu
    network = None if comparison.network is None else comparison.network.mean_iu
    scores = (
        f"{comparison.method} with {comparison.oracle.segments:.0f} segments per image: mean IoU {percent(oracle)} "
        f"with the oracle, {percent(unsupervised)} without labels"
    )
    if network is None:
        if unsupervised >= 0.8 * oracle:
            return f"{scores}. Colour and position separate these classes: training may not be necessary."
        return f"{scores}. Colour and position do not separate these classes: train a network with upscore train."
    scores = f"{scores}, {percent(network)} with the FCN"
    if network <= unsupervised:
        return f"{scores}. The FCN is not better than grouping without labels: train it longer or on more images."
    if network <= oracle:
        return f"{scores}. The FCN is better than grouping without labels, but below the upper bound of these segments."
    return f"{scores}. The FCN exceeds the upper bound of these segments."


def score_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a table row for each method, with the columns `COLUMNS`."""

    def row(name: str, segments: float | None, scores: SemanticScores) -> tuple[str, ...]:
        count = "" if segments is None else f"{segments:,.1f}"
        values = scores.pixel_accuracy, scores.mean_accuracy, scores.mean_iu, scores.frequency_weighted_iu
        return (name, count, *map(percent, values))

    rows = [row("most frequent class", None, comparison.most_frequent)]
    rows += [row(f"{comparison.method}, oracle", oracle.segments, oracle.scores) for oracle in comparison.oracles]
    rows.append(row(f"{comparison.method}, unsupervised", comparison.oracle.segments, comparison.unsupervised))
    if comparison.network is not None:
        rows.append(row("FCN, trained", None, comparison.network))
    return rows


def class_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the IoU of each class, with the columns `class_columns`."""
    columns = [comparison.oracle.scores.per_class, comparison.unsupervised.per_class]
    if comparison.network is not None:
        columns.append(_named(comparison.network.per_class, comparison.classes))
    return [(name, *(percent(column[name]) for column in columns)) for name in comparison.classes]


def class_columns(comparison: Comparison) -> tuple[str, ...]:
    """Return the column titles of the table of classes."""
    return ("IoU of each class", "oracle", "unsupervised", *(("FCN",) if comparison.network is not None else ()))


def percent(value: float | None) -> str:
    """Format a fraction as a percentage; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def segments_picture(image: np.ndarray, segments: np.ndarray, title: str) -> Image.Image:
    """Draw an image (H, W, 3) with the borders of its segments (H, W), beside the segments in their mean colours."""
    factor = enlargement(image)
    image, segments = enlarged(image, factor), enlarged(segments, factor)
    return side_by_side(
        [draw_borders(image, segments), Image.fromarray(mean_colors(image, segments))], [title, "mean colours"]
    )


def draw_borders(image: np.ndarray, segments: np.ndarray) -> Image.Image:
    """Draw the borders of segments as light lines with dark edges.

    If more than `CROWDED` of the pixels are borders, the image is returned without lines, since they would hide it.
    """
    width = max(1, round(min(image.shape[:2]) / 500))
    picture = Image.fromarray(image)
    edge = borders(segments, width + 1)
    line = borders(segments, width)
    if line.mean() > CROWDED:
        return picture
    picture.paste((20, 20, 24), mask=Image.fromarray(edge * np.uint8(110)))
    picture.paste(LINE, mask=Image.fromarray(line * np.uint8(225)))
    return picture


def mean_colors(image: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Replace each pixel of an image (H, W, 3) by the mean colour of its segment."""
    flat = segments.ravel()
    sizes = np.bincount(flat)
    sums = [np.bincount(flat, weights=image[..., channel].ravel()) for channel in range(3)]
    return np.rint(np.stack(sums, axis=1) / sizes[:, None]).astype(np.uint8)[segments]


def comparison_picture(comparison: Comparison) -> Image.Image:
    """Draw a row for each example: image, ground truth, segments and predictions with their accuracy, and a legend."""
    examples = [_example_row(example, comparison.classes) for example in comparison.examples]
    truths = [example.truth.ravel() for example in comparison.examples]
    occurring = np.unique(np.concatenate([*truths, _predicted_classes(comparison)]))
    colors = class_colors(len(comparison.classes))
    entries = [
        LegendEntry(name, "", [] if _is_uncoloured(index, name) else [tuple(colors[index].tolist())])
        for index, name in enumerate(comparison.classes)
        if index in occurring
    ]
    return stack([*examples, draw_legend(entries, examples[0].width, TITLE)])


def plot_oracle(comparison: Comparison, path: str | Path) -> None:
    """Plot the mean IoU of the oracle over the number of segments, with lines for the other methods."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style(axes, f"Oracle of {comparison.method} segments", f"{comparison.images:,} images")
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
    axes.text(low * 1.05, 0.975, "the oracle approaches 100% for segments of one pixel", va="top", size=9, color=MUTED)
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("mean number of segments per image", color=MUTED)
    axes.set_ylabel("mean IoU of the oracle", color=MUTED)
    save(figure, path)


def _example_row(example: Example, classes: list[str]) -> Image.Image:
    image = resize_longer_side(example.image, PANEL)
    maps = {"oracle": example.oracle, "unsupervised": example.unsupervised, "FCN": example.network}
    panels = {example.name: Image.fromarray(image), "ground truth": _overlay(image, example.truth, classes)}
    segments = resize_longer_side(example.segments, PANEL)
    crowded = borders(segments, 1).mean() > CROWDED
    drawn = Image.fromarray(mean_colors(image, segments)) if crowded else draw_borders(image, segments)
    panels[f"{example.segments.max() + 1} segments"] = drawn
    for name, class_map in maps.items():
        if class_map is not None:
            panels[f"{name}: {_accuracy(class_map, example.truth)}"] = _overlay(image, class_map, classes)
    width, height = image.shape[1], image.shape[0]
    sheet = Image.new("RGB", (len(panels) * (PANEL + GAP) + GAP, height + 2 * TITLE + GAP), BACKGROUND)
    draw, face = ImageDraw.Draw(sheet), font(TITLE, example.name)
    for k, (title, panel) in enumerate(panels.items()):
        left = GAP + k * (PANEL + GAP) + (PANEL - width) // 2
        draw.text((left, TITLE), fit(title, face, max(width, PANEL // 2)), FOREGROUND, face, anchor="lm")
        sheet.paste(panel, (left, 2 * TITLE))
    return sheet


def _accuracy(class_map: np.ndarray, truth: np.ndarray) -> str:
    labelled = truth != VOID
    return f"{(class_map == truth)[labelled].mean():.0%} correct" if labelled.any() else "no labels"


def _overlay(image: np.ndarray, class_map: np.ndarray, classes: list[str]) -> Image.Image:
    return overlay(image, resize_longer_side(class_map, PANEL), classes, opacity=0.75, legend=False)


def _predicted_classes(comparison: Comparison) -> np.ndarray:
    examples = comparison.examples
    maps = [values for example in examples for values in (example.oracle, example.unsupervised, example.network)]
    return np.concatenate([values.ravel() for values in maps if values is not None])


def _is_uncoloured(index: int, name: str) -> bool:
    """Return whether overlays do not colour the class."""
    return index == 0 and name.lower().replace("_", " ").strip() in BACKGROUNDS


def _named(per_class: dict[str, float | None], classes: list[str]) -> dict[str, float | None]:
    """Return values by the class names of the data; matched by order if no name agrees."""
    if set(per_class) & set(classes):
        return {name: per_class.get(name) for name in classes}
    return dict(zip(classes, per_class.values(), strict=True))


def _output_paths(base: Path) -> list[Path]:
    return [base.with_name(base.name + ending) for ending in ENDINGS]


def _save(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary)


@contextmanager
def _user_errors(base: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or base} can't be written ({error.strerror or error}): choose another --output"
        ) from error
