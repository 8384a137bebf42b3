"""`upscore calibrate`: a model in int8, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from upscore.inference import Predictor


def calibrate(
    model: str,
    paths: list[Path],
    /,
    *,
    data: str | None = None,
    split: str | None = None,
    output: Path | None = None,
    photos: int = 100,
) -> None:
    """Make a model's network in int8, and say what that costs.

    ```
    upscore calibrate runs/streets photos/
    upscore calibrate runs/streets photos/ --data camvid/ --split val
    upscore predict runs/streets photos/ --output out --precision int8
    ```

    The ranges of int8 are learned from the photos, which should look like
    those that the model is for; no labels are needed. The result lies in
    int8/ in the model's folder and is used by --precision int8 alone. How
    far it agrees with float32 is measured on photos that it was not
    calibrated on, where there are enough, and the loss of mean IU or AP on
    labelled ones.

    Parameters
    ----------
    model
        A model folder, a run, or the name of a built-in model.
    paths
        Photos, and folders of photos.
    data
        A folder of labelled photos, or scenes:COUNT, to measure the loss on.
    split
        Of the labelled photos: train, val, test or trainval; by default test
        where there is one, else val, else all.
    output
        Write a copy of the model with its int8 network here instead.
    photos
        How many are taken at most, evenly from all.
    """
    from rich.console import Console
    from rich.progress import Progress

    from upscore.checkpoints.folder import BUILT_IN, CARD, WEIGHTS, find_model, load_model
    from upscore.errors import UserError
    from upscore.inference import Predictor
    from upscore.inference.calibration import quantize
    from upscore.inference.outputs import find_photos
    from upscore.inference.quantized import save_quantized

    folder = find_model(model)
    if output is None and folder.is_relative_to(BUILT_IN):
        raise UserError(f"{model} comes with the package and is not to be changed: give --output for a copy")
    if photos < 1:
        raise UserError(f"--photos is {photos}: at least one is needed")
    found = list(find_photos(paths).values())
    found = found[:: -(-len(found) // photos)]
    seen, unseen = (found[::2], found[1::2]) if len(found) >= MANY else (found, found)
    net, card = load_model(folder)
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("Calibrating", total=len(seen))
        parts = quantize(net, seen, progress=lambda done, _: progress.update(task, completed=done))
        both = {
            precision: Predictor(net, "openvino", precision, max_side=card.max_side, quantized=parts)
            for precision in ("float32", "int8")
        }
        report = _compare(both, unseen, progress) | {"calibrated on": len(seen), "measured on": len(unseen)}
        if data is not None:
            report |= {"data": data, **_score(both, data, split, progress)}
    if output is not None:
        _copy(folder, output, (WEIGHTS, CARD))
        folder = output
    save_quantized(folder, parts, report)
    _print(report, folder)


MANY = 20
"""Photos from which on half of them is kept to measure on."""


def _compare(both: dict[str, Predictor], photos: list[Path], progress: Progress) -> dict[str, Any]:
    from statistics import mean

    from upscore.inference.agreement import agreement

    shares = [
        agreement(*(predictor.predict(photo) for predictor in both.values()))
        for photo in progress.track(photos, description="Comparing with float32")
    ]
    return {"agreement": mean(shares)}


def _score(both: dict[str, Predictor], data: str, split: str | None, progress: Progress) -> dict[str, Any]:
    from upscore.data import open_dataset
    from upscore.data.datasets import default_split
    from upscore.data.instance_datasets import open_instances
    from upscore.evaluation.instances import InstanceScores
    from upscore.inference import evaluate

    split = split or default_split(data)
    scores: dict[str, Any] = {}
    for precision, predictor in both.items():
        dataset = open_instances(data, split) if predictor.task == "instances" else open_dataset(data, split)
        task = progress.add_task(f"Scoring {precision}", total=len(dataset))
        found = evaluate(predictor, dataset, progress=lambda done, _, task=task: progress.update(task, completed=done))
        scores[precision] = {"AP": found.AP} if isinstance(found, InstanceScores) else {"mean IU": found.mean_iu}
    return {"split": split, "scores": scores}


def _copy(folder: Path, output: Path, names: tuple[str, ...]) -> None:
    from shutil import copyfile

    from upscore.errors import UserError
    from upscore.files import atomic_folder

    if output.exists():
        raise UserError(f"{output} is there already: choose a new --output")
    with atomic_folder(output) as temporary:
        for name in names:
            copyfile(folder / name, temporary / name)


def _print(report: dict[str, Any], folder: Path) -> None:
    print(f"{folder}: int8, calibrated on {report['calibrated on']} photos")
    print(f"  agreement with float32 {report['agreement']:.2%}, on {report['measured on']} photos")
    if "scores" in report:
        (name, before), *_ = report["scores"]["float32"].items()
        after = report["scores"]["int8"][name]
        print(f"  {name} {after:.2%}, float32 {before:.2%} ({100 * (after - before):+.2f} points), on {report['data']}")
