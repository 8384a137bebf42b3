"""`upscore demo`: a heat map, four networks and a page about them, from what is installed alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console

from upscore.errors import UserError
from upscore.evaluation.curves import plot_curves
from upscore.evaluation.plots import plot_confusion
from upscore.files import atomic_path, write_text
from upscore.report import detector, heatmap, instances, strides, yours
from upscore.report.networks import TITLES, Settings, Trained, draw_scenes, train
from upscore.report.output import PAGE, PICTURES, claim
from upscore.report.page import Chapter, page
from upscore.report.progress import StepProgress

HEATMAP_SHARE, SCENES_SHARE, TRAINING_SHARE, DETECTOR_SHARE, PAGE_SHARE = 10, 10, 50, 95, 5
"""About the seconds that each takes; training counts for each FCN."""

SHOWN = 6
"""Test scenes in the page."""


def run(output: str | Path, *, seed: int = 0, settings: Settings | None = None) -> Path:
    """Do it all and write `output`/report.html, the networks and the pictures; returns the page.

    Raises:
        UserError: the folder has files of others in the way, can't be written to, or training diverged.
        KeyboardInterrupt: there is no page then, and nothing is left half written.
    """
    output = Path(output)
    started = time.monotonic()
    try:
        claim(output, [*TITLES, detector.NAME])
        chapters, networks = _chapters(output, seed, settings or Settings())
        write_text(output / PAGE, _page(chapters, networks, time.monotonic() - started))
    except OSError as error:
        raise UserError(
            f"{error.filename2 or error.filename or output} can't be written: {error.strerror or error}"
        ) from error
    print(f"\n{output / PAGE}\n\nTry a network of it on a photo of yours:\n  {yours.predict_line(output / 'fcn8s')}")
    return output / PAGE


def _chapters(output: Path, seed: int, settings: Settings) -> tuple[list[Chapter], list[Trained]]:
    """All the work, under one bar."""
    shares = HEATMAP_SHARE + SCENES_SHARE + len(TITLES) * TRAINING_SHARE + DETECTOR_SHARE + PAGE_SHARE
    with StepProgress(Console(stderr=True), shares) as progress:
        with progress.step("Looking for a cat with a photo classifier", HEATMAP_SHARE) as advance:
            found = []
            for one in heatmap.look():
                found.append(one)
                advance(len(found), len(heatmap.SUBJECTS))
        with progress.step(
            f"Drawing {settings.train + settings.validation + settings.test:,} scenes", SCENES_SHARE
        ) as advance:
            splits = draw_scenes(settings, seed, advance)
        networks = []
        for name, title in TITLES.items():
            with progress.step(f"Training {title}", TRAINING_SHARE) as advance:
                networks.append(train(name, splits, settings, output, seed, advance))
        with progress.step(f"Training {detector.TITLE}", DETECTOR_SHARE) as advance:
            finder = detector.train(splits, settings, output, seed, advance, start=output / networks[-1].name)
        with progress.step("Writing the page", PAGE_SHARE):
            chosen = strides.choose(splits.test, SHOWN)
            chapters = [
                heatmap.chapter(found),
                strides.idea(splits.test, chosen[0], settings),
                strides.answers(networks, splits.test, chosen),
                strides.scores(networks),
                strides.learning(networks, settings),
                instances.chapter(finder, networks[-1], splits.test, settings),
                yours.chapter(output, networks[-1].name),
            ]
            _save_pictures(
                output / PICTURES,
                {
                    **{f"heatmap_{one.name}": one.picture for one in found},
                    "strides": strides.strip(networks, splits.test, chosen[:3]),
                },
            )
            _save_plots(output / PICTURES, networks)
    return chapters, networks


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


def _page(chapters: Sequence[Chapter], networks: Sequence[Trained], seconds: float) -> str:
    coarsest, finest = networks[0].scores, networks[-1].scores
    minutes, rest = divmod(round(seconds), 60)
    threads = torch.get_num_threads()
    return page(
        "From one label a photo to one label a pixel",
        "A photo classifier that was never told where anything is becomes a network that names every pixel. All of "
        "this was made on one machine, from what is installed with the package.",
        [
            (f"{minutes} min {rest:02d} s", f"for all of it, on {threads} processor core{'s' * (threads > 1)}"),
            (f"{finest.pixel_accuracy:.1%}", f"of pixels right ({networks[-1].title})"),
            (f"{finest.mean_iu:.1%}", f"mean IU ({networks[-1].title})"),
            (f"{100 * (finest.mean_iu - coarsest.mean_iu):+.1f}", f"points of mean IU over {networks[0].title}"),
        ],
        chapters,
        "Made by upscore demo. After Shelhamer, Long and Darrell, Fully Convolutional Networks for Semantic "
        "Segmentation, 2016, and He, Gkioxari, Dollár and Girshick, Mask R-CNN, 2017. Photographs: scikit-image. "
        "Weights: EfficientNet-Lite0, trained on ImageNet.",
    )
