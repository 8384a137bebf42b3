"""`upscore bench`: images per second of a model on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from upscore.inference.benchmark import SkippedSetting, Speed

ENGINES = ("torch", "openvino", "onnxruntime")
DEFAULT_SIZE = "640x480"


def bench(
    model: str,
    images: list[Path] | None = None,
    /,
    *,
    engine: list[Literal["auto", "torch", "openvino", "onnxruntime"]] | None = None,
    precision: list[Literal["auto", "float32", "bfloat16", "int8"]] | None = None,
    batch_size: list[int] | None = None,
    image_size: list[str] | None = None,
    rounds: int = 5,
    threads: int | None = None,
    json: Path | None = None,
) -> None:
    """Measure how many images per second a model predicts on this machine.

    ```
    upscore bench runs/streets
    upscore bench nuclei slides/a.png --engine openvino --json bench.json
    upscore bench runs/streets --image-size 640x480 --image-size 1920x1080
    upscore bench runs/streets --engine torch --batch-size 1 --batch-size 8
    ```

    Every engine and number format that runs the model here is timed, from an
    image in memory to its class map or objects. The settings alternate, so
    that other load on the machine slows all of them alike; the table shows
    images per second by the median of the rounds, and their range. int8 is
    measured if `upscore calibrate` has been run.

    Parameters
    ----------
    model
        A model folder, a run, a built-in model's name, or hf://owner/name.
    images
        Image files to measure on, each at its own size. By default one of
        scikit-image's photographs is resized. The time of instance
        segmentation depends on the number of objects: give your own images.
    engine
        Measure this engine; may be given several times. auto is what
        `upscore predict` chooses.
    precision
        Measure this number format; may be given several times. By default
        bfloat16 is left out on machines without bfloat16 instructions.
    batch_size
        Number of images per batch; may be given several times.
    image_size
        WIDTHxHEIGHT in pixels; may be given several times. By default 640x480.
    rounds
        Timed calls of each setting, after one warm-up call.
    threads
        Number of CPU threads; by default as many as `upscore predict` uses.
    json
        Write all times and a description of the machine to this file.
    """
    from json import dumps

    from upscore.errors import UserError
    from upscore.files import require_writable_file, write_text

    counts = {
        "--batch-size": min(batch_size or [1]),
        "--rounds": rounds,
        "--threads": 1 if threads is None else threads,
    }
    for option, value in counts.items():
        if value < 1:
            raise UserError(f"{option} {value} is invalid: give 1 or more")
    if images and image_size:
        raise UserError(
            f"--image-size {image_size[0]} applies to the built-in image only: leave it out, or give no images"
        )
    sizes = [_size(text) for text in image_size or [DEFAULT_SIZE]]
    if json is not None:
        require_writable_file(json, "choose another --json")

    import torch

    from upscore.inference.benchmark import load_variants, measure_speed
    from upscore.inference.machine import busy, describe_machine
    from upscore.progress import progress_bar

    if threads is not None:
        torch.set_num_threads(threads)
    warning = busy()
    models, left_out = load_variants(model, engine or ENGINES, precision)
    with progress_bar("Measuring") as advance:
        speeds = measure_speed(models, _images(images or [], sizes), batch_size or [1], rounds=rounds, progress=advance)
    machine = describe_machine(torch.get_num_threads())
    _print(model, speeds, left_out, machine, warning)
    if json is not None:
        report = {
            "model": model,
            "machine": machine,
            "warning": warning,
            "rounds": rounds,
            "speeds": [speed.to_json() for speed in speeds],
            "left_out": [{"engine": one.engine, "precision": one.precision, "reason": one.reason} for one in left_out],
        }
        write_text(json, dumps(report, indent=2) + "\n")


def _size(text: str) -> tuple[int, int]:
    """Parse a size: "640x480" -> (480, 640)."""
    from upscore.errors import UserError

    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None:
        raise UserError(f"--image-size {text} is invalid: give WIDTHxHEIGHT in pixels, such as {DEFAULT_SIZE}")
    return int(match[2]), int(match[1])


def _images(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return the images of the files, or the built-in image in the given sizes, each (H, W, 3) uint8."""
    import numpy as np

    from upscore.data import read_image

    if paths:
        return [read_image(path).permute(1, 2, 0).contiguous().numpy() for path in paths]
    from importlib.resources import files

    from PIL import Image

    with files("skimage").joinpath("data", "coffee.png").open("rb") as file:
        image = Image.open(file).convert("RGB")
    return [np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) for height, width in sizes]


def _print(
    model: str,
    speeds: Sequence[Speed],
    left_out: Sequence[SkippedSetting],
    machine: dict[str, str | int],
    warning: str | None,
) -> None:
    import sys

    from rich import box
    from rich.table import Table

    from upscore.console import Console

    objects = any(speed.objects is not None for speed in speeds)
    console = Console()
    table = Table(
        box=box.SIMPLE_HEAD, title=model, title_justify="left", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in ("engine", "precision"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "size", "images/s", "min to max", *(["objects"] if objects else [])):
        table.add_column(column, justify="right", no_wrap=True)
    best = max(speeds, key=lambda speed: speed.images_per_second)
    for speed in speeds:
        setting = speed.setting
        rates = [setting.batch_size / seconds for seconds in speed.seconds]
        table.add_row(
            setting.engine,
            setting.precision,
            str(setting.batch_size),
            f"{setting.size[1]}x{setting.size[0]}",
            _number(speed.images_per_second),
            f"{_number(min(rates))} to {_number(max(rates))}",
            *([str(speed.objects)] if objects else []),
            style="bold" if speed is best else "",
        )
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), style="dim")
    for one in left_out:
        print(f"left out: {one.engine} {one.precision}: {one.reason}", file=sys.stderr)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)


def _number(value: float) -> str:
    """Format a number with at least two significant digits and without exponent, as "0.042", "8.5" or "1200"."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
