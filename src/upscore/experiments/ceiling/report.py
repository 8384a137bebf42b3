"""Report of the upper bounds of mean IU: Markdown, JSON and figures.

C classes; IU from 0 to 1.
"""

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

COLORS: dict[Method, str] = {"nearest": GREEN, "bilinear": BLUE}


def plot_ceilings(ceilings: Ceilings, path: str | Path) -> None:
    """Mean IoU over the stride, which doubles from mark to mark: both methods, and the paper's curve, pale."""
    figure = new_figure(7.2, 4.7)
    axes = figure.add_subplot()
    at = {stride: place for place, stride in enumerate(ceilings.strides)}
    photos = f"{ceilings.images:,} photo{'' if ceilings.images == 1 else 's'}"
    style(axes, "The most that a stride allows", f"{len(ceilings.present)} classes, {photos}")
    paper = {at[stride]: iu for stride, iu in PAPER_MEAN_IOU.items() if stride in at}
    axes.plot(
        *zip(*sorted(paper.items()), strict=True), color=MUTED, alpha=0.6, linestyle=(0, (4, 3)), label=PAPER_TITLE
    )
    for method in METHODS:
        ius = [ceilings.mean_iu[method][stride] for stride in ceilings.strides]
        axes.plot(ius, color=COLORS[method], marker="o", markersize=4, linewidth=1.9, label=TITLES[method])
    for stride in NETWORKS:
        kinder = max(ceilings.mean_iu[method][stride] for method in METHODS)
        label = axes.annotate(f"{kinder:.0%}", (at[stride], kinder), (0, 8), textcoords="offset points", ha="center")
        label.set(color=FOREGROUND, size=9, zorder=5)
    _stride_ticks(axes, ceilings)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("mean IoU", color=MUTED)
    axes.legend(frameon=False, fontsize=9, labelcolor=FOREGROUND, loc="lower left")
    save(figure, path)


def plot_class_ceilings(ceilings: Ceilings, path: str | Path) -> None:
    """A heat map of IU, a row for each class that the labels have and a column for each stride, by the kinder method.

    The classes that keep the most are on top. A line parts what is fine from what is not.
    """
    strides = ceilings.strides
    rows = {name: [ceilings.best(name, stride) for stride in strides] for name in ceilings.present}
    names = sorted(rows, key=lambda name: -sum(rows[name]))
    readable = len(names) <= NAMES
    figure = new_figure(7.2, 1.7 + (0.3 if readable else 0.17) * len(names))
    axes = figure.add_subplot()
    style(axes, "The most that a stride allows each class", f"IU in %; line: {FINE:.0%}", ORANGE)
    axes.grid(visible=False)
    values = np.array([rows[name] for name in names])
    axes.imshow(values, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        ink = BACKGROUND if values[i, j] > 0.5 else FOREGROUND
        axes.text(j, i, f"{100 * values[i, j]:.0f}", ha="center", va="center", size=9 if readable else 6, color=ink)
    edges = (values.round(2) >= FINE).cumprod(axis=1).sum(axis=1) - 0.5
    sides = np.arange(len(names) + 1) - 0.5
    axes.plot(edges.repeat(2), sides.repeat(2)[1:-1], color=ORANGE, linewidth=2, solid_joinstyle="miter")
    name_ticks(axes, "y", names)
    _stride_ticks(axes, ceilings)
    axes.set_xlim(-0.5, len(strides) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", labelsize=9 if readable else 6)
    axes.spines[:].set(visible=True, color=GRID)
    save(figure, path)


def _stride_ticks(axes: Axes, ceilings: Ceilings) -> None:
    """Strides along the x axis, and below them the networks that have them."""
    names = [f"{stride}\n{NETWORKS.get(stride, '')}" for stride in ceilings.strides]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("output stride in pixels", color=MUTED)


NETWORKS = {32: "fcn32s", 16: "fcn16s", 8: "fcn8s"}
"""Output stride -> the network that has it, from coarse to fine."""

FINEST = min(NETWORKS)

FINE = 0.75
"""From this ceiling on a network loses more by its own mistakes (the paper's reach 65% where stride 8 allows 96%)."""

LOW = 0.5
"""Below this ceiling a class cannot be got right."""

GAIN = 0.05
"""A finer stride that adds less is not worth asking for."""

FEW_PIXELS = 10_000

NAMED = 6
"""Names in a list; of more, the others are counted."""

TITLES: dict[Method, str] = {"nearest": "nearest", "bilinear": "one-hot bilinear"}

PAPER_TITLE = "the paper's, PASCAL VOC 2011"

ABOUT_PAPER = (
    "The paper's numbers are of PASCAL VOC 2011's validation photos. It doesn't say which method it used, nor what it "
    "did with void."
)

ABOUT_CEILINGS = (
    "These are ceilings of the stride alone: what a network gets wrong comes on top. They are not strict: its scores "
    "need not be averages of labels, so it may pass them a little on thin shapes."
)


def ceiling_of(ceilings: Ceilings, name: str, stride: int) -> float:
    """The IU of a class by the kinder method, to whole per cent, as it is told: what is called 75% counts as 75%."""
    return round(ceilings.best(name, stride), 2)


def needed_stride(ceilings: Ceilings, name: str) -> int:
    """The coarsest of the networks' strides at which a class is fine.

    Of a class that is fine at none, the coarsest that `FINEST` improves on by less than `GAIN`.
    """
    best = ceiling_of(ceilings, name, FINEST)
    enough = FINE if best >= FINE else best - GAIN + 0.01
    return next(stride for stride in NETWORKS if ceiling_of(ceilings, name, stride) >= enough)


def network_for(ceilings: Ceilings) -> str:
    """The coarsest network that serves every class of the labels."""
    return NETWORKS[min(needed_stride(ceilings, name) for name in ceilings.present)]


def out_of_reach(ceilings: Ceilings) -> list[str]:
    """The classes that no network here can get right, the worst first."""
    return [name for name in _spoilt(ceilings) if ceiling_of(ceilings, name, FINEST) < LOW]


def advice(ceilings: Ceilings, *, reduced: int = 0) -> list[str]:
    """Sentences: what each class needs, what none of the networks can do and what helps, and which one to train.

    `reduced` of the photos were brought down in size before they were counted.
    """
    spoilt = _spoilt(ceilings)
    matter = f", on larger photos if {_names(spoilt)} {_verb(spoilt, 'matter')}" if spoilt else ""
    return [
        *_limits(ceilings, spoilt, reduced),
        *_needs(ceilings, spoilt),
        *_rare(ceilings),
        f"Train {network_for(ceilings)}{matter}.",
    ]


def _spoilt(ceilings: Ceilings) -> list[str]:
    """The classes that are not fine even at the finest of the networks' strides, the worst first."""
    iu = {name: ceiling_of(ceilings, name, FINEST) for name in ceilings.present}
    return sorted((name for name in iu if iu[name] < FINE), key=lambda name: iu[name])


def _limits(ceilings: Ceilings, spoilt: Sequence[str], reduced: int) -> list[str]:
    """What the networks cannot do, and how much larger photos would help."""
    if not spoilt:
        return []
    hopeless = out_of_reach(ceilings)
    blurred = [name for name in spoilt if name not in hopeless]
    sentences = []
    if hopeless:
        caps = f"even stride {FINEST} caps {_pronoun(hopeless)} at {_shares(ceilings, hopeless, FINEST)}"
        sentences.append(f"No network here can get {_names(hopeless)} right at this size: {caps}.")
    if blurred:
        sentences.append(f"Even stride {FINEST} caps {_names(blurred)} at {_shares(ceilings, blurred, FINEST)}.")
    if reduced:
        sentences.append(
            "Strides cost less with a larger --max-side, here and in training, or with crops of the photos: "
            f"{reduced:,} of {ceilings.images:,} were reduced first."
        )
    enlarged = [
        f"{FINEST // s} times, stride {FINEST} is worth about today's {s} ({_shares(ceilings, spoilt, s)})"
        for s in sorted(ceilings.strides, reverse=True)
        if 1 < s < FINEST
    ]
    if enlarged:
        sentences.append(
            f"What helps {_names(spoilt)} is larger photos and labels, in training and in use, with --max-side to "
            f"match (in crops, if memory is short): enlarged {'; '.join(enlarged)}."
        )
    return sentences


def _needs(ceilings: Ceilings, spoilt: Sequence[str]) -> list[str]:
    """Which of the other classes need which stride, from fine to coarse, and what a coarser one makes of them."""
    needed = {name: needed_stride(ceilings, name) for name in ceilings.present if name not in spoilt}
    sentences = []
    coarsest = max(needed.values(), default=0)
    for stride in sorted(set(needed.values())):
        names = [name for name in needed if needed[name] == stride]
        if stride == coarsest:
            rest = "Everything" if len(names) == len(ceilings.present) else "Everything else"
            sentences.append(f"{rest} is fine at stride {stride} ({FINE:.0%} or more).")
        else:
            need = f"{_names(names)} {_verb(names, 'need')} stride {stride}"
            caps = f"stride {2 * stride} caps {_pronoun(names)} at {_shares(ceilings, names, 2 * stride)}"
            sentences.append(f"{need}: {caps}.")
    return sentences


def _rare(ceilings: Ceilings) -> list[str]:
    sentences = []
    for name, pixels in ceilings.pixels.items():
        if 0 < pixels < FEW_PIXELS:
            where = f"{_count(pixels, 'pixel')}, in {_count(ceilings.photos[name], 'photo')}"
            sentences.append(f"{name} has only {where}: too few to rely on its numbers.")
    return sentences


def mean_rows(ceilings: Ceilings, digits: int = 1) -> list[list[str]]:
    """Mean IoU at each stride, with so many decimals: a row for each method, and the paper's."""
    rows = {TITLES[method]: ceilings.mean_iu[method] for method in METHODS} | {PAPER_TITLE: PAPER_MEAN_IOU}
    return [[title, *(_share(ius.get(stride), digits) for stride in ceilings.strides)] for title, ius in rows.items()]


def class_rows(ceilings: Ceilings, method: Method | None = None, digits: int = 1) -> list[list[str]]:
    """Each class's name, pixels, photos, and IU at each stride, by a method or by the kinder one."""

    def iu(name: str, stride: int) -> float | None:
        if method is not None:
            return ceilings.per_class[method][stride][name]
        return ceilings.best(name, stride) if ceilings.pixels[name] else None

    return [
        [name, f"{pixels:,}", f"{ceilings.photos[name]:,}", *(_share(iu(name, s), digits) for s in ceilings.strides)]
        for name, pixels in ceilings.pixels.items()
    ]


def markdown(ceilings: Ceilings, data: str, sentences: Sequence[str]) -> str:
    """The whole page: advice, methods, and the tables."""
    header = [str(stride) for stride in ceilings.strides]
    networks = ", ".join(f"{name} {stride}" for stride, name in NETWORKS.items())
    parts = [
        f"# What the output stride allows on {data}",
        f"{_count(ceilings.images, 'label map')}. Each is brought down to one cell for every stride x stride pixels, "
        f"and up again, and scored against itself, in one confusion matrix for all. The networks' strides: {networks}.",
        "## Advice",
        "\n".join(f"- {markdown_escaped(sentence)}" for sentence in sentences),
        f"A class is fine here from a ceiling of {FINE:.0%} on, by the better of the two methods. {ABOUT_CEILINGS}",
        "## Mean IoU",
        markdown_table(["method", *header], mean_rows(ceilings)),
        "\n".join(f"- *{TITLES[method]}*: {words}." for method, words in METHODS.items()),
        ABOUT_PAPER,
    ]
    for method in METHODS:
        parts += [f"## IU of each class, {TITLES[method]}"]
        parts += [markdown_table(["class", "pixels", "photos", *header], class_rows(ceilings, method))]
    return "\n\n".join(parts) + "\n"


def _share(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _shares(ceilings: Ceilings, names: Sequence[str], stride: int) -> str:
    """Ceilings one by one, or their range where there are many."""
    values = [ceiling_of(ceilings, name, stride) for name in names]
    if len(values) > NAMED:
        return f"{min(values):.0%} to {max(values):.0%}"
    return _listed([f"{value:.0%}" for value in values])


def _names(names: Sequence[str]) -> str:
    if len(names) <= NAMED:
        return _listed(names)
    return _listed([*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _verb(names: Sequence[str], verb: str) -> str:
    return f"{verb}s" if len(names) == 1 else verb


def _pronoun(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
