"""The sentences follow from the numbers, whichever way they fall."""

import pytest
import torch

from upscore.demo.strides import Trained, certainty, finer_wins, gain, thin_classes, verdict
from upscore.evaluation.semantic import semantic_scores

CLASSES = ["background", "disk", "bar"]


def network(name, bar, disk=0.5, scenes=50):
    """A network that gets these shares of the pixels of its classes right; the rest it calls background."""
    rows = [[900, 0, 0], [round(100 * (1 - disk)), round(100 * disk), 0], [round(100 * (1 - bar)), 0, round(100 * bar)]]
    counts = torch.tensor(rows).repeat(scenes, 1, 1)
    scores = semantic_scores(counts.sum(0), CLASSES)
    return Trained(name=name, records=[], losses=[], class_maps=[], counts=counts, scores=scores)


def race(*bars):
    return [network(name, bar) for name, bar in zip(("fcn32s", "fcn16s", "fcn8s"), bars, strict=True)]


def test_finer_wins():
    networks = race(0.1, 0.3, 0.6)
    assert finer_wins(networks)
    gained = 100 * (networks[2].scores.mean_iu - networks[0].scores.mean_iu)
    assert f"{gained:.1f} points" in verdict(networks)
    assert all(f"{net.scores.mean_iu:.1%}" in verdict(networks) for net in networks)
    assert all(value in thin_classes(networks, ["bar"]) for value in ("10%", "60%"))


def test_each_outcome_has_a_sentence_of_its_own():
    wins, wins_in_the_end, loses = race(0.1, 0.3, 0.6), race(0.3, 0.1, 0.6), race(0.6, 0.3, 0.1)
    assert [finer_wins(networks) for networks in (wins, wins_in_the_end, loses)] == [True, False, False]
    assert len({verdict(networks).split(":")[0] for networks in (wins, wins_in_the_end, loses)}) == 3
    (gains,), (loss,), (tie,) = certainty(wins), certainty(loses), certainty(race(0.3, 0.3, 0.3))
    assert (gains.count("gains"), loss.count("loses")) == (2, 2)
    assert (gains.count("uncertain"), tie.count("uncertain")) == (0, 2)
    assert thin_classes(loses, ["bar"]).endswith("in this run.")


def test_gain_of_scenes_that_are_all_alike_is_certain():
    coarse, fine = network("fcn16s", 0.2), network("fcn8s", 0.5)
    by, low, high = gain(coarse, fine)
    assert by == pytest.approx(fine.scores.mean_iu - coarse.scores.mean_iu)
    assert (low, high) == pytest.approx((by, by))


def test_gain_is_less_certain_with_fewer_scenes():
    def spread(scenes):
        generator = torch.Generator().manual_seed(1)
        nets = []
        for name in ("fcn16s", "fcn8s"):
            counts = torch.randint(1, 100, (scenes, 3, 3), generator=generator)
            scores = semantic_scores(counts.sum(0), CLASSES)
            nets.append(Trained(name=name, records=[], losses=[], class_maps=[], counts=counts, scores=scores))
        by, low, high = gain(*nets)
        assert low < by < high
        return high - low

    assert spread(1000) < spread(20) / 3
