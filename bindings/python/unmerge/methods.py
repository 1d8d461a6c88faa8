"""The methods: ``coef, report = unmerge.<method>(data, *, option=…)``.

``data`` is a :class:`Gram`, a pair ``(A, y)`` with atoms in the columns of A (arrays or Operators), or an Operator that
carries a target.  A 1-D target gives coef of shape (n,) and one Report, a p x T target (n, T) and a list of T Reports.
For a pair a Gram is made on the way; make one yourself to ask more than one question of the same data.

Every method answers from G = A'A, c = A'y, ||y||^2 and minimises 1/2 ||A w - y||^2 + penalty(w), without 1/p
(scikit-learn's alpha times p is this alpha).

Run options, shared by all: ``tol`` in (0, 1), the relative gap (or violation, where no gap exists) to reach;
``max_iter`` >= 0 sweeps or pivots per target (0 = certify the warm start); ``deadline`` in seconds (0 = none), over the
data pass and the method together; ``threads`` (0 = one per core; results do not depend on it); ``seed``;
``progress``: a callable given a Progress, or "rich".  A method that ends early returns the best coefficients found and
says so in ``report.outcome``; a data pass that ends early raises ``Cancelled`` or ``DeadlinePassed``.

Errors are ``UnmergeError`` and also ``ValueError`` (range, shape, NaN or infinity in the data, closed handles) or
``TypeError`` (element types that cannot be read in place).
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, output
from ._library import call, prepared
from ._options import INT64, boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_type
from .gram import Blocks, Columns, Gram
from .operator import Operator
from .report import Report, from_c, report_array

Coef = npt.NDArray[np.float64]
# One report for a 1-D target, a list for a p x T one.
Reports = Any
Data = Union[Gram, Operator, tuple[Any, Any]]

VARIANTS = {
    "raw": _ffi.UNMERGE_DOT_RAW,
    "cosine": _ffi.UNMERGE_DOT_COSINE,
    "projection": _ffi.UNMERGE_DOT_PROJECTION,
    "joint": _ffi.UNMERGE_DOT_JOINT,
}

# Above this many atoms a sparse answer is cheaper when only the columns of G it asks for are computed.
ON_DEMAND_ABOVE = 64


def dot(
    data: Data,
    *,
    variant: Literal["raw", "cosine", "projection", "joint"] = "raw",
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Dot products and projections (attribution by similarity).

    "raw": <a_j, y>; "cosine": <a_j, y> / (||a_j|| ||y||), in [-1, 1]; "projection": <a_j, y> / ||a_j||^2, the
    least-squares weight when atom j is alone; "joint": orthogonal projection on the span of all atoms (least squares;
    dependent atoms get 0).  For the first three objective, rss and gap are NaN: they are not a joint fit.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(_ffi.unmerge_dot_options, variant=choice(variant, "variant", VARIANTS))
        return _solve("dot", data, run, options, on_demand=variant != "joint", above=0)  # no column of G is needed


def ridge(
    data: Data,
    *,
    alpha: float = 1.0,
    weights: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Ridge: 1/2 ||Aw-y||^2 + alpha/2 sum_j weights_j w_j^2, by Cholesky.

    alpha >= 0; 0 is least squares (dependent atoms then get 0 and the flag "rank_deficient" is set).
    weights: n non-negative numbers, None = ones.  Hoerl & Kennard 1970.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(_ffi.unmerge_ridge_options, alpha=real(alpha, "alpha"))
        return _solve("ridge", data, run, options, weights=weights)


def lasso(
    data: Data,
    *,
    alpha: float = 1.0,
    relative: bool = False,
    positive: bool = False,
    weights: Any = None,
    lower: Any = None,
    upper: Any = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """LASSO: 1/2 ||Aw-y||^2 + alpha sum_j weights_j |w_j|, with ``positive`` also w >= 0.

    Covariance coordinate descent with an active-set Newton finish; the duality gap is free of cancellation.

    alpha >= 0; with ``relative`` a fraction of :func:`alpha_max`; alpha >= alpha_max gives exactly 0.
    weights: n non-negative numbers that multiply the penalty of each atom (0: unpenalised).  lower, upper: a number or n of
    them, lower <= w <= upper; None = no bound, so signs atom by atom are bounds at 0 (not with ``relative`` where a bound
    excludes 0).  start: coefficients to begin with (n, or n x T).
    Tibshirani 1996; Friedman, Hastie & Tibshirani 2010.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_lasso_options,
            alpha=real(alpha, "alpha"),
            relative=boolean(relative, "relative"),
            positive=boolean(positive, "positive"),
        )
        return _solve("lasso", data, run, options, weights=weights, lower=lower, upper=upper, start=start, on_demand=True)


def elastic_net(
    data: Data,
    *,
    alpha: float = 1.0,
    l1_ratio: float = 0.5,
    relative: bool = False,
    positive: bool = False,
    weights: Any = None,
    lower: Any = None,
    upper: Any = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Elastic net: 1/2 ||Aw-y||^2 + alpha l1_ratio sum weights_j |w_j| + alpha (1-l1_ratio)/2 sum weights_j w_j^2.

    l1_ratio in [0, 1] (1 is the LASSO, 0 ridge; ``relative`` needs > 0); the rest as in :func:`lasso`.
    Zou & Hastie 2005.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_elastic_net_options,
            alpha=real(alpha, "alpha"),
            l1_ratio=real(l1_ratio, "l1_ratio"),
            relative=boolean(relative, "relative"),
            positive=boolean(positive, "positive"),
        )
        return _solve("elastic_net", data, run, options, weights=weights, lower=lower, upper=upper, start=start, on_demand=True)


def nnls(
    data: Data,
    *,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Non-negative least squares: 1/2 ||Aw-y||^2 subject to w >= 0.  Active set, exact zeros.

    The gap is the bound 1/2 v'G^-1 v of the projected gradient v (NaN for a singular or partly known G).
    Lawson & Hanson 1974; Bro & de Jong 1997.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(_ffi.unmerge_nnls_options)
        return _solve("nnls", data, run, options, start=start, on_demand=True)


def omp(
    data: Data,
    *,
    k: int = 10,
    residual_tol: float = 0.0,
    positive: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Orthogonal matching pursuit: greedily min ||Aw-y||^2 with at most k atoms, scored by |a_j'r| / ||a_j||.

    Coefficients are least squares on the selection; ties go to the lower index; ``report.order`` is the order of
    selection.  k >= 1 (more than the usable atoms: clipped, flag "clipped"); stops when ||r|| <= residual_tol ||y||,
    residual_tol in [0, 1]; positive: only atoms with a positive correlation, non-negative refit.
    Pati, Rezaiifar & Krishnaprasad 1993; Rubinstein, Zibulevsky & Elad 2008.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_omp_options,
            k=integer(k, "k", INT64),
            residual_tol=real(residual_tol, "residual_tol"),
            positive=boolean(positive, "positive"),
        )
        return _solve("omp", data, run, options, on_demand=True)


def lasso_path(
    data: Data,
    *,
    alphas: Any = None,
    n_alphas: int = 100,
    alpha_min_ratio: float = 1e-3,
    l1_ratio: float = 1.0,
    positive: bool = False,
    weights: Any = None,
    lower: Any = None,
    upper: Any = None,
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Coef, list[Report]]:
    """A path of elastic nets (LASSO for l1_ratio = 1) for one target over decreasing alphas, each warm-started.

    Gives ``(alphas, coefs, reports)``: n_alphas numbers, n x n_alphas, n_alphas reports, in the order of the grid.
    alphas: values >= 0, in any order, which is kept in the answer; None =
    alpha_max * alpha_min_ratio^(i / (n_alphas - 1)), alpha_min_ratio in (0, 1).  l1_ratio in (0, 1]; target: which column
    of y; lower, upper as in :func:`lasso`.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        grid = None if alphas is None else numbers(alphas, "alphas").reshape(-1)
        count = integer(n_alphas, "n_alphas") if grid is None else grid.size
        if count < 1:
            raise bad_range(f"n_alphas is {count}; it must be >= 1")
        if count > 10_000_000:  # before n x n_alphas numbers are allocated here
            raise bad_range(f"n_alphas is {count}; it must be at most 10000000")
        penalty = _weights(weights, gram)
        options = prepared(
            _ffi.unmerge_path_options,
            l1_ratio=real(l1_ratio, "l1_ratio"),
            alpha_min_ratio=real(alpha_min_ratio, "alpha_min_ratio"),
            n_alphas=count,
            target=integer(target, "target"),
            positive=boolean(positive, "positive"),
        )
        low, high = bounds(lower, upper, gram.atoms)
        options.alphas, options.weights = doubles(grid), doubles(penalty)
        options.lower, options.upper = doubles(low), doubles(high)
        found = np.zeros(count)
        coef = np.zeros((gram.atoms, count), order="F")  # written point by point
        reports = report_array(count)
        run.call(
            "lasso_path",
            (gram._handle, ctypes.byref(options)),
            (doubles(found), output(coef).pointer, reports),
            predicted=_seconds(gram, count),
        )
        return found, coef, from_c(reports)


def alpha_max(
    data: Data, *, l1_ratio: float = 1.0, weights: Any = None, positive: bool = False
) -> Union[float, npt.NDArray[np.float64]]:
    """The smallest alpha whose LASSO (elastic net, l1_ratio in (0, 1)) answer is 0: a number, or one per target.

    positive: for the non-negative problem.
    """
    with Run() as run:
        gram = _gram(data, run, "on_demand")
    penalty = _weights(weights, gram)
    found = np.zeros(gram.targets)
    call(
        "alpha_max",
        gram._handle,
        real(l1_ratio, "l1_ratio"),
        doubles(penalty),
        boolean(positive, "positive"),
        doubles(found),
    )
    return float(found[0]) if gram._vector else found


# ---------------------------------------------------------------- the common road


def _solve(
    name: str,
    data: Data,
    run: Run,
    options: Any,
    *,
    weights: Any = None,
    lower: Any = None,
    upper: Any = None,
    start: Any = None,
    on_demand: bool = False,
    above: int = ON_DEMAND_ABOVE,
) -> tuple[Coef, Reports]:
    gram = _gram(data, run, "on_demand" if on_demand else "all", above)
    n, targets = gram.atoms, gram.targets
    penalty = _weights(weights, gram)  # alive until the call is over
    if penalty is not None:
        options.weights = doubles(penalty)
    low, high = bounds(lower, upper, gram.atoms)
    if low is not None:
        options.lower = doubles(low)
    if high is not None:
        options.upper = doubles(high)
    if start is None:
        coef = np.zeros((n, targets))
    else:
        coef = numbers(start, "start", (n,) if gram._vector else (n, targets)).reshape(n, targets)
        options.warm_start = 1
    reports = report_array(targets)
    order: npt.NDArray[np.int64] | None = None
    outputs: tuple[Any, ...] = (output(coef).pointer, reports)
    if name == "omp":
        # An absurd k must reach the library's own check of k, not an allocation of k x T numbers here; no order is longer
        # than n, so a larger k is asked as n + 1: clipped all the same.
        options.k = min(options.k, n + 1)
        order = np.full((max(options.k, 1), targets), -1, dtype=np.int64)
        outputs = (output(coef).pointer, integers(order), reports)
    run.call(name, (gram._handle, ctypes.byref(options)), outputs, predicted=_seconds(gram, targets))
    found = from_c(reports, order)
    return (coef[:, 0], found[0]) if gram._vector else (coef, found)


def _gram(data: Any, run: Run, columns: Columns, above: int = ON_DEMAND_ABOVE, blocks: Blocks = "one") -> Gram:
    """The Gram itself, or one made from a pair; columns on demand only where there are enough atoms for it to pay."""
    if isinstance(data, Gram):
        return data
    if isinstance(data, Operator):
        if data._target is None:
            raise bad_type("data is an Operator without a target; pass (operator, y) or operator.with_target(y)")
        data = (data, data._target)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise bad_type(f"data is a {type(data).__name__}, expected a Gram, a pair (A, y) or an Operator with a target")
    A, y = data
    atoms = len(A.columns) if isinstance(A, Operator) else A.shape[1] if len(getattr(A, "shape", ())) == 2 else 0
    gram = Gram.__new__(Gram)
    gram._create(A, y, run, columns=columns if atoms > above else "all", blocks=blocks)
    return gram


def _weights(weights: Any, gram: Gram) -> npt.NDArray[np.float64] | None:
    return None if weights is None else numbers(weights, "weights", (gram.atoms,))


def bounds(lower: Any, upper: Any, n: int) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """Both as n numbers; a single one holds for every atom."""

    def each(value: Any, name: str) -> npt.NDArray[np.float64] | None:
        if value is None:
            return None
        array = numbers(value, name)
        return np.full(n, float(array)) if array.ndim == 0 else numbers(array, name, (n,))

    return each(lower, "lower"), each(upper, "upper")


def _seconds(gram: Gram, targets: int) -> float:
    """A pessimistic guess of a method's time; columns on demand may read the data again."""
    info = gram._info()
    n = info.atoms
    reading = info.entries * n / 1e8 if info.columns < n else 0.0
    return reading + max(targets, 1) * (n**3 + 200.0 * n**2) / 1e9
