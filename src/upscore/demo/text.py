"""Sentences about the scores of the three FCNs, for every outcome."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from upscore.demo.fcn_training import Trained, gain, mean_iu_of


def finer_wins(networks: Sequence[Trained]) -> bool:
    """Whether each network, from coarse to fine, has a higher mean IoU than the one before."""
    ius = [net.scores.mean_iu for net in networks]
    return all(coarse < fine for coarse, fine in pairwise(ius))


def verdict(networks: Sequence[Trained]) -> str:
    """Which stride has the highest mean IoU, and the difference."""
    coarsest, finest = networks[0], networks[-1]
    ious = ", ".join(f"{net.title} {net.scores.mean_iu:.1%}" for net in networks)
    gained = 100 * (finest.scores.mean_iu - coarsest.scores.mean_iu)
    if finer_wins(networks):
        return f"Mean IoU rises with every finer stride: {ious}. The total gain is {_points(gained)}."
    if gained > 0:
        return f"The finest stride has a higher mean IoU than the coarsest, but not every step gains: {ious}."
    return f"Finer strides do not raise mean IoU in this run: {ious}. Another seed or longer training may differ."


def certainty(networks: Sequence[Trained]) -> list[str]:
    """The gain of each step to a finer stride, with its 95 % interval over the choice of test scenes."""
    sentences = []
    for coarse, fine in pairwise(networks):
        by, low, high = (100 * value for value in gain(coarse, fine))
        change = f"gains {_points(by)}" if by >= 0 else f"loses {_points(-by)}"
        significance = "" if low * high > 0 else "; the interval contains 0, so the order of these two is uncertain"
        sentences.append(
            f"From {coarse.title} to {fine.title} mean IoU {change} (95 % interval over the choice of test scenes, by "
            f"bootstrap: {low:+.1f} to {high:+.1f}{significance})."
        )
    return [" ".join([*sentences, "Other seeds of training give other scores: `upscore demo --seed 1`."])]


def thin_classes(networks: Sequence[Trained], thin: Sequence[str]) -> str:
    """The IoU of thin shapes with the coarsest and the finest stride, beside that of the others."""
    coarsest, finest = networks[0], networks[-1]
    solid = [name for name in finest.scores.per_class if name not in thin and name != "background"]
    gains = [100 * (mean_iu_of(finest, names) - mean_iu_of(coarsest, names)) for names in (thin, solid)]
    before, after = (f"{mean_iu_of(net, thin):.0%}" for net in (coarsest, finest))
    names = " and ".join(thin)
    ends = f"from {before} with {coarsest.title} to {after} with {finest.title}"
    change = f"The IoU of the thin classes ({names}) changes {ends}"
    if gains[0] <= 0:
        return f"{change}: finer strides do not raise it in this run."
    return f"{change}, on average; that of the other shapes changes by {gains[1]:+.1f} points."


def _points(value: float) -> str:
    return f"{value:.1f} points"
