from __future__ import annotations

import torch

from upscore.data.samples import Sample
from upscore.data.transforms import CELL, keep_patches
from upscore.labels import VOID


def random_sample(height: int, width: int) -> Sample:
    class_map = torch.arange(height * width).reshape(height, width).remainder(7).to(torch.uint8)
    return Sample(name="a", image=torch.zeros(3, height, width, dtype=torch.uint8), class_map=class_map)


def test_cells_lose_all_their_labels_or_none() -> None:
    sample = random_sample(3 * CELL + 5, 4 * CELL + 1)
    assert sample.class_map is not None
    kept = keep_patches(sample, 0.5, seed=1).class_map
    assert kept is not None
    states = set()
    for top in range(0, 3 * CELL + 5, CELL):
        for left in range(0, 4 * CELL + 1, CELL):
            cell = (slice(top, top + CELL), slice(left, left + CELL))
            lost = bool((kept[cell] == VOID).all())
            assert lost or torch.equal(kept[cell], sample.class_map[cell])
            states.add(lost)
    assert states == {True, False}
    assert not (sample.class_map == VOID).any()  # the input is unchanged


def test_the_share_of_kept_cells_and_the_seed() -> None:
    sample = random_sample(40 * CELL, 50 * CELL)
    first, again, second = (keep_patches(sample, 0.25, seed).class_map for seed in (1, 1, 2))
    assert first is not None
    assert second is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    share = (first != VOID).float().mean().item()
    assert 0.21 < share < 0.29  # 2,000 cells: three standard deviations


def test_samples_without_labels_or_with_share_1_are_unchanged() -> None:
    sample = random_sample(50, 60)
    assert keep_patches(sample, 1, seed=0) is sample
    unlabelled = Sample(name="a", image=sample.image)
    assert keep_patches(unlabelled, 0.5, seed=0) is unlabelled
