"""upscore: semantic segmentation with FCN and instance segmentation with Mask R-CNN.

>>> import upscore
>>> model = upscore.load("runs/streets")
>>> model.predict("photo.jpg").overlay().save("overlay.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upscore import checkpoints, data, evaluation, inference, models, results, training
    from upscore.inference import Model, evaluate, load
    from upscore.training import train

__version__ = "0.1.0"
__all__ = [
    "Model",
    "checkpoints",
    "data",
    "evaluate",
    "evaluation",
    "inference",
    "load",
    "models",
    "results",
    "train",
    "training",
]

FUNCTIONS = {
    "Model": "upscore.inference",
    "load": "upscore.inference",
    "evaluate": "upscore.inference",
    "train": "upscore.training",
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, so each subpackage is imported at its first use
    if name in FUNCTIONS:
        return getattr(importlib.import_module(FUNCTIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"upscore.{name}")
    raise AttributeError(f"module 'upscore' has no attribute {name!r}")
