"""`upscore calibrate`: quantize a model to int8 and measure the loss of accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upscore.console import Progress
    from upscore.data import Dataset
    from upscore.inference import Model
    from upscore.progress import ProgressCallback


MIN_HELD_OUT = 20
"""From this number of images on, half of them are held out to measure the agreement."""


def calibrate(
    model: str,
    paths: list[Path],
    /,
    *,
    data: str | None = None,
    split: str | None = None,
    output: Path | None = None,
    max_images: int = 100,
) -> int:
    """Quantize a model to int8, and measure the loss of accuracy.

    ```
    upscore calibrate runs/streets photos/
    upscore calibrate runs/streets photos/ --data camvid/ --split val
    upscore calibrate nuclei slides/ --output models/nuclei8
    upscore predict runs/streets photos/ --output out --precision int8
    ```

    The value ranges of int8 are computed from the images, which should be
    similar to those that the model will predict; no labels are needed. The
    result is written to int8/ in the model's folder and is used only with
    --precision int8. With 20 images or more, half of them are held out to
    measure the agreement with float32; --data also measures the loss of mean
    IoU or AP. Images that can't be read are skipped and reported at the end,
    and the exit code is then 1.

    Parameters
    ----------
    model
        A model folder, a run, or the name of a built-in model.
    paths
        Images, and folders of images.
    data
        A folder of labelled images, or scenes:COUNT, to measure the loss on.
    split
        Split of --data: train, val, test or trainval; by default test where
        there is one, else val, else all.
    output
        Write a copy of the model with its int8 network to this new folder
        instead of changing the model's folder.
    max_images
        Maximum number of images to use, spread evenly over all; includes the
        images that are held out for the measurement.
    """
    import sys

    from upscore.checkpoints.model_folder import find_model, load_model
    from upscore.cli.predict import FAILED
    from upscore.errors import UserError
    from upscore.inference import Model
    from upscore.inference.calibration import evenly_spaced, quantize, require_quantizable
    from upscore.inference.outputs import find_images
    from upscore.inference.quantized import part_names, save_quantized
    from upscore.progress import progress_bars

    if max_images < 1:
        raise UserError(f"--max-images {max_images} is invalid: give 1 or more")
    if split is not None and data is None:
        raise UserError(f"--split {split} needs --data: add --data, or leave --split out")
    folder = find_model(model)
    _require_output(model, folder, output)
    images = list(find_images(paths).values())
    net, config = load_model(folder)
    require_quantizable(net)
    reference = Model(net, "openvino", "float32", max_side=config.max_side)
    labelled = None if data is None else _labelled(reference, data, split)
    with progress_bars() as progress:
        readable, failures = _readable(evenly_spaced(images, max_images), progress)
        held_out = len(readable) >= MIN_HELD_OUT
        calibration, validation = (readable[::2], readable[1::2]) if held_out else (readable, readable)
        parts = quantize(net, calibration, max_images=len(calibration), progress=_calibration_progress(progress))
        int8 = Model(net, "openvino", "int8", max_side=config.max_side, quantized=parts)
        both = {"float32": reference, "int8": int8}
        report = {
            "agreement": _agreement(both, validation, progress),
            "images": len(images),
            "calibrated on": len(calibration),
            "measured on": len(validation),
            "measured on others": held_out,
            "int8": list(parts),
            "bfloat16": [name for name in part_names(net) if name not in parts],
        }
        if labelled is not None:
            report |= {"data": data, "split": labelled[0], "scores": _scores(both, labelled[1], progress)}
    save_quantized(folder, parts, report, output=output)
    _print(report, output or folder)
    for failure in failures:
        print(f"upscore: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def _require_output(model: str, folder: Path, output: Path | None) -> None:
    from upscore.checkpoints.model_folder import BUILT_IN
    from upscore.errors import UserError
    from upscore.files import require_writable
    from upscore.inference.quantized import ELSEWHERE

    if output is None and folder.is_relative_to(BUILT_IN):
        raise UserError(f"{model} is part of the package and can't be changed: give --output for a copy")
    if output is not None and (output.exists() or output.is_symlink()):
        raise UserError(f"--output {output} already exists: choose a new folder")
    require_writable(output or folder, ELSEWHERE)


def _labelled(reference: Model, data: str, split: str | None) -> tuple[str | None, Dataset]:
    """Return the split and its data set, after scoring one image to check that labels and classes fit the model."""
    from upscore.data import open_dataset
    from upscore.data.datasets import default_split, subset
    from upscore.data.instance_datasets import open_instances
    from upscore.inference import evaluate

    split = split or default_split(data)
    dataset = open_instances(data, split) if reference.task == "instances" else open_dataset(data, split)
    evaluate(reference, subset(dataset, [0]))
    return split, dataset


def _readable(images: list[Path], progress: Progress) -> tuple[list[Path], list[str]]:
    """Return the images that can be read, and the error messages of the others."""
    from upscore.data.io.images import read_image
    from upscore.errors import UserError

    readable: list[Path] = []
    failures: list[str] = []
    for image in progress.track(images, description="Reading"):
        try:
            read_image(image)
            readable.append(image)
        except UserError as error:
            failures.append(str(error))
    if not readable:
        raise UserError(f"none of the {len(images)} images can be read; the first error is: {failures[0]}")
    return readable, failures


def _calibration_progress(progress: Progress) -> ProgressCallback:
    task = progress.add_task("Calibrating")

    def advance(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)
        if done == total:  # the next step takes about as long, but reports no progress
            progress.update(task, description="Choosing the ranges", total=None)

    return advance


def _agreement(both: dict[str, Model], images: list[Path], progress: Progress) -> float:
    from statistics import mean

    from upscore.inference.calibration import agreement

    return mean(
        agreement(*(predictor.predict(image) for predictor in both.values()))
        for image in progress.track(images, description="Comparing with float32")
    )


def _scores(both: dict[str, Model], dataset: Dataset, progress: Progress) -> dict[str, dict[str, float]]:
    from upscore.evaluation.instances import InstanceScores
    from upscore.inference import evaluate

    scores: dict[str, Any] = {}
    for precision, predictor in both.items():
        task = progress.add_task(f"Scoring {precision}", total=len(dataset))
        result = evaluate(predictor, dataset, progress=lambda done, _, task=task: progress.update(task, completed=done))
        scores[precision] = {"AP": result.AP} if isinstance(result, InstanceScores) else {"mean IoU": result.mean_iu}
    return scores


def _print(report: dict[str, Any], folder: Path) -> None:
    used, images = report["calibrated on"], report["images"]
    selection = f"all {images} images" if used == images else f"{used} of {images} images, evenly spread"
    print(f"{folder}: int8, calibrated on {selection}")
    unused = f"; in bfloat16: {', '.join(report['bfloat16'])}, which did not run for these images"
    print(f"  in int8: {', '.join(report['int8'])}{unused if report['bfloat16'] else ''}")
    same = f"the calibration images (give {MIN_HELD_OUT} or more images to hold out half of them)"
    measured = f"{report['measured on']} other images" if report["measured on others"] else same
    print(f"  agreement with float32 {report['agreement']:.2%}, on {measured}")
    if "scores" in report:
        (name, before), *_ = report["scores"]["float32"].items()
        after = report["scores"]["int8"][name]
        data = ", ".join(filter(None, (report["data"], report["split"])))
        print(f"  {name} {after:.2%}, float32 {before:.2%} ({100 * (after - before):+.2f} points), on {data}")
