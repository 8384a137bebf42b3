"""The modes of `upscore predict`: image by image, in tiles, and on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscore.cli.progress import progress_bar

if TYPE_CHECKING:
    from upscore.inference.engines import EngineName, Precision
    from upscore.inference.model import Model

FAILED = 1


@dataclass(frozen=True)
class Options:
    """Options of the prediction of one image."""

    depth: Path | None
    scores: bool
    overlays: bool
    score_threshold: float | None


@dataclass(frozen=True)
class Tiles:
    """Options of tiled prediction."""

    tile_size: int | None
    pyramid_level: int


@dataclass(frozen=True)
class Cluster:
    """The Ray cluster to connect to, and the number of workers."""

    address: str | None
    workers: int | None


def folder(
    model: str,
    paths: Sequence[str],
    output: str,
    options: Options,
    resume: bool,
    engine: EngineName,
    precision: Precision,
) -> int:
    """Predict images in this process and return the exit code."""
    from contextlib import closing

    from upscore.inference import load
    from upscore.inference.folder import display_threshold, predict_folder, require_fitting
    from upscore.inference.outputs import find_images, refuse_overwriting

    target = Path(output)
    images = find_images([Path(path) for path in paths], output=target)
    predictor = load(model, engine=engine, precision=precision)
    refuse_overwriting(images, target, predictor.task, geometric=bool(predictor.geometric_classes))
    require_fitting(predictor, depth=options.depth, scores=options.scores, score_threshold=options.score_threshold)
    outcomes = predict_folder(
        predictor,
        images,
        target,
        depth=options.depth,
        scores=options.scores,
        overlays=options.overlays,
        score_threshold=options.score_threshold,
        resume=resume,
    )
    done = objects = before = 0
    failures: list[str] = []
    with closing(outcomes), progress_bar("Predicting") as advance:
        for number, outcome in enumerate(outcomes, start=1):
            advance(number, len(images))
            failures += [] if outcome.error is None else [str(outcome.error)]
            done += outcome.error is None
            objects += outcome.objects
            before += outcome.before
    found = f", {counted(objects, 'object')}" if predictor.task == "instances" else ""
    images_done = f"{done} of {counted(len(images), 'image')}{_earlier(before)}{found}"
    print(f"{output}: {images_done}, {counted(len(predictor.classes), 'class')}, {_how(predictor)}")
    if predictor.task == "instances":
        threshold = predictor.score_threshold if options.score_threshold is None else options.score_threshold
        _print_thresholds(threshold, display_threshold(predictor, options.score_threshold), options.overlays)
    return _report(failures)


def on_ray(
    model: str,
    paths: Sequence[str],
    output: str,
    options: Options,
    cluster: Cluster,
    resume: bool,
    engine: EngineName,
    precision: Precision,
) -> int:
    """Predict images on a Ray cluster and return the exit code."""
    from upscore.distributed.ray.predict import predict_on_ray

    with progress_bar("Predicting") as advance:
        outcome = predict_on_ray(
            model,
            paths,
            output,
            address=cluster.address,
            workers=cluster.workers,
            depth=options.depth,
            scores=options.scores,
            overlays=options.overlays,
            score_threshold=options.score_threshold,
            resume=resume,
            engine=engine,
            precision=precision,
            progress=advance,
        )
    found = "" if outcome.objects is None else f", {counted(outcome.objects, 'object')}"
    done = outcome.images - len(outcome.failures)
    images_done = f"{done} of {counted(outcome.images, 'image')}{_earlier(outcome.before)}{found}"
    print(f"{output}: {images_done}, {counted(len(outcome.classes), 'class')}")
    if outcome.objects is not None:
        _print_thresholds(outcome.score_threshold, outcome.display_threshold, options.overlays)
    return _report(outcome.failures)


def tiled(
    model: str,
    paths: Sequence[str],
    output: str,
    tiles: Tiles,
    cluster: Cluster | None,
    score_threshold: float | None,
    resume: bool,
    engine: EngineName,
    precision: Precision,
) -> int:
    """Images of any size, here or over a cluster."""
    from functools import partial

    from upscore.distributed.ray.tiles import predict_objects_on_ray, predict_raster_on_ray
    from upscore.errors import UserError
    from upscore.files import require_writable
    from upscore.inference import load
    from upscore.inference.folder import require_score_threshold
    from upscore.inference.run_manifest import Record, RunManifest, fingerprint, run_settings, sizes_below, unchanged
    from upscore.inference.tiled.instances import instances_path, plan_instances, predict_objects
    from upscore.inference.tiled.output import overlay_path
    from upscore.inference.tiled.semantic import plan_semantic, predict_raster

    targets = _targets([Path(path) for path in paths], Path(output))
    predictor = load(model, engine=engine, precision=precision)
    require_score_threshold(predictor, score_threshold)
    over: dict[str, Any] = {"engine": engine, "precision": precision} | (asdict(cluster) if cluster else {})
    if predictor.task == "instances":
        options: dict[str, Any] = {
            "pyramid_level": tiles.pyramid_level,
            "tile_size": tiles.tile_size,
            "score_threshold": score_threshold,
        }
        plan = partial(plan_instances, predictor, **options)
        run = partial(predict_objects_on_ray, model, **over) if cluster else partial(predict_objects, predictor)
    else:
        options = {"pyramid_level": tiles.pyramid_level, "tile_size": tiles.tile_size}
        plan = partial(plan_semantic, predictor, **options)
        run = partial(predict_raster_on_ray, model, **over) if cluster else partial(predict_raster, predictor)
    require_writable(Path(output), "choose another output")
    classes = counted(len(predictor.classes), "class")
    settings = run_settings(
        predictor,
        tiled=True,
        tile_size=tiles.tile_size,
        pyramid_level=tiles.pyramid_level,
        score_threshold=score_threshold,
    )
    failures: list[str] = []
    with RunManifest(Path(output), settings, source=str(predictor.folder or ""), resume=resume) as manifest:
        for name, (source, target) in targets.items():
            try:
                maps = plan(source, target).outputs
                if manifest.find(name, partial(unchanged, paths=[source])):
                    print(f"{target}: exists already, skipped")
                    continue
                before = fingerprint(source)
                with progress_bar(source.name) as advance:
                    found = run(source, target, progress=advance, **options)
                objects = f"{counted(len(found), 'object')}, " if predictor.task == "instances" else ""
                print(f"{target}: {objects}{classes}, {_how(predictor)}")
                files = [
                    file for path in maps for file in (path, overlay_path(path), instances_path(path)) if file.exists()
                ]
                manifest.add(Record(name, [before], sizes_below(files, Path(output))))
            except UserError as error:
                failures.append(str(error))
    return _report(failures)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural: "1 image", "2 images", "2 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def _print_thresholds(written: float, shown: float, overlays: bool) -> None:
    """Print the score thresholds of the written and of the drawn objects."""
    drawn = f", overlays show those of at least {shown:.2f}" if overlays and shown > written else ""
    print(f"objects have scores of at least {written:.2f}{drawn}")


def _earlier(number: int) -> str:
    return f" ({number} of them in an earlier run)" if number else ""


def _how(model: Model) -> str:
    """Return the engine and the number format, and the reason if it was chosen automatically."""
    choice = model.precision_choice
    return f"by {model.engine} in {choice.name}" + (f" ({choice.reason})" if choice.is_automatic else "")


def _targets(sources: Sequence[Path], output: Path) -> dict[str, tuple[Path, Path]]:
    """Map the name of each output to the image and the file that is written."""
    from upscore.errors import UserError
    from upscore.inference.outputs import by_name

    for source in sources:
        if source.is_dir() and source.suffix.lower() != ".zarr":
            raise UserError(f"{source} is a folder: with --tiled, give the images themselves")
    names = by_name((source.stem.removesuffix(".ome"), source.suffix, source) for source in dict.fromkeys(sources))
    suffixes = {name: ".zarr" if source.suffix.lower() == ".zarr" else ".tif" for name, source in names.items()}
    return {name: (source, output / f"{name}{suffixes[name]}") for name, source in names.items()}


def _report(failures: Sequence[str]) -> int:
    """Print one sentence per failure to standard error, and return the exit code."""
    import sys

    from upscore.text import printable

    for failure in failures:
        print(f"upscore: {printable(failure)}", file=sys.stderr)
    return FAILED if failures else 0
