"""The memory of a data loader's worker does not grow while it reads the index."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from upscore.data.instance_datasets import InstanceDataset, open_instances
from upscore.data.samples import Sample

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "worker_memory.py"
ANNOTATIONS, IMAGES = 20_000, 1_600
MAX_GROWTH = 6 << 20
"""Bytes by which the private memory of a worker may grow; with Python objects it grows by four times as much."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="smaps_rollup exists only on Linux"),
]


class WithPythonObjects:
    """The same samples; each access also reads its annotations from lists and dictionaries."""

    def __init__(self, dataset: InstanceDataset, path: Path) -> None:
        self.classes, self.image_ids, self.dataset = dataset.classes, dataset.image_ids, dataset
        entries = json.loads(path.read_text())["annotations"]
        self.entries = [entries[k :: len(dataset)] for k in range(len(dataset))]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        for entry in self.entries[index]:
            assert sum(entry["segmentation"][0]) > 0
        return self.dataset[index]


def worker_memory_benchmark() -> ModuleType:
    spec = spec_from_file_location("worker_memory", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    benchmark = module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # workers import its functions by this name
    spec.loader.exec_module(benchmark)
    return benchmark


def growth(folder: str, *, python_objects: bool) -> int:
    """Return the bytes by which the memory of a worker grows between an eighth of the samples and all of them."""
    benchmark = worker_memory_benchmark()
    dataset = open_instances(Path(folder), "train")
    if python_objects:
        dataset = WithPythonObjects(dataset, Path(folder) / "instances_train.json")
    measured = benchmark.worker_memory(dataset, workers=1, samples=IMAGES, every=IMAGES // 8)
    assert len(measured) == 8
    return measured[-1]["own"] - measured[1]["own"]


def in_a_new_process(call: str) -> int:
    """Return the result of a function of this file; a new process, because workers inherit their parent's memory."""
    script = f"from {__name__} import growth\nprint({call})"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=root, timeout=200).stdout.split()[-1])


def test_memory_of_workers_does_not_grow(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    worker_memory_benchmark().write_coco(folder, ANNOTATIONS, IMAGES)
    assert in_a_new_process(f"growth({str(folder)!r}, python_objects=False)") < MAX_GROWTH
    assert in_a_new_process(f"growth({str(folder)!r}, python_objects=True)") > 2 * MAX_GROWTH
