"""`upscore predict`: write class maps or objects, and overlays, for images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Flag = Parameter(negative=())


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
    from upscore.cli import predicting
    from upscore.errors import UserError

    if not ray and (address is not None or workers is not None):
        raise UserError("--address and --workers need --ray: add --ray, or leave them out")
    if not tiled and (tile_size is not None or pyramid_level):
        raise UserError("--tile-size and --pyramid-level need --tiled: add --tiled, or leave them out")
    cluster = predicting.Cluster(address, workers) if ray else None
    if tiled:
        if depth is not None or scores or not overlays:
            raise UserError("--tiled can't be combined with --depth, --scores or --no-overlays: leave them out")
        tiles = predicting.Tiles(tile_size=tile_size, pyramid_level=pyramid_level)
        return predicting.tiled(model, paths, output, tiles, cluster, score_threshold, resume, engine, precision)
    options = predicting.Options(depth=depth, scores=scores, overlays=overlays, score_threshold=score_threshold)
    if cluster is None:
        return predicting.folder(model, paths, output, options, resume, engine, precision)
    return predicting.on_ray(model, paths, output, options, cluster, resume, engine, precision)
