"""`upscore predict`: photos become masks or objects, and overlays."""

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
    """Write a mask, or the objects, and an overlay for each photo.

    ```
    upscore predict runs/streets photos/ --output out
    upscore predict runs/streets a.jpg b.png --output out --scores
    upscore predict runs/nuclei slides/ --output out --score-threshold 0.7
    upscore predict runs/rooms rgb/ --depth depth/ --output out
    upscore predict runs/streets photos/ --output out --no-overlays --resume
    upscore predict runs/fields orthophoto.tif --output out --tiled
    upscore predict runs/streets s3://bucket/photos --output s3://bucket/out --ray
    ```

    For each photo, NAME.png holds a class index per pixel (with a palette)
    at the photo's own size, and NAME_overlay.jpg shows it over the photo; a
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
        Photos, and folders of photos. Of a folder with images/ in it, labels/
        are left out.
    output
        The folder to write to.
    depth
        For a model that sees depth: the folder with a file for each photo, of
        the same name: PNG or TIFF of 16 bits in millimetres, or .npy in metres.
    scores
        Write NAME_scores.npz too: class probabilities (C, H, W), float16.
    overlays
        Draw on the photos, which takes longer than reading them and writing
        masks together.
    resume
        Leave out photos that an earlier run has predicted into the same
        folder. Another model or other options are refused; photos that have
        changed since are predicted again.
    score_threshold
        Objects with a lower score are left out, 0 to 1; by default the
        model's own: the one that was best on the images it was validated on.
        Imported detectors return scores from 0.05 on, as torchvision and
        detectron2 do, and overlays show those from 0.5 on.
    tiled
        For images of any size, TIFF (with pyramids, BigTIFF, OME, GeoTIFF) or
        Zarr: tiles are seen at full resolution, one at a time, and written as
        NAME.tif (NAME.zarr for Zarr), class maps exactly as of the whole image,
        objects cut by no seam, and listed in NAME_instances.json. The same
        command goes on after a kill, and leaves out images that are done.
    tile_size
        With --tiled: side of a tile without its margin, in pixels.
    pyramid_level
        With --tiled: which image of a pyramid; 0 is the finest.
    ray
        Spread the photos, or with --tiled the tiles, over a Ray cluster, or
        over this machine's processors where there is none. Paths and output
        may then be in a store: s3://, gs://.
    address
        With --ray: of the cluster; by default RAY_ADDRESS, else this machine.
    workers
        With --ray: how many processes; by default as many as there is room for.
    engine
        What runs the network; auto is the fastest that this machine has.
    precision
        The number format it runs in; auto is the fastest that is safe. int8
        needs `upscore calibrate` first.
    """
    from upscore.cli import predicting
    from upscore.errors import UserError

    if not ray and (address is not None or workers is not None):
        raise UserError("--address and --workers are for --ray: add it, or leave them out")
    if not tiled and (tile_size is not None or pyramid_level):
        raise UserError("--tile-size and --pyramid-level are for --tiled: add it, or leave them out")
    cluster = predicting.Cluster(address, workers) if ray else None
    if tiled:
        if depth is not None or scores or not overlays:
            raise UserError("--tiled has neither --depth, --scores nor --no-overlays: leave them out")
        tiles = predicting.Tiles(tile_size=tile_size, pyramid_level=pyramid_level)
        return predicting.tiled(model, paths, output, tiles, cluster, score_threshold, resume, engine, precision)
    options = predicting.Options(depth=depth, scores=scores, overlays=overlays, score_threshold=score_threshold)
    if cluster is None:
        return predicting.folder(model, paths, output, options, resume, engine, precision)
    return predicting.on_ray(model, paths, output, options, cluster, resume, engine, precision)
