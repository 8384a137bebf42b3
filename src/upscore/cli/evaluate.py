"""`upscore evaluate`: score a model on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from upscore.evaluation.instances import InstanceScores
    from upscore.evaluation.semantic import SemanticScores


def evaluate(
    model: str,
    data: str,
    /,
    *,
    json: Path | None = None,
    plots: Path | None = None,
    split: str | None = None,
    ray: Annotated[bool, Parameter(negative=())] = False,
    address: str | None = None,
    workers: int | None = None,
    engine: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> None:
    """Score a model on labelled images.

    ```
    upscore evaluate runs/streets camvid/ --json scores.json
    upscore evaluate runs/streets camvid/ --split train --plots plots/
    upscore evaluate runs/nuclei nuclei/ --json scores.json --plots plots/
    ```

    Semantic segmentation: pixel accuracy, mean accuracy, mean IoU and
    frequency-weighted IoU as in the FCN paper. Instance segmentation: COCO's
    average precision (AP). In addition, with the TP, FP and FN of the objects
    that overlays show, matched one to one at an IoU threshold: AP as defined
    by StarDist and DSB2018, TP / (TP + FP + FN), and F1,
    2 TP / (2 TP + FP + FN). All scores are over the whole data set, at the
    original size of each image.

    Parameters
    ----------
    model
        A model folder, a run, a built-in model's name, or hf://owner/name.
    data
        A folder of labelled images, or scenes:COUNT.
    json
        Write all scores, also per class, to this file.
    plots
        Write per_class.png, and confusion.png or precision_recall.png, to
        this folder.
    split
        train, val, test or trainval; by default test where there is one,
        else val, else the images that the training of this model held out of
        the same folder, else all.
    ray
        Distribute the images over a Ray cluster, or over the processors of
        this machine if there is no cluster.
    address
        With --ray: address of the cluster; by default RAY_ADDRESS, else this
        machine.
    workers
        With --ray: number of processes; by default as many as fit.
    engine
        Inference engine; auto is the fastest that is installed.
    precision
        Number format of the network; auto is the fastest that preserves the
        results closely. int8 needs `upscore calibrate` first.
    """
    from json import dumps

    from upscore.errors import UserError
    from upscore.evaluation.instances import InstanceScores
    from upscore.evaluation.semantic import TwoHeadedScores
    from upscore.files import require_writable, require_writable_file, write_text
    from upscore.inference import evaluate as score
    from upscore.inference import load
    from upscore.inference.evaluate import open_for_scoring
    from upscore.progress import progress_bar

    if not ray and (address is not None or workers is not None):
        raise UserError("--address and --workers need --ray: add --ray, or leave them out")
    if json is not None:
        require_writable_file(json, "choose another --json")
    if plots is not None:
        require_writable(plots, "choose another --plots")
    with progress_bar("Evaluating") as advance:
        if ray:
            from upscore.distributed.ray.evaluate import evaluate_on_ray

            result = evaluate_on_ray(
                model,
                data,
                split,
                address=address,
                workers=workers,
                engine=engine,
                precision=precision,
                progress=advance,
            )
            scores, images, split = result.scores, result.images, result.split
        else:
            loaded = load(model, engine=engine, precision=precision)
            dataset, split = open_for_scoring(data, split, loaded.task, loaded.training)
            scores = score(loaded, dataset, progress=advance)
            images = len(dataset)
    report = {"model": model, "data": data, "split": split, "images": images, **scores.to_json()}
    title = f"{data}{f', {split}' if split else ''}: {images} images"
    if isinstance(scores, InstanceScores):
        _print_objects(scores, title)
    else:
        _print_pixels(scores, title)
        if isinstance(scores, TwoHeadedScores):
            _print_pixels(scores.geometric, "geometric classes")
    try:
        if json is not None:
            write_text(json, dumps(report, indent=2, allow_nan=False) + "\n")
        if plots is not None:
            _plot(scores, plots)
    except OSError as error:
        raise UserError(
            f"{error.filename or json or plots} can't be written ({error.strerror}): choose another --json or --plots"
        ) from error


def _plot(scores: SemanticScores | InstanceScores, folder: Path) -> None:
    import torch

    from upscore.evaluation.instances import InstanceScores
    from upscore.viz.plots import plot_class_precision, plot_confusion, plot_per_class, plot_precision_recall

    if isinstance(scores, InstanceScores):
        plot_precision_recall(scores, folder / "precision_recall.png")
        plot_class_precision(scores, folder / "per_class.png")
    else:
        plot_confusion(torch.tensor(scores.confusion), list(scores.per_class), folder / "confusion.png")
        plot_per_class(scores, folder / "per_class.png")


def _print_objects(scores: InstanceScores, title: str) -> None:
    from upscore.evaluation.instances import CLASS_COLUMNS, class_rows, summary_rows

    summary = [*summary_rows(scores), ("score threshold", f"{scores.score_threshold:.2f} (for StarDist's AP and F1)")]
    _print(title, CLASS_COLUMNS, class_rows(scores), summary)


def _print_pixels(scores: SemanticScores, title: str) -> None:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    rows = [
        (name, share(iu), share(scores.per_class_accuracy[name]), share(scores.per_class_precision[name]))
        for name, iu in scores.per_class.items()
    ]
    summary = [
        ("pixel accuracy", share(scores.pixel_accuracy)),
        ("mean accuracy", share(scores.mean_accuracy)),
        ("mean IoU", share(scores.mean_iu)),
        ("frequency weighted IoU", share(scores.frequency_weighted_iu)),
    ]
    _print(title, ("class", "IoU", "accuracy", "precision"), rows, summary)


def _print(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], summary: Sequence[tuple[str, str]]
) -> None:
    from rich import box
    from rich.table import Table

    from upscore.console import Console
    from upscore.text import short_name

    console = Console()
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(short_name, row))
    console.print(table)
    for name, value in summary:
        console.print(f"  {name:<22} {value}")
