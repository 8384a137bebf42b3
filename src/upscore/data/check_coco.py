"""What can be wrong with a COCO annotation that could be read all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from upscore.data.coco import Coco
from upscore.data.folder import Fault
from upscore.data.polygons import crosses_itself

SLACK = 1.0
"""Pixels by which a box may be outside its image, as rounding leaves it."""


def annotation_faults(file: Coco, image: int, annotation: int, pixels: int) -> Iterator[Fault]:
    """The faults of an annotation whose outline holds so many pixels."""
    number, name = int(file.ids[annotation]), os.fsdecode(file.file_names[image])
    for kind, reason in _reasons(file, image, annotation, pixels):
        yield Fault(kind, file.path, f"{file.path}: annotation {number} of {name} {reason}", number)


def _reasons(file: Coco, image: int, annotation: int, pixels: int) -> Iterator[tuple[str, str]]:
    height, width = file.sizes[image].tolist()
    x1, y1, x2, y2 = box = file.boxes[annotation].tolist()
    if min(x1, y1) < -SLACK or x2 > width + SLACK or y2 > height + SLACK:
        corners = ", ".join(f"{corner:g}" for corner in box)
        yield "box outside", f"has a box ({corners}) outside of its {width}x{height} pixels; clip it."
    if x2 <= x1 or y2 <= y1:
        yield "zero area", f"has a box of {x2 - x1:g}x{y2 - y1:g} pixels; draw it anew, or remove the annotation."
    elif file.areas[annotation] <= 0 or pixels == 0:
        yield "zero area", "covers no pixel, or has an area of 0; draw it anew, or remove it."
    pieces = file.outlines[annotation].pieces
    short = sum(len(piece) < 6 for piece in pieces)
    if short:
        yield "few points", f"has {short} of {len(pieces)} polygons with fewer than three points; remove them."
    if any(crosses_itself(np.reshape(piece, (-1, 2))) for piece in pieces):
        yield "self-crossing", "has a polygon that crosses itself; draw it anew, or save the object as run lengths."
