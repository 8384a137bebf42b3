"""Runs all parts of the demo with one progress bar, and writes the page."""

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
from rich.progress import BarColumn, TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn

import upscore
from upscore.console import Console, Progress, TextColumn
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

BUILT_IN_SECONDS, NUCLEI_SECONDS, HEATMAP_SECONDS, SCENES_SECONDS, TRAINING_SECONDS, PAGE_SECONDS = (
    30,
    110,
    10,
    10,
    60,
    10,
)
"""Expected time in seconds of each step on two cores; training of one FCN."""

SHOWN_SCENES = 4
"""Number of test scenes on the page."""

MARKER, PAGE, PICTURES = "demo.json", "report.html", "images"
"""Names in the output: a file that marks folders of the demo, the page, and the folder of images."""

PHOTOGRAPHS = {
    "cat": ("chelsea.png", ("tabby cat", "tiger cat", "Egyptian cat")),
    "espresso": ("coffee.png", ("espresso",)),
    "tripod": ("camera.png", ("tripod",)),
    "moped": ("motorcycle_left.png", ("moped",)),
}
"""Name -> photograph in the scikit-image package, and the ImageNet classes of its heat map."""


def run(
    output: str | Path,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    nuclei_settings: NucleiSettings | None = None,
) -> Path:
    """Run the demo, and write report.html, the trained networks and images to a folder.

    Args:
        output: folder to write to.
        seed: seed of training and of the generated scenes.
        settings: sizes of the chapter about strides.
        nuclei_settings: settings of training on nuclei.

    Returns:
        The path of report.html.

    Raises:
        UserError: the folder contains files with the same names that the demo did not write, or is not writable, or
            training diverged.
        KeyboardInterrupt: the demo was interrupted; no page is written, and no file is incomplete.
    """
    output = Path(output)
    started = time.monotonic()
    try:
        prepare_output(output, [nuclei.NAME, *TITLES])
        results = _results(output, seed, settings or Settings(), nuclei_settings or NucleiSettings())
        write_text(output / PAGE, _page(results, output, time.monotonic() - started))
    except OSError as error:
        raise UserError(
            f"{error.filename2 or error.filename or output} can't be written ({error.strerror or error}): choose "
            "another --output"
        ) from error
    print(f"\n{output / PAGE}\n\nRun the trained model on your own image:\n  {nuclei.predict_line(output)}")
    return output / PAGE


def prepare_output(output: Path, networks: list[str]) -> None:
    """Create the output folder, or prepare that of an earlier demo for overwriting.

    Args:
        output: the folder; other files in it are not changed.
        networks: names of the folders of networks.

    Raises:
        UserError: the demo would overwrite a file that it did not write.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file: choose a folder")
    names = [PAGE, PICTURES, *networks]
    foreign = [] if (output / MARKER).exists() else [name for name in names if (output / name).exists()]
    foreign += [name for name in networks if (output / name / "run.json").exists() and name not in foreign]
    if foreign:
        raise UserError(f"{output} contains {', '.join(foreign)}, not written by the demo: choose another --output")
    marker = {"written_by": f"upscore demo {upscore.__version__}", "replaces": names}
    write_text(output / MARKER, json.dumps(marker, indent=2) + "\n")
    (output / PAGE).unlink(missing_ok=True)  # an old page would not agree with the new files


@dataclass(frozen=True, slots=True, kw_only=True)
class _Results:
    """Results for the page."""

    chapters: list[Chapter]
    built_in: nuclei.Predictions
    trained: nuclei.Predictions
    training_seconds: float
    """Training time of the model for nuclei."""
    networks: list[Trained]


def _results(output: Path, seed: int, settings: Settings, nuclei_settings: NucleiSettings) -> _Results:
    """Run all steps with one progress bar."""
    total_seconds = (
        BUILT_IN_SECONDS
        + NUCLEI_SECONDS
        + HEATMAP_SECONDS
        + SCENES_SECONDS
        + len(TITLES) * TRAINING_SECONDS
        + PAGE_SECONDS
    )
    with StepProgress(Console(stderr=True), total_seconds) as steps:
        images, started = nuclei.validation_images(), time.monotonic()
        with steps.step("Predicting nuclei with the built-in model", BUILT_IN_SECONDS) as advance:
            built_in = nuclei.score(load(nuclei.BUILT_IN), images, advance)
        built_in_seconds, started = time.monotonic() - started, time.monotonic()
        with steps.step("Training Mask R-CNN on 40 images of nuclei", NUCLEI_SECONDS) as advance:
            model = nuclei.train_on_example(output, nuclei_settings, seed, advance)
            seconds = time.monotonic() - started
            trained, explained = nuclei.score(model, images, ignore_progress), nuclei.mask_steps(model, images)
        with steps.step("Computing heat maps with an image classifier", HEATMAP_SECONDS) as advance:
            heat_maps = []
            for example in compute_heat_maps():
                heat_maps.append(example)
                advance(len(heat_maps), len(PHOTOGRAPHS))
        scenes = settings.train + settings.validation + settings.test
        with steps.step(f"Generating {scenes:,} scenes", SCENES_SECONDS) as advance:
            splits = draw_scenes(settings, seed, advance)
        networks = []
        for name, title in TITLES.items():
            with steps.step(f"Training {title}", TRAINING_SECONDS) as advance:
                networks.append(train(name, splits, settings, output, seed, advance))
        with steps.step("Writing the page", PAGE_SECONDS):
            chosen = strides.choose_scenes(splits.test, SHOWN_SCENES)
            chapters = [
                nuclei.built_in_chapter(built_in, images, built_in_seconds),
                nuclei.training_chapter(trained, built_in, images, explained, nuclei_settings, seconds),
                heatmap_chapter(heat_maps),
                strides.chapter(networks, splits.test, chosen, settings),
                next_steps_chapter(output),
            ]
            _save_pictures(
                output / PICTURES,
                {
                    **{f"heatmap_{example.name}": example.picture for example in heat_maps},
                    "strides": strides.predictions_picture(networks, splits.test, chosen[:3]),
                },
            )
            _save_plots(output / PICTURES, networks)
    return _Results(chapters=chapters, built_in=built_in, trained=trained, training_seconds=seconds, networks=networks)


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
    gain = 100 * (finest.scores.mean_iu - coarsest.scores.mean_iu)
    threads = torch.get_num_threads()
    return page(
        "Segmentation on your own computer",
        "Nuclei in microscope images, predicted by the built-in model and by a model trained here in "
        f"{nuclei.duration(results.training_seconds)}; heat maps of an image classifier; and the effect of the output "
        "stride on masks. Everything was computed on this computer. Nothing was downloaded.",
        [
            (f"{results.built_in.scores.f1['0.5']:.1%}", "F1 on validation nuclei, built-in model"),
            (f"{results.trained.scores.f1['0.5']:.1%}", "F1 on validation nuclei, model trained here"),
            (f"{gain:+.1f}", f"points of mean IoU from {coarsest.title} to {finest.title}"),
            (nuclei.duration(seconds), f"in total, on {threads} processor core{'s' * (threads > 1)}"),
        ],
        results.chapters,
        f"Written by upscore demo to {output}. Methods: He, Gkioxari, Dollár and Girshick, Mask R-CNN (2017); "
        "Shelhamer, Long and Darrell, Fully Convolutional Networks for Semantic Segmentation (2016). Microscope "
        "images: 2018 Data Science Bowl, BBBC038, CC0. Photographs: scikit-image.",
    )


class StepProgress:
    """Progress bar for all steps of the demo.

    Args:
        console: where to print.
        total_seconds: expected time of all steps.
    """

    def __init__(self, console: Console, total_seconds: float) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", style="bold"),
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
        self.task = self.progress.add_task("", total=total_seconds)
        self.done = 0.0

    def __enter__(self) -> StepProgress:
        self.progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.progress.stop()

    @contextmanager
    def step(self, title: str, seconds: float) -> Iterator[ProgressCallback]:
        """Show the progress of a step, and print a line when it is done; `seconds` is its expected time."""
        started = time.monotonic()
        self.progress.update(self.task, description=title)

        def advance(done: int, total: int) -> None:
            self.progress.update(self.task, completed=self.done + seconds * done / total)

        yield advance
        self.done += seconds
        self.progress.update(self.task, completed=self.done)
        self.console.print(f"{time.monotonic() - started:6.1f} s  {title}")


class PhotographHeatMap(NamedTuple):
    """A photograph and its heat map."""

    name: str
    image: Image.Image
    map: HeatMap

    @property
    def picture(self) -> Image.Image:
        """The heat map over the photograph, above a strip with label and colour bar."""
        return heat_overlay(np.asarray(self.image), self.map.heat, self.map.label)

    @property
    def overlay(self) -> Image.Image:
        """The heat map over the photograph."""
        return self.picture.crop((0, 0, *self.image.size))


def compute_heat_maps() -> Iterator[PhotographHeatMap]:
    """Compute the heat maps of `PHOTOGRAPHS` with EfficientNet-Lite0 and ImageNet weights."""
    classifier = imagenet_classifier("efficientnet_lite0")
    for name, (file_name, labels) in PHOTOGRAPHS.items():
        with files("skimage").joinpath("data", file_name).open("rb") as file:
            image = Image.open(file).convert("RGB")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        yield PhotographHeatMap(name, image, heat_map(classifier, pixels, labels))


def heatmap_chapter(heat_maps: Sequence[PhotographHeatMap]) -> Chapter:
    """Return the chapter about heat maps of a classifier."""
    first, others = heat_maps[0], heat_maps[1:]
    label = first.map.label
    return Chapter(
        anchor="heatmap",
        title="Heat maps of an image classifier",
        body=join(
            text(
                "An image classifier averages its last feature map and applies a linear layer to the average. The same "
                "layer can be applied at every position, as a 1 x 1 convolution. The network is then *fully "
                "convolutional*: it accepts images of any size and returns a map of class probabilities.",
                "The classifier is EfficientNet-Lite0 with ImageNet weights. Its training images have one label each, "
                "without positions.",
            ),
            row(
                [
                    tile(picture(first.image, "A photograph of a cat"), "image"),
                    tile(picture(first.overlay, f"The heat map of {label} over the photograph"), label),
                ],
                "pair",
            ),
            figure(
                ranking(first.map.top),
                f"The probabilities of the whole image. The heat map is the sum of those of {label} at every position. "
                "Each position depends on a large part of the image, so the map shows no outlines.",
            ),
            terminal(['upscore heatmap image.jpg --label "tiger cat" --label tabby']),
            *_more(others),
        ),
    )


def _more(heat_maps: Sequence[PhotographHeatMap]) -> list[Html]:
    if not heat_maps:
        return []
    tiles = [
        tile(picture(example.overlay, f"A heat map of {example.map.label}"), example.map.label) for example in heat_maps
    ]
    return [heading("Other classes"), row(tiles, "few")]


def next_steps_chapter(output: Path) -> Chapter:
    """Return the chapter about training on one's own images: folder layout and commands."""
    return Chapter(
        anchor="own-images",
        title="Your own images",
        body=join(
            text(
                "Put images in `images/` and label files of the same names in `labels/`. For semantic segmentation a "
                "label is a PNG with the class index of every pixel (255 = ignore), and `classes.txt` names the "
                "classes. For instance segmentation a label is a 16-bit PNG with the number of an object per pixel "
                "(0 = background). COCO and PASCAL VOC folders need no conversion. A fifth of the images is used for "
                "validation, unless there are `train/` and `val/` folders."
            ),
            terminal(
                [
                    "# statistics and problems of the data",
                    "upscore data check photos/",
                    "# semantic segmentation; Ctrl-C saves the state, --resume continues",
                    "upscore train photos/ --output runs/mine",
                    "# instance segmentation",
                    "upscore train photos/ --model mask_rcnn --output runs/mine",
                    "# scores on the validation images, masks and overlays of new ones",
                    "upscore evaluate runs/mine photos/",
                    "upscore predict runs/mine new/ --output out",
                ]
            ),
            heading("Networks of this page"),
            text("The networks that were trained for this page are in the same folder:"),
            terminal([predict_line(output), "upscore predict nuclei image.png --output out"]),
        ),
    )
