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
from upscore.experiments.cues.conditions import CONDITIONS, SHAPE, Color, Cues, Visible
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

PICTURES = {
    "shape": ("mask_only.png", "the shape"),
    "fg_only": ("fg_only.png", "the foreground"),
    "bg_only": ("bg_only.png", "the background"),
}
"""Condition -> file name of its figure, and the visible parts of its images."""

IMAGES_SHOWN = 4
"""Number of images in a figure."""

PANEL = 480
"""Longer side in pixels of an image in a figure."""

LETTERS, OPACITY = 22, 0.8

MIN_SHARE = 0.005
"""Smallest fraction of an image for which a class counts in its choice."""

ABOVE_GUESS = 0.05
"""A score is informative if it exceeds the baseline of one class for all objects by at least this difference."""

ENOUGH, MOST = 0.95, 0.8
"""Fractions of the reference score from which the hidden part has almost no effect, or a small effect."""

STRONG, WEAK = 0.6, 0.3
"""Fractions of the reference score from which a cue is strong, and below which it is weak."""

SIGNIFICANT = 0.05
"""Smallest difference of foreground IoU that is reported."""

MIN_DETECTED = 0.5
"""Smallest fraction of object pixels predicted as objects for which foreground IoU is meaningful."""

HEADER = (
    "condition",
    "trained FG/BG",
    "tested FG/BG",
    "mean IoU of FG",
    "relative",
    "paper",
    "paper, relative",
    "mean IoU of all",
    "FG detected",
)
"""Column titles of the table; FG is the foreground, BG the background."""


def write_cues(
    experiment: Experiment,
    cues: Cues,
    counts: np.ndarray,
    about: Mapping[str, str | None],
    sentences: Sequence[str],
    defined: Sequence[str],
) -> list[Path]:
    """Write cues.md, cues.json, cues.png and a figure for each trained condition.

    Args:
        experiment: the finished experiment.
        cues: its scores.
        counts: (N, C) labelled pixels of the validation images, for the choice of images.
        about: further entries of cues.json; `data` and `model` are in the title of cues.md.
        sentences: the advice.
        defined: the definitions.

    Returns:
        The paths of the files.
    """
    folder = experiment.output
    report = {**about, **as_json(cues), "advice": list(sentences), "definitions": list(defined)}
    write_text(folder / "cues.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    plot_cues([cues], folder / "cues.png")
    chosen = choose_images(counts, experiment.indices, IMAGES_SHOWN)
    for condition, (file, visible_parts) in PICTURES.items():
        model = experiment.model_for(condition)
        masked = experiment.masked(experiment.val, CONDITIONS[condition].tested, model.preprocessing)
        picture = prediction_rows(experiment.val, masked, model, chosen, experiment.indices, visible_parts)
        with atomic_path(folder / file) as temporary:
            picture.save(temporary)
    files = [file for file, _ in PICTURES.values()]
    write_text(folder / "cues.md", markdown(cues, f"{about['data']}, {about['model']}", sentences, defined, files))
    return [folder / file for file in ("cues.md", "cues.json", "cues.png", *files)]


def markdown(cues: Cues, title: str, sentences: Sequence[str], defined: Sequence[str], pictures: Sequence[str]) -> str:
    """Return the report as Markdown; `pictures` are file names in the same folder."""
    parts = [
        f"# Cues: {title}",
        f"{cues.images:,} validation images. Networks are trained and tested on images with masked foreground, "
        "background or both (FCN, table 8). If masking a part does not lower the score, the network does not need it.",
        markdown_table(HEADER, cue_rows(cues)),
        "![Mean IoU of each condition](cues.png)",
        "## Advice",
        "\n".join(f"- {sentence}" for sentence in sentences),
        "## Definitions",
        "\n".join(f"- {sentence}" for sentence in defined),
        "## Examples",
        *(f"![{name}]({name})" for name in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(cues: Cues) -> dict[str, object]:
    """Return all numbers as a JSON-serialisable dictionary."""
    rows = {
        name: {
            "title": row.title,
            "trained": row.trained._asdict(),
            "tested": row.tested._asdict(),
            "paper": row.paper,
            **cues.scores[name].to_json(),
        }
        for name, row in CONDITIONS.items()
    }
    return {
        "images": cues.images,
        "foreground": cues.foreground,
        "background": cues.background,
        "guess": cues.guess._asdict(),
        "rows": rows,
    }


def cue_rows(cues: Cues) -> list[list[str]]:
    """Return the table of scores, with the columns `HEADER`."""
    reference, paper = cues.scores["reference"].foreground_iu, CONDITIONS["reference"].paper
    lines = []
    for name, row in CONDITIONS.items():
        scores = cues.scores[name]
        share = f"{scores.foreground_iu / reference:.0%}" if reference else "-"
        numbers = [f"{scores.foreground_iu:.1%}", share, f"{row.paper:.1%}", f"{row.paper / paper:.0%}"]
        numbers += [f"{scores.mean_iu:.1%}", f"{scores.found:.1%}"]
        lines.append([row.title, _kept(row.trained), _kept(row.tested), *numbers])
    return lines


def definitions(cues: Cues, fill: Color, colour: float) -> list[str]:
    """Return the definitions of masks and columns.

    Args:
        cues: the scores.
        fill: colour of hidden pixels.
        colour: strength of the colour augmentation that the reference was trained with.
    """
    name, iu = cues.guess
    augmentation = "There is no colour augmentation, since hidden pixels have the same colour in all images"
    trained = f"; the given reference was trained with colour augmentation of strength {colour:g}" if colour else ""
    return [
        f"*Foreground* (FG): {', '.join(cues.foreground)}. *Background* (BG): {', '.join(cues.background)}. The "
        "networks are trained on all classes.",
        f"*Masked* pixels have the mean colour of the preprocessing, {fill}; if both are masked, the foreground has "
        f"the colour {SHAPE}. The masks are the labels in original size, in training and in testing, so that a masked "
        "image shows the position of the objects.",
        "*Void* is masked with the foreground and with the background, and has the colour of the background if only "
        "the shape is visible. It is neither trained on nor scored.",
        "*Mean IoU of FG*: mean over the foreground classes in the ground truth, in the confusion matrix of all "
        "validation images without the rows and columns of background classes. Foreground pixels that are predicted as "
        "background are therefore excluded; *FG detected* is the fraction of foreground pixels that are predicted as "
        "any foreground class.",
        "*Relative*: mean IoU of FG divided by that of the reference.",
        "*Mean IoU of all* classes: in the complete confusion matrix, as computed by `upscore evaluate`.",
        f"*Baseline*: predicting {name}, the most frequent class, for all objects gives a mean IoU of FG of {iu:.1%}.",
        "*Paper*: FCN-32s with VGG16 on PASCAL VOC. The paper defines neither the colour of masked pixels, nor the "
        "treatment of void, nor how the background is excluded; the restricted confusion matrix agrees with its 84.8%.",
        f"{augmentation}{trained}.",
    ]


def advice(cues: Cues) -> list[str]:
    """Return sentences about the effect of objects, shape and background; the last one is a recommendation."""
    iu = {name: scores.foreground_iu for name, scores in cues.scores.items()}
    guess, base = cues.guess, cues.guess.foreground_iu + ABOVE_GUESS
    if iu["reference"] < base:
        return [
            f"The reference reaches {iu['reference']:.0%}, about as much as the prediction {guess.name} for all "
            f"objects ({guess.foreground_iu:.0%}): train it longer, since the other conditions are not meaningful."
        ]
    if (detected := cues.scores["reference"].found) < MIN_DETECTED:
        return [
            f"The reference predicts only {detected:.0%} of the object pixels as objects, and the mean IoU of the "
            "foreground includes only these: train it longer, since the other conditions are not meaningful."
        ]
    share = {name: value / iu["reference"] for name, value in iu.items()}
    informative = {name: value >= base for name, value in iu.items()}
    return [
        _objects(share["fg_only"]),
        _shape(share["shape"], informative["shape"], guess.name),
        _background(iu, share["bg_only"], informative["bg_only"], guess.name),
        _reliance(iu, share),
        _without_objects(cues, share["reference_bg"], informative["reference_bg"]),
        _recommendation(iu, share, informative),
    ]


def plot_cues(runs: Sequence[Cues], path: str | Path, title: str = "Scores with hidden pixels") -> None:
    """Plot both scores of each condition as bars, with the paper's values; for several runs, means and single
    values."""
    figure = new_figure(8, 4.8)
    axes = figure.add_subplot()
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    style(axes, title, f"{runs[0].images:,} validation image{'' if runs[0].images == 1 else 's'}{seeds}")
    for offset, color, field, label in (
        (-0.19, BLUE, "foreground_iu", "mean IoU of the foreground"),
        (0.19, PALE_BLUE, "mean_iu", "mean IoU of all classes"),
    ):
        each = [[getattr(cues.scores[name], field) for cues in runs] for name in CONDITIONS]
        places = [place + offset for place in range(len(CONDITIONS))]
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
    for place, row in enumerate(CONDITIONS.values()):
        axes.plot([place - 0.38, place], [row.paper] * 2, color=MUTED, alpha=0.55, linewidth=2.4, zorder=3)
    axes.plot([], [], color=MUTED, alpha=0.55, linewidth=2.4, label="paper, mean IoU of the foreground (VOC)")
    guess = mean(cues.guess.foreground_iu for cues in runs)
    axes.axhline(guess, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)
    axes.plot([], [], color=ORANGE, linewidth=1.1, linestyle=(0, (4, 3)), label="one class for all objects")
    name_ticks(axes, "x", [row.title for row in CONDITIONS.values()])
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


def prediction_rows(
    images: Dataset, masked: Dataset, model: Model, chosen: Sequence[int], foreground: Sequence[int], visible_parts: str
) -> Image.Image:
    """Draw a row for each image: the image, the network's input, the ground truth and the prediction, with a legend.

    Args:
        images: the original images.
        masked: the images with hidden pixels.
        model: the network.
        chosen: indices of the images.
        foreground: indices of the foreground classes.
        visible_parts: description of the visible parts.
    """
    rows, occurring = [], set()
    for index in chosen:
        original, sample = images[index], masked[index]
        assert original.class_map is not None
        truth, predicted = original.class_map.numpy(), as_semantic(model.predict(sample.image)).class_map
        assert predicted is not None
        pixels, shown = (resize_longer_side(part.image.permute(1, 2, 0).numpy(), PANEL) for part in (original, sample))
        panels = {
            "image": Image.fromarray(pixels),
            f"input: {visible_parts}": Image.fromarray(shown),
            "ground truth": overlay(pixels, resize_longer_side(truth, PANEL), model.classes, OPACITY, legend=False),
            f"prediction: {_accuracy(predicted, truth, foreground)}": overlay(
                shown, resize_longer_side(predicted, PANEL), model.classes, OPACITY, legend=False
            ),
        }
        rows.append(side_by_side(list(panels.values()), list(panels)))
        occurring |= {*np.unique(truth).tolist(), *np.unique(predicted).tolist()}
    colors = class_colors(len(model.classes))
    entries = [
        LegendEntry(name, "", [tuple(colors[k].tolist())] if k or name.lower() not in ("background", "bg") else [])
        for k, name in enumerate(model.classes)
        if k in occurring
    ]
    return stack([*rows, draw_legend(entries, rows[0].width, LETTERS)])


def choose_images(counts: np.ndarray, foreground: Sequence[int], number: int) -> list[int]:
    """Choose images with much foreground, one from each of `number` equal parts of a data set.

    Images with more foreground classes are preferred, then those with more foreground pixels.

    Args:
        counts: (N, C) labelled pixels of each image and class.
        foreground: indices of the foreground classes.
        number: number of images to choose.

    Returns:
        Indices of the images.
    """
    objects = counts[:, list(foreground)] / counts.sum(1, keepdims=True).clip(1)
    value = (objects >= MIN_SHARE).sum(1) + objects.sum(1).clip(0, 0.99)
    edges = np.linspace(0, len(counts), min(number, len(counts)) + 1).astype(int)
    return [int(start + value[start:stop].argmax()) for start, stop in pairwise(edges.tolist())]


def _accuracy(predicted: np.ndarray, truth: np.ndarray, foreground: Sequence[int]) -> str:
    objects = np.isin(truth, foreground) & (truth != VOID)
    return f"{(predicted == truth)[objects].mean():.0%} of the objects correct" if objects.any() else "no objects"


def _kept(visible: Visible) -> str:
    return "/".join("keep" if shown else "mask" for shown in visible)


def _objects(share: float) -> str:
    result = f"With the foreground only (FG-only), the score is {share:.0%} of the reference"
    if share >= 1:
        return f"{result}: the mask is at least as informative as the background."
    if share >= ENOUGH:
        return f"{result}: the background has almost no effect."
    return f"{result}: the background has a {'small' if share >= MOST else 'large'} effect."


def _shape(share: float, is_informative: bool, guess: str) -> str:
    result = f"With the shape only, the score is {share:.0%} of the reference"
    if not is_informative:
        return (
            f"{result}, about as much as the prediction {guess} for all objects: the shape does not separate classes."
        )
    if share >= STRONG:
        return f"{result}: shape matters more than texture."
    return f"{result}: {'both shape and texture matter' if share >= WEAK else 'texture and colour matter most'}."


def _background(iu: dict[str, float], share: float, is_informative: bool, guess: str) -> str:
    result = f"With the background only (BG-only), the score is {share:.0%} of the reference"
    if not is_informative:
        return f"{result}, about as much as the prediction {guess} for all objects: context has little effect."
    difference = iu["bg_only"] - iu["shape"]
    if difference < SIGNIFICANT:
        return f"{result}, not higher than with the shape, which is also visible here: context has little effect."
    return f"{result}, {100 * difference:.0f} points higher than with the shape: context is informative."


def _reliance(iu: dict[str, float], share: dict[str, float]) -> str:
    loss = iu["reference"] - iu["reference_fg"]
    if loss < SIGNIFICANT:
        kept = share["reference_fg"]
        return f"With masked background, the reference keeps {kept:.0%} of its score: it relies on the objects."
    result = f"With masked background, the reference loses {100 * loss:.0f} points"
    if not _relies_on_background(iu):
        return f"{result}; a network trained without background is not better: objects depend on their background here."
    return (
        f"{result}; a network trained without background is {100 * (iu['fg_only'] - iu['reference_fg']):.0f} points "
        "better: the reference relies on the background more than necessary."
    )


def _relies_on_background(iu: dict[str, float]) -> bool:
    return min(iu["reference"], iu["fg_only"]) - iu["reference_fg"] >= SIGNIFICANT


def _without_objects(cues: Cues, share: float, is_informative: bool) -> str:
    detected = cues.scores["reference_bg"].found
    result = f"With masked objects, the reference predicts {detected:.0%} of their pixels as objects"
    if detected < MIN_DETECTED:
        return f"{result}: it misses most of them."
    if not is_informative or share < WEAK:
        return f"{result}, but seldom with the correct class."
    return f"{result} and keeps {share:.0%} of its score: it relies on the background, or on the shape of the mask."


def _recommendation(iu: dict[str, float], share: dict[str, float], informative: dict[str, bool]) -> str:
    if _relies_on_background(iu):
        return "Add images of the same objects in front of other backgrounds before you train longer."
    if informative["shape"] and share["shape"] >= STRONG:
        return "Draw exact outlines and use images large enough to show them, since the shape separates your classes."
    if share["fg_only"] < MOST:
        return "Use images with the backgrounds of the application, since they help to separate your classes."
    if not informative["shape"] or share["shape"] < WEAK:
        return "Add images with other lighting and cameras, since texture and colour separate your classes."
    return "Add more images of the same type: the reference does not depend on a single cue."
