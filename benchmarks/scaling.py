"""Throughput of a cluster, computed from measurements on one machine, for docs/scaling.md.

    python benchmarks/scaling.py --docs docs

Measured are the core-seconds per image for decoding, inference and encoding, the sizes of files, and the number of rows
per second that the driver receives from idle workers. The rates of storage are given. `Rates.limits` computes the
throughput. About a minute on 2 cores without other load.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from PIL import Image
from skimage import data

from upscore.checkpoints import save_model
from upscore.data.io.images import read_image
from upscore.distributed.ray.cluster import Workers, connected
from upscore.distributed.ray.predict import predict_on_ray
from upscore.distributed.ray.task_runner import MAX_ITEMS, run
from upscore.inference import Model
from upscore.inference.outputs import write_prediction
from upscore.models.build import build
from upscore.text import markdown_table
from upscore.viz.plots import BLUE, FOREGROUND, GREEN, MUTED, ORANGE, new_figure, save, style

MACHINES = (1, 10, 100, 1000)
OBJECTS_TEXT = "x" * 2000
"""Text as long as the row of an image with ten objects."""


@dataclass(frozen=True)
class Storage:
    """Rates of a storage system."""

    name: str
    read: float
    """Bytes read per second."""
    write: float
    """Bytes written per second."""
    gets: float
    """Files read per second."""
    puts: float
    """Files written per second."""


STORAGES = (
    Storage("one file server, 10 Gbit/s", 1.25e9, 1.25e9, 20_000, 10_000),
    Storage("an object store, one prefix", 12.5e9, 12.5e9, 5_500, 3_500),
    Storage("an object store, 16 prefixes", 200e9, 200e9, 16 * 5_500, 16 * 3_500),
)


@dataclass(frozen=True)
class Rates:
    """Measurements per image, and of the driver."""

    network: str
    engine: str
    size: str
    cores: int
    decode: float
    """Core-seconds per image for decoding."""
    infer: float
    """Core-seconds per image for inference."""
    encode: float
    """Core-seconds per image for encoding."""
    bytes_in: int
    bytes_out: int
    files_out: int
    rows: float
    """Images per second that the driver can process."""

    @property
    def machine(self) -> float:
        """Images per second of one machine with `cores` cores."""
        return self.cores / (self.decode + self.infer + self.encode)

    def limits(self, machines: float, storage: Storage) -> dict[str, float]:
        """Return the limits of images per second by cause; the lowest one is the throughput of the cluster."""
        return {
            "machines": machines * self.machine,
            "reading": min(storage.read / self.bytes_in, storage.gets),
            "writing": min(storage.write / self.bytes_out, storage.puts / self.files_out),
            "driver": self.rows,
        }


class IdleWorker:
    """Worker that returns a row immediately."""

    def do(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return a row of the usual size."""
        return {"found": OBJECTS_TEXT, "objects": 10, "failure": "", "error": ""}

    def lost(self, item: dict[str, Any]) -> dict[str, Any]:
        """Fail, since no task is lost."""
        raise AssertionError(item)


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Return the median time of several calls after a warm-up call."""
    times = []
    for _ in range(repeats + 1):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times[1:])


def measure_photo(backbone: str, overlays: bool, jpeg: bytes, cores: int) -> dict[str, Any]:
    """Measure core-seconds and bytes of one image, for FCN-8s with random weights and the fastest engine."""
    torch.set_num_threads(cores)
    model = Model(build("fcn8s", backbone=backbone, num_classes=21), max_side=0)
    with tempfile.TemporaryDirectory() as folder:
        image_path, written = Path(folder) / "image_path.jpg", Path(folder) / "out"
        image_path.write_bytes(jpeg)
        image = read_image(image_path)
        prediction = model.predict(image)
        decode = seconds(lambda: read_image(image_path))
        infer = cores * seconds(lambda: model.predict(image))
        encode = seconds(lambda: write_prediction(prediction, written / "image_path", overlays=overlays))
        sizes = [path.stat().st_size for path in written.iterdir()]
    return {
        "network": f"{backbone}{'' if overlays else ', masks only'}",
        "engine": f"{model.engine}, {model.precision}",
        "size": f"{image.shape[2]}x{image.shape[1]}",
        "decode": decode,
        "infer": infer,
        "encode": encode,
        "bytes_in": len(jpeg),
        "bytes_out": sum(sizes),
        "files_out": len(sizes),
    }


def measure_driver(few: int = 2_000, many: int = 20_000) -> tuple[float, float]:
    """Return the images per second that the driver processes, and the seconds until the first result."""
    with connected("local") as ray:
        times = []
        for count in (few, few, many):
            start = perf_counter()
            with closing(run(ray, [{"name": f"{n}"} for n in range(count)], IdleWorker, {}, Workers(2, 1, 0))) as rows:
                next(rows)
                first = perf_counter() - start
                assert sum(1 for _ in rows) == count - 1
            times.append(perf_counter() - start)
    return (many - few) / (times[2] - times[1]), first


def measure_here(backbone: str, jpeg: bytes, cores: int, count: int = 80) -> tuple[float, float]:
    """Return the images per second of one running worker, and the seconds until its first image, for comparison."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        net = build("fcn8s", backbone=backbone, num_classes=21)
        save_model(root / "model", net, classes=[f"class {n}" for n in range(21)], max_side=0)
        (root / "photos").mkdir()
        for number in range(count):
            (root / "photos" / f"{number:03}.jpg").write_bytes(jpeg)
        start, times = perf_counter(), []
        predict_on_ray(
            str(root / "model"),
            [root / "photos"],
            root / "out",
            address="local",
            workers=1,
            cpus=cores,
            progress=lambda _done, _total: times.append(perf_counter()),
        )
    half = count // 2
    return (count - half) / (times[-1] - times[half - 1]), times[0] - start


def table(rates: list[Rates]) -> str:
    """Return a table of images per second, time for a million images, and the largest number of machines that helps."""
    header = ["network", "storage", "1", "10", "100", "1,000 machines", "scales up to"]
    lines = []
    for rate in rates:
        for storage in STORAGES:
            cells = []
            for machines in MACHINES:
                limits = rate.limits(machines, storage)
                lowest = min(limits, key=lambda name: limits[name])
                cells.append(f"{limits[lowest]:,.0f}/s, {_duration(1e6 / limits[lowest])}")
            others = {name: value for name, value in rate.limits(1, storage).items() if name != "machines"}
            first = min(others, key=lambda name: others[name])
            end = f"{others[first] / rate.machine:,.0f}: {first}"
            lines.append([rate.network, storage.name, *cells, end])
    return markdown_table(header, lines, left=2) + "\n"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds > 3600 else f"{seconds / 60:.0f} min"


def plot(rates: list[Rates], path: Path) -> None:
    """Plot images per second over the number of machines on logarithmic axes."""
    figure = new_figure(7.6, 4.6)
    axes = figure.add_subplot()
    style(axes, "Images per second of a cluster", f"{rates[0].size}, machines of {rates[0].cores} cores")
    axes.set_xscale("log")
    axes.set_yscale("log")
    counts = [10 ** (step / 20) for step in range(71)]
    for rate, line in zip(rates, ("-", "--"), strict=False):
        for storage, color in zip(STORAGES, (ORANGE, BLUE, GREEN), strict=True):
            values = [min(rate.limits(count, storage).values()) for count in counts]
            label = f"{rate.network}: {storage.name}"
            axes.plot(counts, values, line, color=color, linewidth=1.9, label=label)
    axes.set_xlabel("machines", color=MUTED)
    axes.legend(frameon=False, fontsize=7.5, labelcolor=FOREGROUND, loc="upper left")
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="folder to write results/scaling.json and images/scaling.png to")
    parser.add_argument("--cores", type=int, default=2, help="cores of a machine, used for the measurement")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality")
    arguments = parser.parse_args()
    stored = io.BytesIO()
    Image.fromarray(data.astronaut()).resize(arguments.size).save(stored, "jpeg", quality=arguments.quality)
    jpeg, cores = stored.getvalue(), arguments.cores
    rows, first = measure_driver()
    here, start = measure_here("efficientnet_lite0", jpeg, cores)
    variants = (("efficientnet_lite0", True), ("vgg16", True), ("efficientnet_lite0", False))
    rates = [Rates(**measure_photo(*variant, jpeg, cores), cores=cores, rows=rows) for variant in variants]
    print(table(rates))
    report = {
        "rates": [asdict(rate) | {"machine": rate.machine} for rate in rates],
        "one_worker_over_ray": {"photos_per_second": here, "seconds_to_first": start},
        "workers_that_do_nothing": {"rows_per_second": rows, "seconds_to_first": first},
        "items_of_a_task": MAX_ITEMS,
    }
    print(json.dumps(report, indent=2))
    if arguments.docs:
        (arguments.docs / "results").mkdir(parents=True, exist_ok=True)
        (arguments.docs / "results" / "scaling.json").write_text(json.dumps(report, indent=2) + "\n")
        plot(rates, arguments.docs / "images" / "scaling.png")


if __name__ == "__main__":
    main()
