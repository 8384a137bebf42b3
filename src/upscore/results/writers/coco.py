"""Writer of COCO's results format: the objects of many images in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upscore.errors import UserError
from upscore.files import atomic_path, not_own
from upscore.results.rle import areas

if TYPE_CHECKING:
    from upscore.results.instances import InstanceResult

RESULTS = "instances.json"
"""File name of the objects of all images."""

OWN_KEYS = {"image_id", "category_id", "category_name", "score", "segmentation"}
"""Keys of an object in a file that upscore wrote; other programs do not write `category_name`."""


def coco_results(
    result: InstanceResult,
    *,
    image_id: int = 1,
    category_ids: Sequence[int] | None = None,
    file_name: str | None = None,
) -> list[dict[str, Any]]:
    """Return the objects of one image in COCO's results format; see `InstanceResult.to_coco`.

    Boxes and scores are not rounded, so that the average precision of the file equals that of the objects in memory.
    `area` is the number of pixels of the mask; pycocotools' `loadRes` replaces it with the area of `bbox` (see
    docs/results.md).

    Raises:
        UserError: the number of category ids differs from the number of classes, or the image has 2 ** 32 pixels or
            more.
    """
    ids = result.category_ids if category_ids is None else category_ids
    ids = range(1, len(result.classes) + 1) if ids is None else ids
    if len(ids) != len(result.classes):
        raise UserError(f"category_ids has {len(ids)} ids for {len(result.classes)} classes: give one id per class")
    file_entry = {} if file_name is None else {"file_name": file_name}
    rles = result.rle()
    columns = (result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), rles, areas(rles).tolist())
    return [
        {
            "image_id": image_id,
            **file_entry,
            "category_id": int(ids[label]),
            "category_name": result.classes[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "score": score,
            "segmentation": encoded,
        }
        for (x1, y1, x2, y2), score, label, encoded, area in zip(*columns, strict=True)
    ]


def require_results(path: Path) -> None:
    """Check that results may be written to a path.

    Raises:
        UserError: the path exists and is not a results file that upscore wrote.
    """
    if path.exists() and not _is_own(path):
        raise not_own(path)


def _is_own(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            first, second = file.readline(), file.readline()
        if (first.strip(), second) == ("[]", ""):
            return True
        return first == "[\n" and json.loads(second.rstrip(",\n")).keys() >= OWN_KEYS
    except (OSError, ValueError, AttributeError):
        return False


def write_results(results: Iterable[dict[str, Any]], path: Path) -> None:
    """Write objects as a JSON list, one object a line, atomically.

    Args:
        results: objects as from `coco_results`. The iterable is consumed one object at a time.
        path: output file.

    Raises:
        WriteError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "["
        for result in results:
            file.write(f"{separator}\n{json.dumps(result)}")
            separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")
