"""Segments are numbered without gaps."""

from __future__ import annotations

import numpy as np


def numbered(labels: np.ndarray) -> np.ndarray:
    """(H, W) integers -> (H, W) int32, 0 to S - 1 in the same order."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
