"""Gram: the summary every method answers from.  G = A'A (n x n), C = A'Y (n x T), yy = diag(Y'Y), per block, in double.

The data is read once; afterwards every method costs micro- to milliseconds.  Grams add: over rows, files, machines.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Union

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, output, view
from ._files import write_atomically
from ._handle import Handle
from ._library import call, prepared
from ._options import INT32, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_shape, bad_type
from .masks import Mask
from .operator import Operator, as_operator

Precision = Literal["auto", "fast", "exact"]
Columns = Literal["all", "on_demand"]
Blocks = Literal["module", "one"]

PRECISIONS = {
    "auto": _ffi.UNMERGE_PRECISION_AUTO,
    "fast": _ffi.UNMERGE_PRECISION_FAST,
    "exact": _ffi.UNMERGE_PRECISION_EXACT,
}
COLUMNS = {"all": _ffi.UNMERGE_COLUMNS_ALL, "on_demand": _ffi.UNMERGE_COLUMNS_ON_DEMAND}
BLOCKS = {"module": _ffi.UNMERGE_BLOCKS_PER_MODULE, "one": _ffi.UNMERGE_BLOCKS_ONE}


class Block(NamedTuple):
    """One block of a Gram: the module it comes from, its fold, and its number of entries."""

    module: str
    fold: int
    entries: int


class GramArrays(NamedTuple):
    """G (n x n), C (n x T) and yy (T), in float64."""

    G: npt.NDArray[np.float64]
    C: npt.NDArray[np.float64]
    yy: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Info:
    atoms: int
    targets: int
    blocks: int
    entries: int
    passes: int
    columns: int
    precision: int
    condition: float


class Gram(Handle):
    """The one pass over the data.

    Parameters
    ----------
    A : p x n array (atoms in the columns) or Operator.
    y : array of p or p x T, or Operator over the same modules.
    precision : "exact" (double: entry error <= 5e-15 ||a_i|| ||a_j||), "fast" (float32 panels summed in double: 2e-8;
        few atoms or rows, and bf16, f16 or base-subtracted atoms, are summed exactly all the same), or "auto": exact when
        the data is float64 or the exact pass is cheap; else fast, and once more exact when ||G^-1|| says that fast cannot
        reach ``accuracy``.  ``Gram.precision`` tells what was done.
    columns : "all", or "on_demand": C and ||a_j|| now, columns of G in later passes when a sparse method asks for them.
        The Gram then keeps A and y alive.  Ignored where there are LoRA factors.
    blocks : "module" keeps one block per module (evidence per module, leave-one-out), "one" only the sum.
    folds : >= 1; splits every block by a hash of ``seed``, module name and row (of vectors: of 64 rows together).
    accuracy : "auto" only: accuracy of least-squares coefficients, as a fraction of ||y|| / ||a_j||.
    mask : a Mask made for the same modules; None = all entries.
    threads, seed, deadline, progress : see :func:`unmerge.lasso`; a passed deadline raises ``DeadlinePassed``.

    A 1-D y makes answers of shape (n,); a 2-D y of shape (n, T).  Grams can be added (``a + b``), pickled, saved, and
    used as context managers.  Needs 8 n^2 (threads + blocks + 2) bytes beside the data.
    """

    _kind = "gram"

    def __init__(
        self,
        A: Any,
        y: Any,
        *,
        precision: Precision = "auto",
        columns: Columns = "all",
        blocks: Blocks = "module",
        folds: int = 1,
        accuracy: float = 1e-5,
        mask: Mask | None = None,
        threads: int = 0,
        seed: int = 0,
        deadline: float = 0,
        progress: ProgressOption = None,
    ) -> None:
        with Run(threads=threads, seed=seed, deadline=deadline, progress=progress) as run:
            self._create(A, y, run, precision, columns, blocks, folds, accuracy, mask)

    def _create(
        self,
        A: Any,
        y: Any,
        run: Run,
        precision: Precision = "auto",
        columns: Columns = "all",
        blocks: Blocks = "module",
        folds: int = 1,
        accuracy: float = 1e-5,
        mask: Mask | None = None,
    ) -> None:
        options = prepared(
            _ffi.unmerge_gram_options,
            precision=choice(precision, "precision", PRECISIONS),
            columns=choice(columns, "columns", COLUMNS),
            blocks=choice(blocks, "blocks", BLOCKS),
            folds=integer(folds, "folds", INT32),
            accuracy=real(accuracy, "accuracy"),
        )
        if mask is not None:
            options.mask = mask_handle(mask)
        a, target = as_operator(A, "A"), as_operator(y, "y")
        handle = ctypes.c_void_p()
        run.call(
            "gram_create",
            (a._handle, target._handle, ctypes.byref(options)),
            (ctypes.byref(handle),),
            predicted=pass_seconds(a, target),
        )
        keep = (a, target, mask) if columns == "on_demand" else ()
        self._adopt(handle, target.is_vector, keep)

    def _adopt(self, handle: ctypes.c_void_p, vector: bool, keep: tuple[object, ...] = ()) -> None:
        self._own(handle)
        self._vector = vector and self.targets == 1
        self._keep = keep

    @classmethod
    def _wrap(cls, handle: ctypes.c_void_p, vector: bool, keep: tuple[object, ...] = ()) -> Gram:
        self = cls.__new__(cls)
        self._adopt(handle, vector, keep)
        return self

    # ------------------------------------------------------------ other ways to get one

    @classmethod
    def from_arrays(cls, G: Any, c: Any, yy: Any, p: int) -> Gram:
        """From G (n x n; the upper triangle is read), c (n, or n x T), yy (a number, or T) and the number of rows p >= 0."""
        g, correlations = view(G, "G", ndim=(2,)), view(c, "c")
        yy_view = view(numbers(yy, "yy").reshape(-1), "yy")
        handle = ctypes.c_void_p()
        call(
            "gram_from_arrays",
            g.pointer,
            correlations.pointer,
            yy_view.pointer,
            integer(p, "p"),
            ctypes.byref(handle),
        )
        return cls._wrap(handle, correlations.ndim == 1)

    @classmethod
    def load(cls, path: Union[str, os.PathLike[str]]) -> Gram:
        """A Gram from a file written by ``save`` (from C or Python).  With one target, answers are (n,)."""
        with open(path, "rb") as file:
            return cls.from_bytes(file.read())

    @classmethod
    def from_bytes(cls, data: bytes) -> Gram:
        """A Gram from ``to_bytes``.  Raises ``ValueError`` (E_FORMAT) for truncated or damaged bytes."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise bad_type(f"data is a {type(data).__name__}, expected bytes")
        data = bytes(data)
        handle = ctypes.c_void_p()
        call("gram_load", data, len(data), ctypes.byref(handle))
        return cls._wrap(handle, True)

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write to a file: a temporary file beside it, fsync, rename; the old file stays whole until then."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Versioned, little-endian bytes with a checksum."""
        size = ctypes.c_int64()
        call("gram_saved_size", self._handle, ctypes.byref(size))
        buffer = bytearray(size.value)
        target = (ctypes.c_char * size.value).from_buffer(buffer)
        call("gram_save", self._handle, ctypes.addressof(target), size.value)
        del target
        return bytes(buffer)

    def __reduce__(self) -> tuple[Any, tuple[bytes, bool]]:
        return _unpickle, (self.to_bytes(), self._vector)

    def __add__(self, other: object) -> Gram:
        """The sum over the same atoms and targets: blocks of one module name and fold add, others are kept."""
        if not isinstance(other, Gram):
            return NotImplemented
        handle = ctypes.c_void_p()
        call("gram_merge", self._handle, other._handle, ctypes.byref(handle))
        return Gram._wrap(handle, self._vector and other._vector, (*self._keep, *other._keep))

    def __radd__(self, other: object) -> Gram:
        return self if other == 0 else NotImplemented  # so that sum(grams) works

    def subset(self, atoms: Sequence[int] | None = None, blocks: Sequence[int] | None = None) -> Gram:
        """The Gram of some atoms (in the order given) over some blocks (indices into ``blocks``); None = all."""
        chosen_atoms, n_atoms = _indices(atoms, "atoms")
        chosen_blocks, n_blocks = _indices(blocks, "blocks")
        handle = ctypes.c_void_p()
        call(
            "gram_subset",
            self._handle,
            integers(chosen_atoms),
            n_atoms,
            integers(chosen_blocks),
            n_blocks,
            ctypes.byref(handle),
        )
        return Gram._wrap(handle, self._vector, self._keep)

    # ------------------------------------------------------------ with changes, exactly and without the old data

    def add_atoms(
        self,
        A_old: Any,
        A_new: Any,
        y: Any,
        *,
        blocks: Blocks = "module",
        folds: int = 1,
        mask: Mask | None = None,
        threads: int = 0,
        seed: int = 0,
        deadline: float = 0,
        progress: ProgressOption = None,
    ) -> Gram:
        """The Gram with the atoms of A_new after its own, in one pass over [A_new] x [A_old, A_new, y], in double.

        A_old, y, blocks, folds, mask and seed are those the Gram was made with; other data is refused.  Removing atoms is
        :meth:`subset`: what is left has no number of theirs in it.
        """
        with Run(threads=threads, seed=seed, deadline=deadline, progress=progress) as run:
            options = prepared(
                _ffi.unmerge_gram_options,
                blocks=choice(blocks, "blocks", BLOCKS),
                folds=integer(folds, "folds", INT32),
            )
            if mask is not None:
                options.mask = mask_handle(mask)
            old, new, target = as_operator(A_old, "A_old"), as_operator(A_new, "A_new"), as_operator(y, "y")
            handle = ctypes.c_void_p()
            run.call(
                "gram_add_atoms",
                (self._handle, old._handle, new._handle, target._handle, ctypes.byref(options)),
                (ctypes.byref(handle),),
                predicted=pass_seconds(old, target),
            )
        return Gram._wrap(handle, self._vector)

    def transform(self, M: Any) -> Gram:
        """The Gram of the atoms A M, M n x m: rescaled, exchanged, mixed.  G becomes M'GM, C becomes M'C, block by block."""
        handle = ctypes.c_void_p()
        call("gram_transform", self._handle, view(M, "M", ndim=(2,)).pointer, ctypes.byref(handle))
        return Gram._wrap(handle, self._vector)

    def weighted(self, weights: Any) -> Gram:
        """The Gram in which block b counts weights[b] times: non-negative and finite.  Numbers of entries stay."""
        given = numbers(weights, "weights", (self._info().blocks,))
        handle = ctypes.c_void_p()
        call("gram_weighted", self._handle, doubles(given), ctypes.byref(handle))
        return Gram._wrap(handle, self._vector)

    def shift_target(self, M: Any) -> Gram:
        """The Gram of the targets Y + A M, M n (or n x T): c += G m, yy += 2 c'm + m'G m.

        ``gram.shift_target(-w)`` is the Gram of what is left when A w is taken out of the target.
        """
        n, targets = self.atoms, self.targets
        shift = numbers(M, "M", (n,) if self._vector else (n, targets)).reshape(n, targets)
        handle = ctypes.c_void_p()
        call("gram_shift_target", self._handle, view(shift, "M").pointer, ctypes.byref(handle))
        return Gram._wrap(handle, self._vector)

    # ------------------------------------------------------------ what is in it

    def arrays(self, block: int | None = None) -> GramArrays:
        """(G, C, yy) of one block, or of their sum; copies, in float64."""
        info = self._info()
        G = np.empty((info.atoms, info.atoms))
        C = np.empty((info.atoms, info.targets))
        yy = np.empty(info.targets)
        index = -1 if block is None else integer(block, "block")
        if block is not None and index < 0:
            raise bad_shape(f"block is {index}; it must be an index >= 0, or None for the sum")
        call("gram_arrays", self._handle, index, output(G).pointer, output(C).pointer, output(yy).pointer)
        return GramArrays(G, C, yy)

    @property
    def blocks(self) -> list[Block]:
        """(module, fold, entries) of every block."""
        found = []
        for index in range(self._info().blocks):
            module, fold, entries = ctypes.c_char_p(), ctypes.c_int64(), ctypes.c_int64()
            call(
                "gram_block",
                self._handle,
                index,
                ctypes.byref(module),
                ctypes.byref(fold),
                ctypes.byref(entries),
            )
            found.append(Block((module.value or b"").decode("utf-8"), fold.value, entries.value))
        return found

    @property
    def atoms(self) -> int:
        """n."""
        return self._info().atoms

    @property
    def targets(self) -> int:
        """T."""
        return self._info().targets

    @property
    def entries(self) -> int:
        """p: the number of rows the summary was made from."""
        return self._info().entries

    @property
    def passes(self) -> int:
        """Passes over the data so far (0 for a loaded or given Gram)."""
        return self._info().passes

    @property
    def columns(self) -> int:
        """Columns of G known; all of them unless on demand."""
        return self._info().columns

    @property
    def precision(self) -> str:
        """What it was made with: "fast" or "exact"."""
        return "fast" if self._info().precision == _ffi.UNMERGE_PRECISION_FAST else "exact"

    @property
    def condition(self) -> float:
        """Estimate for the unit-diagonal G; infinity when singular; NaN when on demand."""
        return self._info().condition

    def _info(self) -> _Info:
        # gram_info has no _init function: it is written, not read, beyond its size.
        info = _ffi.unmerge_gram_info()
        info.struct_size = ctypes.sizeof(info)
        call("gram_get_info", self._handle, ctypes.byref(info))
        return _Info(
            info.atoms,
            info.targets,
            info.blocks,
            info.entries,
            info.passes,
            info.columns,
            info.precision,
            info.condition,
        )

    def __repr__(self) -> str:
        if self._handle is None:
            return "<unmerge.Gram, closed>"
        i = self._info()
        return (
            f"<unmerge.Gram of {i.atoms} atoms, {i.targets} target(s), {i.entries} entries, {i.blocks} block(s), "
            f"{self.precision}, condition {i.condition:.3g}>"
        )


class Accumulator(Handle):
    """A Gram from rows that come in pieces of any size; the result does not depend on how they are cut.

    atoms: n; targets: T; precision: "fast" or "exact" ("auto" is exact).
    """

    _kind = "accumulator"

    def __init__(self, atoms: int, targets: int = 1, *, precision: Precision = "exact") -> None:
        options = prepared(_ffi.unmerge_gram_options, precision=choice(precision, "precision", PRECISIONS))
        handle = ctypes.c_void_p()
        call(
            "accumulator_create",
            integer(atoms, "atoms"),
            integer(targets, "targets"),
            ctypes.byref(options),
            ctypes.byref(handle),
        )
        self._own(handle)
        self._vector = True

    def add(
        self, A: Any, y: Any, *, threads: int = 0, deadline: float = 0, progress: ProgressOption = None
    ) -> None:
        """The next q rows: A q x n, y of q or q x T.  After an error nothing of the call has been added.

        NaN and infinity are found by :meth:`gram`.
        """
        a, target = view(A, "A", ndim=(2,)), view(y, "y")
        with Run(threads=threads, deadline=deadline, progress=progress) as run:
            run.call(
                "accumulator_add",
                (self._handle, a.pointer, target.pointer),
                (),
                predicted=_seconds(a.shape[0], a.shape[1] + target.shape[1]),
            )
        self._vector = self._vector and target.ndim == 1

    def gram(self) -> Gram:
        """The Gram of the rows so far; more may be added afterwards."""
        handle = ctypes.c_void_p()
        call("accumulator_finish", self._handle, ctypes.byref(handle))
        return Gram._wrap(handle, self._vector)


def pass_seconds(a: Operator, y: Operator) -> float:
    """A pessimistic guess of one pass over the data: it only decides whether a thread is worth its while."""
    p, n = a.shape
    return _seconds(p, n + y.shape[1])


def _seconds(rows: int, columns: int) -> float:
    return rows * columns * max(1.0, columns / 16) / 1e8


def mask_handle(mask: Any) -> int | None:
    if not isinstance(mask, Mask):
        raise bad_type(f"mask is a {type(mask).__name__}, expected an unmerge.Mask")
    return mask._handle


def _indices(chosen: Sequence[int] | None, name: str) -> tuple[npt.NDArray[np.int64] | None, int]:
    if chosen is None:
        return None, 0
    array = np.array([integer(i, f"{name}[{k}]") for k, i in enumerate(chosen)], dtype=np.int64)
    if array.size == 0:  # NULL would mean all
        raise bad_shape(f"{name} is empty; pass None for all of them")
    return array, array.size


def _unpickle(data: bytes, vector: bool) -> Gram:
    gram = Gram.from_bytes(data)
    gram._vector = vector
    return gram
