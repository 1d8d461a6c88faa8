"""What a contestant is, and the list of them.

A contestant makes, from the arrays and a tolerance, a function without arguments: the call that is timed.  Imports and
set-up that a user does once belong before it, everything that touches the data inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from problems import Data

FIRST, FURTHER, PEER = "ours, first answer", "ours, further answer", "peer"

Make = Callable[[Data, Any], Callable[[], Any]]


@dataclass(frozen=True)
class Contestant:
    method: str
    name: str
    make: Make
    kind: str = PEER
    ladder: tuple[Any, ...] = (None,)  # tolerances, loose to tight: the first that qualifies is timed
    copies: float = 0  # extra memory it needs, in multiples of the float32 dictionary; 2 = copies to float64
    largest: int = 1 << 30  # more atoms than this are known not to finish
    headline: bool = True  # of ours: the row that is compared with the peers
    reason: str = ""  # why `largest`


CONTESTANTS: list[Contestant] = []


def contestant(*methods: str, name: str, **fields: Any) -> Callable[[Any], Any]:
    """Register ``make(data, tol)``, or for several methods ``make(data, tol, method)``."""

    def register(make: Any) -> Any:
        for method in methods:

            def bound(data: Data, tol: Any, method: str = method) -> Any:
                return make(data, tol) if len(methods) == 1 else make(data, tol, method)

            CONTESTANTS.append(Contestant(method, name.format(method=method.removesuffix("_95").removesuffix("_gram")), bound, **fields))
        return make

    return register


def contestants(method: str) -> list[Contestant]:
    import ours  # noqa: F401
    import peers  # noqa: F401

    return [c for c in CONTESTANTS if c.method == method]
