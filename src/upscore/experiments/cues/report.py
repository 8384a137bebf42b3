"""Report of the cue experiment: scores as Markdown, JSON and a plot, and figures of predictions.

N images, C classes, H W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.ticker import PercentFormatter
from PIL import Image

from upscore.data.datasets import Dataset
from upscore.experiments.cues.conditions import ROWS, SHAPE, Color, Cues, Visible
from upscore.experiments.cues.run import Experiment
from upscore.files import atomic_path, write_text
from upscore.inference import Model
from upscore.labels import VOID
from upscore.results import as_semantic
from upscore.text import markdown_table
from upscore.viz.colormaps import class_colors
from upscore.viz.legend import LegendEntry, draw_legend, stack
from upscore.viz.overlays import overlay, resize_longer_side, side_by_side
from upscore.viz.plots import BLUE, FOREGROUND, MUTED, ORANGE, PALE_BLUE, name_ticks, new_figure, save, style

PANEL = 480
"""The longer side of a photo in pixels; what is small is enlarged to it."""

LETTERS, OPACITY = 22, 0.8
SPECK = 0.005
"""Classes with a smaller share of a photo are not what it is chosen for."""


def choose_photos(counts: np.ndarray, foreground: Sequence[int], number: int) -> list[int]:
    """Of the (N, C) pixels of photos, in each of `number` stretches the photo that shows most of the foreground.

    Most classes first, then most pixels.
    """
    objects = counts[:, list(foreground)] / counts.sum(1, keepdims=True).clip(1)
    value = (objects >= SPECK).sum(1) + objects.sum(1).clip(0, 0.99)
    edges = np.linspace(0, len(counts), min(number, len(counts)) + 1).astype(int)
    return [int(start + value[start:stop].argmax()) for start, stop in pairwise(edges.tolist())]


def strips(
    photos: Dataset, seen: Dataset, predictor: Model, chosen: Sequence[int], foreground: Sequence[int], saw: str
) -> Image.Image:
    """A row for each photo: the photo, what the network saw, the truth, what it says; the classes' colours beneath.

    `saw` says what of the photo that is. Over what it says stands the share of the objects' pixels that is right.
    """
    rows, occurring = [], set()
    for index in chosen:
        photo, sample = photos[index], seen[index]
        assert photo.class_map is not None
        truth, said = photo.class_map.numpy(), as_semantic(predictor.predict(sample.image)).class_map
        assert said is not None
        pixels, shown = (resize_longer_side(part.image.permute(1, 2, 0).numpy(), PANEL) for part in (photo, sample))
        panels = {
            "photo": Image.fromarray(pixels),
            f"what the network sees: {saw}": Image.fromarray(shown),
            "truth": overlay(pixels, resize_longer_side(truth, PANEL), predictor.classes, OPACITY, legend=False),
            f"says: {_right(said, truth, foreground)}": overlay(
                shown, resize_longer_side(said, PANEL), predictor.classes, OPACITY, legend=False
            ),
        }
        rows.append(side_by_side(list(panels.values()), list(panels)))
        occurring |= {*np.unique(truth).tolist(), *np.unique(said).tolist()}
    colors = class_colors(len(predictor.classes))
    chips = [
        LegendEntry(name, "", [tuple(colors[k].tolist())] if k or name.lower() not in ("background", "bg") else [])
        for k, name in enumerate(predictor.classes)
        if k in occurring
    ]
    return stack([*rows, draw_legend(chips, rows[0].width, LETTERS)])


def plot_cues(runs: Sequence[Cues], path: str | Path, title: str = "What the network looks at") -> None:
    """Bars of both scores for each row, the paper's as pale marks; of several runs their means, and a dot for each."""
    figure = new_figure(8, 4.8)
    axes = figure.add_subplot()
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    style(axes, title, f"{runs[0].photos:,} held-out photo{'' if runs[0].photos == 1 else 's'}{seeds}")
    for offset, color, field, label in (
        (-0.19, BLUE, "foreground_iu", "mean IoU of the foreground"),
        (0.19, PALE_BLUE, "mean_iu", "mean IoU of all classes"),
    ):
        each = [[getattr(cues.scores[name], field) for cues in runs] for name in ROWS]
        places = [place + offset for place in range(len(ROWS))]
        means = [mean(values) for values in each]
        axes.bar(places, means, 0.36, color=color, label=label, zorder=2)
        for place, values, height in zip(places, each, means, strict=True):
            top = max(values)
            if len(runs) > 1:
                axes.plot([place] * len(values), values, "o", color=FOREGROUND, markersize=2.6, zorder=4)
            axes.annotate(
                f"{height:.0%}",
                (place, top),
                (0, 4),
                textcoords="offset points",
                ha="center",
                size=8.5,
                color=FOREGROUND,
            )
    for place, row in enumerate(ROWS.values()):
        axes.plot([place - 0.38, place], [row.paper] * 2, color=MUTED, alpha=0.55, linewidth=2.4, zorder=3)
    axes.plot([], [], color=MUTED, alpha=0.55, linewidth=2.4, label="the paper's, of the foreground (VOC)")
    guess = mean(cues.guess.foreground_iu for cues in runs)
    axes.axhline(guess, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)
    axes.plot([], [], color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), label="every object called the same")
    name_ticks(axes, "x", [row.title for row in ROWS.values()])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, labels = axes.get_legend_handles_labels()
    order = [2, 3, 0, 1]  # bars before lines
    axes.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        frameon=False,
        fontsize=8.5,
        labelcolor=FOREGROUND,
        loc="upper right",
    )
    save(figure, path)


def _right(said: np.ndarray, truth: np.ndarray, foreground: Sequence[int]) -> str:
    objects = np.isin(truth, foreground) & (truth != VOID)
    return f"{(said == truth)[objects].mean():.0%} of the objects right" if objects.any() else "no objects here"


PICTURES = {
    "shape": ("mask_only.png", "the shape"),
    "fg_only": ("fg_only.png", "the foreground"),
    "bg_only": ("bg_only.png", "the background"),
}
"""Row -> its picture, and what of the photos its network sees."""

PHOTOS = 4
"""In each picture."""


def write_cues(
    experiment: Experiment,
    cues: Cues,
    counts: np.ndarray,
    about: Mapping[str, str | None],
    sentences: Sequence[str],
    defined: Sequence[str],
) -> list[Path]:
    """Write cues.md, cues.json (with what it is `about`), cues.png and the pictures; returns their paths.

    The photos that are shown are chosen by the (N, C) pixel `counts` of all that are held out.
    """
    folder = experiment.output
    report = {**about, **as_json(cues), "advice": list(sentences), "definitions": list(defined)}
    write_text(folder / "cues.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    plot_cues([cues], folder / "cues.png")
    chosen = choose_photos(counts, experiment.indices, PHOTOS)
    for row, (file, saw) in PICTURES.items():
        predictor = experiment.predictor(row)
        seen = experiment.masked(experiment.val, ROWS[row].tested, predictor.preprocessing)
        picture = strips(experiment.val, seen, predictor, chosen, experiment.indices, saw)
        with atomic_path(folder / file) as temporary:
            picture.save(temporary)
    files = [file for file, _ in PICTURES.values()]
    write_text(folder / "cues.md", markdown(cues, f"{about['data']}, {about['model']}", sentences, defined, files))
    return [folder / file for file in ("cues.md", "cues.json", "cues.png", *files)]


ABOVE_GUESS = 0.05
"""What is not this much better than calling every object the same has told nothing."""

ENOUGH, MOST = 0.95, 0.8
"""From these shares on, what is hidden hardly counts, or counts a little."""

STRONG, WEAK = 0.6, 0.3
"""From the former share on a cue counts a lot, and below the latter little."""

ADDS = 0.05
"""A difference of foreground IU that is worth a word."""

FOUND = 0.5
"""A row in which a smaller share of the objects' pixels is taken for objects is judged by too few of them."""

HEADER = (
    "row",
    "trained FG/BG",
    "tested FG/BG",
    "mean IoU of FG",
    "share",
    "paper's",
    "paper's share",
    "mean IoU of all",
    "FG found",
)
"""FG: the foreground, BG: the background."""


def cue_rows(cues: Cues) -> list[list[str]]:
    """The table's lines, in the columns of `HEADER`."""
    reference, paper = cues.scores["reference"].foreground_iu, ROWS["reference"].paper
    lines = []
    for name, row in ROWS.items():
        scores = cues.scores[name]
        share = f"{scores.foreground_iu / reference:.0%}" if reference else "-"
        numbers = [f"{scores.foreground_iu:.1%}", share, f"{row.paper:.1%}", f"{row.paper / paper:.0%}"]
        numbers += [f"{scores.mean_iu:.1%}", f"{scores.found:.1%}"]
        lines.append([row.title, _kept(row.trained), _kept(row.tested), *numbers])
    return lines


def definitions(cues: Cues, fill: Color, colour: float) -> list[str]:
    """What was hidden and how, and what the columns mean; `colour`: of the reference's own training."""
    name, iu = cues.guess
    jitter = "Colours are not changed in training, for what is hidden has to look the same in every photo"
    trained = f"; the reference itself was trained with changes of strength {colour:g}" if colour else ""
    return [
        f"*Foreground* (FG): {', '.join(cues.foreground)}. *Background* (BG): {', '.join(cues.background)}. The "
        "networks learn all of them.",
        f"*Masked* pixels have the network's mean colour, {fill}, which is about 0 to it; where both are masked, the "
        f"foreground is {SHAPE}. Masks are the labels, at their own size, in training and in testing alike: a network "
        "that sees a masked photo is told where the objects are.",
        "*Void* is masked along with whatever is masked, and background where the shape alone is left, so that its "
        "outline gives nothing away. It is neither learned nor scored.",
        "*Mean IoU of FG*: the confusion matrix over all held-out photos without the rows and columns of "
        "background classes; the mean over the foreground classes that the truth has. What the network calls "
        "background is thus left out: *FG found* is the share of the objects' pixels that is left.",
        "*Share*: of the reference's mean IoU of FG.",
        "*Mean IoU of all* classes: of the whole matrix, as `upscore evaluate` has it.",
        f"*Guess*: calling every object {name}, the most frequent, gives a mean IoU of FG of {iu:.1%}.",
        "*The paper's*: FCN-32s over VGG16, PASCAL VOC. It states neither the colour of what is masked, nor what "
        "becomes of void, nor how it leaves the background out; the restricted matrix is the reading that fits "
        "its 84.8%.",
        f"{jitter}{trained}.",
    ]


def advice(cues: Cues) -> list[str]:
    """Sentences: what the objects, their outline and their surroundings tell, what the reference relies on, what to do.

    The last is what to take from it.
    """
    iu = {name: scores.foreground_iu for name, scores in cues.scores.items()}
    guess, base = cues.guess, cues.guess.foreground_iu + ABOVE_GUESS
    if iu["reference"] < base:
        return [
            f"The reference reaches {iu['reference']:.0%}, hardly more than calling every object {guess.name} "
            f"({guess.foreground_iu:.0%}): train it longer before you read anything from the other rows."
        ]
    if (found := cues.scores["reference"].found) < FOUND:
        return [
            f"The reference takes only {found:.0%} of the objects' pixels for objects, and the mean IoU of the "
            "foreground is of these alone: train it longer before you read anything from the other rows."
        ]
    share = {name: value / iu["reference"] for name, value in iu.items()}
    told = {name: value >= base for name, value in iu.items()}
    nothing = f"hardly more than calling every object {guess.name}"
    return [
        _objects(share["fg_only"]),
        _outline(share["shape"], nothing if not told["shape"] else ""),
        _surroundings(iu, share["bg_only"], nothing if not told["bg_only"] else ""),
        _reliance(iu, share),
        *_hidden(cues, share["reference_bg"], told["reference_bg"]),
        _take_away(iu, share, told),
    ]


def markdown(cues: Cues, title: str, sentences: Sequence[str], defined: Sequence[str], pictures: Sequence[str]) -> str:
    """The whole page; `pictures` are files beside it."""
    parts = [
        f"# What the network looks at: {title}",
        f"{cues.photos:,} held-out photos. Each network sees photos of which the foreground, the background or both "
        "are masked; if masking something costs nothing, the network did not need it (FCN, table 8).",
        markdown_table(HEADER, cue_rows(cues)),
        "![Mean IoU of each row](cues.png)",
        "## Advice",
        "\n".join(f"- {sentence}" for sentence in sentences),
        "## Definitions",
        "\n".join(f"- {sentence}" for sentence in defined),
        "## What they saw and what they said",
        *(f"![{name}]({name})" for name in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(cues: Cues) -> dict[str, object]:
    """All numbers, of types that JSON has."""
    rows = {
        name: {
            "title": row.title,
            "trained": row.trained._asdict(),
            "tested": row.tested._asdict(),
            "paper": row.paper,
            **cues.scores[name].to_json(),
        }
        for name, row in ROWS.items()
    }
    return {
        "images": cues.photos,
        "foreground": cues.foreground,
        "background": cues.background,
        "guess": cues.guess._asdict(),
        "rows": rows,
    }


def _kept(visible: Visible) -> str:
    return "/".join("keep" if shown else "mask" for shown in visible)


def _objects(share: float) -> str:
    gives = f"The objects alone, without what surrounds them (FG-only), give {share:.0%} of what the photo gives"
    if share >= 1:
        return f"{gives}: the mask that tells where they are is worth at least as much as their surroundings."
    if share >= ENOUGH:
        return f"{gives}: the surroundings add next to nothing."
    return f"{gives}: the surroundings add {'a little' if share >= MOST else 'a good part'}."


def _outline(share: float, nothing: str) -> str:
    gives = f"The shape alone gives {share:.0%} of what the photo gives"
    if nothing:
        return f"{gives}, {nothing}: outlines do not tell these classes apart."
    if share >= STRONG:
        return f"{gives}: outline matters more than texture here."
    return f"{gives}: {'outline and texture both count' if share >= WEAK else 'texture and colour matter most here'}."


def _surroundings(iu: dict[str, float], share: float, nothing: str) -> str:
    gives = f"The background with the objects cut out (BG-only) gives {share:.0%} of what the photo gives"
    if nothing:
        return f"{gives}, {nothing}: context helps little."
    adds = iu["bg_only"] - iu["shape"]
    if adds < ADDS:
        return f"{gives}, no more than the outline of the holes, which is the shape: context itself helps little."
    return f"{gives}, {100 * adds:.0f} points more than the outline of the holes: context tells what to expect in it."


def _reliance(iu: dict[str, float], share: dict[str, float]) -> str:
    loss = iu["reference"] - iu["reference_fg"]
    if loss < ADDS:
        kept = share["reference_fg"]
        return f"With the background masked the reference keeps {kept:.0%} of its score: it looks at the objects."
    loses = f"With the background masked the reference loses {100 * loss:.0f} points"
    if not _relies(iu):
        return f"{loses}; a network that never saw a background does no better: here the two belong together."
    return (
        f"{loses}, and a network that never saw a background does {100 * (iu['fg_only'] - iu['reference_fg']):.0f} "
        "points better there: your model relies on the background more than it must."
    )


def _relies(iu: dict[str, float]) -> bool:
    return min(iu["reference"], iu["fg_only"]) - iu["reference_fg"] >= ADDS


def _hidden(cues: Cues, share: float, told: bool) -> list[str]:
    found = cues.scores["reference_bg"].found
    hidden = f"With the objects masked the reference takes {found:.0%} of their pixels for objects"
    if found < FOUND:
        return [f"{hidden}: most are gone for it."]
    if not told or share < WEAK:
        return [f"{hidden}, but seldom names them right."]
    return [f"{hidden}, and keeps {share:.0%} of its score: it goes by their surroundings, or by the holes' outline."]


def _take_away(iu: dict[str, float], share: dict[str, float], told: dict[str, bool]) -> str:
    if _relies(iu):
        return "Collect photos of the same objects in other places before you train longer."
    if told["shape"] and share["shape"] >= STRONG:
        return "Draw outlines exactly and keep photos large enough to show them: they tell your classes apart."
    if share["fg_only"] < MOST:
        return "Photograph objects where they will be met: their surroundings are part of what tells them apart."
    if not told["shape"] or share["shape"] < WEAK:
        return "Collect photos in other light and by other cameras: the look of surfaces tells your classes apart."
    return "More photos of the kind that you have will do: no single cue stands out that they could mislead by."
