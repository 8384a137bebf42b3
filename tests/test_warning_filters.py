from __future__ import annotations

import threading
import warnings

import pytest

from upscore.warning_filters import ignored_warnings


def test_warnings_of_the_kind_are_ignored_and_others_are_not() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with ignored_warnings(FutureWarning):
            warnings.warn("no", FutureWarning, stacklevel=1)
            warnings.warn("yes", UserWarning, stacklevel=1)
        warnings.warn("yes again", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in told] == ["yes", "yes again"]


def test_blocks_that_overlap_in_threads_leave_the_filters_as_they_were() -> None:
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
    assert warnings.filters[0] not in before  # the other block needs it still
    leave.set()
    thread.join()
    assert [*warnings.filters] == before


def test_a_filter_of_the_users_own_stays() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="elsewhere")
        before = [*warnings.filters]
        with ignored_warnings(FutureWarning, module="elsewhere"), pytest.raises(KeyError), ignored_warnings():
            raise KeyError
        assert [*warnings.filters] == before
