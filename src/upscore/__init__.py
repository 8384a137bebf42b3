"""upscore: FCN and Mask R-CNN as published, from a folder of photos to a model you can ship.

>>> import upscore
>>> model = upscore.load("runs/streets")
>>> model.predict("photo.jpg").overlay().save("overlay.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upscore import checkpoints, data, evaluation, inference, models, training
    from upscore.inference import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "checkpoints", "data", "evaluation", "inference", "load", "models", "training"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: subpackages are imported when they are first used
    if name in ("Model", "load"):
        return getattr(importlib.import_module("upscore.inference"), name)
    if name in __all__:
        return importlib.import_module(f"upscore.{name}")
    raise AttributeError(f"module 'upscore' has no attribute {name!r}")
