"""The owner of one C handle: destroyed exactly once, when it is closed or when Python forgets it."""

from __future__ import annotations

import ctypes
import weakref
from types import TracebackType
from typing import TypeVar

from ._library import destroy

Self = TypeVar("Self", bound="Handle")


class Handle:
    """Base of Operator, Mask, Gram and Accumulator; a context manager."""

    _kind: str  # as in unmerge_<kind>_destroy

    def _own(self, handle: ctypes.c_void_p) -> None:
        self._handle: int | None = handle.value
        self._finalizer = weakref.finalize(self, destroy, self._kind, handle.value or 0)

    def close(self) -> None:
        """Destroy the handle now; later calls that need it raise ``ValueError``."""
        self._finalizer()
        self._handle = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
