"""torchvision's compiled operators without the rest of it, whose import takes longer than a photo's prediction."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

LIBRARIES = ("_C*.so", "_C*.pyd", "_C*.dylib")
"""Files of torchvision's folder that may hold them; the name has changed between versions."""


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """The positions of the boxes (R, 4) that no better one overlaps by more than `iou`, best first."""
    _load()
    return torch.ops.torchvision.nms(boxes, scores, iou)


@cache
def _load() -> None:
    spec = find_spec("torchvision")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]
    for path in [path for folder in folders for pattern in LIBRARIES for path in sorted(folder.glob(pattern))]:
        try:
            torch.ops.load_library(path)
        except OSError:  # a library of another purpose
            continue
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision.ops  # noqa: F401  # loads them from wherever this version has them
