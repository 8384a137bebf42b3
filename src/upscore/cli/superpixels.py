"""`upscore analyze superpixels`: segment images without a network, and score the segments on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from upscore.errors import UserError
from upscore.progress import progress_bars

if TYPE_CHECKING:
    from upscore.data.datasets import Dataset
    from upscore.experiments.superpixels.comparison import Comparison

Method = Literal["felzenszwalb", "slic", "quickshift", "watershed", "ncut", "kmeans"]
SEGMENTS, COLORS = 100, 16
FAILED = 1


def superpixels(
    sources: list[str],
    /,
    *,
    output: Path,
    method: Method = "slic",
    segments: int | None = None,
    max_side: int = 512,
    seed: int = 0,
    model: str | None = None,
    split: str | None = None,
    val_pattern: str | None = None,
    limit: int | None = None,
    pictures: int = 3,
    sweep: bool = True,
) -> int:
    """Segment images into superpixels, without a network, and score them.

    ```
    upscore analyze superpixels photos/ --output out
    upscore analyze superpixels a.jpg --method ncut --segments 40 --output out
    upscore analyze superpixels camvid/ --output out --model runs/streets
    upscore analyze superpixels scenes:50 --method felzenszwalb --output out
    ```

    For images, NAME_segments.png shows the borders and the mean colours of
    the segments, and NAME_ids.png holds the number of a segment per pixel
    (16 bits, from 1).

    For labelled data, METHOD.md, METHOD.json, METHOD.png and
    METHOD_oracle.png hold the scores of the segments: with an oracle that
    gives each segment the most frequent class of its labels (the score nears
    100% as segments shrink, so it is shown for several sizes); without
    labels, where similar segments are clustered into as many groups as there
    are classes, and each group gets one class for the whole data set; and
    the scores of a trained FCN for comparison.

    Parameters
    ----------
    sources
        Images and folders of images, or one labelled data set: a folder, or
        scenes:COUNT.
    output
        The folder to write to.
    method
        felzenszwalb, slic, quickshift, watershed, ncut (normalized cuts), or
        kmeans, which clusters colours only: its segments are not connected.
    segments
        Number of segments per image; 100 by default, 16 for kmeans. Exact for
        watershed, ncut and kmeans; approximate for slic and felzenszwalb,
        whose parameters are adjusted in several runs; quickshift may return
        more.
    max_side
        Larger images are reduced until their longer side has this many
        pixels, and the segments are resized back by nearest neighbour;
        0 for none.
    seed
        Random seed of quickshift, kmeans and the grouping.
    model
        A trained FCN to compare with: a run, a model folder, hf://owner/name.
    split
        For labelled data: train, val, test or trainval; by default test where
        there is one, else val, else all.
    val_pattern
        Score only the images whose names match this pattern, as given to
        train --val-pattern.
    limit
        Score at most this many images, evenly spaced over the data.
    pictures
        Number of images in METHOD.png; 0 for no figure.
    sweep
        Compute the oracle's score also for a tenth, a third, and three times
        the number of segments.
    """
    requested = segments if segments is not None else COLORS if method == "kmeans" else SEGMENTS
    from upscore.experiments.superpixels.methods import check_options
    from upscore.files import require_writable

    check_options(method, requested, max_side, seed)
    require_writable(output, "choose another --output")
    if not _is_data(sources):
        given = {"model": model, "split": split, "val_pattern": val_pattern, "limit": limit}
        if extra := [name for name, value in given.items() if value is not None]:
            option = extra[0].replace("_", "-")
            raise UserError(f"--{option} needs labelled data, but {sources[0]} has no labels: leave the option out")
        return _segment_images([Path(source) for source in sources], output, method, requested, max_side, seed)

    import sys

    from upscore.data import subset
    from upscore.evaluation.semantic import SemanticScores
    from upscore.experiments.superpixels.comparison import compare, evenly_spaced, predict_examples, sweep_sizes
    from upscore.experiments.superpixels.report import write_comparison
    from upscore.inference import evaluate, load

    data = sources[0]
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is invalid: give 1 or more")
    if pictures < 0:
        raise UserError(f"--pictures {pictures} is invalid: give 0 or more")
    network = None if model is None else load(model)
    if network is not None and network.task != "semantic":
        raise UserError(f"--model {model} predicts objects, but segments are compared with class maps: give an FCN")
    dataset, split = _open(data, split, val_pattern)
    if limit is not None:
        dataset = subset(dataset, evenly_spaced(len(dataset), limit))
    with progress_bars() as progress:
        task = progress.add_task(f"Clustering ({method})", total=len(dataset))
        comparison = compare(
            dataset,
            method,
            requested,
            sweep=sweep_sizes(requested) if sweep else (),
            max_side=max_side,
            seed=seed,
            pictures=pictures,
            progress=lambda done, _total: progress.update(task, completed=done),
        )
        if network is not None:
            task = progress.add_task("Evaluating the FCN", total=len(dataset))
            scores = evaluate(network, dataset, progress=lambda done, _total: progress.update(task, completed=done))
            assert isinstance(scores, SemanticScores)
            comparison.network = scores
            predict_examples(comparison, dataset, network)
    about = {
        "data": data,
        "split": split,
        "val_pattern": val_pattern,
        "max_side": max_side,
        "seed": seed,
        "model": model,
    }
    written = write_comparison(comparison, output, about)
    _print(
        comparison, f"{data}{f', {split or val_pattern}' if split or val_pattern else ''}: {comparison.images} images"
    )
    if network is not None and _trained_on(network.training, data, split, val_pattern):
        print(
            f"warning: {model} was trained on images of {data} that are scored here, so its scores are too high: use "
            "its validation images",
            file=sys.stderr,
        )
    print("\n".join(map(str, written)))
    return 0


def _is_data(sources: list[str]) -> bool:
    from upscore.data.datasets import list_files, parse_scenes
    from upscore.data.formats.coco.reader import find_coco

    if len(sources) != 1:
        return False
    source = sources[0]
    if parse_scenes(source) is not None or find_coco(source) is not None:
        return True
    try:
        list_files(source)
    except UserError:
        return False
    return True


def _open(data: str, split: str | None, val_pattern: str | None) -> tuple[Dataset, str | None]:
    from upscore.data import open_dataset, open_splits
    from upscore.data.datasets import default_split
    from upscore.data.instance_datasets import task_of

    if task_of(data) == "instances":
        raise UserError(
            f"{data} has labels of objects, but segments are scored with class maps: give data with class maps"
        )
    if val_pattern is None:
        split = split or default_split(data)
        return open_dataset(data, split), split
    if split is not None:
        raise UserError(f"--split {split} and --val-pattern {val_pattern} exclude each other: give one of them")
    return open_splits(data, val_pattern=val_pattern)[1], None


def _trained_on(training: dict[str, Any], data: str, split: str | None, val_pattern: str | None) -> bool:
    """Return whether a model was trained on images that are scored, according to its `training` record."""
    from upscore.data.datasets import same_source

    if not same_source(training.get("data"), data):
        return False
    if val_pattern is not None or training.get("val_pattern") is not None:
        return val_pattern != training.get("val_pattern") and split != "test"
    return split in (None, "train", "trainval")


def _segment_images(paths: list[Path], output: Path, method: Method, segments: int, max_side: int, seed: int) -> int:
    import sys

    from upscore.data import read_image
    from upscore.experiments.superpixels.methods import segment
    from upscore.experiments.superpixels.report import refuse_overwriting_images, write_segments
    from upscore.inference.outputs import find_images

    images = find_images(paths, output=output)
    refuse_overwriting_images(images, output)
    failures: list[str] = []
    found = 0
    with progress_bars() as progress:
        for name, path in progress.track(images.items(), len(images), description=f"Clustering ({method})"):
            try:
                image = read_image(path).permute(1, 2, 0).contiguous().numpy()
                labels = segment(image, method, segments, max_side=max_side, seed=seed)
                count = int(labels.max()) + 1
                write_segments(image, labels, output / name, f"{Path(name).name}, {count} segments ({method})")
                found += count
            except UserError as error:
                failures.append(str(error))
    done = len(images) - len(failures)
    print(f"{output}: {done} of {len(images)} images, {found / max(done, 1):.1f} segments per image ({method})")
    for failure in failures:
        print(f"upscore: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def _print(comparison: Comparison, title: str) -> None:
    from rich import box
    from rich.table import Table

    from upscore.console import Console
    from upscore.experiments.superpixels.report import (
        CAVEAT,
        COLUMNS,
        PROTOCOL,
        class_columns,
        class_rows,
        score_rows,
        summarize,
    )

    console = Console()
    tables = (title, COLUMNS, score_rows(comparison)), ("", class_columns(comparison), class_rows(comparison))
    for heading, columns, rows in tables:
        table = Table(box=box.SIMPLE_HEAD, title=heading or None, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for text in (CAVEAT, PROTOCOL):
        console.print(f"{text}\n", style="dim")
    console.print(f"{summarize(comparison)}\n", style="bold")
