"""`upscore demo`: runs all chapters behind one progress bar, and writes the page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import upscore
from upscore.demo import nuclei, strides
from upscore.demo.nuclei import NucleiSettings, predict_line
from upscore.demo.page import Chapter, Html, figure, heading, join, page, picture, ranking, row, terminal, text, tile
from upscore.demo.strides import TITLES, Settings, Trained, draw_scenes, train
from upscore.errors import UserError
from upscore.files import atomic_path, write_text
from upscore.inference import load
from upscore.inference.heatmap import HeatMap, heat_map
from upscore.models.classifiers.imagenet import imagenet_classifier
from upscore.progress import ProgressCallback, ignore_progress
from upscore.viz.overlays import heat_overlay
from upscore.viz.plots import plot_confusion, plot_curves


class StepProgress:
    """A bar for all steps; each step's share is about the seconds that it takes on two cores."""

    def __init__(self, console: Console, shares: float) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
            speed_estimate_period=60,
        )
        self.task = self.progress.add_task("", total=shares)
        self.done = 0.0

    def __enter__(self) -> StepProgress:
        self.progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.progress.stop()

    @contextmanager
    def step(self, title: str, share: float) -> Iterator[ProgressCallback]:
        """Show what is being done, and leave a line about it once it is."""
        started = time.monotonic()
        self.progress.update(self.task, description=title)

        def advance(done: int, total: int) -> None:
            self.progress.update(self.task, completed=self.done + share * done / total)

        yield advance
        self.done += share
        self.progress.update(self.task, completed=self.done)
        self.console.print(f"{time.monotonic() - started:6.1f} s  {title}", highlight=False)


SUBJECTS = {
    "cat": ("chelsea.png", ("tabby cat", "tiger cat", "Egyptian cat")),
    "espresso": ("coffee.png", ("espresso",)),
    "tripod": ("camera.png", ("tripod",)),
    "moped": ("motorcycle_left.png", ("moped",)),
}
"""Photographs in scikit-image's wheel, and the ImageNet classes whose heat maps are computed."""


class Found(NamedTuple):
    """A photograph and its heat map."""

    name: str
    photo: Image.Image
    map: HeatMap

    @property
    def picture(self) -> Image.Image:
        """The photograph under its heat map, above a strip with the label and the scale."""
        return heat_overlay(np.asarray(self.photo), self.map.heat, self.map.label)

    @property
    def bare_picture(self) -> Image.Image:
        """The photograph under its heat map."""
        return self.picture.crop((0, 0, *self.photo.size))


def look() -> Iterator[Found]:
    """Compute the heat map of each subject with EfficientNet-Lite0 and the installed ImageNet weights."""
    classifier = imagenet_classifier("efficientnet_lite0")
    for name, (file_name, labels) in SUBJECTS.items():
        with files("skimage").joinpath("data", file_name).open("rb") as file:
            photo = Image.open(file).convert("RGB")
        pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        yield Found(name, photo, heat_map(classifier, pixels, labels))


def heatmap_chapter(found: Sequence[Found]) -> Chapter:
    """The heat map of the first photograph, and those of the others."""
    first, others = found[0], found[1:]
    label = first.map.label
    return Chapter(
        anchor="where",
        title="A classifier shows where it sees a cat",
        body=join(
            text(
                "An image classifier gives one answer for the whole image: it averages its last feature map and "
                "applies a linear layer to the average. The same layer can be applied at every position, as a 1 x 1 "
                "convolution. The network is then *fully convolutional*: it takes an image of any size and returns a "
                "map of class probabilities.",
                "Nothing was trained for these pictures. The classifier is EfficientNet-Lite0 with ImageNet weights, "
                "whose training images have one label each and no positions.",
            ),
            row(
                [
                    tile(picture(first.photo, "A photograph of a cat"), "image"),
                    tile(picture(first.bare_picture, f"The same photograph under its heat map of {label}"), label),
                ],
                "pair",
            ),
            figure(
                ranking(first.map.top),
                "The probabilities of the whole image. The heat map adds up those of "
                f"{label} at every position. A position depends on a large part of the image, so the map shows where "
                "the evidence is, not an outline.",
            ),
            terminal(['upscore heatmap photo.jpg --label "tiger cat" --label tabby']),
            *_more(others),
        ),
    )


def _more(found: Sequence[Found]) -> list[Html]:
    if not found:
        return []
    tiles = [tile(picture(one.bare_picture, f"A heat map of {one.map.label}"), one.map.label) for one in found]
    return [heading("Other classes"), row(tiles, "few")]


def next_steps_chapter(output: Path) -> Chapter:
    """The folder layout of training data, and the next commands."""
    return Chapter(
        anchor="yours",
        title="Your own images",
        body=join(
            text(
                "Put images in `images/` and label files of the same names in `labels/`. For semantic segmentation a "
                "label is a PNG with the class index of every pixel (255 = ignore), and `classes.txt` names the "
                "classes. For instance segmentation a label is a 16-bit PNG with the number of an object per pixel "
                "(0 = background). COCO and PASCAL VOC folders are read as they are. A fifth of the images is held "
                "out for validation, unless there are `train/` and `val/` folders."
            ),
            terminal(
                [
                    "# what is in the data, and what is wrong with it",
                    "upscore data check photos/",
                    "# semantic segmentation; Ctrl-C saves the state, --resume continues",
                    "upscore train photos/ --output runs/mine",
                    "# instance segmentation",
                    "upscore train photos/ --model mask_rcnn --output runs/mine",
                    "# scores on the held-out images, masks and overlays of new ones",
                    "upscore evaluate runs/mine photos/",
                    "upscore predict runs/mine new/ --output out",
                ]
            ),
            heading("The networks of this page"),
            text("The networks that were trained for this page are beside it and can be used:"),
            terminal([predict_line(output), "upscore predict nuclei image.png --output out"]),
        ),
    )


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
            for one in look():
                found.append(one)
                advance(len(found), len(SUBJECTS))
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
                heatmap_chapter(found),
                strides.chapter(networks, splits.test, chosen, settings),
                next_steps_chapter(output),
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
    for name, image in pictures.items():
        with atomic_path(folder / f"{name}.jpg") as temporary:
            image.save(temporary, quality=85, optimize=True)


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
