"""The contract between a network's parts and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

Run = Callable[..., tuple[Tensor, ...]]
"""Takes a part's tensors, returns its outputs, which may be overwritten by the next call."""


class Engine(Protocol):
    """Runs parts of a network: plain modules from tensors to a tuple of tensors, in evaluation mode."""

    @property
    def name(self) -> str:
        """As `choose_engine` knows it."""
        ...

    @property
    def precision(self) -> str:
        """The number format of the heavy layers: "float32", "bfloat16" or "int8"."""
        ...

    @property
    def device(self) -> torch.device:
        """Where inputs are taken from without a copy, and outputs are."""
        ...

    def compile(self, part: nn.Module, *examples: Tensor, name: str) -> Run:
        """Make a part ready to run at any size.

        Args:
            part: its sizes other than the channels may differ from call to call.
            examples: an input of each kind.
            name: by which it is told from the network's other parts.
        """
        ...
