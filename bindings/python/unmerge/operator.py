"""Operator: a set of columns (atoms, or targets) over the modules of a model, never made dense.

A module is a named rows x cols matrix; its entries, row by row, are rows*cols consecutive entries of every column, and
p is the sum of rows*cols.  A column is dense on a module (``scale * (values - base)``, subtracted on the fly), a LoRA
product ``scale * B @ A`` (never multiplied out: <B1 A1, B2 A2> = sum of (B1'B2) o (A1 A2')), or zero where it is not set.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Union

from ._arrays import View, view
from ._handle import Handle
from ._library import call
from ._options import integer, real
from .errors import InvalidValue, bad_range, bad_shape, bad_type
from . import _ffi

# A 1-D array, or 1-D/2-D arrays by module name.
Vector = Union[Any, Mapping[str, Any]]


class Operator(Handle):
    """Columns over modules.  Arrays are read in place and kept alive; do not change them while the operator lives.

    >>> op = unmerge.Operator()
    >>> op.add_module("layers.0.q_proj.weight", 4096, 4096)
    >>> op.add_column("medicine")
    >>> op.set_lora("layers.0.q_proj.weight", "medicine", B, A, scale=2.0)   # B 4096 x r, A r x 4096
    """

    _kind = "operator"

    def __init__(self) -> None:
        handle = ctypes.c_void_p()
        call("operator_create", ctypes.byref(handle))
        self._setup(handle)

    def _setup(self, handle: ctypes.c_void_p) -> None:
        self._own(handle)
        self._modules: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        self._sizes: list[tuple[int, int]] = []  # of the modules
        self._stored: dict[str, int] = {}  # dense entries by element type
        self._alive: list[object] = []
        self._factors = False  # a LoRA column somewhere: columns on demand do not apply
        self._vector: bool | None = None  # made from a 1-D array; None: decided by the number of columns
        self._target: Any = None

    @classmethod
    def from_matrix(cls, matrix: Any) -> Operator:
        """The columns of a p x n array: one module named "", columns named "0", "1", …  A 1-D array is one column."""
        source = view(matrix, "matrix")
        handle = ctypes.c_void_p()
        call("operator_from_matrix", source.pointer, ctypes.byref(handle))
        self = cls.__new__(cls)
        self._setup(handle)
        self._modules[""] = 0
        self._sizes.append((source.shape[0], 1))
        self._stored[source.dtype] = source.shape[0] * source.shape[1]
        self._columns.update((str(j), j) for j in range(source.shape[1]))
        self._alive.append(source)
        self._vector = source.ndim == 1
        return self

    @classmethod
    def from_vectors(cls, vectors: Mapping[str, Vector], base: Vector | None = None) -> Operator:
        """One column per entry: a 1-D array, or a dict of 1-D/2-D arrays by module name; minus ``base``, if given.

        The modules are those of all the vectors, in the order met; a vector without a module is zero there.
        Arrays of a module must agree in shape (``ValueError``); 1-D arrays of length m are m x 1 modules.
        """
        self = cls()
        parts = {name: _parts(vector, name) for name, vector in vectors.items()}
        bases = {} if base is None else _parts(base, "base")
        for name, part in parts.items():
            self.add_column(name)
            for module, values in part.items():
                if module not in self._modules:
                    self.add_module(module, *values.shape)
                if base is not None and module not in bases:
                    raise bad_shape(f"base has no module {module!r}, which {name!r} has")
                self.set_dense(module, name, values, base=bases.get(module))
        return self

    def add_module(self, name: str, rows: int, cols: int) -> int:
        """A rows x cols module; names are unique.  Gives its index."""
        index = ctypes.c_int64()
        rows, cols = integer(rows, "rows"), integer(cols, "cols")
        call("operator_add_module", self._handle, _utf8(name), rows, cols, ctypes.byref(index))
        self._modules[name] = index.value
        self._sizes.append((rows, cols))
        return index.value

    def add_column(self, name: str) -> int:
        """A column, zero until it is set; names are unique.  Gives its index."""
        index = ctypes.c_int64()
        call("operator_add_column", self._handle, _utf8(name), ctypes.byref(index))
        self._columns[name] = index.value
        return index.value

    def set_dense(
        self, module: str | int, column: str | int, values: Any, base: Any = None, scale: float = 1.0
    ) -> None:
        """Column on module = ``scale * (values - base)``; both rows x cols, of any of the four types; no base = 0."""
        m, c = _index(module, self._modules, "module"), _index(column, self._columns, "column")
        source = view(values, "values")
        minus = None if base is None else view(base, "base")
        pointer = None if minus is None else minus.pointer
        call("operator_set_dense", self._handle, m, c, source.pointer, pointer, real(scale, "scale"))
        self._stored[source.dtype] = self._stored.get(source.dtype, 0) + source.shape[0] * source.shape[1]
        self._alive.append((source, minus))

    def set_lora(self, module: str | int, column: str | int, B: Any, A: Any, scale: float = 1.0) -> None:
        """Column on module = ``scale * B @ A``; B rows x r (lora_B), A r x cols (lora_A)."""
        m, c = _index(module, self._modules, "module"), _index(column, self._columns, "column")
        b, a = view(B, "B"), view(A, "A")
        call("operator_set_lora", self._handle, m, c, b.pointer, a.pointer, real(scale, "scale"))
        self._alive.append((b, a))
        self._factors = True

    @property
    def shape(self) -> tuple[int, int]:
        """(p, n): entries of a column, number of columns."""
        columns, entries = ctypes.c_int64(), ctypes.c_int64()
        call("operator_shape", self._handle, None, ctypes.byref(columns), ctypes.byref(entries))
        return entries.value, columns.value

    @property
    def modules(self) -> list[str]:
        """Names of the modules, in order."""
        return list(self._modules)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._columns)

    def with_target(self, y: Any) -> Operator:
        """The same operator carrying a target: ``unmerge.nnls(op.with_target(y))`` is ``unmerge.nnls((op, y))``.

        y: an Operator over the same modules, or, for an operator made by ``from_matrix``, an array of p or p x T.
        """
        carrying = Operator.__new__(Operator)
        carrying.__dict__.update(self.__dict__)
        carrying._target = y
        carrying._alive = [self]  # the handle belongs to self
        return carrying

    @property
    def is_vector(self) -> bool:
        """Whether answers for this target are (n,) rather than (n, T): made from 1-D arrays, or a single column."""
        return len(self._columns) == 1 if self._vector is None else self._vector

    def __repr__(self) -> str:
        if self._handle is None:
            return "<unmerge.Operator, closed>"
        p, n = self.shape
        return f"<unmerge.Operator {p} x {n} over {len(self._modules)} module(s)>"


def as_operator(x: Any, name: str) -> Operator:
    """An Operator as it is; an array as the operator of its columns."""
    if isinstance(x, Operator):
        if x._handle is None:
            raise InvalidValue(f"{name} is a closed operator", _ffi.UNMERGE_E_NULL)
        return x
    dimensions = (2,) if name == "A" else (1, 2)
    return Operator.from_matrix(view(x, name, ndim=dimensions))


def _parts(vector: Vector, name: str) -> dict[str, View]:
    if isinstance(vector, Mapping):
        return {module: view(values, f"{name}[{module!r}]") for module, values in vector.items()}
    return {"": view(vector, name, ndim=(1,))}


def _index(which: str | int, names: dict[str, int], what: str) -> int:
    if isinstance(which, str):
        if which not in names:
            raise bad_range(f"there is no {what} named {which!r}")
        return names[which]
    return integer(which, what)  # the library checks the range


def _utf8(name: Any) -> bytes:
    if not isinstance(name, str):
        raise bad_type(f"the name is {name!r}, expected a str")
    if "\0" in name:
        raise bad_range(f"the name {name!r} contains a NUL character")
    try:
        return name.encode("utf-8")
    except UnicodeEncodeError:
        raise bad_range(f"the name {name!r} cannot be written as UTF-8") from None
