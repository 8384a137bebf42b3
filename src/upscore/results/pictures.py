"""Overlays of results for notebooks."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from upscore.errors import UserError

if TYPE_CHECKING:
    from upscore.results.instances import InstanceResult
    from upscore.results.semantic import SemanticResult

MAX_SIDE = 1024
"""Longer side of a picture in a notebook, in pixels."""


def require_image(image: np.ndarray | None) -> np.ndarray:
    """Return the image (H, W, 3) of a result.

    Raises:
        UserError: the result has no image.
    """
    if image is None:
        raise UserError("this result has no image to draw on: set result.image to the (H, W, 3) uint8 array first")
    return image


def notebook_png(result: SemanticResult | InstanceResult) -> bytes:
    """Return the overlay as PNG, at most 1024 pixels a side; the background is white if the result has no image."""
    copy: Any = result
    if result.image is None:
        copy = replace(result, image=np.full((*result.size, 3), 255, np.uint8))
    picture = copy.overlay()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
