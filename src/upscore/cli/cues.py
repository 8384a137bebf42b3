"""`upscore analyze cues`: measure how much a network relies on objects, their shape, and the background."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscore.experiments.cues.conditions import Cues


def cues(
    data: str,
    /,
    *,
    model: str = "fcn8s",
    foreground: str | None = None,
    output: Path = Path("cues"),
    backbone: str | None = None,
    weights: str | None = None,
    images: int | None = None,
    epochs: int | None = None,
    crop: int | None = None,
    max_side: int | None = None,
    val_pattern: str | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Measure how much a network relies on objects, shape and context.

    ```
    upscore analyze cues camvid/ --model runs/streets \\
        --foreground Pole,SignSymbol,Car,Pedestrian,Bicyclist
    upscore analyze cues voc/ --model fcn32s --backbone vgg16 \\
        --weights vgg16.pth --output runs/cues
    upscore analyze cues scenes:400 --images 1500 --crop 160
    ```

    The same network is trained on images with masked background, on images
    with masked objects, and on the mask alone, and each is tested on images
    masked the same way; the reference is tested on masked images too (FCN,
    table 8). This takes three trainings, or four if the reference is trained
    as well. After an interruption the same command resumes.

    The output folder contains cues.md with a table and advice, cues.json,
    cues.png, pictures of inputs and predictions (mask_only.png, fg_only.png,
    bg_only.png), and the trained networks.

    Parameters
    ----------
    data
        A folder of labelled images as for `upscore train`, or scenes:COUNT.
    model
        A model folder or run, which is the reference and determines the
        recipe of the others; or the name of a network: fcn8s, fcn16s, fcn32s
        (as in the paper).
    foreground
        Comma-separated names of the foreground classes; all others are
        background. By default all but the first, if that is background.
    output
        The folder to write to.
    backbone
        With the name of a network: its backbone; by default
        efficientnet_lite0.
    weights
        Initial weights: imagenet, none, or as for `upscore train --weights`;
        by default those that the given model started from.
    images
        Number of training images, rounded up to whole epochs; by default
        that of the recipe.
    epochs
        Number of epochs, instead of --images.
    crop
        Side of the random crops in pixels, 0 for none; by default that of the
        recipe.
    max_side
        With the name of a network: larger images are reduced until their
        longer side has this many pixels; by default 1024, 0 for none.
    val_pattern
        Test on the images whose names match this pattern; by default the
        validation images of the given model.
    seed
        Random seed.
    workers
        Number of processes that read images.
    """
    from upscore.console import Console
    from upscore.data import open_splits
    from upscore.data.datasets import same_source
    from upscore.data.instance_datasets import task_of
    from upscore.errors import UserError
    from upscore.experiments.cues.report import advice, definitions, write_cues
    from upscore.experiments.cues.run import Experiment, count_classes, measure_cues, select_foreground
    from upscore.experiments.cues.training_setup import budget, training_setup
    from upscore.files import require_writable
    from upscore.training.callbacks import RunFolderWriter, TerminalProgress
    from upscore.training.loader import default_workers

    if task_of(data) == "instances":
        raise UserError(f"{data} has labels of objects, but cues need class maps: give data with class maps")
    if workers is not None and workers < 0:
        raise UserError(f"--workers {workers} is invalid: give 0 or more")
    require_writable(output, "choose another --output")
    train, val = open_splits(data, val_pattern=val_pattern)
    names = None if foreground is None else [name.strip() for name in foreground.split(",") if name.strip()]
    chosen = select_foreground(train.classes, names)
    setup = training_setup(model, train.classes, backbone=backbone, weights=weights, max_side=max_side)
    reference_pattern = setup.training.get("val_pattern") if same_source(setup.training.get("data"), data) else None
    if val_pattern is None and reference_pattern is not None:
        val_pattern = reference_pattern
        train, val = open_splits(data, val_pattern=val_pattern)
    setup = budget(setup, len(train), images=images, epochs=epochs, crop=crop)
    experiment = Experiment(train=train, val=val, foreground=chosen, setup=setup, output=output, seed=seed)

    console = Console(stderr=True)
    terminal = TerminalProgress(console)
    try:
        counts = count_classes(val, partial(terminal.on_progress, "Counting"))
        cues = measure_cues(
            experiment,
            counts,
            workers=default_workers() if workers is None else workers,
            callbacks=[terminal, RunFolderWriter()],
        )
    except KeyboardInterrupt:
        console.print(f"stopped; run the same command to resume ({output})")
        return 130
    sentences = advice(cues)
    defined = definitions(cues, experiment.fill, setup.colour)
    about = {"data": data, "val_pattern": val_pattern, "model": model}
    try:
        written = write_cues(experiment, cues, counts, about, sentences, defined)
    except OSError as error:
        raise UserError(
            f"{error.filename or output} can't be written ({error.strerror}): choose another --output"
        ) from error
    same_data = same_source(setup.training.get("data"), data) and setup.training.get("val_pattern") == val_pattern
    if setup.reference is not None and not same_data:
        console.print(
            f"warning: {model} was trained on {setup.training.get('data', 'unknown data')} with validation pattern "
            f"{setup.training.get('val_pattern') or 'none'}: if the validation images here include its training "
            "images, the scores of the Reference conditions are too high",
            style="yellow",
        )
    _print(cues, f"{data}: {cues.images} validation images", sentences, defined)
    print("\n".join(map(str, written)))
    return 0


def _print(cues: Cues, title: str, sentences: Sequence[str], defined: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    from upscore.console import Console
    from upscore.experiments.cues.report import HEADER, cue_rows

    console = Console()
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    kept = []
    columns = zip(HEADER, *cue_rows(cues), strict=True)
    for number, (name, *cells) in enumerate(columns):
        if name != "paper, relative":  # omitted, so that the table fits in 80 characters
            column = name.replace(" IoU of ", " IoU\nof ") if " IoU " in name else name.replace(" ", "\n", 1)
            table.add_column(column, justify="right" if number > 2 else "left", no_wrap=True)
            kept.append(cells)
    for row in zip(*kept, strict=True):
        table.add_row(*row)
    console.print(table)
    for sentence in defined:
        console.print(sentence.replace("*", "").replace("`", ""), style="dim")
    console.print()
    for sentence in sentences:
        console.print(sentence, style="bold" if sentence is sentences[-1] else None)
    console.print()
