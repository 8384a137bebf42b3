"""`upscore predict`: photos become masks or objects, and overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Flag = Parameter(negative=())
FAILED = 1


def predict(
    model: str,
    paths: list[Path],
    /,
    *,
    output: Path,
    depth: Path | None = None,
    scores: Annotated[bool, Flag] = False,
    min_score: float | None = None,
    engine: Literal["auto", "torch"] = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> int:
    """Write a mask, or the objects, and an overlay for each photo.

    ```
    upscore predict runs/streets photos/ --output out
    upscore predict runs/streets a.jpg b.png --output out --scores
    upscore predict runs/nuclei slides/ --output out --min-score 0.7
    upscore predict runs/rooms rgb/ --depth depth/ --output out
    ```

    For each photo, NAME.png holds a class index per pixel (with a palette)
    at the photo's own size, and NAME_overlay.png shows it over the photo; a
    model with two heads writes NAME_geometric.png and its overlay too.
    A model that finds objects writes NAME_ids.png instead, the number of an
    object per pixel (16 bits, 0 = none), and one instances.json for all
    photos, in the form of COCO's results. A photo that can't be read does
    not stop the others: it is reported at the end, and the exit code is 1.

    Parameters
    ----------
    model
        A model folder, a run, a built-in name (nuclei), or hf://owner/name.
    paths
        Photos, and folders of photos.
    output
        The folder to write to.
    depth
        For a model that sees depth: the folder with a file for each photo, of
        the same name: PNG or TIFF of 16 bits in millimetres, or .npy in metres.
    scores
        Write NAME_scores.npz too: class probabilities (C, H, W), float16.
    min_score
        Objects with a lower score are left out, 0 to 1; by default the
        score that was best on the photos the model was validated on.
    engine
        What runs the network.
    precision
        The number format it runs in.
    """
    import sys

    from rich.console import Console
    from rich.progress import track

    from upscore.errors import UserError
    from upscore.inference import load
    from upscore.inference.depths import find_depth
    from upscore.inference.outputs import (
        coco_results,
        find_photos,
        refuse_overwriting,
        write_prediction,
        write_results,
    )

    photos = find_photos(paths, output=output)
    predictor = load(model, engine=engine, precision=precision)
    refuse_overwriting(photos, output, predictor.task, geometric=bool(predictor.geometric_classes))
    objects = predictor.task == "instances"
    if objects and scores:
        raise UserError("--scores writes class probabilities of pixels, but this model finds objects: leave it out")
    if not objects and min_score is not None:
        raise UserError("--min-score is for models that find objects, but this one classifies pixels: leave it out")
    if (depth is None) != (not predictor.depth_channels):
        have = "sees depth: give --depth FOLDER" if depth is None else "sees photos alone: leave --depth out"
        raise UserError(f"this model {have}")
    console = Console(stderr=True)
    failures: list[str] = []
    results: list[dict] = []
    numbered = enumerate(photos.items(), start=1)
    try:
        for number, (name, photo) in track(
            numbered, "Predicting", total=len(photos), console=console, transient=True, disable=not console.is_terminal
        ):
            try:
                beside = None if depth is None else find_depth(depth, name)
                prediction = predictor.predict(photo, depth=beside, scores=scores, min_score=min_score)
                write_prediction(prediction, output / name)
            except UserError as error:
                failures.append(str(error))
            else:
                file_name = (Path(name).parent / photo.name).as_posix()
                results += coco_results(prediction, number, file_name) if objects else []
    finally:  # what was done before an interruption is kept
        if objects:
            write_results(results, output)
    done = len(photos) - len(failures)
    found = f", {len(results)} objects" if objects else ""
    print(f"{output}: {done} of {len(photos)} photos{found}, {len(predictor.classes)} classes")
    for failure in failures:
        print(f"upscore: {failure}", file=sys.stderr)
    return FAILED if failures else 0
