"""Exceptions: one class per kind of refusal, each also a built-in exception a caller would expect.

The message is the library's one sentence: which argument, what was expected, what came.  ``status`` is the number from
``unmerge.h`` (``UNMERGE_E_SHAPE`` = -3, …), ``name`` its spelling there.
"""

from __future__ import annotations

from . import _ffi


class UnmergeError(Exception):
    """The call did not do its work.  ``status``: the C status; ``name``: its name."""

    def __init__(self, message: str, status: int = _ffi.UNMERGE_E_INTERNAL) -> None:
        super().__init__(message)
        self.status = status

    @property
    def name(self) -> str:
        """The status as it is spelled in ``unmerge.h``, for example ``"UNMERGE_E_SHAPE"``."""
        return _NAMES.get(self.status, "unknown status")

    def __reduce__(self) -> tuple[type[UnmergeError], tuple[str, int]]:
        return type(self), (str(self), self.status)


class InvalidValue(UnmergeError, ValueError):
    """A range, a shape, a file format, a version, a handle or a non-finite number that the library refuses."""


class InvalidType(UnmergeError, TypeError):
    """An element type (or a kind of object) that cannot be read in place."""


class Infeasible(UnmergeError, ValueError):
    """Nothing satisfies the constraints; the message says how near one can come."""


class OutOfMemory(UnmergeError, MemoryError):
    """Memory that grows with the data could not be allocated."""


class Cancelled(UnmergeError):
    """Cancelled before there was an answer."""


class DeadlinePassed(UnmergeError):
    """The deadline passed before there was an answer."""


_NAMES = {value: name for name, value in vars(_ffi).items() if name.startswith("UNMERGE_E_")} | {0: "UNMERGE_OK"}

_CLASSES: dict[int, type[UnmergeError]] = {
    _ffi.UNMERGE_E_NULL: InvalidValue,
    _ffi.UNMERGE_E_RANGE: InvalidValue,
    _ffi.UNMERGE_E_SHAPE: InvalidValue,
    _ffi.UNMERGE_E_DTYPE: InvalidType,
    _ffi.UNMERGE_E_NONFINITE: InvalidValue,
    _ffi.UNMERGE_E_HANDLE: InvalidValue,
    _ffi.UNMERGE_E_VERSION: InvalidValue,
    _ffi.UNMERGE_E_MEMORY: OutOfMemory,
    _ffi.UNMERGE_E_FORMAT: InvalidValue,
    _ffi.UNMERGE_E_CANCELLED: Cancelled,
    _ffi.UNMERGE_E_DEADLINE: DeadlinePassed,
    _ffi.UNMERGE_E_INFEASIBLE: Infeasible,
}


def from_status(status: int, message: str) -> UnmergeError:
    """The exception for a C status."""
    return _CLASSES.get(status, UnmergeError)(message, status)


def bad_range(message: str) -> InvalidValue:
    return InvalidValue(message, _ffi.UNMERGE_E_RANGE)


def bad_shape(message: str) -> InvalidValue:
    return InvalidValue(message, _ffi.UNMERGE_E_SHAPE)


def bad_type(message: str) -> InvalidType:
    return InvalidType(message, _ffi.UNMERGE_E_DTYPE)


def bad_format(message: str) -> InvalidValue:
    return InvalidValue(message, _ffi.UNMERGE_E_FORMAT)
