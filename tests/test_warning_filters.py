from __future__ import annotations

import threading
import warnings

import pytest

from upscore.warning_filters import ignored_warnings


def test_only_warnings_of_the_category_are_ignored() -> None:
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        with ignored_warnings(FutureWarning):
            warnings.warn("no", FutureWarning, stacklevel=1)
            warnings.warn("yes", UserWarning, stacklevel=1)
        warnings.warn("yes again", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in recorded] == ["yes", "yes again"]


def test_overlapping_blocks_in_threads_restore_the_filters() -> None:
    before = [*warnings.filters]
    entered, leave = threading.Event(), threading.Event()

    def longer() -> None:
        with ignored_warnings(module="elsewhere"):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=longer)
    with ignored_warnings(module="elsewhere"):
        thread.start()
        assert entered.wait(60)
    assert warnings.filters[0] not in before  # the other block still needs it
    leave.set()
    thread.join()
    assert [*warnings.filters] == before


def test_existing_filters_are_kept() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="elsewhere")
        before = [*warnings.filters]
        with ignored_warnings(FutureWarning, module="elsewhere"), pytest.raises(KeyError), ignored_warnings():
            raise KeyError
        assert [*warnings.filters] == before
