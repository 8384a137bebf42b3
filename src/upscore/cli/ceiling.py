"""`upscore analyze ceiling`: compute the upper bound of mean IoU for each output stride."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscore.experiments.ceiling.meter import Ceilings


def ceiling(data: str, /, *, split: str | None = None, output: Path = Path("ceiling"), max_side: int = 1024) -> None:
    """Compute the upper bound of mean IoU for each output stride.

    ```
    upscore analyze ceiling camvid/
    upscore analyze ceiling camvid/ --split val --output camvid_ceiling/
    upscore analyze ceiling photos/ --max-side 2048
    upscore analyze ceiling scenes:200
    ```

    A network that predicts scores every 32 pixels can't segment a pole 3
    pixels wide. The labels are downsampled to strides 2, 4, ... 128,
    upsampled again, and compared with the originals. No network is trained,
    so it takes about a minute. The last lines recommend a network to train,
    and list the classes that no stride can resolve.

    Parameters
    ----------
    data
        A folder of labelled images as for `upscore train`, or scenes:COUNT.
    split
        train, val, test or trainval; by default all labelled images.
    output
        The folder to write ceiling.md, ceiling.png, per_class.png and
        ceiling.json to.
    max_side
        Larger images are first reduced until their longer side has this many
        pixels, as in training; 0 for none.
    """
    from upscore.data import open_dataset
    from upscore.data.instance_datasets import task_of
    from upscore.data.resizing import resize_longest
    from upscore.errors import UserError
    from upscore.experiments.ceiling.meter import CeilingMeter
    from upscore.experiments.ceiling.report import advice
    from upscore.files import require_writable
    from upscore.progress import progress_bars

    if task_of(data) == "instances":
        raise UserError(
            f"{data} has labels of objects, but upper bounds are computed for class maps: give data with class maps"
        )
    require_writable(output, "choose another --output")
    dataset = open_dataset(data, split)
    meter = CeilingMeter(dataset.classes)
    reduced = 0
    with progress_bars() as progress:
        for index in progress.track(range(len(dataset)), description="Measuring"):
            original = dataset[index]
            sample = resize_longest(original, max_side)
            if sample.class_map is None:
                raise UserError(f"{data}: {sample.name} has no class map: label it, or remove the image")
            reduced += sample is not original
            meter.update(sample.class_map)
    ceilings = meter.ceilings()
    sentences = advice(ceilings, reduced=reduced)
    title = f"{data}, {split}" if split else data
    _print(ceilings, title, sentences)
    try:
        _write(
            ceilings, title, sentences, output, {"data": data, "split": split, "max_side": max_side, "reduced": reduced}
        )
    except OSError as error:
        raise UserError(
            f"{error.filename or output} can't be written ({error.strerror}): choose another --output"
        ) from error


def _write(
    ceilings: Ceilings, title: str, sentences: Sequence[str], folder: Path, settings: dict[str, str | int | None]
) -> None:
    from json import dumps

    from upscore.experiments.ceiling.report import markdown, plot_ceilings, plot_class_ceilings
    from upscore.files import write_text

    report = {**settings, "advice": sentences, **ceilings.to_json()}
    write_text(folder / "ceiling.json", dumps(report, indent=2, allow_nan=False) + "\n")
    write_text(folder / "ceiling.md", markdown(ceilings, title, sentences))
    plot_ceilings(ceilings, folder / "ceiling.png")
    plot_class_ceilings(ceilings, folder / "per_class.png")


def _print(ceilings: Ceilings, title: str, sentences: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table

    from upscore.console import Console
    from upscore.experiments.ceiling.meter import METHODS
    from upscore.experiments.ceiling.report import ABOUT_CEILINGS, ABOUT_PAPER, TITLES, class_rows, mean_rows

    console = Console()
    classes = [[name, pixels, *ious] for name, pixels, _images, *ious in class_rows(ceilings, digits=0)]
    means = [[name, "", *ious] for name, *ious in mean_rows(ceilings, digits=0)]
    console.print(f"{title}: upper bound of IoU by output stride in pixels", style="italic")
    for header, rows in ((("class", "pixels"), classes), (("mean IoU", ""), means)):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate((*header, *map(str, ceilings.strides))):
            table.add_column(column, justify="right" if number else "left", no_wrap=number > 0)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print("The IoU of a class is the higher one of two methods:")
    for method, definition in METHODS.items():
        console.print(f"  {TITLES[method]}: {definition}.")
    console.print(f"{ABOUT_PAPER}\n{ABOUT_CEILINGS}\n")
    for sentence in sentences:
        console.print(sentence, style="bold" if sentence is sentences[-1] else None)
