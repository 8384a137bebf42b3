"""Common parts of rows: import of peers, images, weights."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from upscore.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def torchfcn_models() -> ModuleType:
    """Import pytorch-fcn's networks without the data sets, downloads and viewers that its packages import.

    Raises:
        UserError: pytorch-fcn is not installed.
    """
    if "torchfcn.models" in sys.modules:
        return sys.modules["torchfcn.models"]
    spec = importlib.util.find_spec("torchfcn")
    if spec is None or spec.submodule_search_locations is None:
        raise UserError("pytorch-fcn, the peer, is not installed: pip install --no-deps torchfcn")
    parent = ModuleType("torchfcn")  # an empty parent, and an empty replacement of `fcn`, which downloads files
    parent.__path__ = list(spec.submodule_search_locations)
    sys.modules.setdefault("torchfcn", parent)
    sys.modules.setdefault("fcn", ModuleType("fcn"))
    return importlib.import_module("torchfcn.models")


def noise(height: int, width: int) -> np.ndarray:
    """Return a noise image (H, W, 3) uint8, the same at every call; the times do not depend on its content."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def with_random_weights(net: nn.Module) -> nn.Module:
    """Initialise convolutions so that activations neither vanish nor are zero."""
    import torch
    from torch.nn import Conv2d, init

    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, Conv2d):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
    return net.eval()
