"""Least squares and the LASSO under constraints: bounds, mixtures, a budget for the norm or for the residual.

Every function takes a :class:`Gram`, a pair ``(A, y)`` or an Operator with a target, and gives ``(coef, report)``; those
with a multiplier give it as ``report.multiplier``.
"""

from __future__ import annotations

import ctypes
import dataclasses
from typing import Any

import numpy as np

from . import _ffi
from ._arrays import doubles, output
from ._library import prepared
from ._options import boolean, real
from ._run import ProgressOption, Run
from .methods import Coef, Data, Reports, _gram, _seconds, _solve, _weights, bounds
from .report import from_c, report_array


def bvls(
    data: Data,
    *,
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
    """Least squares between bounds: 1/2 ||Aw-y||^2 subject to lower <= w <= upper.

    lower, upper: a number or n of them; None or infinite = no bound; equal ones fix a coefficient.  Bounds are met
    exactly.  The duality gap is finite when all bounds are; else the bound 1/2 v'G^-1 v.  start: n, or n x T coefficients.
    Stark & Parker 1995.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(_ffi.unmerge_bvls_options)
        return _solve("bvls", data, run, options, lower=lower, upper=upper, start=start, on_demand=True)


def simplex(
    data: Data,
    *,
    total: float = 1.0,
    lower: Any = 0.0,
    upper: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Mixtures: 1/2 ||Aw-y||^2 subject to sum w = total, lower <= w <= upper; by default w >= 0 with sum 1.

    lower, upper: a number or n of them (``lower=-inf``: the sum alone); :class:`Infeasible` where they do not allow the sum.
    ``report.multiplier``: d objective / d total.  Exact, face by face.  Stark & Parker 1995; Condat 2016.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        low, high = bounds(lower, upper, gram.atoms)
        options = prepared(_ffi.unmerge_simplex_options, total=real(total, "total"))
        options.lower, options.upper = doubles(low), doubles(high)
        return _with_multiplier("simplex", gram, run, options)


def lasso_tau(
    data: Data,
    *,
    tau: float = 1.0,
    weights: Any = None,
    positive: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """LASSO with a budget: 1/2 ||Aw-y||^2 subject to sum_j weights_j |w_j| <= tau, optionally w >= 0.

    tau >= 0; beyond the norm of the least-squares solution it does not bind.  ``report.multiplier`` is the alpha of
    :func:`lasso` with the same answer.  Exact: the constraint is met to rounding.  Tibshirani 1996.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "on_demand")
        options = prepared(_ffi.unmerge_lasso_tau_options, tau=real(tau, "tau"), positive=boolean(positive, "positive"))
        return _with_multiplier("lasso_tau", gram, run, options, weights)


def bpdn(
    data: Data,
    *,
    sigma: float,
    relative: bool = False,
    weights: Any = None,
    positive: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Basis pursuit denoising: sum_j weights_j |w_j| subject to ||Aw-y|| <= sigma, optionally w >= 0.

    sigma >= 0, a fraction of ||y|| with ``relative``; :class:`Infeasible` below the least-squares residual.
    ``report.multiplier`` is the alpha of :func:`lasso` with the same answer.  Exact: ||Aw-y|| meets sigma to rounding.
    Chen, Donoho & Saunders 1998; van den Berg & Friedlander 2008.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "on_demand")
        options = prepared(
            _ffi.unmerge_bpdn_options,
            sigma=real(sigma, "sigma"),
            relative=boolean(relative, "relative"),
            positive=boolean(positive, "positive"),
        )
        return _with_multiplier("bpdn", gram, run, options, weights)


def basis_pursuit(
    data: Data,
    *,
    weights: Any = None,
    positive: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """The least-squares solution of smallest sum_j weights_j |w_j| (Aw = y where y is in the span), optionally w >= 0.

    Differs from least squares where atoms are dependent.  Chen, Donoho & Saunders 1998.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(_ffi.unmerge_basis_pursuit_options, positive=boolean(positive, "positive"))
        return _solve("basis_pursuit", data, run, options, weights=weights)


def _with_multiplier(name: str, gram: Any, run: Run, options: Any, weights: Any = None) -> tuple[Coef, Reports]:
    penalty = _weights(weights, gram)
    if penalty is not None:
        options.weights = doubles(penalty)
    coef = np.zeros((gram.atoms, gram.targets))
    multiplier = np.zeros(gram.targets)
    reports = report_array(gram.targets)
    outputs = (output(coef).pointer, doubles(multiplier), reports)
    run.call(name, (gram._handle, ctypes.byref(options)), outputs, predicted=_seconds(gram, gram.targets))
    found = [dataclasses.replace(r, multiplier=float(m)) for r, m in zip(from_c(reports), multiplier)]
    return (coef[:, 0], found[0]) if gram._vector else (coef, found)
