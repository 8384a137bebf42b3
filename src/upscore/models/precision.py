"""Number formats of convolutions, and which of them the processor multiplies."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "float32", "bfloat16"]


def autocast_disabled(device: torch.device) -> AbstractContextManager[object]:
    """Within it, autocast leaves types alone."""
    available = torch.amp.is_autocast_available(device.type)  # not so on the meta device, which only counts sizes
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def autocasts_to_bfloat16(device: torch.device) -> bool:
    """Whether autocast has convolutions in bfloat16."""
    if not torch.amp.is_autocast_available(device.type):
        return False
    return torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.bfloat16


def has_depthwise(network: nn.Module) -> bool:
    """Whether a network has depthwise convolutions, whose work is moving memory rather than multiplying matrices."""
    return any(layer.groups == layer.in_channels > 1 for layer in network.modules() if isinstance(layer, nn.Conv2d))


def has_bfloat16_instructions() -> bool:
    """Whether this processor multiplies bfloat16 numbers (AMX, AVX-512 BF16); elsewhere bfloat16 is emulated."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return _has_amx() or bool(supported and supported())


def _has_amx() -> bool:
    # torch has no public question for it; where the private one is gone, float32 is the safe answer
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())
