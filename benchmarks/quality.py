"""Quality beside speed: every engine and number format, on trained networks and labelled photos.

    python benchmarks/quality.py --camvid CAMVID --camvid-model runs/camvid --nuclei NUCLEI --docs docs/results

CAMVID is scored on the video 0006R0, which the run `--camvid-model` must have held out, NUCLEI on the fifth of its
photos that the built-in model "nuclei" was not trained on. int8 is calibrated on photos that are not scored: every
k-th of the others, `--calibration` in all; 0 leaves it out. Either half may be left out, and an engine that is not
installed is. About 10 minutes on 2 cores; `--photos` makes it a trial.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from peers.measure import THREADS, fix_threads
from peers.page import in_words
from peers.quality import REFERENCE, WAYS, Quality, Way, measure_quality
from upscore.checkpoints import load_model
from upscore.data.datasets import Dataset, open_splits, subset
from upscore.data.instance_datasets import open_instance_splits
from upscore.errors import UserError
from upscore.files import write_text
from upscore.inference import Model
from upscore.inference.calibration import quantize
from upscore.inference.machine import busy, describe
from upscore.progress import progress_bars
from upscore.text import markdown_table

HOLDOUT = "0006R0*"
CALIBRATION = 50


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="CamVid's folder")
    parser.add_argument("--camvid-model", type=Path, help="a run on it")
    parser.add_argument("--nuclei", type=Path, help="the nuclei's folder")
    parser.add_argument("--nuclei-model", default="nuclei", help="a run on them, instead of the built-in model")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="photos to calibrate int8 on")
    parser.add_argument("--photos", type=int, help="score this many photos of each set only")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--docs", type=Path, help="where quality.md goes")
    asked = parser.parse_args(arguments)
    if (asked.camvid is None) != (asked.camvid_model is None):
        parser.error("--camvid and --camvid-model go together")
    if asked.camvid is None and asked.nuclei is None:
        parser.error("give --camvid and --camvid-model, or --nuclei")

    console = Console(stderr=True, highlight=False)
    fix_threads(asked.threads)
    warning = busy()
    parts = []
    if asked.camvid:
        splits = open_splits(asked.camvid, val_pattern=HOLDOUT)
        parts.append(("CamVid, the video 0006R0", "mean IoU", asked.camvid_model, *splits))
    if asked.nuclei:
        splits = open_instance_splits(asked.nuclei)
        parts.append(("Nuclei, the fifth held out", "mask AP", asked.nuclei_model, *splits))
    sections = []
    for title, metric, source, train, val in parts:
        val = first(val, asked.photos)
        found = measure(source, train, val, asked.calibration, console)
        sections.append(section(f"{title}: {len(val)} photos", metric, found))
    text = page(command(asked), sections, describe(asked.threads), warning)
    print(text)
    if asked.docs:
        write_text(asked.docs / "quality.md", text)


def first(dataset: Dataset, photos: int | None) -> Dataset:
    return dataset if photos is None else subset(dataset, range(min(photos, len(dataset))))


def measure(source: str | Path, train: Dataset, val: Dataset, calibration: int, console: Console) -> list[Quality]:
    with progress_bars() as progress:
        models = predictors(source, train, calibration, console, progress)
        task = progress.add_task(f"Scoring {source}", total=len(val))
        return measure_quality(models, val, progress=lambda done, _: progress.update(task, completed=done))


def predictors(
    source: str | Path, train: Dataset, calibration: int, console: Console, progress: Progress
) -> dict[Way, Model]:
    """The model in every way that is installed."""
    models = {}
    for way in WAYS:
        if way.precision == "int8" and not calibration:
            continue
        net, config = load_model(source)  # one of its own, for engines may change a network's layout
        try:
            parts = None
            if way.precision == "int8":
                photos = [train[index].image for index in range(0, len(train), max(1, len(train) // calibration))]
                task = progress.add_task("Calibrating", total=None)
                parts = quantize(
                    net,
                    photos[:calibration],
                    progress=lambda done, total, task=task: progress.update(task, completed=done, total=total),
                )
                progress.remove_task(task)
            models[way] = Model(net, way.engine, way.precision, max_side=config.max_side, quantized=parts)
        except UserError as error:
            console.print(f"left out: {way.engine}, {way.precision}: {error}", markup=False)
    return models


def section(title: str, metric: str, found: list[Quality]) -> str:
    """A table of one network."""
    reference = next(quality for quality in found if quality.way == REFERENCE)
    header = ("engine", "precision", metric, "change", "agreement", "a photo", "speed")
    lines = [
        (
            quality.way.engine,
            quality.way.precision,
            f"{quality.score:.2%}",
            "" if quality is reference else f"{100 * (quality.score - reference.score):+.2f}",
            "" if quality is reference else f"{quality.agreement:.2%}",
            in_words(quality.seconds),
            f"{reference.seconds / quality.seconds:.1f}x",
        )
        for quality in found
    ]
    return f"## {title}\n\n{markdown_table(header, lines, left=2)}"


def command(asked: argparse.Namespace) -> str:
    """What made the page."""
    parts = [
        "python benchmarks/quality.py",
        "--camvid CAMVID --camvid-model RUN" if asked.camvid else "",
        "--nuclei NUCLEI" if asked.nuclei else "",
        f"--photos {asked.photos}" if asked.photos else "",
    ]
    return "    " + " ".join(part for part in parts if part)


def page(made_by: str, sections: Sequence[str], environment: str, warning: str | None) -> str:
    """The page."""
    about = (
        "Change is in points, against torch in float32, as are agreement (the share of equal pixels; of objects, "
        "TP / (TP + FP + FN) at IoU 0.5 of those that a user is shown) and speed. A photo takes the median time from "
        "its pixels in memory to its class map, or to all candidates with their masks in RoI form; all ways took "
        "turns, photo by photo."
    )
    return (
        "\n\n".join(["# Quality beside speed", made_by, *sections, about, environment, *([warning] if warning else [])])
        + "\n"
    )


if __name__ == "__main__":
    main()
