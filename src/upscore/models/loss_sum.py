"""Loss sums with their normalisers, which can be added over the parts of a batch and over processes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

EPS = 1e-6
"""Lower bound for the normaliser of a loss; the loss of an empty batch is then zero."""


class LossSum(NamedTuple):
    """A loss as a sum and its normaliser."""

    sum: Tensor
    """Sum over pixels, anchors or regions; a scalar."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """Number of pixels, anchors or regions, or the sum of their weights; a scalar."""

    @property
    def mean(self) -> Tensor:
        """The sum divided by the count; zero if the count is zero."""
        return self.sum / self.count.clamp(min=EPS)
