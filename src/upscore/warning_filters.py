"""A thread-safe context manager that ignores warnings.

`warnings.catch_warnings` saves and restores the filters of the whole process, so overlapping blocks in several threads
leave a wrong state. Here a filter is added by the first block that needs it and removed by the last.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_Kind = tuple[type[Warning], str]

_lock = threading.Lock()
_blocks: Counter[_Kind] = Counter()
_added: dict[_Kind, Any] = {}


@contextmanager
def ignored_warnings(category: type[Warning] = Warning, *, module: str = "") -> Iterator[None]:
    """Ignore warnings of a category that are raised in modules whose names match a regular expression."""
    kind = category, module
    with _lock:
        _blocks[kind] += 1
        if _blocks[kind] == 1:
            before = [*warnings.filters]
            warnings.filterwarnings("ignore", category=category, module=module)
            if warnings.filters[0] not in before:
                _added[kind] = warnings.filters[0]
    try:
        yield
    finally:
        with _lock:
            _blocks[kind] -= 1
            if not _blocks[kind] and (entry := _added.pop(kind, None)) is not None:
                with suppress(ValueError):  # other code has reset the filters
                    warnings.filters.remove(entry)  # pyright: ignore[reportAttributeAccessIssue]
