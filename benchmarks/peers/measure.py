"""Ratios of a peer's time to ours, of calls that are interleaved in one process.

Milliseconds depend on the machine and on what else it does; a ratio of calls that take turns does so much less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from upscore.progress import ProgressCallback, ignore_progress
from upscore.timing import time_interleaved

PEER = "the peer"
THREADS = 2
REPEATS = 5
"""The least number of rounds whose medians are worth reporting."""

Side = Callable[[], object]
"""One whole run of the work: what it reads is made before, what it returns is dropped."""
Sides = tuple[Mapping[str, Side], Side]
"""Ours by their names, fastest first, and the peer's."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Work that is compared with a peer's; a line of the table."""

    name: str
    """As it is called on the command line: "fcn-vgg16"."""
    work: str
    """What is done, in words: "FCN-8s VGG16, 512x512, image to class map"."""
    peer_name: str
    """What it is compared with: "torchfcn.models.FCN8s + argmax"."""
    target: Mapping[str, float]
    """The least ratio of the peer's time to ours that is aimed at, by side; a side without one is for information."""
    prepare: Callable[[], Sides]
    """Makes all sides, once the number of threads is fixed. A function of a module, for it is sent to a process of its
    own where memory is measured. It raises UserError where a peer is missing, with what to install."""
    memory: Mapping[str, float] = field(default_factory=dict)
    """The largest share of the peer's working memory that is aimed at, by side; of none, memory is not measured."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Seconds of each call, by round."""

    ours: Mapping[str, list[float]]
    peer: list[float]

    @property
    def peer_seconds(self) -> float:
        """The peer's median."""
        return median(self.peer)

    def seconds(self, side: str) -> float:
        """The median of one of our sides."""
        return median(self.ours[side])

    def ratio(self, side: str) -> float:
        """How many times as long the peer takes, by the medians; over 1 where ours is faster."""
        return self.peer_seconds / self.seconds(side)

    def spread(self, side: str) -> tuple[float, float]:
        """The least and the greatest ratio within a round."""
        ratios = [peer / ours for peer, ours in zip(self.peer, self.ours[side], strict=True)]
        return min(ratios), max(ratios)


def compare(
    ours: Mapping[str, Side],
    peer: Side,
    repeats: int = REPEATS,
    *,
    threads: int = THREADS,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Time all sides by `time_interleaved`.

    Args:
        repeats: rounds; `REPEATS` at least, where the result is going to be reported.
        threads: of torch; what makes threads of its own must be told when it is prepared.
    """
    assert ours, "a comparison needs a side of ours"
    fix_threads(threads)
    times = time_interleaved({PEER: peer, **ours}, repeats, progress=progress or ignore_progress)
    return Comparison(ours={name: times[name] for name in ours}, peer=times[PEER])


def fix_threads(threads: int) -> None:
    """Bound the threads of torch, by which the engines that are made afterwards go."""
    import torch

    torch.set_num_threads(threads)
