"""At most k atoms: greedy pursuit, thresholding, best subset.

    min ||Aw - y||^2   with at most k non-zero w_j

``coef, report = unmerge.htp(data, k=…)``; data, run options and errors as in :mod:`unmerge.methods`.  k >= 1; more than the
usable atoms is clipped (flag "clipped").  Coefficients are least squares on the support (with ``positive`` non-negative
least squares), so nothing is shrunk.  The problem is not convex and no bound on the distance to the best k atoms is known:
``duality_gap`` is NaN, ``violation`` is the largest correlation of the residual with an atom that is in.  Best subset says
"swap_optimal" where no exchange of one atom lowers the objective.

groups: labels of shape (n,), or lists of atoms, as in :mod:`unmerge.groups`; k then counts groups.  An atom in no group is
never taken.

size: None takes k atoms; "sic", "bic" or "ebic" the number of atoms with the smallest criterion, up to k.  With q
``effective`` entries (default: all p) and s atoms of n: q ln(rss/p) + s ln(n) ln(ln q), + s ln(q), and the latter
+ 2 gamma ln C(n, s).  Entries of a model are far from independent: with q = p = 10^6 every criterion lets far too much in.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import integers, numbers, output
from ._library import prepared
from ._options import INT64, boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_type
from .groups import _members
from .methods import Coef, Data, Reports, _gram, _seconds
from .report import from_c, report_array

Size = Union[Literal["sic", "bic", "ebic"], None]

PURSUITS = {
    "omp": _ffi.UNMERGE_PURSUIT_OMP,
    "ols": _ffi.UNMERGE_PURSUIT_OLS,
    "mp": _ffi.UNMERGE_PURSUIT_MP,
}
THRESHOLDINGS = {
    "htp": _ffi.UNMERGE_THRESHOLDING_HTP,
    "iht": _ffi.UNMERGE_THRESHOLDING_IHT,
    "normalised": _ffi.UNMERGE_THRESHOLDING_NIHT,
    "accelerated": _ffi.UNMERGE_THRESHOLDING_AIHT,
    "cosamp": _ffi.UNMERGE_THRESHOLDING_COSAMP,
    "subspace": _ffi.UNMERGE_THRESHOLDING_SUBSPACE,
}
STEPS = {"plain": "iht", "normalised": "normalised", "accelerated": "accelerated"}
SIZES = {"sic": _ffi.UNMERGE_SIZE_SIC, "bic": _ffi.UNMERGE_SIZE_BIC, "ebic": _ffi.UNMERGE_SIZE_EBIC}


def pursuit(
    data: Data,
    *,
    k: int = 10,
    kind: Literal["omp", "ols", "mp"] = "omp",
    per_step: int = 1,
    groups: Any = None,
    residual_tol: float = 0.0,
    correlation_tol: float = 0.0,
    positive: bool = False,
    size: Size = None,
    gamma: float = 0.5,
    effective: float = 0.0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Greedy pursuit; ``report.order`` is the order of selection, of groups where there are groups.

    kind: "omp" takes the largest |a_j'r| / ||a_j|| and refits (:func:`omp`); "ols" the atom whose addition lowers ||r||^2
    most (:func:`ols_pursuit`); "mp" moves one coefficient at a time (:func:`matching_pursuit`).
    per_step >= 1: that many join at once, by one score (generalised OMP).  Stops at k, when ||r|| <= residual_tol ||y||, or
    when no atom's cosine with the residual exceeds correlation_tol, both in [0, 1].  positive: w >= 0; not with "ols".
    Pati, Rezaiifar & Krishnaprasad 1993; Wang, Kwon & Shim 2012.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "on_demand")
        options = prepared(
            _ffi.unmerge_pursuit_options,
            k=min(integer(k, "k", INT64), gram.atoms + 1),
            per_step=integer(per_step, "per_step", INT64),
            residual_tol=real(residual_tol, "residual_tol"),
            correlation_tol=real(correlation_tol, "correlation_tol"),
            gamma=real(gamma, "gamma"),
            effective=real(effective, "effective"),
            kind=choice(kind, "kind", PURSUITS),
            positive=boolean(positive, "positive"),
            size=_size(size),
        )
        alive = _group(options, groups, gram.atoms)
        order = np.full((max(options.k, 1), gram.targets), -1, dtype=np.int64)
        return _answer("pursuit", gram, run, options, None, alive, order)


def ols_pursuit(data: Data, *, k: int = 10, **options: Any) -> tuple[Coef, Reports]:
    """Orthogonal least squares (forward selection): the atom whose addition lowers ||r||^2 most joins, all are refitted.

    As cheap as :func:`omp` and better where atoms are alike.  Options of :func:`pursuit`.  Chen, Billings & Luo 1989.
    """
    return pursuit(data, k=k, kind="ols", **options)


def matching_pursuit(data: Data, *, k: int = 10, **options: Any) -> tuple[Coef, Reports]:
    """Matching pursuit: the coefficient of the atom nearest to the residual moves alone; ends before atom k + 1.

    There is no refit: ``report.violation`` says how correlated the residual stays with the selection; ``iterations`` are
    steps.  Options of :func:`pursuit`.  Mallat & Zhang 1993.
    """
    return pursuit(data, k=k, kind="mp", **options)


def htp(
    data: Data,
    *,
    k: int = 10,
    step: float = 0.0,
    groups: Any = None,
    positive: bool = False,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Hard thresholding pursuit: S <- the k largest of |v + mu g|, least squares on S, until S stays.

    v_j = w_j ||a_j||, so what is compared is what atoms contribute, whatever their scale; g is the correlation with the
    residual.  step: the first mu tried, >= 0; 0 = the exact step along the k largest of g.  Steps that do not lower ||r|| are
    halved.  At the end min over S of |v_j| >= mu max |g_j| outside.  start: coefficients to begin with.  Foucart 2011.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        return _thresholding("htp", data, run, k, step, groups, positive, start)


def iht(
    data: Data,
    *,
    k: int = 10,
    variant: Literal["plain", "normalised", "accelerated"] = "normalised",
    step: float = 0.0,
    groups: Any = None,
    positive: bool = False,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Iterative hard thresholding: v <- the k largest of v + mu g, then least squares on the support.

    variant: "plain" has mu = 1/lambda_max of the unit-diagonal Gram, or ``step``; "normalised" the exact step on the
    support; "accelerated" adds two over-relaxations per step.  What is compared is v_j = w_j ||a_j||.
    Blumensath & Davies 2009, 2010; Qiu & Dogandzic 2012.
    """
    choice(variant, "variant", {name: 0 for name in STEPS})
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        return _thresholding(STEPS[variant], data, run, k, step, groups, positive, start)


def cosamp(
    data: Data,
    *,
    k: int = 10,
    groups: Any = None,
    positive: bool = False,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """CoSaMP: least squares on the support and the 2k largest correlations, the k largest kept and refitted.

    Ends when ||r|| does not fall any more and returns the best iterate.  Needs 3k well below the rank.  Needell & Tropp 2009.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        return _thresholding("cosamp", data, run, k, 0.0, groups, positive, start)


def subspace_pursuit(
    data: Data,
    *,
    k: int = 10,
    groups: Any = None,
    positive: bool = False,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Subspace pursuit: as :func:`cosamp` with k instead of 2k, from the k largest correlations.  Dai & Milenkovic 2009."""
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        return _thresholding("subspace", data, run, k, 0.0, groups, positive, start)


def best_subset(
    data: Data,
    *,
    k: int = 10,
    ridge: float = 0.0,
    forced: Any = (),
    positive: bool = False,
    size: Size = None,
    gamma: float = 0.5,
    effective: float = 0.0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Best subset: 1/2 ||Aw-y||^2 + ridge/2 ||w||^2 over all w with at most k non-zeros.

    Every size from the one below and from forward selection, exact exchanges of one atom until none lowers the objective,
    and back from the larger sizes.  Never worse than :func:`ols_pursuit` of the same size; flag "swap_optimal" where no
    exchange of one atom helps.  Not a proof of the global optimum.  ridge >= 0; forced: atoms that are always in (they count);
    positive: w >= 0 (forced atoms may then be 0).  Reads all columns of the Gram.
    Hocking & Leslie 1967; Hazimeh & Mazumder 2020; Zhu, Wen, Zhu, Zhang & Wang 2020.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        options, alive = _subset(k, ridge, forced, positive, size, gamma, effective)
        return _answer("best_subset", gram, run, options, None, alive)


def best_subset_path(
    data: Data,
    *,
    k: int = 10,
    ridge: float = 0.0,
    forced: Any = (),
    positive: bool = False,
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """:func:`best_subset` for all sizes 1 … k: coef of shape (n, k) and a list of k Reports, column s - 1 for size s.

    Of one target of a p x T one.  Sizes below the number of forced atoms hold those.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        options, alive = _subset(k, ridge, forced, positive, None, 0.5, 0.0)
        if options.k > 2**31:
            raise bad_range(f"k is {options.k}; a path has one column per size, ask for at most 2^31")
        options.target = integer(target, "target", INT64)
        columns = max(options.k, 1)
        coef = np.zeros((gram.atoms, columns))
        reports = report_array(columns)
        run.call(
            "best_subset_path", (gram._handle, ctypes.byref(options)), (output(coef).pointer, reports), predicted=_seconds(gram, 1)
        )
        del alive
        return coef, from_c(reports)


def _size(size: Any) -> int:
    return _ffi.UNMERGE_SIZE_K if size is None else choice(size, "size", SIZES)


def _group(options: Any, groups: Any, count: int) -> Any:
    """Sets the groups; the arrays have to live as long as the call."""
    if groups is None:
        return None
    offsets, members = _members(groups, count)
    options.n_groups = len(offsets) - 1
    options.offsets, options.members = integers(offsets), integers(members)
    return offsets, members


def _subset(
    k: int, ridge: float, forced: Any, positive: bool, size: Any, gamma: float, effective: float
) -> tuple[Any, npt.NDArray[np.int64]]:
    if isinstance(forced, (str, bytes)) or not np.iterable(forced):
        raise bad_type(f"forced is {forced!r}, expected a list of atoms")
    atoms = np.array([integer(j, "forced", INT64) for j in forced], dtype=np.int64)
    options = prepared(
        _ffi.unmerge_best_subset_options,
        k=integer(k, "k", INT64),
        ridge=real(ridge, "ridge"),
        gamma=real(gamma, "gamma"),
        effective=real(effective, "effective"),
        n_forced=len(atoms),
        size=_size(size),
        positive=boolean(positive, "positive"),
    )
    if len(atoms):
        options.forced = integers(atoms)
    return options, atoms


def _thresholding(
    kind: str, data: Data, run: Run, k: int, step: float, groups: Any, positive: bool, start: Any
) -> tuple[Coef, Reports]:
    gram = _gram(data, run, "on_demand")
    options = prepared(
        _ffi.unmerge_thresholding_options,
        k=integer(k, "k", INT64),
        step=real(step, "step"),
        kind=THRESHOLDINGS[kind],
        positive=boolean(positive, "positive"),
    )
    return _answer("thresholding", gram, run, options, start, _group(options, groups, gram.atoms))


def _answer(
    name: str, gram: Any, run: Run, options: Any, start: Any, alive: Any, order: npt.NDArray[np.int64] | None = None
) -> tuple[Coef, Reports]:
    n, targets = gram.atoms, gram.targets
    if start is None:
        coef = np.zeros((n, targets))
    else:
        coef = numbers(start, "start", (n,) if gram._vector else (n, targets)).reshape(n, targets)
        options.warm_start = 1
    reports = report_array(targets)
    outputs: tuple[Any, ...] = (output(coef).pointer, reports)
    if order is not None:
        outputs = (output(coef).pointer, integers(order), reports)
    run.call(name, (gram._handle, ctypes.byref(options)), outputs, predicted=_seconds(gram, targets))
    del alive
    found = from_c(reports, order)
    return (coef[:, 0], found[0]) if gram._vector else (coef, found)
