"""Class names of a data set, from `classes.txt` or from the values in the labels.

The index of a class is its position in the list of names, from 0; 255 is void.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from upscore.errors import UserError
from upscore.labels import MAX_CLASSES, VOID

CLASSES_FILE = "classes.txt"
BINARY = ["background", "foreground"]
"""Class names of binary masks with the values 0 and 255."""


def find_classes(roots: list[Path]) -> tuple[list[str] | None, str]:
    """Return the class names of the first `classes.txt` in some folders, and its path; (None, "") if there is none.

    Raises:
        UserError: a file is invalid, or two of them differ.
    """
    found = [
        (root / CLASSES_FILE, read_classes(root / CLASSES_FILE)) for root in roots if (root / CLASSES_FILE).exists()
    ]
    if not found:
        return None, ""
    path, classes = found[0]
    for other_path, other in found[1:]:
        if other != classes:
            raise UserError(f"{other_path}: lists other classes than {path}; keep one of the two files.")
    return classes, str(path)


def read_classes(path: Path) -> list[str]:
    """Read class names, one per line; empty lines are ignored.

    Raises:
        UserError: the file cannot be read, repeats a name, or has too few or too many names.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    classes = [line.strip() for line in lines if line.strip()]
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: lists the class {repeated[0]!r} more than once; make every name unique.")
    if not 0 < len(classes) <= MAX_CLASSES:
        raise UserError(f"{path}: lists {len(classes)} classes; there must be from 1 to {MAX_CLASSES}.")
    return classes


def classes_of_values(counts: np.ndarray) -> list[str] | None:
    """Return class names for labels without a `classes.txt`.

    Args:
        counts: (256,) number of pixels per value in all labels.

    Returns:
        `class_0` up to the largest index. `BINARY` if only 0 and 255 occur: the labels are binary masks, in which 255
        is class 1 and not void. None if no pixel has a class.
    """
    indices = np.flatnonzero(counts[:VOID])
    if not len(indices):
        return None
    if indices[-1] == 0 and counts[VOID]:
        return BINARY
    return [f"class_{index}" for index in range(indices[-1] + 1)]
