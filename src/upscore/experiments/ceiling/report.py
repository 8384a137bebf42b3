"""Report of the upper bounds of IoU: advice, tables in Markdown, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from upscore.experiments.ceiling.meter import METHODS, PAPER_MEAN_IOU, Ceilings, Method
from upscore.text import markdown_escaped, markdown_table
from upscore.viz.plots import (
    BACKGROUND,
    BLUE,
    FOREGROUND,
    GREEN,
    GRID,
    MUTED,
    NAMES,
    ORANGE,
    SHARES,
    name_ticks,
    new_figure,
    save,
    style,
)

NETWORKS = {32: "fcn32s", 16: "fcn16s", 8: "fcn8s"}
"""Output stride -> network, from coarse to fine."""

FINEST = min(NETWORKS)

SUFFICIENT = 0.75
"""Upper bound from which a stride is considered sufficient: a network then loses more by wrong predictions (FCN-8s
reaches 65 % on PASCAL VOC, where stride 8 allows 96 %)."""

LOW = 0.5
"""Upper bound below which a class is considered unreachable."""

GAIN = 0.05
"""Smallest gain for which a finer stride is recommended."""

FEW_PIXELS = 10_000
"""Number of pixels below which the numbers of a class are not reliable."""

NAMED = 6
"""Largest number of names in a list; further names are counted."""

TITLES: dict[Method, str] = {"nearest": "nearest", "bilinear": "one-hot bilinear"}

PAPER_TITLE = "paper, PASCAL VOC 2011"

ABOUT_PAPER = (
    "The paper's numbers are for the validation images of PASCAL VOC 2011. It does not define the resampling method "
    "and the treatment of void."
)

ABOUT_CEILINGS = (
    "The bounds include the loss by the stride only, not wrong predictions. They are not strict: the scores of a "
    "network need not be averages of labels, so it can exceed them slightly on thin shapes."
)

COLORS: dict[Method, str] = {"nearest": GREEN, "bilinear": BLUE}


def rounded_ceiling(ceilings: Ceilings, name: str, stride: int) -> float:
    """Return the IoU of a class by the better method, rounded to whole per cent as in the messages."""
    return round(ceilings.best(name, stride), 2)


def needed_stride(ceilings: Ceilings, name: str) -> int:
    """Return the coarsest stride of a network that is sufficient for a class.

    If none is, return the coarsest stride on which `FINEST` improves by less than `GAIN`.
    """
    best = rounded_ceiling(ceilings, name, FINEST)
    enough = SUFFICIENT if best >= SUFFICIENT else best - GAIN + 0.01
    return next(stride for stride in NETWORKS if rounded_ceiling(ceilings, name, stride) >= enough)


def recommended_network(ceilings: Ceilings) -> str:
    """Return the coarsest network with the needed stride of every class."""
    return NETWORKS[min(needed_stride(ceilings, name) for name in ceilings.present)]


def unreachable_classes(ceilings: Ceilings) -> list[str]:
    """Return the classes with an upper bound below `LOW` at the finest stride, in ascending order of the bound."""
    return [name for name in _limited_classes(ceilings) if rounded_ceiling(ceilings, name, FINEST) < LOW]


def advice(ceilings: Ceilings, *, reduced: int = 0) -> list[str]:
    """Return sentences about the strides that the classes need, the limits of all strides, and the network to train.

    Args:
        ceilings: the upper bounds.
        reduced: number of images that were reduced before they were measured.
    """
    limited = _limited_classes(ceilings)
    matter = f", on larger images if {_names(limited)} {_verb(limited, 'matter')}" if limited else ""
    return [
        *_limits(ceilings, limited, reduced),
        *_needs(ceilings, limited),
        *_rare(ceilings),
        f"Train {recommended_network(ceilings)}{matter}.",
    ]


def markdown(ceilings: Ceilings, data: str, sentences: Sequence[str]) -> str:
    """Return the report as Markdown: advice, methods and tables."""
    header = [str(stride) for stride in ceilings.strides]
    networks = ", ".join(f"{name} {stride}" for stride, name in NETWORKS.items())
    parts = [
        f"# Upper bounds of IoU by output stride: {data}",
        f"{_count(ceilings.images, 'label map')}. Each map is reduced to one cell for stride x stride pixels, "
        "enlarged, and compared with itself; all maps are counted in one confusion matrix. Strides of the networks: "
        f"{networks}.",
        "## Advice",
        "\n".join(f"- {markdown_escaped(sentence)}" for sentence in sentences),
        f"A stride is sufficient for a class if the upper bound by the better method is at least {SUFFICIENT:.0%}. "
        f"{ABOUT_CEILINGS}",
        "## Mean IoU",
        markdown_table(["method", *header], mean_rows(ceilings)),
        "\n".join(f"- *{TITLES[method]}*: {definition}." for method, definition in METHODS.items()),
        ABOUT_PAPER,
    ]
    for method in METHODS:
        parts += [f"## IoU of each class, {TITLES[method]}"]
        parts += [markdown_table(["class", "pixels", "images", *header], class_rows(ceilings, method))]
    return "\n\n".join(parts) + "\n"


def mean_rows(ceilings: Ceilings, digits: int = 1) -> list[list[str]]:
    """Return a table of mean IoU by stride, with a row for each method and for the paper."""
    rows = {TITLES[method]: ceilings.mean_iu[method] for method in METHODS} | {PAPER_TITLE: PAPER_MEAN_IOU}
    return [[title, *(_percent(ius.get(stride), digits) for stride in ceilings.strides)] for title, ius in rows.items()]


def class_rows(ceilings: Ceilings, method: Method | None = None, digits: int = 1) -> list[list[str]]:
    """Return a table of the classes: name, pixels, images, and IoU by stride, by one method or the better one."""

    def iu(name: str, stride: int) -> float | None:
        if method is not None:
            return ceilings.per_class[method][stride][name]
        return ceilings.best(name, stride) if ceilings.pixels[name] else None

    return [
        [
            name,
            f"{pixels:,}",
            f"{ceilings.class_images[name]:,}",
            *(_percent(iu(name, s), digits) for s in ceilings.strides),
        ]
        for name, pixels in ceilings.pixels.items()
    ]


def plot_ceilings(ceilings: Ceilings, path: str | Path) -> None:
    """Plot mean IoU over the stride for both methods, with the paper's curve."""
    figure = new_figure(7.2, 4.7)
    axes = figure.add_subplot()
    positions = {stride: position for position, stride in enumerate(ceilings.strides)}
    style(axes, "Upper bound by stride", f"{len(ceilings.present)} classes, {_count(ceilings.images, 'image')}")
    paper = {positions[stride]: iu for stride, iu in PAPER_MEAN_IOU.items() if stride in positions}
    axes.plot(
        *zip(*sorted(paper.items()), strict=True), color=MUTED, alpha=0.6, linestyle=(0, (4, 3)), label=PAPER_TITLE
    )
    for method in METHODS:
        ius = [ceilings.mean_iu[method][stride] for stride in ceilings.strides]
        axes.plot(ius, color=COLORS[method], marker="o", markersize=4, linewidth=1.9, label=TITLES[method])
    for stride in NETWORKS:
        best = max(ceilings.mean_iu[method][stride] for method in METHODS)
        place = (positions[stride], best)
        label = axes.annotate(f"{best:.0%}", place, (0, 8), textcoords="offset points", ha="center")
        label.set(color=FOREGROUND, size=9, zorder=5)
    _stride_ticks(axes, ceilings)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("mean IoU", color=MUTED)
    axes.legend(frameon=False, fontsize=9, labelcolor=FOREGROUND, loc="lower left")
    save(figure, path)


def plot_class_ceilings(ceilings: Ceilings, path: str | Path) -> None:
    """Plot a heat map of IoU by class and stride, by the better method, with a line at `SUFFICIENT`.

    Classes that do not occur are omitted; the others are sorted by their mean.
    """
    strides = ceilings.strides
    rows = {name: [ceilings.best(name, stride) for stride in strides] for name in ceilings.present}
    names = sorted(rows, key=lambda name: -sum(rows[name]))
    readable = len(names) <= NAMES
    figure = new_figure(7.2, 1.7 + (0.3 if readable else 0.17) * len(names))
    axes = figure.add_subplot()
    style(axes, "Upper bound of each class by stride", f"IoU in %; line: {SUFFICIENT:.0%}", ORANGE)
    axes.grid(visible=False)
    values = np.array([rows[name] for name in names])
    axes.imshow(values, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        color = BACKGROUND if values[i, j] > 0.5 else FOREGROUND
        axes.text(j, i, f"{100 * values[i, j]:.0f}", ha="center", va="center", size=9 if readable else 6, color=color)
    edges = (values.round(2) >= SUFFICIENT).cumprod(axis=1).sum(axis=1) - 0.5
    sides = np.arange(len(names) + 1) - 0.5
    axes.plot(edges.repeat(2), sides.repeat(2)[1:-1], color=ORANGE, linewidth=2, solid_joinstyle="miter")
    name_ticks(axes, "y", names)
    _stride_ticks(axes, ceilings)
    axes.set_xlim(-0.5, len(strides) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", labelsize=9 if readable else 6)
    axes.spines[:].set(visible=True, color=GRID)
    save(figure, path)


def _limited_classes(ceilings: Ceilings) -> list[str]:
    """Return the classes for which no stride is sufficient, in ascending order of the upper bound."""
    iu = {name: rounded_ceiling(ceilings, name, FINEST) for name in ceilings.present}
    return sorted((name for name in iu if iu[name] < SUFFICIENT), key=lambda name: iu[name])


def _limits(ceilings: Ceilings, limited: Sequence[str], reduced: int) -> list[str]:
    """Return sentences about classes for which no stride is sufficient, and the effect of larger images."""
    if not limited:
        return []
    unreachable = unreachable_classes(ceilings)
    reachable = [name for name in limited if name not in unreachable]
    sentences = []
    if unreachable:
        ious = _format_ious(ceilings, unreachable, FINEST)
        sentences.append(
            f"No network can segment {_names(unreachable)} at this image size: the upper bound at stride {FINEST} is "
            f"{ious}."
        )
    if reachable:
        ious = _format_ious(ceilings, reachable, FINEST)
        sentences.append(f"The upper bound of {_names(reachable)} at stride {FINEST} is {ious}.")
    if reduced:
        sentences.append(
            f"{reduced:,} of {ceilings.images:,} images were reduced: a larger --max-side, here and in training, or "
            "training on crops raises the upper bounds."
        )
    enlarged = [
        f"enlarged {FINEST // s} times, stride {FINEST} is like stride {s} now ({_format_ious(ceilings, limited, s)})"
        for s in sorted(ceilings.strides, reverse=True)
        if 1 < s < FINEST
    ]
    if enlarged:
        sentences.append(
            f"Larger images and labels, in training and prediction and with a larger --max-side, raise the upper bound "
            f"of {_names(limited)}: {'; '.join(enlarged)}. Train on crops if memory is insufficient."
        )
    return sentences


def _needs(ceilings: Ceilings, limited: Sequence[str]) -> list[str]:
    """Return sentences about the strides that the other classes need, and their bounds at the next coarser stride."""
    needed = {name: needed_stride(ceilings, name) for name in ceilings.present if name not in limited}
    sentences = []
    coarsest = max(needed.values(), default=0)
    for stride in sorted(set(needed.values())):
        names = [name for name in needed if needed[name] == stride]
        if stride == coarsest:
            rest = "all classes" if len(names) == len(ceilings.present) else "all other classes"
            sentences.append(f"Stride {stride} is sufficient for {rest} (upper bound {SUFFICIENT:.0%} or more).")
        else:
            ious = _format_ious(ceilings, names, 2 * stride)
            sentences.append(
                f"{_names(names)} {_verb(names, 'need')} stride {stride}: the upper bound at stride {2 * stride} is "
                f"{ious}."
            )
    return sentences


def _rare(ceilings: Ceilings) -> list[str]:
    """Return sentences about classes with few pixels."""
    sentences = []
    for name, pixels in ceilings.pixels.items():
        if 0 < pixels < FEW_PIXELS:
            counts = f"{_count(pixels, 'pixel')} in {_count(ceilings.class_images[name], 'image')}"
            sentences.append(f"The numbers of {name} are not reliable: it has only {counts}.")
    return sentences


def _format_ious(ceilings: Ceilings, names: Sequence[str], stride: int) -> str:
    """Format the upper bounds of classes, or their range if there are many."""
    values = [rounded_ceiling(ceilings, name, stride) for name in names]
    if len(values) > NAMED:
        return f"{min(values):.0%} to {max(values):.0%}"
    return _join([f"{value:.0%}" for value in values])


def _names(names: Sequence[str]) -> str:
    if len(names) <= NAMED:
        return _join(names)
    return _join([*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"])


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _verb(names: Sequence[str], verb: str) -> str:
    return f"{verb}s" if len(names) == 1 else verb


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _stride_ticks(axes: Axes, ceilings: Ceilings) -> None:
    """Label the x axis with the strides and the names of their networks."""
    names = [f"{stride}\n{NETWORKS.get(stride, '')}" for stride in ceilings.strides]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("output stride in pixels", color=MUTED)
