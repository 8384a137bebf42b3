"""What an analysis of cues leaves behind: a page, numbers, a plot, and pictures of what the networks saw."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from upscore.analysis.cues import Experiment
from upscore.analysis.cues_pictures import choose_photos, plot_cues, strips
from upscore.analysis.cues_report import as_json, markdown
from upscore.evaluation.cues import ROWS, Cues
from upscore.files import atomic_path, write_text

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
