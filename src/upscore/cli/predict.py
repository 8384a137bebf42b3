"""`upscore predict`: photos become masks and overlays."""

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
    scores: Annotated[bool, Flag] = False,
    engine: Literal["auto", "torch"] = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> int:
    """Write a mask and an overlay for each photo.

    ```
    upscore predict runs/streets photos/ --output out
    upscore predict runs/streets a.jpg b.png --output out --scores
    ```

    For each photo, NAME.png holds a class index per pixel (with a palette)
    at the photo's own size, and NAME_overlay.png shows it over the photo. A
    photo that can't be read does not stop the others: it is reported at the
    end, and the exit code is 1.

    Parameters
    ----------
    model
        A model folder, a run, or hf://owner/name.
    paths
        Photos, and folders of photos.
    output
        The folder to write to.
    scores
        Write NAME_scores.npz too: class probabilities (C, H, W), float16.
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
    from upscore.inference.outputs import find_photos, refuse_overwriting, write_prediction

    photos = find_photos(paths)
    refuse_overwriting(photos, output)
    predictor = load(model, engine=engine, precision=precision)
    console = Console(stderr=True)
    failures: list[str] = []
    for name, photo in track(
        photos.items(), "Predicting", console=console, transient=True, disable=not console.is_terminal
    ):
        try:
            write_prediction(predictor.predict(photo, scores=scores), output / name)
        except UserError as error:
            failures.append(str(error))
    done = len(photos) - len(failures)
    print(f"{output}: {done} of {len(photos)} photos, {len(predictor.classes)} classes")
    for failure in failures:
        print(f"upscore: {failure}", file=sys.stderr)
    return FAILED if failures else 0
