"""What every report on a data set has, whatever its labels are for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

from upscore.data.folder import UNSPLIT, Fault, Listing


@dataclass(slots=True, kw_only=True)
class Findings:
    """What a data set is made of, and what is wrong with it."""

    source: str
    layout: str
    splits: dict[str, int]
    """Photos by split; empty where there are no splits."""
    images: int
    classes_from: str
    sizes: Counter[tuple[int, int]]
    """How many photos are of a (width, height)."""
    faults: list[Fault]
    """In the order of the files."""
    notes: list[str]
    """What is worth knowing but no fault."""

    def size_range(self) -> dict[str, tuple[float, float, float]]:
        """Smallest, median and largest width and height in pixels; empty without a readable photo."""
        sides = {"width": 0, "height": 1} if self.sizes else {}
        columns = {name: sorted(size[axis] for size in self.sizes.elements()) for name, axis in sides.items()}
        return {name: (values[0], median(values), values[-1]) for name, values in columns.items()}

    def as_dict(self) -> dict[str, Any]:
        """The findings in JSON's types."""
        return {
            "source": self.source,
            "layout": self.layout,
            "splits": self.splits,
            "images": self.images,
            "classes_from": self.classes_from,
            "sizes": [{"width": w, "height": h, "images": count} for (w, h), count in self.sizes.most_common()],
            "size_range": self.size_range(),
            "faults": [_fault(fault) for fault in self.faults],
            "notes": self.notes,
        }


def splits_of(listing: Listing) -> dict[str, int]:
    """The photos of each split; nothing where there are none."""
    return {split: len(pairs) for split, pairs in listing.splits.items() if split != UNSPLIT}


def _fault(fault: Fault) -> dict[str, Any]:
    entry = {"kind": fault.kind, "file": str(fault.path), "message": fault.message}
    return entry if fault.annotation is None else entry | {"annotation": fault.annotation}
