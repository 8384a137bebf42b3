"""The exception for invalid user input, and checks of numbers that raise it."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


class UserError(ValueError):
    """Invalid user input: a file, an option or an argument.

    The message is one sentence with the file, the field or the value, what is wrong with it, and a remedy. The command
    line prints only the message. Any other exception is a bug of upscore and is shown with its traceback.
    """


def require_unit_interval(name: str, value: Any) -> None:
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
