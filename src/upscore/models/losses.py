"""A loss before it is divided, so that the parts of a batch that is spread over processes make up the whole one's."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

EPS = 1e-6
"""What a loss is divided by where nothing counts; it is then zero."""


class LossSum(NamedTuple):
    """One of the losses that are added up."""

    sum: Tensor
    """Over pixels, anchors or regions; a scalar."""
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    """How many there are, or their weights' sum; a scalar."""

    @property
    def mean(self) -> Tensor:
        """Zero where nothing counts."""
        return self.sum / self.count.clamp(min=EPS)
