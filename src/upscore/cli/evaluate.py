"""`upscore evaluate`: a model's scores on labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def evaluate(
    model: str,
    data: str,
    /,
    *,
    json: Path | None = None,
    plots: Path | None = None,
    split: str | None = None,
    engine: Literal["auto", "torch"] = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> None:
    """Score a model on labelled photos.

    ```
    upscore evaluate runs/streets camvid/ --json scores.json
    upscore evaluate runs/streets camvid/ --split train --plots plots/
    ```

    Pixel accuracy, mean accuracy, mean IU and frequency-weighted IU are those
    of the FCN paper, over the whole set and at each photo's own size.

    Parameters
    ----------
    model
        A model folder, a run, or hf://owner/name.
    data
        A folder of labelled photos, or scenes:COUNT.
    json
        Write the scores, per class too, and the confusion matrix to a file.
    plots
        Write confusion.png and per_class.png to a folder.
    split
        train, val, test or trainval; by default test where there is one,
        else val, else all.
    engine
        What runs the network.
    precision
        The number format it runs in.
    """
    from json import dumps

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from upscore.data import open_dataset
    from upscore.data.datasets import default_split
    from upscore.errors import UserError
    from upscore.evaluation.plots import plot_confusion, plot_per_class
    from upscore.files import write_text
    from upscore.inference import evaluate as score
    from upscore.inference import load

    split = split or default_split(data)
    dataset = open_dataset(data, split)
    predictor = load(model, engine=engine, precision=precision)
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("Evaluating", total=len(dataset))
        scores = score(predictor, dataset, progress=lambda done, _total: progress.update(task, completed=done))
    report = {"model": model, "data": data, "split": split, "images": len(dataset), **scores.to_json()}
    _print(report, Console(highlight=False, markup=False))
    try:
        if json is not None:
            write_text(json, dumps(report, indent=2, allow_nan=False) + "\n")
        if plots is not None:
            plot_confusion(torch.tensor(scores.confusion), predictor.classes, plots / "confusion.png")
            plot_per_class(scores, plots / "per_class.png")
    except OSError as error:
        raise UserError(f"{error.filename or json or plots}: can't be written ({error.strerror})") from error


def _print(report: dict, console) -> None:
    from rich import box
    from rich.table import Table

    part = f", {report['split']}" if report["split"] else ""
    table = Table(box=box.SIMPLE_HEAD, title=f"{report['data']}{part}: {report['images']} photos", title_justify="left")
    for title in ("class", "IU", "accuracy", "precision"):
        table.add_column(title, justify="left" if title == "class" else "right")
    for name, iu in report["per_class"].items():
        values = (iu, report["per_class_accuracy"][name], report["per_class_precision"][name])
        table.add_row(name, *("-" if value is None else f"{value:.1%}" for value in values))
    console.print(table)
    for name in ("pixel_accuracy", "mean_accuracy", "mean_iu", "frequency_weighted_iu"):
        console.print(f"  {name.replace('_', ' ').replace(' iu', ' IU'):<22} {report[name]:.1%}")
