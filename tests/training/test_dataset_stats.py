from __future__ import annotations

import pytest
import torch

from upscore.data.samples import Sample
from upscore.labels import VOID
from upscore.training.dataset_stats import median_frequency_weights


class Maps:
    """Data set of given class maps."""

    def __init__(self, classes: int, *maps: list[list[int]]) -> None:
        self.classes = [f"class {index}" for index in range(classes)]
        self.maps = [torch.tensor(rows, dtype=torch.uint8) for rows in maps]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        class_map = self.maps[index]
        return Sample(name=str(index), image=torch.zeros(3, *class_map.shape, dtype=torch.uint8), class_map=class_map)


def test_median_frequency_weights_match_a_calculation_by_hand() -> None:
    # frequencies: class 0 has 5 of 8 valid pixels, class 1 has 2 of 4 in its image, class 2 has 1 of 4, class 3 none
    dataset = Maps(4, [[0, 0, 1], [1, VOID, VOID]], [[0, 0, 0], [2, VOID, VOID]])
    median = 0.5
    assert median_frequency_weights(dataset) == pytest.approx([median / (5 / 8), 1, median / (1 / 4), 1])


def test_median_frequency_weights_report_progress_and_are_1_without_labels() -> None:
    calls: list[tuple[int, int]] = []
    dataset = Maps(2, [[VOID]], [[VOID]])
    assert median_frequency_weights(dataset, lambda done, total: calls.append((done, total))) == [1, 1]
    assert calls == [(1, 2), (2, 2)]
