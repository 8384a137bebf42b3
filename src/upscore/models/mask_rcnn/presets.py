"""Presets of the numeric rules in which implementations of Mask R-CNN differ.

Weights must run with the rules that they were trained with.

Rules on which implementations agree, and settings of single runs, are arguments of the network instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MaskPaste = Literal["exact", "legacy"]
"""How masks are pasted into the image: sampled at pixel centres ("exact", detectron2), or resized to boxes of whole
pixels ("legacy", torchvision)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers of proposals."""

    before_nms: int
    """Proposals of each level that enter non-maximum suppression."""
    after_nms: int
    """Proposals of each image that are kept, over all levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The rules that differ between the paper and the code bases with published weights."""

    rounded_anchors: bool
    """Round the corners of anchors, relative to the corner of their cell, to whole pixels."""
    fitted_anchors: bool
    """The step between anchors is the side of the input divided by the side of the map, rounded down (torchvision). It
    differs from the stride if the side of the map was rounded up, as that of P6 for inputs that 64 does not divide."""
    aspects_outer: bool
    """Order the anchors of a cell by aspect ratio first, then by size. Matters if levels have several sizes, as C4."""
    rpn_beta: float
    """Transition of the RPN's smooth L1 loss from quadratic to linear; 0: L1 loss."""
    rpn_average: Literal["sampled", "batch size"]
    """RPN losses are divided by the number of sampled anchors, or by the intended number."""
    training: Limits
    """Numbers of proposals in training."""
    inference: Limits
    """Numbers of proposals at inference."""
    min_size: float
    """Minimum side of proposals in pixels; 0 drops only proposals without area."""

    aligned: bool
    """RoIAlign places the value of a cell at its centre, half a cell from its corner."""
    samples: int
    """RoIAlign's samples per bin and axis; 0: the number of cells in the bin, rounded up."""
    level_epsilon: Literal["inside", "outside"]
    """In the assignment of boxes to levels, 1e-8 is added inside the logarithm, or 1e-6 after it. This affects boxes of
    exactly 112, 224 or 448 pixels."""
    box_beta: float
    """As `rpn_beta`, for the loss of the box head."""

    soft_targets: bool
    """Keep the fractions of resampled mask targets; otherwise threshold them at 0.5."""
    aligned_targets: bool
    """As `aligned`, for the resampling of mask targets."""
    mask_paste: MaskPaste
    """How masks are pasted into the image."""
    resizing: Literal["floats", "pixels"]
    """floats: normalised values are resized bilinearly without antialiasing, to sides rounded down (torchvision).
    pixels: uint8 values are resized with antialiasing, to sides rounded to the nearest integer (detectron2)."""


DETECTRON2 = Preset(
    rounded_anchors=False,
    fitted_anchors=False,
    aspects_outer=False,
    rpn_beta=0.0,
    rpn_average="batch size",
    training=Limits(before_nms=2000, after_nms=1000),
    inference=Limits(before_nms=1000, after_nms=1000),
    min_size=0.0,
    aligned=True,
    samples=0,
    level_epsilon="inside",
    box_beta=0.0,
    soft_targets=False,
    aligned_targets=True,
    mask_paste="exact",
    resizing="pixels",
)
"""detectron2: without the half-pixel offsets of its predecessor, and with L1 losses."""

TORCHVISION = Preset(
    rounded_anchors=True,
    fitted_anchors=True,
    aspects_outer=True,
    rpn_beta=1 / 9,
    rpn_average="sampled",
    training=Limits(before_nms=2000, after_nms=2000),
    inference=Limits(before_nms=1000, after_nms=1000),
    min_size=1e-3,
    aligned=False,
    samples=2,
    level_epsilon="outside",
    box_beta=1 / 9,
    soft_targets=True,
    aligned_targets=False,
    mask_paste="legacy",
    resizing="floats",
)
"""torchvision: the sampling of the first Detectron, without its "+ 1" in the width of boxes."""

PAPER = Preset(
    rounded_anchors=False,
    fitted_anchors=False,
    aspects_outer=False,
    rpn_beta=1 / 9,
    rpn_average="batch size",
    training=Limits(before_nms=2000, after_nms=2000),
    inference=Limits(before_nms=1000, after_nms=1000),
    min_size=0.0,
    aligned=True,
    samples=2,
    level_epsilon="inside",
    box_beta=1.0,
    soft_targets=False,
    aligned_targets=True,
    mask_paste="exact",
    resizing="pixels",
)
"""The text of Mask R-CNN and, for what it does not state, of Fast R-CNN, Faster R-CNN and FPN: no rounding, four
samples per bin, smooth L1 losses."""

PRESETS = {"paper": PAPER, "torchvision": TORCHVISION, "detectron2": DETECTRON2}
