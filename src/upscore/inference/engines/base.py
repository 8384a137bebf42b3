"""The contract between a network's parts and what runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # pyright: ignore[reportPrivateImportUsage]

from upscore.warning_filters import ignored_warnings

EngineName = Literal["auto", "torch", "openvino", "onnxruntime"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
Device = torch.device | str
"""A device, its name, or "auto"."""


class Run(Protocol):
    """A part that is ready to run."""

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """The part's outputs, which may be overwritten by the next call."""
        ...

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """Of what shapes most inputs are going to be, instead of those expected before; others may come too."""
        ...


@dataclass(frozen=True, slots=True)
class AnyShape:
    """A `Run` that gains nothing from knowing shapes before."""

    function: Callable[[Tensor], tuple[Tensor, ...]]

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """See `Run`."""
        return self.function(tensor)

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """See `Run`."""


class Engine(Protocol):
    """Runs parts of a network: plain modules from a tensor to a tuple of tensors, in evaluation mode."""

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

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> Run:
        """Make a part ready to run at any size.

        Args:
            part: what it is given may differ from call to call in all sizes but the channels: the second of four axes,
                the last of two.
            example: an input.
            name: by which it is told from the network's other parts.
        """
        ...


_tracing = threading.Lock()
"""Exporters keep state for the whole process, and fail where two of them run at once."""


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Ignore what tracing warns of: its deprecation, and sizes taken for constants, which tests show they are not.

    One thread at a time traces.
    """
    with (
        _tracing,
        ignored_warnings(TracerWarning),
        ignored_warnings(FutureWarning, module=r"torch\."),
        ignored_warnings(DeprecationWarning, module=r"torch\.|upscore\."),
    ):
        yield
