"""Interface between the parts of a network and the engines that run them."""

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
"""A device, the name of a device, or "auto"."""


class Run(Protocol):
    """Compiled part of a network."""

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """Return the outputs of the part; the next call may overwrite them."""
        ...

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """Prepare for inputs of these shapes, which replace those of an earlier call; other shapes remain possible."""
        ...


@dataclass(frozen=True, slots=True)
class AnyShape:
    """`Run` that is equally fast for all shapes and needs no warm-up."""

    function: Callable[[Tensor], tuple[Tensor, ...]]

    def __call__(self, tensor: Tensor, /) -> tuple[Tensor, ...]:
        """See `Run`."""
        return self.function(tensor)

    def warmup(self, *shapes: tuple[int, ...]) -> None:
        """See `Run`."""


class Engine(Protocol):
    """Compiles and runs parts of a network: modules in evaluation mode that map a tensor to a tuple of tensors."""

    @property
    def name(self) -> str:
        """Name of the engine, see `EngineName`."""
        ...

    @property
    def precision(self) -> str:
        """Number format of the heavy layers: "float32", "bfloat16" or "int8"."""
        ...

    @property
    def device(self) -> torch.device:
        """Device on which inputs and outputs are not copied."""
        ...

    def compile(self, part: nn.Module, example: Tensor, *, name: str) -> Run:
        """Compile a part for inputs of any size.

        Args:
            part: the module. Inputs have a fixed number of channels (axis 1); all other axes may vary between calls.
            example: an input, with four axes or two.
            name: unique name of the part within the network.
        """
        ...


_tracing = threading.Lock()
"""Exporters keep state for the whole process and fail if two of them run at the same time."""


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Trace in one thread at a time, without warnings about deprecation and about sizes that become constants.

    Tests show that no size becomes a constant.
    """
    with (
        _tracing,
        ignored_warnings(TracerWarning),
        ignored_warnings(FutureWarning, module=r"torch\."),
        ignored_warnings(DeprecationWarning, module=r"torch\.|upscore\."),
    ):
        yield
