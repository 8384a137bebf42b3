"""Floating-point precision: control of autocast, and what the processor supports."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "float32", "bfloat16"]


def autocast_disabled(device: torch.device) -> AbstractContextManager[object]:
    """Return a context manager that disables autocast on a device."""
    available = torch.amp.is_autocast_available(device.type)  # False on the meta device
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def autocasts_to_bfloat16(device: torch.device) -> bool:
    """Whether autocast to bfloat16 is enabled on a device."""
    if not torch.amp.is_autocast_available(device.type):
        return False
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16


def has_depthwise(network: nn.Module) -> bool:
    """Whether a network has depthwise convolutions, whose speed is limited by memory rather than by arithmetic."""
    return any(layer.groups == layer.in_channels > 1 for layer in network.modules() if isinstance(layer, nn.Conv2d))


def has_bfloat16_instructions() -> bool:
    """Whether this CPU has bfloat16 instructions (AMX or AVX-512 BF16); on other CPUs bfloat16 is emulated."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return _has_amx() or bool(supported and supported())


def _has_amx() -> bool:
    # torch has no public function for this; without the private one, float32 is the safe choice
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())
