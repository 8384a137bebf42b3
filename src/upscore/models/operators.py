"""torchvision's compiled non-maximum suppression, loaded without importing torchvision.

`import torchvision.ops` takes 2 to 2.5 seconds of processor time on top of torch's own import, most of what a warm
start up to the first mask of a small image may take.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec

import torch
from torch import Tensor

LIBRARIES = ("_C", "_C_stable")
"""Extension modules of torchvision that may hold its operators; the name depends on the version."""


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """The positions of the boxes (R, 4) that no better one overlaps by more than `iou`, best first."""
    _load()
    return torch.ops.torchvision.nms(boxes, scores, iou)


@cache
def _load() -> None:
    package = find_spec("torchvision")
    folders = (package and package.submodule_search_locations) or []
    for name in LIBRARIES:
        library = PathFinder.find_spec(name, list(folders))
        if library is not None and library.origin is not None:
            with suppress(OSError):  # built for another torch: torchvision's own import says so
                torch.ops.load_library(library.origin)
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision.ops  # noqa: F401  # loads them from wherever this version has them
