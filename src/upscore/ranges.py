"""Checks of numbers that users give."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from upscore.errors import UserError


def require_fraction(name: str, value: Any) -> None:
    """Check that a value is a number from 0 to 1.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise UserError(f"{name}={value!r} is invalid: use a number from 0 to 1")


def require_integer(name: str, value: Any, minimum: int) -> None:
    """Check that a value is an integer of at least `minimum`.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, Integral) or value < minimum:
        raise UserError(f"{name}={value!r} is invalid: use an integer of at least {minimum}")
