"""Memory and time of tiled prediction of a huge TIFF image.

    python benchmarks/huge_image.py /tmp/huge --side 30000 --backbone efficientnet_lite0 --threads 2

The tiled and compressed image has a repeated texture. The network has random weights, which affects neither memory nor
time. With --tiles N the benchmark stops after N tiles and extrapolates the time; memory is then constant.
"""

from __future__ import annotations

import argparse
import resource
import time
import zlib
from pathlib import Path

import numpy as np
import tifffile
import torch

from upscore.data.io.rasters import open_raster
from upscore.inference import Model
from upscore.inference.tiled.in_memory import MEMORY, exact_plan
from upscore.inference.tiled.semantic import predict_raster
from upscore.models import build

BLOCK = 512


class StopError(Exception):
    """The requested number of tiles is done."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--memory", type=int, default=MEMORY >> 20, help="MiB of a tile in the network")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiles", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    source = options.folder / f"{options.side}.tif"
    if not source.exists():
        write_texture(source, options.side)
    net = build("fcn8s", backbone=options.backbone, num_classes=21)
    model = Model(net, engine=options.engine, precision=options.precision)
    raster = open_raster(source)
    plan = exact_plan(net, raster.height, raster.width, memory=options.memory << 20)
    print(f"tile {plan.tile_size}, halo {plan.halo}, {len(plan)} tiles; before them {resident()} MB", flush=True)
    start = time.perf_counter()

    def progress(done: int, of: int) -> None:
        if done % 10 == 0 or done == options.tiles:
            seconds = (time.perf_counter() - start) / done
            print(
                f"{done} of {of}: {resident()} MB peak, {seconds:.2f} s per tile, {seconds * of / 60:.0f} min in total",
                flush=True,
            )
        if done == options.tiles:
            raise StopError

    try:
        predict_raster(model, source, options.folder / "classes.tif", memory=options.memory << 20, progress=progress)
    except StopError:
        return
    print(f"{time.perf_counter() - start:.0f} s in total, {resident()} MB peak")


def resident() -> int:
    """Return the peak of the resident memory in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def write_texture(path: Path, side: int) -> None:
    """Write a tiled, compressed RGB image of side x side pixels that repeats one block."""
    y, x = np.mgrid[:BLOCK, :BLOCK] / BLOCK * 2 * np.pi
    noise = np.random.default_rng(0).integers(0, 8, (BLOCK, BLOCK, 3))
    waves = np.dstack([np.sin(7 * x + 3 * y), np.sin(5 * y), np.cos(11 * x - 2 * y)])
    block = zlib.compress((120 + 110 * waves + noise).astype(np.uint8).tobytes())
    count = (-(-side // BLOCK)) ** 2
    blocks = (block for _ in range(count))
    options = {"tile": (BLOCK, BLOCK), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(path, blocks, shape=(side, side, 3), dtype=np.uint8, bigtiff=True, **options)


if __name__ == "__main__":
    main()
