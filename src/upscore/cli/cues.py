"""`upscore analyze cues`: what does a network look at: the objects, their outline, or what surrounds them?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from upscore.analysis.cues import Experiment
    from upscore.evaluation.cues import Cues

PICTURES = 4
"""Photos in each of the pictures."""


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
    holdout: str | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Find out what a network looks at: objects, outlines or surroundings.

    ```
    upscore analyze cues camvid/ --model runs/streets \\
        --foreground Pole,SignSymbol,Car,Pedestrian,Bicyclist
    upscore analyze cues voc/ --model fcn32s --backbone vgg16 \\
        --weights vgg16.pth --output runs/cues
    upscore analyze cues scenes:400 --images 1500 --crop 160
    ```

    The same network is trained on photos whose background is masked, on
    photos whose objects are masked, and on nothing but the mask, and each is
    tested on photos of the same kind; the reference is tested on masked
    photos too (FCN, table 8). It takes three trainings, or four where the
    reference is trained as well. The same command goes on where it stopped.

    The folder it writes holds cues.md with a table and advice, cues.json,
    cues.png, pictures of what the networks saw and said (mask_only.png,
    fg_only.png, bg_only.png), and the trained networks.

    Parameters
    ----------
    data
        A folder of labelled photos as for `upscore train`, or scenes:COUNT.
    model
        A model folder or run, which is then the reference, and whose recipe
        the others are trained by; or a network's name: fcn8s, fcn16s, fcn32s
        (the paper's).
    foreground
        The classes that are objects, by name, with commas between; all others
        are background. By default all but the first, if that is background.
    output
        The folder to write to.
    backbone
        Of a network that is named; by default efficientnet_lite0.
    weights
        Where training starts: imagenet, none, or what `upscore train` takes;
        by default where the given model started.
    images
        Photos that each training sees; by default as the recipe has it.
    epochs
        The same as passes over the photos.
    crop
        Side of the random crops, 0 for none; by default as the recipe has it.
    max_side
        Of a network that is named: larger photos are reduced to this many
        pixels; by default 1024, 0 for none.
    holdout
        Test on the photos whose names match this pattern; by default what
        the given model held out of the same data.
    seed
        The same seed gives the same scores.
    workers
        Processes that read photos.
    """
    from rich.console import Console

    from upscore.analysis.cues import Experiment, count_classes, foreground_of, measure_cues
    from upscore.analysis.subject import subject_of
    from upscore.cli.cues_progress import CueProgress
    from upscore.data import open_splits
    from upscore.data.instance_datasets import task_of
    from upscore.errors import UserError
    from upscore.training.feed import default_workers

    if task_of(data) == "instances":
        raise UserError(f"{data}: its labels number objects, but cues are of the classes of pixels: give it class maps")
