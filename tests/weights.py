"""Random weights under which signals neither vanish nor explode, made without first making a network's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def he_weights(tensors: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Weights of the given tensors' shapes: normal, of variance 2 / fan-in; biases of deviation 0.1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(like.shape, generator=generator) * ((2 / like[0].numel()) ** 0.5 if like.ndim > 1 else 0.1)
        for name, like in tensors.items()
    }
