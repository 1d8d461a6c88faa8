"""Mask: compression to the entries that matter.

Keeps, per module, the k entries with the largest max over the columns of |entry|, exactly k, ties to the lower index:
the compression of UNMERGE, phase 3 (8,928 entries in each of 112 modules, 999,936 in all).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import integers
from ._handle import Handle
from ._library import call, prepared
from ._options import integer
from ._run import ProgressOption, Run
from .errors import bad_range
from .operator import as_operator


class Mask(Handle):
    """The kept entries of every module.  Made by :func:`mask`; given to ``Gram(…, mask=)`` and ``verify(…, mask=)``."""

    _kind = "mask"

    def __init__(self, handle: ctypes.c_void_p, modules: list[str]) -> None:
        self._own(handle)
        self._modules = {name: i for i, name in enumerate(modules)}

    def count(self, module: str | int | None = None) -> int:
        """Number of kept entries of a module (name or index), or of all modules."""
        count = ctypes.c_int64()
        call("mask_count", self._handle, -1 if module is None else self._index(module), ctypes.byref(count))
        return count.value

    def indices(self, module: str | int) -> npt.NDArray[np.int64]:
        """The kept entries of a module: row-major indices inside it, ascending."""
        index = self._index(module)
        found = np.empty(self.count(index), dtype=np.int64)
        call("mask_indices", self._handle, index, integers(found), found.size)
        return found

    def _index(self, module: str | int) -> int:
        if isinstance(module, str):
            if module not in self._modules:
                raise bad_range(f"the mask has no module named {module!r}")
            return self._modules[module]
        index = integer(module, "module")
        if index < 0:  # -1 would mean "all modules" to the library
            raise bad_range(f"module is {index}; it must be a name or an index >= 0")
        return index

    def __repr__(self) -> str:
        if self._handle is None:
            return "<unmerge.Mask, closed>"
        return f"<unmerge.Mask of {self.count()} entries in {len(self._modules)} module(s)>"


def mask(
    A: Any,
    *,
    per_module: int | None = None,
    total: int = 999936,
    threads: int = 0,
    deadline: float = 0,
    progress: ProgressOption = None,
) -> Mask:
    """The entries of the atoms that are largest in absolute value, module by module.

    A: an Operator or a p x n array.  per_module: entries to keep in each module (>= 1; a smaller module keeps all);
    without it, floor(total / number of modules) in each.  Raises ``ValueError`` for a budget that keeps nothing.
    """
    operator = as_operator(A, "A")
    options = prepared(_ffi.unmerge_mask_options, total=integer(total, "total"))
    if per_module is not None:
        options.per_module = integer(per_module, "per_module")
        if options.per_module < 1:  # 0 would mean "use total"
            raise bad_range(f"per_module is {options.per_module}; it must be >= 1")
    handle = ctypes.c_void_p()
    p, n = operator.shape
    with Run(threads=threads, deadline=deadline, progress=progress) as run:
        run.call(
            "mask_create",
            (operator._handle, ctypes.byref(options)),
            (ctypes.byref(handle),),
            predicted=p * max(n, 1) / 5e7,
        )
    return Mask(handle, operator.modules)
