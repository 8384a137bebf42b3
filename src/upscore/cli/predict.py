"""`upscore predict`: predict images one by one, in tiles, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from upscore.progress import progress_bar

if TYPE_CHECKING:
    from upscore.inference.engines import EngineName, Precision
    from upscore.inference.model import Model


FAILED = 1

Flag = Parameter(negative=())


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


def predict(
    model: str,
    paths: list[str],
    /,
    *,
    output: str,
    depth: Path | None = None,
    scores: Annotated[bool, Flag] = False,
    overlays: bool = True,
    resume: Annotated[bool, Flag] = False,
    score_threshold: float | None = None,
    tiled: Annotated[bool, Flag] = False,
    tile_size: int | None = None,
    pyramid_level: int = 0,
    ray: Annotated[bool, Flag] = False,
    address: str | None = None,
    workers: int | None = None,
    engine: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto",
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto",
) -> int:
    """Write a class map, or the objects, and an overlay for each image.

    ```
    upscore predict runs/streets photos/ --output out
    upscore predict runs/streets a.jpg b.png --output out --scores
    upscore predict runs/nuclei slides/ --output out --score-threshold 0.7
    upscore predict runs/rooms rgb/ --depth depth/ --output out
    upscore predict runs/streets photos/ --output out --no-overlays --resume
    upscore predict runs/fields orthophoto.tif --output out --tiled
    upscore predict runs/streets s3://bucket/photos --output s3://bucket/out --ray
    ```

    For each image, NAME.png contains a class index per pixel (with a
    palette) at the size of the image, and NAME_overlay.jpg shows it over the
    image; a model with two heads also writes NAME_geometric.png and its
    overlay. Instance segmentation writes NAME_ids.png instead, an object id
    per pixel (16 bits, 0 = none), and one instances.json for all images, in
    COCO's results format. Images that can't be read are skipped and reported
    at the end, and the exit code is then 1.

    Parameters
    ----------
    model
        A model folder, a run, a built-in name (nuclei), or hf://owner/name.
    paths
        Images, and folders of images. In a folder with images/ and labels/,
        labels/ is left out.
    output
        The folder to write to.
    depth
        For a model with depth input: the folder with one file per image, of
        the same name: 16-bit PNG or TIFF in millimetres, or .npy in metres.
    scores
        Also write NAME_scores.npz: class probabilities (C, H, W), float16.
    overlays
        Write the overlays; they take longer than reading the images and
        writing the class maps together.
    resume
        Skip the images that an earlier run predicted into the same folder
        with the same model and options; images that have changed since are
        predicted again.
    score_threshold
        Leave out objects with a lower score, 0 to 1; by default the model's
        own threshold: the one that was best on its validation images.
        Imported detectors return scores from 0.05 on, as torchvision and
        detectron2 do, and overlays show those from 0.5 on.
    tiled
        For images of any size, TIFF (pyramids, BigTIFF, OME, GeoTIFF) or
        Zarr: predict tile by tile at full resolution, and write NAME.tif
        (NAME.zarr for Zarr). Class maps are identical to those of the whole
        image; objects are not cut at tile borders, and are listed in
        NAME_instances.json. After an interruption the same command resumes.
    tile_size
        With --tiled: side of a tile without its margin, in pixels.
    pyramid_level
        With --tiled: level of an image pyramid; 0 is the finest.
    ray
        Distribute the images, or with --tiled the tiles, over a Ray cluster,
        or over the processors of this machine if there is no cluster. Paths
        and output may be in an object store: s3://, gs://.
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
    from upscore.errors import UserError

    if not ray and (address is not None or workers is not None):
        raise UserError("--address and --workers need --ray: add --ray, or leave them out")
    if not tiled and (tile_size is not None or pyramid_level):
        raise UserError("--tile-size and --pyramid-level need --tiled: add --tiled, or leave them out")
    if not output:
        raise UserError('--output "" is empty: give a folder')
    if "" in paths:
        raise UserError('the path "" is empty: give an image or a folder')
    cluster = Cluster(address, workers) if ray else None
    if tiled:
        if depth is not None or scores or not overlays:
            raise UserError("--tiled can't be combined with --depth, --scores or --no-overlays: leave them out")
        tiles = Tiles(tile_size=tile_size, pyramid_level=pyramid_level)
        return _tiled(model, paths, output, tiles, cluster, score_threshold, resume, engine, precision)
    options = Options(depth=depth, scores=scores, overlays=overlays, score_threshold=score_threshold)
    if cluster is None:
        return _folder(model, paths, output, options, resume, engine, precision)
    return _on_ray(model, paths, output, options, cluster, resume, engine, precision)


def _folder(
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
    loaded = load(model, engine=engine, precision=precision)
    refuse_overwriting(images, target, loaded.task, geometric=bool(loaded.geometric_classes))
    require_fitting(loaded, depth=options.depth, scores=options.scores, score_threshold=options.score_threshold)
    outcomes = predict_folder(
        loaded,
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
    found = f", {_count(objects, 'object')}" if loaded.task == "instances" else ""
    images_done = f"{done} of {_count(len(images), 'image')}{_earlier(before)}{found}"
    print(f"{output}: {images_done}, {_count(len(loaded.classes), 'class')}, {_engine_and_precision(loaded)}")
    if loaded.task == "instances":
        threshold = loaded.score_threshold if options.score_threshold is None else options.score_threshold
        _print_thresholds(threshold, display_threshold(loaded, options.score_threshold), options.overlays)
    return _report(failures)


def _on_ray(
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
    found = "" if outcome.objects is None else f", {_count(outcome.objects, 'object')}"
    done = outcome.images - len(outcome.failures)
    images_done = f"{done} of {_count(outcome.images, 'image')}{_earlier(outcome.before)}{found}"
    print(f"{output}: {images_done}, {_count(len(outcome.classes), 'class')}")
    if outcome.objects is not None:
        _print_thresholds(outcome.score_threshold, outcome.display_threshold, options.overlays)
    return _report(outcome.failures)


def _tiled(
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
    """Predict images of any size in tiles, in this process or on a Ray cluster, and return the exit code."""
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
    if tiles.tile_size is not None:
        _require_tile_size(model, tiles.tile_size)
    loaded = load(model, engine=engine, precision=precision)
    require_score_threshold(loaded, score_threshold)
    ray_options: dict[str, Any] = {"engine": engine, "precision": precision} | (asdict(cluster) if cluster else {})
    if loaded.task == "instances":
        options: dict[str, Any] = {
            "pyramid_level": tiles.pyramid_level,
            "tile_size": tiles.tile_size,
            "score_threshold": score_threshold,
        }
        plan = partial(plan_instances, loaded, **options)
        run = partial(predict_objects_on_ray, model, **ray_options) if cluster else partial(predict_objects, loaded)
    else:
        options = {"pyramid_level": tiles.pyramid_level, "tile_size": tiles.tile_size}
        plan = partial(plan_semantic, loaded, **options)
        run = partial(predict_raster_on_ray, model, **ray_options) if cluster else partial(predict_raster, loaded)
    require_writable(Path(output), "choose another output")
    classes = _count(len(loaded.classes), "class")
    settings = run_settings(
        loaded,
        tiled=True,
        tile_size=tiles.tile_size,
        pyramid_level=tiles.pyramid_level,
        score_threshold=score_threshold,
    )
    failures: list[str] = []
    with RunManifest(Path(output), settings, source=str(loaded.folder or ""), resume=resume) as manifest:
        for name, (source, target) in targets.items():
            try:
                maps = plan(source, target).outputs
                if manifest.find(name, partial(unchanged, paths=[source])):
                    print(f"{target}: already exists, skipped")
                    continue
                before = fingerprint(source)
                with progress_bar(source.name) as advance:
                    found = run(source, target, progress=advance, **options)
                objects = f"{_count(len(found), 'object')}, " if loaded.task == "instances" else ""
                print(f"{target}: {objects}{classes}, {_engine_and_precision(loaded)}")
                files = [
                    file for path in maps for file in (path, overlay_path(path), instances_path(path)) if file.exists()
                ]
                manifest.add(Record(name, [before], sizes_below(files, Path(output))))
            except UserError as error:
                failures.append(str(error))
    return _report(failures)


def _require_tile_size(model: str, tile_size: int) -> None:
    """Check the side of a tile by the configuration of a model, before the model is loaded."""
    from upscore.checkpoints.config import FCNArchitecture, read_config
    from upscore.checkpoints.model_folder import find_model
    from upscore.errors import UserError
    from upscore.inference.tiled.tile_store import BLOCK

    semantic = isinstance(read_config(find_model(model)).architecture, FCNArchitecture)
    if tile_size < 2 or (semantic and tile_size % BLOCK):
        allowed = f"a multiple of {BLOCK} pixels" if semantic else "at least 2 pixels"
        raise UserError(f"--tile-size {tile_size} is invalid: use {allowed}")


def _targets(sources: Sequence[Path], output: Path) -> dict[str, tuple[Path, Path]]:
    """Map the name of each output to the image and the file that is written."""
    from upscore.errors import UserError
    from upscore.inference.outputs import by_name

    for source in sources:
        if source.is_dir() and source.suffix.lower() != ".zarr":
            raise UserError(f"{source} is a folder: with --tiled, give image files")
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


def _print_thresholds(written: float, shown: float, overlays: bool) -> None:
    """Print the score thresholds of the written and of the drawn objects."""
    drawn = f", overlays show scores of at least {shown:.2f}" if overlays and shown > written else ""
    print(f"objects have scores of at least {written:.2f}{drawn}")


def _earlier(number: int) -> str:
    return f" ({number} of them in an earlier run)" if number else ""


def _engine_and_precision(model: Model) -> str:
    """Return the engine and the number format, and the reason if it was chosen automatically."""
    choice = model.precision_choice
    return f"by {model.engine} in {choice.name}" + (f" ({choice.reason})" if choice.is_automatic else "")


def _count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural: "1 image", "2 images", "2 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"
