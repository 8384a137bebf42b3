"""`upscore demo`: nuclei in microscope images, a heat map, FCNs of three strides, and one HTML page about them.

It uses the models, weights and images that are installed with the package, and downloads nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

import upscore
from upscore.demo import heatmap, next_steps, nuclei, strides
from upscore.demo.fcn_training import TITLES, Settings, Trained, draw_scenes, train
from upscore.demo.nuclei import NucleiSettings
from upscore.demo.page import Chapter, page
from upscore.demo.progress import StepProgress
from upscore.errors import UserError
from upscore.files import atomic_path, write_text
from upscore.inference import load
from upscore.progress import ignore_progress
from upscore.viz.score_plots import plot_confusion
from upscore.viz.training_curves import plot_curves

SHIPPED_SHARE, NUCLEI_SHARE, HEATMAP_SHARE, SCENES_SHARE, TRAINING_SHARE, PAGE_SHARE = 15, 100, 10, 10, 50, 10
"""About the seconds that each step takes on two cores; training counts for each FCN."""

SHOWN = 4
"""Test scenes on the page."""


def run(
    output: str | Path,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    nuclei_settings: NucleiSettings | None = None,
) -> Path:
    """Run the demo; write report.html, the trained networks and the pictures to `output`. Returns the page's path.

    Raises:
        UserError: the folder holds files of the same names that the demo did not write, or cannot be written; training
            diverged.
        KeyboardInterrupt: no page is written, and no file is left incomplete.
    """
    output = Path(output)
    started = time.monotonic()
    try:
        claim(output, [nuclei.NAME, *TITLES])
        results = _results(output, seed, settings or Settings(), nuclei_settings or NucleiSettings())
        write_text(output / PAGE, _page(results, output, time.monotonic() - started))
    except OSError as error:
        raise UserError(
            f"{error.filename2 or error.filename or output} cannot be written: {error.strerror or error}"
        ) from error
    print(f"\n{output / PAGE}\n\nRun the trained model on an image of yours:\n  {nuclei.predict_line(output)}")
    return output / PAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Results:
    """What the page needs of the work."""

    chapters: list[Chapter]
    shipped: nuclei.Found
    trained: nuclei.Found
    training_seconds: float
    """Of the model trained on nuclei."""
    networks: list[Trained]


def _results(output: Path, seed: int, settings: Settings, nuclei_settings: NucleiSettings) -> _Results:
    """All the work, under one progress bar."""
    shares = SHIPPED_SHARE + NUCLEI_SHARE + HEATMAP_SHARE + SCENES_SHARE + len(TITLES) * TRAINING_SHARE + PAGE_SHARE
    with StepProgress(Console(stderr=True), shares) as steps:
        images, started = nuclei.held_out(), time.monotonic()
        with steps.step("Finding nuclei with the shipped model", SHIPPED_SHARE) as advance:
            shipped = nuclei.score(load(nuclei.SHIPPED), images, advance)
        shipped_seconds, started = time.monotonic() - started, time.monotonic()
        with steps.step("Training Mask R-CNN on 40 images of nuclei", NUCLEI_SHARE) as advance:
            model = nuclei.train_on_example(output, nuclei_settings, seed, advance)
            seconds = time.monotonic() - started
            trained, explained = nuclei.score(model, images, ignore_progress), nuclei.steps(model, images)
        with steps.step("Computing heat maps with an image classifier", HEATMAP_SHARE) as advance:
            found = []
            for one in heatmap.look():
                found.append(one)
                advance(len(found), len(heatmap.SUBJECTS))
        scenes = settings.train + settings.validation + settings.test
        with steps.step(f"Drawing {scenes:,} scenes", SCENES_SHARE) as advance:
            splits = draw_scenes(settings, seed, advance)
        networks = []
        for name, title in TITLES.items():
            with steps.step(f"Training {title}", TRAINING_SHARE) as advance:
                networks.append(train(name, splits, settings, output, seed, advance))
        with steps.step("Writing the page", PAGE_SHARE):
            chosen = strides.choose(splits.test, SHOWN)
            chapters = [
                nuclei.shipped_chapter(shipped, images, shipped_seconds),
                nuclei.training_chapter(trained, shipped, images, explained, nuclei_settings, seconds),
                heatmap.chapter(found),
                strides.chapter(networks, splits.test, chosen, settings),
                next_steps.chapter(output),
            ]
            _save_pictures(
                output / PICTURES,
                {
                    **{f"heatmap_{one.name}": one.picture for one in found},
                    "strides": strides.strip(networks, splits.test, chosen[:3]),
                },
            )
            _save_plots(output / PICTURES, networks)
    return _Results(chapters=chapters, shipped=shipped, trained=trained, training_seconds=seconds, networks=networks)


def _save_pictures(folder: Path, pictures: dict[str, Image.Image]) -> None:
    for name, picture in pictures.items():
        with atomic_path(folder / f"{name}.jpg") as temporary:
            picture.save(temporary, quality=85, optimize=True)


def _save_plots(folder: Path, networks: Sequence[Trained]) -> None:
    for net in networks:
        plot_curves(net.records, folder / f"curves_{net.name}.png")
        plot_confusion(
            torch.tensor(net.scores.confusion), list(net.scores.per_class), folder / f"confusion_{net.name}.png"
        )


def _page(results: _Results, output: Path, seconds: float) -> str:
    coarsest, finest = results.networks[0], results.networks[-1]
    gained = 100 * (finest.scores.mean_iu - coarsest.scores.mean_iu)
    threads = torch.get_num_threads()
    return page(
        "Segmentation on your own computer",
        "Nuclei in microscope images, found by a model that ships with upscore and by one trained here in "
        f"{nuclei.duration(results.training_seconds)}; heat maps of an image classifier; and the effect of a network's "
        "stride on its masks. Everything was computed on this computer. Nothing was downloaded.",
        [
            (f"{results.shipped.scores.f1['0.5']:.1%}", "F1 on held-out nuclei, shipped model"),
            (f"{results.trained.scores.f1['0.5']:.1%}", "F1 on held-out nuclei, model trained here"),
            (f"{gained:+.1f}", f"points of mean IoU from {coarsest.title} to {finest.title}"),
            (nuclei.duration(seconds), f"for everything, on {threads} processor core{'s' * (threads > 1)}"),
        ],
        results.chapters,
        f"Made by upscore demo in {output}. Methods: He, Gkioxari, Dollár and Girshick, Mask R-CNN (2017); Shelhamer, "
        "Long and Darrell, Fully Convolutional Networks for Semantic Segmentation (2016). Microscope images: 2018 Data "
        "Science Bowl, BBBC038, CC0. Photographs: scikit-image.",
    )


MARKER, PAGE, PICTURES = "demo.json", "report.html", "images"


def claim(output: Path, networks: list[str]) -> None:
    """Make the folder, or begin afresh in that of an earlier demo; what the demo did not write is left alone.

    Raises:
        UserError: something that the demo would write over is not its own.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; --output takes a folder")
    names = [PAGE, PICTURES, *networks]
    foreign = [] if (output / MARKER).exists() else [name for name in names if (output / name).exists()]
    foreign += [name for name in networks if (output / name / "run.json").exists() and name not in foreign]
    if foreign:
        raise UserError(f"{output} has {', '.join(foreign)}, not written by the demo: choose another --output")
    marker = {"written_by": f"upscore demo {upscore.__version__}", "replaces": names}
    write_text(output / MARKER, json.dumps(marker, indent=2) + "\n")
    (output / PAGE).unlink(missing_ok=True)  # until it is made again, there is no page about what lies beside it
