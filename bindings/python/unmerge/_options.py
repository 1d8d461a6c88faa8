"""Option values on their way to C: ctypes would cut a number that is too large, so the width is checked here.

Ranges that carry meaning (alpha >= 0, tol in (0, 1), …) are the library's business; it words those refusals itself.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from .errors import bad_range, bad_type

INT64 = (-(2**63), 2**63 - 1)
INT32 = (-(2**31), 2**31 - 1)
UINT64 = (0, 2**64 - 1)


def integer(value: Any, name: str, bounds: tuple[int, int] = INT64) -> int:
    """An exact integer (int, NumPy integer; not 3.0, not "3") that fits the C field."""
    try:
        number = operator.index(value)
    except TypeError:
        raise bad_type(f"{name} is {value!r}, expected an integer") from None
    if not bounds[0] <= number <= bounds[1]:
        raise bad_range(f"{name} is {number}; it must be between {bounds[0]} and {bounds[1]}")
    return number


def real(value: Any, name: str) -> float:
    """A real number, as a C double."""
    if isinstance(value, (str, bytes)):
        raise bad_type(f"{name} is {value!r}, expected a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise bad_type(f"{name} is {value!r}, expected a number") from None
    except OverflowError:
        raise bad_range(f"{name} is too large for a double") from None


def boolean(value: Any, name: str) -> int:
    """True or False (also NumPy's, and 0 or 1), as the 0 or 1 of the header."""
    if isinstance(value, (bool, int)) or type(value).__name__ in ("bool", "bool_"):
        if value in (0, 1):
            return int(value)
        raise bad_range(f"{name} is {value!r}; it must be True or False")
    raise bad_type(f"{name} is {value!r}, expected True or False")


def choice(value: Any, name: str, choices: Mapping[str, int]) -> int:
    """One of a few words."""
    if isinstance(value, str) and value in choices:
        return choices[value]
    words = ", ".join(repr(word) for word in choices)
    raise bad_range(f"{name} is {value!r}; it must be one of {words}")
