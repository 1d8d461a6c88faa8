"""Terms of a composite problem: penalties and sets on w, on some of its entries, or on K w.

    terms.L1(0.1)                         # 0.1 sum |w_j|
    terms.Box(0, 1, atoms=[0, 3])         # 0 <= w_0, w_3 <= 1
    terms.L1(0.1, matrix=D)               # 0.1 sum |(D w)_i|

Each takes ``atoms`` (different indices; the term sees those entries in that order) or ``matrix`` (K, k x n), not both; None =
all of w.  ``weights``: numbers >= 0, one per entry the term sees; None = ones.  alpha >= 0.  For :func:`unmerge.minimise`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, view
from ._library import prepared
from ._options import integer, real
from .errors import bad_range, bad_type


class Term:
    """What all terms share; use one of its subclasses."""

    _kind: int = _ffi.UNMERGE_PROX_L1

    def __init__(self, atoms: Any = None, matrix: Any = None, **fields: Any) -> None:
        if type(self) is Term:
            raise bad_type("Term is what terms share; take one of them, for example terms.L1(alpha)")
        if atoms is not None and matrix is not None:
            raise bad_range(f"{type(self).__name__} has atoms and matrix; give one of them")
        self._fields = fields
        self.atoms = atoms
        self.matrix = matrix
        self._function: Callable[[npt.NDArray[np.float64], float], Any] | None = None

    def __repr__(self) -> str:
        shown = {k: v for k, v in self._fields.items() if v is not None}
        shown |= {k: v for k, v in (("atoms", self.atoms), ("matrix", self.matrix)) if v is not None}
        text = ", ".join(f"{k}={v if np.ndim(v) == 0 else f'<{len(v)}>'}" for k, v in shown.items())
        return f"{type(self).__name__}({text})"

    def _write(self, c: Any, n: int, name: str, failures: list[BaseException]) -> list[Any]:
        """Fills the C struct; gives what has to stay alive."""
        c.kind = self._kind
        count = n
        keep: list[Any] = []
        if self.atoms is not None:
            chosen = np.array([integer(j, f"{name}.atoms") for j in self.atoms], dtype=np.int64)
            count = len(chosen)
            # An empty list is not "all": C tells them apart by the pointer.
            backing = chosen if count else np.zeros(1, dtype=np.int64)
            c.atoms, c.n_atoms = integers(backing), count
            keep.append(backing)
        if self.matrix is not None:
            k = view(self.matrix, f"{name}.matrix", ndim=(2,))
            count = k.shape[0]
            c.matrix = ctypes.cast(k.pointer, ctypes.POINTER(_ffi.unmerge_view))
            keep.append(k)
        options = prepared(_ffi.unmerge_prox_options)
        for field, value in self._fields.items():
            if value is None:
                continue
            if field in ("weights", "normal") or np.ndim(value) > 0:
                array = numbers(value, f"{name}.{field}", (count,))
                setattr(c if field in ("lower", "upper") else options, field, doubles(array))
                keep.append(array)
            else:
                setattr(options, field, real(value, f"{name}.{field}"))
        c.options = ctypes.pointer(options)
        keep.append(options)
        if self._function is not None:
            keep.append(self._callback(c, failures))
        return keep

    def _callback(self, c: Any, failures: list[BaseException]) -> Any:
        function = self._function
        assert function is not None

        def callback(_user: object, v: Any, step: float, z: Any, n: int) -> int:
            try:
                given = np.ctypeslib.as_array(v, (n,)).copy() if n else np.zeros(0)
                answer = np.asarray(function(given, step), dtype=np.float64)
                if answer.shape != (n,):
                    raise bad_range(f"the prox of a term gave shape {answer.shape}, expected ({n},)")
                if n:
                    np.ctypeslib.as_array(z, (n,))[:] = answer
                return 0
            except BaseException as error:  # noqa: BLE001  (nothing may be thrown through C)
                failures.append(error)
                return 1

        c.prox = _ffi.unmerge_prox_fn(callback)
        return c.prox


class L1(Term):
    """alpha sum weights_j |z_j|."""

    def __init__(self, alpha: float = 1.0, *, weights: Any = None, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix, alpha=alpha, weights=weights)


class NonnegativeL1(L1):
    """alpha sum weights_j z_j with z >= 0."""

    _kind = _ffi.UNMERGE_PROX_NONNEGATIVE_L1


class L2Squared(L1):
    """alpha/2 sum weights_j z_j^2: the ridge."""

    _kind = _ffi.UNMERGE_PROX_L2_SQUARED


class ElasticNet(Term):
    """alpha [l1_ratio sum weights_j |z_j| + (1-l1_ratio)/2 sum weights_j z_j^2]."""

    _kind = _ffi.UNMERGE_PROX_ELASTIC_NET

    def __init__(
        self, alpha: float = 1.0, *, l1_ratio: float = 0.5, weights: Any = None, atoms: Any = None, matrix: Any = None
    ) -> None:
        super().__init__(atoms, matrix, alpha=alpha, l1_ratio=l1_ratio, weights=weights)


class Huber(Term):
    """alpha sum weights_j h(z_j), h(z) = z^2/(2 gamma) up to |z| = gamma > 0, |z| - gamma/2 beyond."""

    _kind = _ffi.UNMERGE_PROX_HUBER

    def __init__(
        self, alpha: float = 1.0, *, gamma: float = 1.0, weights: Any = None, atoms: Any = None, matrix: Any = None
    ) -> None:
        if not real(gamma, "gamma") > 0:
            raise bad_range(f"gamma is {gamma}; it must be finite and > 0")
        super().__init__(atoms, matrix, alpha=alpha, gamma=gamma, weights=weights)


class Group(Term):
    """alpha ||z||_2: these entries come and go together."""

    _kind = _ffi.UNMERGE_PROX_L2

    def __init__(self, alpha: float = 1.0, *, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix, alpha=alpha)


class SparseGroup(ElasticNet):
    """alpha [l1_ratio sum weights_j |z_j| + (1-l1_ratio) ||z||_2]."""

    _kind = _ffi.UNMERGE_PROX_SPARSE_GROUP


class LInf(Group):
    """alpha max |z_j|."""

    _kind = _ffi.UNMERGE_PROX_LINF


class Slope(L1):
    """alpha sum_i weights_i |z|_(i), |z|_(1) >= |z|_(2) >= ...; weights must not increase."""

    _kind = _ffi.UNMERGE_PROX_SLOPE


class TotalVariation(Group):
    """alpha sum |z_{j+1} - z_j|."""

    _kind = _ffi.UNMERGE_PROX_TOTAL_VARIATION


class Fused(Term):
    """alpha [l1_ratio sum |z_j| + (1-l1_ratio) sum |z_{j+1} - z_j|]."""

    _kind = _ffi.UNMERGE_PROX_FUSED

    def __init__(self, alpha: float = 1.0, *, l1_ratio: float = 0.5, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix, alpha=alpha, l1_ratio=l1_ratio)


class L1Ball(Term):
    """sum |z_j| <= radius."""

    _kind = _ffi.UNMERGE_PROX_L1_BALL

    def __init__(self, radius: float = 1.0, *, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix, radius=radius)


class L2Ball(L1Ball):
    """||z||_2 <= radius."""

    _kind = _ffi.UNMERGE_PROX_L2_BALL


class Simplex(Term):
    """0 <= z_j <= upper, sum z_j = total; total >= 0, upper None = none."""

    _kind = _ffi.UNMERGE_PROX_SIMPLEX

    def __init__(
        self, total: float = 1.0, *, upper: float | None = None, atoms: Any = None, matrix: Any = None
    ) -> None:
        super().__init__(atoms, matrix, radius=total, upper=None if upper is None else real(upper, "upper"))
        if upper is not None:
            self._kind = _ffi.UNMERGE_PROX_CAPPED_SIMPLEX


class Box(Term):
    """lower <= z_j <= upper: numbers, or one per entry."""

    _kind = _ffi.UNMERGE_PROX_BOX

    def __init__(self, lower: Any = -np.inf, upper: Any = np.inf, *, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix, lower=lower, upper=upper)


class Nonnegative(Term):
    """z >= 0."""

    _kind = _ffi.UNMERGE_PROX_NONNEGATIVE

    def __init__(self, *, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix)


class Plane(Term):
    """sum normal_j z_j = offset; normal None = ones."""

    _kind = _ffi.UNMERGE_PROX_PLANE

    def __init__(self, offset: float = 0.0, *, normal: Any = None, atoms: Any = None, matrix: Any = None) -> None:
        super().__init__(atoms, matrix, offset=offset, normal=normal)


class Halfspace(Plane):
    """sum normal_j z_j <= offset; normal None = ones."""

    _kind = _ffi.UNMERGE_PROX_HALFSPACE


class Cone(Nonnegative):
    """The second-order cone: ||(z_1, z_2, ...)||_2 <= z_0."""

    _kind = _ffi.UNMERGE_PROX_CONE


class Monotone(Nonnegative):
    """z_0 <= z_1 <= ..."""

    _kind = _ffi.UNMERGE_PROX_MONOTONE


class Prox(Term):
    """A convex function of your own by its proximal operator: prox(v, step) = argmin step f(z) + 1/2 ||z - v||^2.

    v is a vector, step > 0, the answer as long as v.  The objective is then NaN, and there is no polish.
    """

    _kind = _ffi.UNMERGE_TERM_CALLBACK

    def __init__(
        self, prox: Callable[[npt.NDArray[np.float64], float], Any], *, atoms: Any = None, matrix: Any = None
    ) -> None:
        super().__init__(atoms, matrix)
        if not callable(prox):
            raise bad_type(f"prox is a {type(prox).__name__}, expected a callable prox(v, step)")
        self._function = prox
