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
from ._arrays import doubles, numbers, output
from ._library import prepared
from ._options import boolean, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range
from .methods import Coef, Data, Reports, _gram, _seconds, _solve, _weights, bounds
from .report import Report, from_c, report_array


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


def dantzig(
    data: Data,
    *,
    delta: float = 1.0,
    relative: bool = False,
    weights: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """The Dantzig selector: sum_j weights_j |w_j| subject to |a_j'(y - Aw)| <= delta weights_j for every atom.

    delta >= 0 in the units of the LASSO's alpha, a fraction of :func:`alpha_max` with ``relative``; 0 is
    :func:`basis_pursuit`.  A simplex method over the Gram that begins at the LASSO's answer; objective and gap are those of
    the linear program, violation the largest breach of a constraint.  Candes & Tao 2007.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_dantzig_options, delta=real(delta, "delta"), relative=boolean(relative, "relative")
        )
        return _solve("dantzig", data, run, options, weights=weights)


def lasso_knots(
    data: Data,
    *,
    alpha_min: float = 0.0,
    relative: bool = False,
    ridge: float = 0.0,
    positive: bool = False,
    weights: Any = None,
    target: int = 0,
    max_knots: int | None = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Coef, Report]:
    """The LASSO's whole path, exactly: (alphas, coefs, report), alphas descending from alpha_max, coefs n x knots.

    1/2 ||Aw-y||^2 + alpha sum_j weights_j |w_j| + ridge/2 sum_j w_j^2 for every alpha down to ``alpha_min`` (a fraction of
    :func:`alpha_max` with ``relative``): between two knots every coefficient is linear in alpha.  max_knots: stop there with
    outcome "iteration limit"; None = as many as there are.  ``report.violation`` is the largest of all knots.
    Osborne, Presnell & Turlach 2000; Efron, Hastie, Johnstone & Tibshirani 2004.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        penalty = _weights(weights, gram)
        room = 4 * gram.atoms + 16 if max_knots is None else integer(max_knots, "max_knots")
        while True:
            if room > 10_000_000:  # before n x room numbers are allocated here
                raise bad_range(f"max_knots is {room}; it must be at most 10000000")
            options = prepared(
                _ffi.unmerge_knots_options,
                alpha_min=real(alpha_min, "alpha_min"),
                ridge=real(ridge, "ridge"),
                max_knots=room,
                target=integer(target, "target"),
                relative=boolean(relative, "relative"),
                positive=boolean(positive, "positive"),
            )
            options.weights = doubles(penalty)
            alphas, coef = np.zeros(max(room, 0)), np.zeros((gram.atoms, max(room, 0)))
            count = ctypes.c_int64()
            reports = report_array(1)
            run.call(
                "lasso_knots",
                (gram._handle, ctypes.byref(options)),
                (doubles(alphas), output(coef).pointer, ctypes.byref(count), reports),
                predicted=_seconds(gram, 2 * gram.atoms),
            )
            (report,) = from_c(reports)
            if max_knots is not None or report.outcome != "iteration limit" or count.value < room:
                return alphas[: count.value].copy(), coef[:, : count.value].copy(), report
            room *= 4


def refit(
    data: Data,
    coef: Any,
    *,
    relax: float = 1.0,
    keep_signs: bool = False,
    lower: Any = None,
    upper: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Relaxed coefficients: (1 - relax) coef + relax refit, refit being least squares on the support of ``coef``.

    coef: n, or n x T, of any method; it is left as it is.  relax in [0, 1]: 1 (default) takes all shrinkage back.
    keep_signs: no coefficient of the refit changes sign; lower, upper: its bounds, as in :func:`bvls`.
    Meinshausen 2007 (relaxed LASSO).
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_refit_options, relax=real(relax, "relax"), keep_signs=boolean(keep_signs, "keep_signs")
        )
        gram = _gram(data, run, "on_demand")
        given = numbers(coef, "coef", (gram.atoms,) if gram._vector else (gram.atoms, gram.targets))
        values = given.reshape(gram.atoms, gram.targets).copy()
        low, high = bounds(lower, upper, gram.atoms)
        options.lower, options.upper = doubles(low), doubles(high)
        reports = report_array(gram.targets)
        outputs = (output(values).pointer, reports)
        run.call("refit", (gram._handle, ctypes.byref(options)), outputs, predicted=_seconds(gram, gram.targets))
        found = from_c(reports)
        return (values[:, 0], found[0]) if gram._vector else (values, found)


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
