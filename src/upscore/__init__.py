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
    from upscore.inference import load

__version__ = "0.1.0"
__all__ = ["checkpoints", "data", "evaluation", "inference", "load", "models", "training"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, so each room opens when it is first entered
    if name == "load":
        return importlib.import_module("upscore.inference").load
    if name in __all__:
        return importlib.import_module(f"upscore.{name}")
    raise AttributeError(f"module 'upscore' has no attribute {name!r}")
