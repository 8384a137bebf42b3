from __future__ import annotations

import pytest
import torch

from upscore.data.samples import Sample
from upscore.labels import VOID
from upscore.training.dataset_stats import median_frequency_weights


class Maps:
    """A data set of these class maps."""

    def __init__(self, classes: int, *maps: list[list[int]]) -> None:
        self.classes = [f"class {index}" for index in range(classes)]
        self.maps = [torch.tensor(rows, dtype=torch.uint8) for rows in maps]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        class_map = self.maps[index]
        return Sample(name=str(index), image=torch.zeros(3, *class_map.shape, dtype=torch.uint8), class_map=class_map)


def test_weights_by_hand() -> None:
    # class 0: 5 of 8 valid pixels; 1: 2 of those 4 where it occurs; 2: 1 of 4; 3 never
    dataset = Maps(4, [[0, 0, 1], [1, VOID, VOID]], [[0, 0, 0], [2, VOID, VOID]])
    middle = 0.5
    assert median_frequency_weights(dataset) == pytest.approx([middle / (5 / 8), 1, middle / (1 / 4), 1])


def test_progress_and_nothing_labelled() -> None:
    seen: list[tuple[int, int]] = []
    dataset = Maps(2, [[VOID]], [[VOID]])
    assert median_frequency_weights(dataset, lambda done, total: seen.append((done, total))) == [1, 1]
    assert seen == [(1, 2), (2, 2)]
