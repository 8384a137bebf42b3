"""Normalized cuts of graphs with known optimal cuts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from upscore.experiments.superpixels.methods import cheapest_cut, partition, segment


def cost(weights: np.ndarray, one: tuple[int, ...]) -> float:
    """Compute the normalized cut by its definition."""
    other = [k for k in range(len(weights)) if k not in one]
    across = weights[np.ix_(one, other)].sum()
    return across / weights[list(one)].sum() + across / weights[other].sum()


def test_the_weakest_edges_are_cut():
    weights = np.eye(9)
    for group in ((0, 3, 6), (1, 4, 7), (2, 5, 8)):
        weights[np.ix_(group, group)] = 1
    weights[0, 1] = weights[1, 0] = 0.4
    weights[1, 2] = weights[2, 1] = 0.1
    assert partition(weights, 1).tolist() == [0] * 9
    two = partition(weights, 2)
    assert len({two[k] for k in (0, 1, 3, 4, 6, 7)}) == len({two[k] for k in (2, 5, 8)}) == 1
    three = partition(weights, 3)
    assert [len(set(three[k::3].tolist())) for k in range(3)] == [1, 1, 1]
    assert sorted(set(three.tolist())) == [0, 1, 2]
    assert sorted(partition(weights, 9).tolist()) == list(range(9))


@pytest.mark.parametrize("seed", range(5))
def test_the_cost_matches_the_definition_and_is_nearly_minimal(seed):
    weights = np.random.default_rng(seed).random((8, 8)) ** 3
    weights = np.maximum(weights, weights.T)
    np.fill_diagonal(weights, 1)
    cut = cheapest_cut(weights, np.arange(8), 0)
    assert sorted([*cut.one, *cut.other]) == list(range(8))
    assert cut.cost == pytest.approx(cost(weights, tuple(cut.one)))
    least = min(cost(weights, one) for size in range(1, 5) for one in combinations(range(8), size))
    assert least - 1e-9 <= cut.cost <= 1.15 * least


@pytest.mark.parametrize("similarity", [0, 1e-17, 1])
def test_regions_of_equal_similarity(similarity):
    weights = np.full((40, 40), float(similarity))
    np.fill_diagonal(weights, 1)
    assert len(set(partition(weights, 12).tolist())) == 12


def test_ncut_returns_the_requested_number():
    blocks = np.random.default_rng(0).choice([0, 255], (6, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    assert segment(blocks, "ncut", 12).max() + 1 == 12
