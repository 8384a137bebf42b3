"""A thread-safe context manager that ignores warnings.

`warnings.catch_warnings` saves and restores the filters of the whole process, so overlapping blocks in several threads
restore the wrong filters. Here, the first block that needs a filter adds it, and the last block removes it.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_FilterKey = tuple[type[Warning], str]

_lock = threading.Lock()
_active_blocks: Counter[_FilterKey] = Counter()
_added_filters: dict[_FilterKey, Any] = {}


@contextmanager
def ignored_warnings(category: type[Warning] = Warning, *, module: str = "") -> Iterator[None]:
    """Ignore warnings inside the block.

    Args:
        category: ignore this class of warnings and its subclasses.
        module: regular expression for the names of the modules whose warnings are ignored; by default all modules.
    """
    key = category, module
    with _lock:
        _active_blocks[key] += 1
        if _active_blocks[key] == 1:
            before = [*warnings.filters]
            warnings.filterwarnings("ignore", category=category, module=module)
            if warnings.filters[0] not in before:
                _added_filters[key] = warnings.filters[0]
    try:
        yield
    finally:
        with _lock:
            _active_blocks[key] -= 1
            if not _active_blocks[key] and (entry := _added_filters.pop(key, None)) is not None:
                with suppress(ValueError):  # other code has reset the filters in the meantime
                    warnings.filters.remove(entry)  # pyright: ignore[reportAttributeAccessIssue]
