"""`upscore data`: check a data set; write an example data set."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from upscore.errors import UserError
from upscore.progress import progress_bars
from upscore.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from upscore.console import Console
    from upscore.data.checks.report import InstanceReport
    from upscore.data.checks.semantic import Report
    from upscore.data.formats.folder import Issue

T = TypeVar("T")

SHOWN_ISSUES = 5
"""Number of issues of each kind that are printed; the JSON file contains all of them."""
SHOWN_CLASSES = 160
ISSUES = {
    "unreadable": "cannot be read",
    "label values": "labels with values that are not classes",
    "size": "labels that differ from their image in size",
    "empty label": "labels with void pixels only",
    "malformed": "malformed entries in the JSON",
    "image id": "images with a duplicate id",
    "annotation id": "annotations with a duplicate id",
    "category": "annotations of an unknown category",
    "unlisted": "annotations of an image that is not listed",
    "no outline": "annotations without a segmentation",
    "box outside": "annotations with a box outside the image",
    "zero area": "annotations without area",
    "few points": "annotations with polygons of fewer than three points",
    "self-crossing": "annotations with a polygon that crosses itself",
    "missing label": "images without a label",
    "missing image": "labels without an image",
    "duplicate": "duplicate names",
    "outside": "files outside the splits",
}
"""Kind of an issue -> heading of its list."""


def check(
    data: str,
    /,
    *,
    split: str | None = None,
    task: Literal["semantic", "instances"] | None = None,
    sbd: Path | None = None,
    json: Path | None = None,
) -> int:
    """Check a data set, and print its statistics and all issues.

    The exit code is 0 without issues, else 1.

    ```
    upscore data check photos/                     # images/ and labels/
    upscore data check photos/ --split val --json report.json
    upscore data check VOCdevkit --sbd benchmark_RELEASE
    upscore data check coco/                       # annotations/, train2017/
    upscore data check cells/ --task instances     # object ids
    upscore data check scenes:100
    ```

    Parameters
    ----------
    data
        A folder: images/ and labels/, with or without train/ and val/;
        CamVid; PASCAL VOC; COCO, or a COCO JSON file. Or scenes:COUNT for
        generated scenes.
    split
        Check train, val, test or trainval only.
    task
        Type of the labels: class maps (semantic) or object ids (instances).
        By default it is detected; 8-bit labels count as class maps.
    sbd
        The folder of SBD, which adds training images to PASCAL VOC.
    json
        Write the whole report to this file.
    """
    from json import dumps

    from upscore.console import Console
    from upscore.data.checks.instances import check_instances
    from upscore.data.checks.semantic import check as check_classes
    from upscore.data.instance_datasets import task_of
    from upscore.files import require_writable_file, write_text

    if json is not None:
        require_writable_file(json, "choose another --json")
    if task == "instances" and sbd is not None:
        raise UserError(f"--sbd {sbd} can't be combined with --task instances: leave one of them out")
    if sbd is None and (task or task_of(data)) == "instances":
        report = check_instances(data, split=split, track=_progress)
    else:
        report = check_classes(data, split=split, sbd=sbd, track=_progress)
    _print(report, Console())
    if json is not None:
        write_text(json, dumps(report.as_dict(), indent=2) + "\n")
    return 1 if report.issues else 0


def example(output: Path, /) -> None:
    """Write an example data set: 56 microscope images of nuclei (CC0).

    The folder has the layout that `train` reads, one mask per nucleus, and
    40 images for training, 16 for validation.

    ```
    upscore data example nuclei/
    upscore train nuclei/ --model mask_rcnn --output runs/nuclei
    ```

    Parameters
    ----------
    output
        A new folder.
    """
    from upscore.data.example import copy_example

    print(f"{copy_example(output)}: 56 labelled images (40 to train on, 16 held out)")
    print(f"next: upscore data check {shlex.quote(str(output))}")


def _progress(items: Iterable[T], total: int) -> Iterable[T]:
    with progress_bars() as progress:
        yield from progress.track(items, total=total, description="Reading")


def _print(report: Report | InstanceReport, console: Console) -> None:
    from upscore.data.checks.report import InstanceReport

    splits = ", ".join(f"{name} {count:,}" for name, count in report.splits.items())
    console.print(printable(report.source), style="bold")
    console.print(f"{report.layout}: {_count(report.images, 'image')}{f' ({splits})' if splits else ''}\n")
    if report.classes:
        console.print(_objects_table(report) if isinstance(report, InstanceReport) else _classes_table(report))
        console.print(f"Classes: {printable(report.classes_from)}.\n")
    if isinstance(report, InstanceReport):
        _print_objects(report, console)
    if report.sizes:
        _print_sizes(report, console)
    for note in report.notes:
        console.print(f"Note: {printable(note)}", style="yellow")
    groups: dict[str, list[Issue]] = defaultdict(list)
    for issue in report.issues:
        groups[issue.kind].append(issue)
    for kind, issues in groups.items():
        console.print(f"\n{len(issues):,} {ISSUES[kind]}", style="bold red")
        for issue in issues[:SHOWN_ISSUES]:
            console.print(f"  {printable(issue.message)}", soft_wrap=True)
        if len(issues) > SHOWN_ISSUES:
            console.print(f"  and {len(issues) - SHOWN_ISSUES:,} more (--json FILE lists them all)")
    if report.issues:
        console.print(f"\n{_count(len(report.issues), 'issue')}.", style="bold red")
    else:
        console.print("No issues.", style="bold green")


def _classes_table(report: Report) -> Table:
    from rich import box
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("index", "class", "pixels", "share", "", "images"):
        table.add_column(title, justify="left" if title in ("class", "") else "right", no_wrap=title != "class")
    largest = max(entry.share for entry in report.classes) or 1
    for index, entry in enumerate(report.classes[:SHOWN_CLASSES]):
        bar = Bar(size=largest, begin=0, end=entry.share, width=24, color="cyan")
        name = Text(printable(entry.name))
        style = None if entry.pixels else "dim"
        table.add_row(
            str(index), name, f"{entry.pixels:,}", f"{entry.share:.2%}", bar, f"{entry.images:,}", style=style
        )
    if len(report.classes) > SHOWN_CLASSES:
        table.add_row("...", f"and {len(report.classes) - SHOWN_CLASSES} more", style="dim")
    void = report.void
    table.add_section()
    table.add_row(
        "255", "void", f"{void.pixels:,}", f"{void.share:.2%}", "of all pixels", f"{void.images:,}", style="dim"
    )
    return table


def _objects_table(report: InstanceReport) -> Table:
    from rich import box
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("index", "class", "objects", "", "images"):
        table.add_column(title, justify="left" if title in ("class", "") else "right", no_wrap=title != "class")
    largest = max(entry.objects for entry in report.classes) or 1
    for index, entry in enumerate(report.classes[:SHOWN_CLASSES]):
        bar = Bar(size=largest, begin=0, end=entry.objects, width=24, color="cyan")
        name = Text(printable(entry.name))
        style = None if entry.objects else "dim"
        table.add_row(str(index), name, f"{entry.objects:,}", bar, f"{entry.images:,}", style=style)
    if len(report.classes) > SHOWN_CLASSES:
        table.add_row("...", f"and {len(report.classes) - SHOWN_CLASSES} more", style="dim")
    return table


def _print_objects(report: InstanceReport, console: Console) -> None:
    console.print(
        f"{_count(report.objects, 'object')}: {', '.join(f'{n:,} {name}' for name, n in report.areas.items())}"
    )
    if report.per_image is not None:
        minimum, median, maximum = report.per_image
        console.print(f"  {minimum} to {maximum} per image, median {median:g}")
    console.print("  small is under 32x32 pixels, large from 96x96 (COCO's limits)\n")


def _print_sizes(report: Report | InstanceReport, console: Console) -> None:
    common = [f"{width}x{height} ({count:,})" for (width, height), count in report.sizes.most_common(5)]
    more = f", and {len(report.sizes) - 5:,} more" if len(report.sizes) > 5 else ""
    console.print(f"{_count(len(report.sizes), 'size')}: {', '.join(common)}{more}")
    if len(report.sizes) > 1:
        for side, (minimum, median, maximum) in report.size_range().items():
            console.print(f"  {side}: {minimum} to {maximum} pixels, median {median:g}")
    console.print()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
