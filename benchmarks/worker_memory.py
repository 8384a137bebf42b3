"""Memory of loader workers with an annotation index of the size of COCO.

Writes a data set with a million polygons (images are links to a few files), opens it, loads batches as in training, and
reads the private and the shared memory of each worker from Linux:

    python benchmarks/worker_memory.py --folder /tmp/coco
    python benchmarks/worker_memory.py --folder /tmp/coco --annotations 50000 --images 6000

The private memory of a worker has to stay constant: a list of Python objects would be copied into each worker while it
is read, since reading changes reference counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from upscore.data.instance_datasets import InstanceDataset, open_instances
from upscore.training.loader import TrainingView, batches
from upscore.training.recipes import INSTANCE_RECIPES

HEIGHT, WIDTH = 48, 64
CLASSES = 80
LINKED = 64
"""Number of image files that the others are links to; a file can have at most 65,000 links."""

SPLIT = "train"
BATCH = 8
MIB = 1 << 20


def write_coco(folder: Path, annotations: int, image_count: int, *, seed: int = 0) -> None:
    """Write a data set in COCO's layout with polygons of 8 to 40 points, as in COCO."""
    generator = np.random.default_rng(seed)
    (folder / SPLIT).mkdir(parents=True)
    names = [f"{number:012}.jpg" for number in range(image_count)]
    for number, name in enumerate(names):
        if number < LINKED:
            pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(folder / SPLIT / name)
        else:
            os.link(folder / SPLIT / names[number % LINKED], folder / SPLIT / name)
    with (folder / f"instances_{SPLIT}.json").open("w") as file:
        categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
        file.write(f'{{"categories": {json.dumps(categories)}, "images": [\n')
        images = (
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for number, name in enumerate(names, start=1)
        )
        file.write(",\n".join(map(json.dumps, images)))
        file.write('], "annotations": [\n')
        for number in range(1, annotations + 1):
            file.write((",\n" if number > 1 else "") + json.dumps(_annotation(number, image_count, generator)))
        file.write("\n]}\n")


def _annotation(number: int, image_count: int, generator: np.random.Generator) -> dict[str, object]:
    """Return an annotation with a star-shaped polygon in a random image."""
    points = int(generator.integers(8, 41))
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = generator.uniform(2, 10) * generator.uniform(0.7, 1, points)
    x = np.clip(generator.uniform(0, WIDTH) + radius * np.cos(angles), 0, WIDTH)
    y = np.clip(generator.uniform(0, HEIGHT) + radius * np.sin(angles), 0, HEIGHT)
    box = x.min(), y.min(), np.ptp(x), np.ptp(y)
    return {
        "id": number,
        "image_id": int(generator.integers(1, image_count + 1)),
        "category_id": int(generator.integers(1, CLASSES + 1)),
        "iscrowd": 0,
        "area": round(float(np.ptp(x) * np.ptp(y)), 2),
        "bbox": [round(float(value), 2) for value in box],
        "segmentation": [[round(float(value), 2) for point in zip(x, y, strict=True) for value in point]],
    }


def memory_of(process: int | str = "self") -> dict[str, int]:
    """Return the memory of a process in bytes: "own" is private (USS), "share" includes its part of shared pages
    (PSS)."""
    fields = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, _ = line.split()
        fields[name] = int(size) << 10
    return {"own": fields["Private_Clean:"] + fields["Private_Dirty:"], "share": fields["Pss:"]}


def worker_memory(dataset: InstanceDataset, workers: int, samples: int, every: int) -> list[dict[str, int]]:
    """Return the largest memory of a worker at the first batch and after every `every` samples."""
    view = TrainingView(dataset, INSTANCE_RECIPES["modern"], resize=_no_resize, seed=0, epoch=0)
    measured = []
    with _frozen_objects(), closing(batches(view, BATCH, workers)) as loader:
        for number, _ in enumerate(islice(loader, samples // BATCH + 1)):
            if number * BATCH % every == 0:
                found = [memory_of(process.pid or "self") for process in multiprocessing.active_children()]
                measured.append({field: max(memory[field] for memory in found) for field in ("own", "share")})
                print(
                    f"  {number * BATCH:>8,} samples: own {measured[-1]['own'] / MIB:7.1f} MiB, "
                    f"share {measured[-1]['share'] / MIB:7.1f} MiB"
                )
    return measured


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Freeze the garbage collector, whose writes would unshare pages with the workers."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _no_resize(sample):
    return sample


def main() -> None:
    """Write the data set unless it exists, open it, and load batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--annotations", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.folder.exists():
        write_coco(arguments.folder, arguments.annotations, arguments.images)
    json_size = (arguments.folder / f"instances_{SPLIT}.json").stat().st_size
    before, start = memory_of()["own"], time.perf_counter()
    dataset = open_instances(arguments.folder, SPLIT)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(f"{len(dataset):,} images, {arguments.annotations:,} objects, {json_size / MIB:.0f} MiB of JSON")
    print(f"opened in {seconds:.1f} s; index {(memory_of()['own'] - before) / MIB:.0f} MiB, peak {peak / MIB:.0f} MiB")
    print(f"largest memory of {arguments.workers} workers after")
    every = max(BATCH, arguments.samples // 8 // BATCH * BATCH)
    measured = worker_memory(dataset, arguments.workers, arguments.samples, every=every)
    growth = measured[-1]["own"] - measured[1]["own"]
    print(f"own memory grew by {growth / MIB:.1f} MiB since the first {every:,} samples")


if __name__ == "__main__":
    main()
