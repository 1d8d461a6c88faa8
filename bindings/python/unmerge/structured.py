"""Penalties that tie coefficients together: SLOPE (by their ranks) and the fused LASSO (along an order).

``coef, report = unmerge.slope(data, alpha=…)``; data and run options as in :mod:`unmerge.methods`.  Both are convex: the
duality gap bounds the distance from the optimum.
"""

from __future__ import annotations

import ctypes
from statistics import NormalDist
from typing import Any

import numpy as np

from . import _ffi
from ._arrays import numbers, output
from ._library import prepared
from ._options import boolean, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range
from .methods import Coef, Data, Reports, _gram, _seconds, _solve
from .report import Report, from_c, report_array


def slope(
    data: Data,
    *,
    alpha: float = 1.0,
    weights: Any = None,
    relative: bool = False,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Sorted l1: 1/2 ||Aw-y||^2 + alpha sum_i weights_i |w|_(i), |w|_(1) >= |w|_(2) >= ...

    weights: n numbers >= 0 that do not increase, belonging to ranks, not to atoms; None = ones, the LASSO.  See
    :func:`oscar_weights` and :func:`benjamini_hochberg_weights`.  alpha >= 0; with ``relative`` a fraction of the smallest
    alpha that gives 0.  Atoms that explain the same get coefficients of the same size.

    Bogdan, van den Berg, Sabatti, Su & Candès 2015; Bondell & Reich 2008 (OSCAR).
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_slope_options, alpha=real(alpha, "alpha"), relative=boolean(relative, "relative")
        )
        return _solve("slope", data, run, options, weights=weights, start=start)


def oscar_weights(n: int, *, l1: float = 1.0, pairwise: float = 1.0) -> Coef:
    """Weights of the penalty l1 sum |w_j| + pairwise sum_{j<k} max(|w_j|, |w_k|): l1 + pairwise (n - i), i = 1 ... n.

    l1, pairwise >= 0, not both 0.  Bondell & Reich 2008.
    """
    n, l1, pairwise = integer(n, "n"), real(l1, "l1"), real(pairwise, "pairwise")
    if n < 0:
        raise bad_range(f"n is {n}; it must be >= 0")
    for name, value in (("l1", l1), ("pairwise", pairwise)):
        if not 0 <= value < np.inf:
            raise bad_range(f"{name} is {value}; it must be finite and >= 0")
    return l1 + pairwise * np.arange(n - 1, -1, -1, dtype=np.float64)


def benjamini_hochberg_weights(n: int, *, q: float = 0.1) -> Coef:
    """The quantiles Phi^-1(1 - i q / (2n)), i = 1 ... n.

    With orthonormal atoms and noise of standard deviation s, SLOPE with alpha = s controls the false discovery rate at q.
    q in (0, 1).  Bogdan, van den Berg, Sabatti, Su & Candès 2015.
    """
    n, q = integer(n, "n"), real(q, "q")
    if n < 0:
        raise bad_range(f"n is {n}; it must be >= 0")
    if not 0 < q < 1:
        raise bad_range(f"q is {q}; it must be in (0, 1)")
    quantile = NormalDist().inv_cdf
    # From the lower tail: 1 - x loses small x.
    return np.array([-quantile(i * q / (2 * n)) for i in range(1, n + 1)], dtype=np.float64)


def fused_lasso(
    data: Data,
    *,
    alpha: float = 1.0,
    l1_ratio: float = 0.5,
    relative: bool = False,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Fused LASSO: 1/2 ||Aw-y||^2 + alpha [l1_ratio sum |w_j| + (1-l1_ratio) sum |w_{j+1} - w_j|], in the order of the atoms.

    For atoms that have an order: checkpoints of one run, dates, strengths.  Neighbours get equal coefficients unless the data
    say otherwise.  alpha >= 0; with ``relative`` a fraction of the smallest alpha that gives 0 (needs l1_ratio > 0).
    l1_ratio in [0, 1]; 0 is total variation alone.  An atom that is zero takes the value of its neighbours.

    Tibshirani, Saunders, Rosset, Zhu & Knight 2005.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_fused_lasso_options,
            alpha=real(alpha, "alpha"),
            l1_ratio=real(l1_ratio, "l1_ratio"),
            relative=boolean(relative, "relative"),
        )
        return _solve("fused_lasso", data, run, options, start=start)


def fused_lasso_modules(
    data: Data,
    *,
    alpha: float = 1.0,
    l1_ratio: float = 0.5,
    relative: bool = False,
    start: Any = None,
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Report]:
    """A coefficient per atom and module, tied along the order of the modules (layers of a network).

    1/2 sum_l ||A_l w_l - y_l||^2 + alpha sum_j [l1_ratio sum_l |w_jl| + (1-l1_ratio) sum_l |w_j,l+1 - w_jl|].

    Gives (n x L coefficients, one Report).  data: a Gram with a block per module (the default), or operators with modules;
    L is the number of modules, in the order of the Gram's blocks, folds of a module being added.  target: which column of
    y.  start: n x L.  The rest as in :func:`fused_lasso`.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all", blocks="module")
        modules = len({block.module for block in gram.blocks})
        options = prepared(
            _ffi.unmerge_fused_lasso_options,
            alpha=real(alpha, "alpha"),
            l1_ratio=real(l1_ratio, "l1_ratio"),
            relative=boolean(relative, "relative"),
            target=integer(target, "target"),
        )
        if start is None:
            coef = np.zeros((gram.atoms, modules))
        else:
            coef = numbers(start, "start", (gram.atoms, modules))
            options.warm_start = 1
        report = report_array(1)
        run.call(
            "fused_lasso_modules",
            (gram._handle, ctypes.byref(options)),
            (output(coef).pointer, report),
            predicted=_seconds(gram, modules),
        )
        return coef, from_c(report)[0]
