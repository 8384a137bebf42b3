"""What the scores amount to, in sentences that follow from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from upscore.report.networks import Trained, gain, mean_iu_of


def finer_wins(networks: Sequence[Trained]) -> bool:
    """Whether each network, from coarse to fine, has a higher mean IU than the one before."""
    ius = [net.scores.mean_iu for net in networks]
    return all(coarse < fine for coarse, fine in pairwise(ius))


def verdict(networks: Sequence[Trained]) -> str:
    """Who wins, and by how much."""
    coarsest, finest = networks[0], networks[-1]
    first, *others = (f"{net.title} {net.scores.mean_iu:.1%}" for net in networks)
    ius = ", ".join([first.replace(" ", " reaches a mean IU of "), *others])
    gained = 100 * (finest.scores.mean_iu - coarsest.scores.mean_iu)
    if finer_wins(networks):
        return f"Finer wins, at each step: {ius}. From the first to the last it gains {_points(gained)}."
    if gained > 0:
        return f"Finer wins in the end, though not at each step: {ius}."
    return f"Finer does not win in this run: {ius}. Another seed, or longer training, may end differently."


def certainty(networks: Sequence[Trained]) -> list[str]:
    """For each step towards finer strides, whether the gain is more than the luck of the test scenes."""
    sentences = []
    for coarse, fine in pairwise(networks):
        by, low, high = (100 * value for value in gain(coarse, fine))
        change = f"gains {_points(by)}" if by >= 0 else f"loses {_points(-by)}"
        luck = (
            "so the scenes could have been others and the order would stand"
            if low * high > 0
            else "so the order of these two may be the luck of the scenes"
        )
        sentences.append(
            f"From {coarse.title} to {fine.title} mean IU {change}. With other test scenes of this kind it would be "
            f"between {low:+.1f} and {high:+.1f} nineteen times out of twenty, {luck}."
        )
    return [
        *sentences,
        "Training has its own luck besides, which only other seeds would show: `upscore demo --seed 1`.",
    ]


def thin_classes(networks: Sequence[Trained], thin: Sequence[str]) -> str:
    """What finer strides do for thin shapes, compared with the others."""
    coarsest, finest = networks[0], networks[-1]
    solid = [name for name in finest.scores.per_class if name not in thin and name != "background"]
    gains = [100 * (mean_iu_of(finest, names) - mean_iu_of(coarsest, names)) for names in (thin, solid)]
    before, after = (f"{mean_iu_of(net, thin):.0%}" for net in (coarsest, finest))
    names = " and ".join(thin)
    change = f"The thin classes, {names}, go from {before} with {coarsest.title} to {after} with {finest.title}"
    if gains[0] <= 0:
        return f"{change}: finer strides do not help them in this run."
    return f"{change}, on average; the solid shapes change by {gains[1]:+.1f} points."


def _points(value: float) -> str:
    return f"{value:.1f} points"
