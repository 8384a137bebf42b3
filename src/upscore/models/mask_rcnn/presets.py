"""The rules by which the same Mask R-CNN weights give other numbers: a network runs by those it was trained with.

Where the code bases agree, or where a number is a setting of one run rather than a habit of its code, it is an
argument of the network instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MaskPaste = Literal["exact", "legacy"]
"""How masks become pixels: by sampling at pixel centres (detectron2), or by resizing to whole pixels (torchvision)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many proposals are kept."""

    before_nms: int
    """Of each level."""
    after_nms: int
    """Of each image, over all levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """All rules that differ between the paper's text and the code bases that published weights."""

    rounded_anchors: bool
    """Anchor corners, relative to their cell's centre, are rounded to whole pixels."""
    fitted_anchors: bool
    """The step between anchors is the input's side over the map's, in whole pixels (torchvision); it differs from the
    stride where a map was rounded up, as P6 is for sides that 64 does not divide."""
    aspects_outer: bool
    """Anchors of a cell are ordered by aspect first, then by size; it matters with several sizes a level, as in C4."""
    rpn_beta: float
    """Where the smooth L1 loss of proposals turns from quadratic to linear; 0: L1."""
    rpn_average: Literal["sampled", "batch size"]
    """RPN losses are divided by the anchors that were sampled, or by the number that should have been."""
    training: Limits
    inference: Limits
    min_size: float
    """Proposals with a side under this many pixels are dropped; with 0, those without an area."""

    aligned: bool
    """RoIAlign takes a cell's value to be at its centre, half a cell from its corner."""
    samples: int
    """Samples per bin and axis of RoIAlign; 0: as many as the bin has cells."""
    level_epsilon: Literal["inside", "outside"]
    """1e-8 is added inside the logarithm of the level rule, or 1e-6 after it; boxes of exactly 112, 224, 448 px feel
    it."""
    box_beta: float
    """As `rpn_beta`, of the box head."""

    soft_targets: bool
    """Mask targets keep the fractions that resampling gives; otherwise they are cut at a half."""
    aligned_targets: bool
    """As `aligned`, for the resampling of mask targets."""
    mask_paste: MaskPaste
    """How masks become pixels."""
    resizing: Literal["floats", "pixels"]
    """floats: normalised values are resized bilinearly, without antialiasing, to sides rounded down (torchvision);
    pixels: bytes are resized with antialiasing to sides rounded to the nearest (detectron2)."""


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
"""detectron2: the half-pixel offsets of its forerunner are gone, losses are L1."""

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
"""torchvision: the first Detectron's sampling, without its "+ 1" in the width of a box."""

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
"""Mask R-CNN's text, and where it is silent that of the papers it builds on (Fast and Faster R-CNN, FPN): nothing is
rounded anywhere, four samples a bin, smooth L1."""

PRESETS = {"paper": PAPER, "torchvision": TORCHVISION, "detectron2": DETECTRON2}
