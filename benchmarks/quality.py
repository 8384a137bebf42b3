"""Scores and speed of all engines and number formats, for trained networks on labelled images.

    python benchmarks/quality.py --camvid CAMVID --camvid-model runs/camvid --nuclei NUCLEI --docs docs/results

CAMVID is scored on the video 0006R0, which has to be the validation data of the run `--camvid-model`; NUCLEI is scored
on the validation images of the built-in model "nuclei". int8 is calibrated on `--calibration` training images, evenly
spaced; 0 omits it. Either data set may be omitted, and engines that are not installed are skipped. About 10 minutes on
2 cores; `--images` limits the number of images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peers.measure import THREADS, fix_threads
from peers.page import format_seconds
from peers.quality import REFERENCE, SETTINGS, Quality, Setting, measure_quality
from upscore.checkpoints import load_model
from upscore.console import Console, Progress
from upscore.data.datasets import Dataset, open_splits, subset
from upscore.data.instance_datasets import open_instance_splits
from upscore.errors import UserError
from upscore.files import write_text
from upscore.inference import Model
from upscore.inference.calibration import quantize
from upscore.inference.machine import busy, describe
from upscore.progress import progress_bars
from upscore.text import markdown_table

VAL_PATTERN = "0006R0*"
CALIBRATION = 50


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, help="folder of CamVid")
    parser.add_argument("--camvid-model", type=Path, help="run on CamVid")
    parser.add_argument("--nuclei", type=Path, help="folder of nuclei images")
    parser.add_argument("--nuclei-model", default="nuclei", help="run on them, instead of the built-in model")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="number of images to calibrate int8 on")
    parser.add_argument("--images", type=int, help="largest number of images of each data set")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--docs", type=Path, help="folder of quality.md")
    args = parser.parse_args(arguments)
    if (args.camvid is None) != (args.camvid_model is None):
        parser.error("--camvid and --camvid-model go together")
    if args.camvid is None and args.nuclei is None:
        parser.error("give --camvid and --camvid-model, or --nuclei")

    console = Console(stderr=True)
    fix_threads(args.threads)
    warning = busy()
    parts = []
    if args.camvid:
        splits = open_splits(args.camvid, val_pattern=VAL_PATTERN)
        parts.append(("CamVid, the video 0006R0", "mean IoU", args.camvid_model, *splits))
    if args.nuclei:
        splits = open_instance_splits(args.nuclei)
        parts.append(("Nuclei", "mask AP", args.nuclei_model, *splits))
    sections = []
    for title, metric, source, train, val in parts:
        val = first(val, args.images)
        qualities = measure(source, train, val, args.calibration, console)
        sections.append(section(f"{title}: {len(val)} validation images", metric, qualities))
    text = page(command(args), sections, describe(args.threads), warning)
    print(text)
    if args.docs:
        write_text(args.docs / "quality.md", text)


def first(dataset: Dataset, images: int | None) -> Dataset:
    return dataset if images is None else subset(dataset, range(min(images, len(dataset))))


def measure(source: str | Path, train: Dataset, val: Dataset, calibration: int, console: Console) -> list[Quality]:
    with progress_bars() as progress:
        models = predictors(source, train, calibration, console, progress)
        task = progress.add_task(f"Scoring {source}", total=len(val))
        return measure_quality(models, val, progress=lambda done, _: progress.update(task, completed=done))


def predictors(
    source: str | Path, train: Dataset, calibration: int, console: Console, progress: Progress
) -> dict[Setting, Model]:
    """Load the model in every setting that is available."""
    models = {}
    for setting in SETTINGS:
        if setting.precision == "int8" and not calibration:
            continue
        net, config = load_model(source)  # a copy for each engine, which may change its memory layout
        try:
            parts = None
            if setting.precision == "int8":
                images = [train[index].image for index in range(0, len(train), max(1, len(train) // calibration))]
                task = progress.add_task("Calibrating", total=None)
                parts = quantize(
                    net,
                    images[:calibration],
                    progress=lambda done, total, task=task: progress.update(task, completed=done, total=total),
                )
                progress.remove_task(task)
            models[setting] = Model(net, setting.engine, setting.precision, max_side=config.max_side, quantized=parts)
        except UserError as error:
            console.print(f"left out: {setting.engine}, {setting.precision}: {error}")
    return models


def section(title: str, metric: str, qualities: list[Quality]) -> str:
    """Return the section of a network with its table."""
    reference = next(quality for quality in qualities if quality.setting == REFERENCE)
    header = ("engine", "precision", metric, "change", "agreement", "time per image", "speed")
    lines = [
        (
            quality.setting.engine,
            quality.setting.precision,
            f"{quality.score:.2%}",
            "" if quality is reference else f"{100 * (quality.score - reference.score):+.2f}",
            "" if quality is reference else f"{quality.agreement:.2%}",
            format_seconds(quality.seconds),
            f"{reference.seconds / quality.seconds:.1f}x",
        )
        for quality in qualities
    ]
    return f"## {title}\n\n{markdown_table(header, lines, left=2)}"


def command(args: argparse.Namespace) -> str:
    """Return the command that writes the page."""
    parts = [
        "python benchmarks/quality.py",
        "--camvid CAMVID --camvid-model RUN" if args.camvid else "",
        "--nuclei NUCLEI" if args.nuclei else "",
        f"--images {args.images}" if args.images else "",
    ]
    return "    " + " ".join(part for part in parts if part)


def page(made_by: str, sections: Sequence[str], environment: str, warning: str | None) -> str:
    """Return the page."""
    about = (
        "Change (in points), agreement and speed are relative to torch in float32. Agreement is the fraction of equal "
        "pixels, or TP / (TP + FP + FN) at IoU 0.5 of the objects that overlays show. The time per image is the median "
        "from pixels in memory to the class map, or to all objects with masks in RoI form; all settings alternate, "
        "image by image."
    )
    return (
        "\n\n".join(["# Quality and speed", made_by, *sections, about, environment, *([warning] if warning else [])])
        + "\n"
    )


if __name__ == "__main__":
    main()
