"""Sentences and intervals of the chapter about strides."""

import pytest
import torch

from upscore.demo.strides import (
    Trained,
    bootstrap_gain,
    compare_mean_iu,
    compare_thin_classes,
    describe_gains,
    increases,
)
from upscore.evaluation.semantic import semantic_scores

CLASSES = ["background", "disk", "bar"]


def network(name, bar, disk=0.5, scenes=50):
    """Return a network that predicts these fractions of the pixels of its classes, and background elsewhere."""
    rows = [[900, 0, 0], [round(100 * (1 - disk)), round(100 * disk), 0], [round(100 * (1 - bar)), 0, round(100 * bar)]]
    counts = torch.tensor(rows).repeat(scenes, 1, 1)
    scores = semantic_scores(counts.sum(0), CLASSES)
    return Trained(name=name, records=[], losses=[], class_maps=[], counts=counts, scores=scores)


def make_networks(*bars):
    return [network(name, bar) for name, bar in zip(("fcn32s", "fcn16s", "fcn8s"), bars, strict=True)]


def test_increasing_mean_iu():
    networks = make_networks(0.1, 0.3, 0.6)
    assert increases(networks)
    gained = 100 * (networks[2].scores.mean_iu - networks[0].scores.mean_iu)
    assert f"{gained:.1f} points" in compare_mean_iu(networks)
    assert all(f"{net.scores.mean_iu:.1%}" in compare_mean_iu(networks) for net in networks)
    assert all(value in compare_thin_classes(networks, ["bar"]) for value in ("10%", "60%"))


def test_sentences_depend_on_the_scores():
    rising, mixed, falling = make_networks(0.1, 0.3, 0.6), make_networks(0.3, 0.1, 0.6), make_networks(0.6, 0.3, 0.1)
    assert [increases(networks) for networks in (rising, mixed, falling)] == [True, False, False]
    assert len({compare_mean_iu(networks).split(":")[0] for networks in (rising, mixed, falling)}) == 3
    (gains,), (loss,), (tie,) = (
        describe_gains(rising),
        describe_gains(falling),
        describe_gains(make_networks(0.3, 0.3, 0.3)),
    )
    assert (gains.count("gains"), loss.count("loses")) == (2, 2)
    assert (gains.count("uncertain"), tie.count("uncertain")) == (0, 2)
    assert compare_thin_classes(falling, ["bar"]).endswith("in this run.")


def test_the_interval_of_equal_scenes_is_a_point():
    coarse, fine = network("fcn16s", 0.2), network("fcn8s", 0.5)
    difference, low, high = bootstrap_gain(coarse, fine)
    assert difference == pytest.approx(fine.scores.mean_iu - coarse.scores.mean_iu)
    assert (low, high) == pytest.approx((difference, difference))


def test_the_interval_is_wider_with_fewer_scenes():
    def spread(scenes):
        generator = torch.Generator().manual_seed(1)
        nets = []
        for name in ("fcn16s", "fcn8s"):
            counts = torch.randint(1, 100, (scenes, 3, 3), generator=generator)
            scores = semantic_scores(counts.sum(0), CLASSES)
            nets.append(Trained(name=name, records=[], losses=[], class_maps=[], counts=counts, scores=scores))
        difference, low, high = bootstrap_gain(*nets)
        assert low < difference < high
        return high - low

    assert spread(1000) < spread(20) / 3
