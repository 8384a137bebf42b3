"""Measures the ratio of a peer's time to ours, with calls that alternate in one process.

Milliseconds depend on the machine and its load; the ratio of alternating calls depends on them far less.
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
"""Smallest number of rounds for published results."""

Side = Callable[[], object]
"""Function that does the work once; its input is prepared before, its result is dropped."""

Sides = tuple[Mapping[str, Side], Side]
"""Our variants by name, fastest first, and the peer."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: work that is compared with a peer."""

    name: str
    """Name on the command line, such as "fcn-vgg16"."""
    work: str
    """Description, such as "FCN-8s VGG16, 512x512, image to class map"."""
    peer_name: str
    """Description of the peer, such as "torchfcn.models.FCN8s + argmax"."""
    target: Mapping[str, float]
    """Target of the ratio of the peer's time to ours by variant; other variants are for information."""
    prepare: Callable[[], Sides]
    """Creates all sides after the number of threads is set. It has to be a function of a module, since it is sent to
    another process to measure memory. It raises UserError if a peer is not installed."""
    memory: Mapping[str, float] = field(default_factory=dict)
    """Target of the ratio of our working memory to the peer's by variant; without any, memory is not measured."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Seconds of each call by round."""

    ours: Mapping[str, list[float]]
    peer: list[float]

    @property
    def peer_seconds(self) -> float:
        """Median time of the peer in seconds."""
        return median(self.peer)

    def seconds(self, side: str) -> float:
        """Return the median time of a variant in seconds."""
        return median(self.ours[side])

    def ratio(self, side: str) -> float:
        """Return the ratio of the peer's median time to ours; above 1 if ours is faster."""
        return self.peer_seconds / self.seconds(side)

    def spread(self, side: str) -> tuple[float, float]:
        """Return the smallest and the largest ratio within a round."""
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
        ours: our variants by name.
        peer: the peer.
        repeats: number of rounds, at least `REPEATS` for published results.
        threads: number of threads of torch; other libraries have to be configured by `prepare`.
        progress: receives the progress.
    """
    assert ours, "there is no variant of ours"
    fix_threads(threads)
    times = time_interleaved({PEER: peer, **ours}, repeats, progress=progress or ignore_progress)
    return Comparison(ours={name: times[name] for name in ours}, peer=times[PEER])


def fix_threads(threads: int) -> None:
    """Set the number of threads of torch, which engines that are created later use as well."""
    import torch

    torch.set_num_threads(threads)
