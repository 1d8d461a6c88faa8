"""Sparsity as a ratio of norms: Hoyer's measure, projections on it, and groups under one average.

    z, report = unmerge.group_sparse_projection(weights, sparsity=0.8)     # the columns of a matrix, or a list of arrays
    z, report = unmerge.hoyer_projection(x, sparsity=0.8)                  # every column by itself

``sparsity`` is Hoyer's level everywhere here, not a fraction of zeros: 0 where all magnitudes are equal, 1 where one entry is
left, k equal entries of n in between at (sqrt n - sqrt k) / (sqrt n - 1).  How many zeros a level makes is in the report.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from . import _ffi, prox
from ._arrays import View, integers, output, view
from ._library import call, library, prepared
from ._options import boolean, choice, real
from ._run import ProgressOption, Run
from .errors import bad_shape, bad_type

Array = npt.NDArray[Any]

_OBJECTIVES = {"surrogate": _ffi.UNMERGE_OBJECTIVE_SURROGATE, "squared": _ffi.UNMERGE_OBJECTIVE_SQUARED}
_NORMALISE = {
    "none": _ffi.UNMERGE_NORMALISE_NONE,
    "l2": _ffi.UNMERGE_NORMALISE_L2,
    "rms": _ffi.UNMERGE_NORMALISE_RMS,
}
_GROUP = np.dtype(_ffi.unmerge_group_sparsity)
_STATES = {
    _ffi.UNMERGE_GROUP_EXCLUDED: "excluded",
    _ffi.UNMERGE_GROUP_ZERO: "zero",
    _ffi.UNMERGE_GROUP_ONE_SPARSE: "one_sparse",
    _ffi.UNMERGE_GROUP_TIED: "tied",
}


@dataclass(frozen=True)
class SparseGroup:
    """One group of a projection.

    sparsity : Hoyer's level of what was returned; NaN for fewer than two entries.
    threshold : t, what was taken from every magnitude (times its weight).
    scale : the norm of the projection, the correlation of its direction with the input.
    nonzeros : entries left.
    state : any of "excluded" (fewer than two entries), "zero", "one_sparse" (one entry left), "tied" (equal entries that
        share a mass, because no threshold has the average asked for).
    """

    sparsity: float
    threshold: float
    scale: float
    nonzeros: int
    state: set[str]


@dataclass(frozen=True)
class ProjectionReport:
    """How a projection ended; its certificate is ``duality_gap``.

    outcome : "converged"; "iteration limit" when ``max_iter`` ended the steps of the squared objective.
    discontinuity : the average jumps at the answer; ties were broken by index to meet it all the same.
    iterations : evaluations of the average; 0 when the input was sparse enough and came back bit for bit.
    steps : of the squared objective.
    groups, excluded, zero_groups, one_sparse : groups that count in the average; with fewer than two entries; of zeros
        (counted as sparsity 1); with a single entry left (many of them: a layer that collapses).
    nonzeros, entries : of the answer and of the input; ``zeros`` is the fraction of zeros, which is not ``sparsity``.
    passes : entries read to evaluate the average, in units of the entries there are.
    multiplier : of the average; each group's threshold is in proportion to it.
    sparsity : the average of Hoyer's levels that was reached, before rounding to float32.
    objective, duality_gap, relative_gap : sum of correlations of the directions, and how far at most it is from the best.
    squared_error, relative_error : ||x - z||^2 and ||x - z|| / ||x||.
    """

    outcome: str
    discontinuity: bool
    iterations: int
    steps: int
    groups: int
    excluded: int
    zero_groups: int
    one_sparse: int
    nonzeros: int
    entries: int
    passes: float
    multiplier: float
    sparsity: float
    objective: float
    duality_gap: float
    relative_gap: float
    squared_error: float
    relative_error: float
    seconds: float
    _groups: tuple[Array, ...] = field(repr=False, compare=False)

    @cached_property
    def details(self) -> list[SparseGroup]:
        """One SparseGroup per group, in order."""
        names = {state: {name for bit, name in _STATES.items() if state & bit} for state in range(16)}
        columns = (column.tolist() for column in self._groups)
        return [SparseGroup(level, t, scale, k, set(names[state])) for level, t, scale, k, state in zip(*columns)]

    @property
    def converged(self) -> bool:
        """Whether the steps of the squared objective came to their end."""
        return self.outcome == "converged"

    @property
    def zeros(self) -> float:
        """The fraction of zeros, in [0, 1]."""
        return 1 - self.nonzeros / self.entries if self.entries else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: None for NaN, sorted states."""

        def plain(values: dict[str, Any]) -> dict[str, Any]:
            return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

        groups = [plain(asdict(g) | {"state": sorted(g.state)}) for g in self.details]
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        return plain(numbers) | {"details": groups, "zeros": self.zeros}

    def __str__(self) -> str:
        rows = [
            ("sparsity", f"{self.sparsity:.6f} on average over {self.groups} groups (Hoyer's level)"),
            ("zeros", f"{self.zeros:.2%} of {self.entries} entries"),
            ("error", f"{self.relative_error:.4f} of the norm"),
            ("one entry left", f"in {self.one_sparse} groups"),
            ("duality gap", f"{self.duality_gap:.3g} (relative {self.relative_gap:.3g})"),
            ("evaluations", f"{self.iterations}, {self.passes:.2f} passes" + (", on a jump" if self.discontinuity else "")),
        ]
        return "\n".join(f"{name:<15} {value}" for name, value in rows)


def _source(x: Any, name: str) -> View:
    return view(np.asarray(x, dtype=np.float64) if isinstance(x, (list, tuple)) else x, name)


def hoyer_sparsity(x: Any, weights: Any = None) -> Any:
    """sp(x) = (||w|| - w'|x| / ||x||) / (||w|| - min w), w = weights >= 0 or ones, in [0, 1]; 1 for x = 0.  Hoyer 2004.

    x : a vector (the answer is a float), or a matrix whose columns are taken one by one (an array).  NaN for fewer than two
    entries.
    """
    source = _source(x, "x")
    columns = source.shape[1]
    found = np.empty(columns)
    penalty = None if weights is None else _broadcast(weights, source.shape, "weights")
    call(
        "hoyer_sparsity", source.pointer, None, columns, None if penalty is None else output(penalty).pointer,
        found.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
    )  # fmt: skip
    return float(found[0]) if source.ndim == 1 else found


def hoyer_projection(x: Any, *, sparsity: float = 0.5, nonnegative: bool = False) -> tuple[Array, ProjectionReport]:
    """The nearest z with Hoyer's sparsity of at least ``sparsity``, for a vector or for every column of a matrix by itself.

    Exact, in linear time.  A column that is sparse enough comes back as it is.  nonnegative : also z >= 0.
    Returns z and a report; to let columns share the sparsity take ``group_sparse_projection``.
    """
    positive = boolean(nonnegative, "nonnegative")
    z = (prox.nonnegative_hoyer if positive else prox.hoyer)(x, real(sparsity, "sparsity"))
    before = np.asarray(_source(x, "x").owner if not isinstance(x, np.ndarray) else x, dtype=np.float64).reshape(z.shape)
    after = z.astype(np.float64)
    levels = np.atleast_1d(hoyer_sparsity(after))
    columns = after.reshape(len(after), -1)
    nonzeros = np.count_nonzero(columns, axis=0)
    scale = np.linalg.norm(columns, axis=0)
    states = np.full(len(levels), _ffi.UNMERGE_GROUP_EXCLUDED if len(columns) < 2 else 0)
    if len(columns) >= 2:
        states += np.where(nonzeros == 0, _ffi.UNMERGE_GROUP_ZERO, 0) + np.where(nonzeros == 1, _ffi.UNMERGE_GROUP_ONE_SPARSE, 0)
    counted = levels if len(columns) >= 2 else levels[:0]
    error, size = float(np.linalg.norm(before - after)), float(np.linalg.norm(before))
    report = ProjectionReport(
        outcome="converged",
        discontinuity=False,
        iterations=1,
        steps=0,
        groups=len(counted),
        excluded=len(levels) - len(counted),
        zero_groups=int(np.count_nonzero(states & _ffi.UNMERGE_GROUP_ZERO)),
        one_sparse=int(np.count_nonzero(states & _ffi.UNMERGE_GROUP_ONE_SPARSE)),
        nonzeros=int(nonzeros.sum()),
        entries=after.size,
        passes=math.nan,
        multiplier=math.nan,
        sparsity=float(np.mean(counted)) if len(counted) else 1.0,
        objective=float(scale.sum()),
        duality_gap=math.nan,
        relative_gap=math.nan,
        squared_error=error**2,
        relative_error=error / size if size > 0 else 0.0,
        seconds=math.nan,
        _groups=(levels, np.full(len(levels), math.nan), scale, nonzeros, states),
    )
    return z, report


def _broadcast(weights: Any, shape: tuple[int, int], name: str) -> npt.NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    try:
        return np.broadcast_to(array[:, None] if array.ndim == 1 else array, shape)
    except ValueError:
        raise bad_shape(f"{name} has the shape {array.shape}, expected {shape[0]} numbers or {shape}") from None


@overload
def group_sparse_projection(
    groups: npt.NDArray[Any],
    *,
    sparsity: float = ...,
    objective: Literal["surrogate", "squared"] = ...,
    normalise: Literal["none", "l2", "rms"] = ...,
    weights: Any = ...,
    refit: bool = ...,
    tol: float = ...,
    max_iter: int = ...,
    out: Array | None = ...,
    deadline: float = ...,
    progress: ProgressOption = ...,
) -> tuple[Array, ProjectionReport]: ...


@overload
def group_sparse_projection(
    groups: Sequence[Any],
    *,
    sparsity: float = ...,
    objective: Literal["surrogate", "squared"] = ...,
    normalise: Literal["none", "l2", "rms"] = ...,
    weights: Any = ...,
    refit: bool = ...,
    tol: float = ...,
    max_iter: int = ...,
    deadline: float = ...,
    progress: ProgressOption = ...,
) -> tuple[list[Array], ProjectionReport]: ...


def group_sparse_projection(
    groups: Any,
    *,
    sparsity: float = 0.5,
    objective: Literal["surrogate", "squared"] = "surrogate",
    normalise: Literal["none", "l2", "rms"] = "none",
    weights: Any = None,
    refit: bool = False,
    tol: float = 1e-6,
    max_iter: int = 100,
    out: Array | None = None,
    deadline: float = 0,
    progress: ProgressOption = None,
) -> tuple[Any, ProjectionReport]:
    """z of groups c_1 .. c_r whose average Hoyer sparsity is at least ``sparsity``; each group becomes as sparse as suits it.

        maximise sum_i f_i d_i'|c_i|  with  mean sp(d_i) >= sparsity, ||d_i|| = 1, d_i >= 0;  z_i = (d_i'|c_i|) sign(c_i) o d_i

    groups : a matrix, whose columns are the groups (rows: pass its transpose), or a list of arrays of any shapes, one group
        each.  float32 stays float32, all else becomes float64.
    objective : "surrogate" as above, the global optimum with its certificate; "squared" maximises the sum of squares, which is
        the error ||c - z||, by a sequence of the former: a stationary point with a smaller error.
    normalise : f_i = 1, 1 / ||c_i|| ("l2") or sqrt(n_i) / ||c_i|| ("rms").  With "none" groups of small norm become sparse
        first.
    weights : of the entries, >= 0, as the groups are given (for a matrix also one number per row); None = ones.
    refit : put the original values back on the support found.  The sparsity is then lower than asked for.
    out : for a matrix: the float32 or float64 array of its shape to write to, which may be the matrix; None = a new one.
    tol, max_iter : for "squared": the relative gain of a step to stop at, and how many steps.

    Returns z, an array or a list as the groups came, and a ProjectionReport.  Ohib et al. 2022.
    """
    options = prepared(
        _ffi.unmerge_group_sparse_options,
        sparsity=real(sparsity, "sparsity"),
        objective=choice(objective, "objective", _OBJECTIVES),
        normalise=choice(normalise, "normalise", _NORMALISE),
        refit=boolean(refit, "refit"),
    )
    offsets: npt.NDArray[np.int64] | None = None
    shapes: list[tuple[int, ...]] = []
    penalty: Array | None = None
    if isinstance(groups, (list, tuple)):
        flat, offsets, shapes = _joined(groups, "groups")
        source = view(flat, "groups")
        if weights is not None:
            penalty, _, given = _joined(weights, "weights", np.float64)
            if given != shapes:
                raise bad_shape("weights must be a list of arrays of the shapes of the groups")
            penalty = penalty[:, None]
    elif isinstance(groups, dict):
        raise bad_type("groups is a dict; pass list(groups.values())")
    else:
        source = view(groups, "groups", ndim=(2,))
        if weights is not None:
            penalty = _broadcast(weights, source.shape, "weights")
    rows, columns = source.shape
    count = columns if offsets is None else len(offsets) - 1
    kind = np.float32 if source.dtype == "float32" else np.float64
    # In the order of the input: entries that are neighbours there are neighbours here.
    order: Literal["C", "F"] = "F" if abs(source.struct.strides[0]) < abs(source.struct.strides[1]) else "C"
    z: Array = np.empty((rows, columns), dtype=kind, order=order) if out is None else _writable(out, offsets is not None)
    weight_view = None if penalty is None else output(penalty)
    if weight_view is not None:
        options.weights = ctypes.pointer(weight_view.struct)
    found = (_ffi.unmerge_group_sparsity * count)()
    if count:
        found[0].struct_size = _ffi.LAYOUT["unmerge_group_sparsity"][0]
    report = prepared(_ffi.unmerge_group_sparse_report)
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, progress=progress) as run:
        run.call(
            "group_sparse_projection",
            (source.pointer, integers(offsets), count, ctypes.byref(options)),
            (output(z).pointer, found if count else None, ctypes.byref(report)),
            predicted=1e-8 * rows * columns,
        )
    answer = _report(report, found, rows * columns)
    if offsets is None:
        return z, answer
    parts = [z[a:b, 0].reshape(shape) for a, b, shape in zip(offsets, offsets[1:], shapes)]
    return parts, answer


def _writable(out: Any, is_list: bool) -> Array:
    if is_list:
        raise bad_type("out is given; a list of groups comes back as a list of new arrays")
    if not isinstance(out, np.ndarray) or out.ndim != 2 or not out.flags.writeable:
        raise bad_type("out must be a NumPy array of two dimensions that can be written to")
    return out


def _joined(
    arrays: Sequence[Any], name: str, dtype: type[np.float64] | None = None
) -> tuple[Array, npt.NDArray[np.int64], list[tuple[int, ...]]]:
    """All entries one after the other, where each array begins, and its shape."""
    taken = [np.asarray(a, dtype=dtype) for a in arrays]
    for i, a in enumerate(taken):
        if a.dtype.kind not in "fiu" and a.dtype.name != "bfloat16":
            raise bad_type(f"{name}[{i}] is {a.dtype.name}, expected real numbers")
        if a.size and a.ndim == 0:
            raise bad_shape(f"{name}[{i}] is a single number, expected an array")
    offsets = np.cumsum([0, *(a.size for a in taken)], dtype=np.int64)
    narrow = bool(taken) and all(a.dtype == np.float32 for a in taken)
    flat = np.empty(int(offsets[-1]), dtype=np.float32 if narrow else np.float64)
    for a, start, end in zip(taken, offsets, offsets[1:]):
        flat[start:end] = a.reshape(-1)
    return flat, offsets, [a.shape for a in taken]


def _report(r: Any, groups: Any, entries: int) -> ProjectionReport:
    table = np.frombuffer(groups, dtype=_GROUP) if len(groups) else np.zeros(0, _GROUP)
    return ProjectionReport(
        outcome=library().unmerge_outcome_name(r.outcome).decode(),
        discontinuity=bool(r.flags & _ffi.UNMERGE_FLAG_DISCONTINUITY),
        iterations=r.iterations,
        steps=r.steps,
        groups=r.groups,
        excluded=r.excluded,
        zero_groups=r.zero_groups,
        one_sparse=r.one_sparse,
        nonzeros=r.nonzeros,
        entries=entries,
        passes=r.passes,
        multiplier=r.multiplier,
        sparsity=r.sparsity,
        objective=r.objective,
        duality_gap=r.duality_gap,
        relative_gap=r.relative_gap,
        squared_error=r.squared_error,
        relative_error=r.relative_error,
        seconds=r.seconds,
        _groups=tuple(table[name] for name in ("sparsity", "threshold", "scale", "nonzeros", "state")),
    )


__all__ = ["ProjectionReport", "SparseGroup", "group_sparse_projection", "hoyer_projection", "hoyer_sparsity"]
