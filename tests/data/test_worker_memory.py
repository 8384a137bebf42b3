"""What is a reading process's own must stay level while it goes over an index."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from upscore.data.instance_datasets import InstanceDataset, open_instances
from upscore.structures import Sample

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "worker_memory.py"
ANNOTATIONS, PHOTOS = 20_000, 1_600
MOST = 6 << 20
"""Bytes that a worker may gain; as Python objects, the index makes it gain four times as many."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is asked for as Linux tells it"),
]


class WithPythonObjects:
    """The same samples; each reads its annotations out of lists and dictionaries, too."""

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


def test_own_memory_of_workers_stays_level(tmp_path: Path) -> None:
    spec = spec_from_file_location("worker_memory", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    benchmark = module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # by which workers know its functions
    spec.loader.exec_module(benchmark)
    benchmark.write_coco(tmp_path / "coco", ANNOTATIONS, PHOTOS)

    def growth(dataset: InstanceDataset) -> int:
        measured = benchmark.worker_memory(dataset, workers=1, samples=PHOTOS, every=PHOTOS // 8)
        assert len(measured) == 8
        return measured[-1]["own"] - measured[1]["own"]

    dataset = open_instances(tmp_path / "coco", "train")
    assert growth(dataset) < MOST
    entries = WithPythonObjects(dataset, tmp_path / "coco" / "instances_train.json")
    assert growth(entries) > 2 * MOST
