"""verify and refine: from the data, not from the Gram.

A Gram squares the condition number and loses the residual to cancellation near a perfect fit; one more streamed pass in
double recomputes the certificate (verify) or improves the coefficients by about four digits (refine).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from . import _ffi
from ._arrays import doubles, numbers, output
from ._library import prepared
from ._options import boolean, real
from ._run import ProgressOption, Run
from .errors import bad_shape, bad_type
from .gram import Gram, mask_handle, pass_seconds
from .groups import Penalty
from .masks import Mask
from .methods import Coef, Reports, bounds
from .operator import Operator, as_operator
from .report import from_c, report_array


def verify(
    A: Any,
    y: Any,
    coef: Any,
    *,
    alpha: float = 0,
    l1_ratio: float | None = None,
    weights: Any = None,
    positive: bool = False,
    lower: Any = None,
    upper: Any = None,
    support_only: bool = False,
    groups: Any = None,
    group_weights: Any = None,
    ridge: float = 0,
    ridge_weights: Any = None,
    mask: Mask | None = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Certificate of ``coef`` (n, or n x T) from the data: ``(residual_correlation, report)``.

    residual_correlation is A'(y - A coef), of the shape of coef.  The problem coef answers: alpha, l1_ratio, weights,
    positive, lower and upper as in :func:`elastic_net` (alpha = 0: least squares, with positive NNLS; l1_ratio = 0: ridge);
    support_only: least squares on the non-zero coefficients (OMP).  With groups (and group_weights, ridge, ridge_weights) the
    problem is that of :func:`group_lasso`, whose l1_ratio is 0 unless given; groups must not overlap.  The report has
    ``streamed`` set.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        a, target = as_operator(A, "A"), as_operator(y, "y")
        values, vector = _coef(coef, a, target)
        keep: object
        if groups is None:
            share = 1.0 if l1_ratio is None else l1_ratio
            problem, keep = _problem(a, alpha, share, weights, positive, lower, upper, support_only, mask)
        else:
            problem, keep = _problem(a, 0, 1, None, False, lower, upper, support_only, mask)
            share = 0.0 if l1_ratio is None else l1_ratio
            penalty = Penalty(a.shape[1], groups, alpha, share, group_weights, weights, ridge, ridge_weights, False, positive)
            problem.groups = ctypes.pointer(penalty.options)
            keep = (keep, penalty)
        correlation = np.zeros(values.shape)
        reports = report_array(values.shape[1])
        run.call(
            "verify",
            (a._handle, target._handle, ctypes.byref(problem)),
            (output(values).pointer, output(correlation).pointer, reports),
            predicted=pass_seconds(a, target),
        )
        del keep
        found = from_c(reports)
        return (correlation[:, 0], found[0]) if vector else (correlation, found)


def refine(
    gram: Gram,
    A: Any,
    y: Any,
    coef: Any,
    *,
    alpha: float = 0,
    l1_ratio: float = 1,
    weights: Any = None,
    positive: bool = False,
    lower: Any = None,
    upper: Any = None,
    support_only: bool = False,
    mask: Mask | None = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """One streamed step of refinement: ``(better coef, report)``; ``coef`` itself is left as it is.

    coef += solution of G_SS d = (A'r - penalty gradient)_S on the support S of coef (all atoms for ridge and least
    squares), with the residual r recomputed from the data; signs are kept.  Options as in :func:`verify`.
    """
    if not isinstance(gram, Gram):
        raise bad_type(f"gram is a {type(gram).__name__}, expected an unmerge.Gram")
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        a, target = as_operator(A, "A"), as_operator(y, "y")
        values, vector = _coef(coef, a, target)
        problem, keep = _problem(a, alpha, l1_ratio, weights, positive, lower, upper, support_only, mask)
        reports = report_array(values.shape[1])
        run.call(
            "refine",
            (gram._handle, a._handle, target._handle, ctypes.byref(problem)),
            (output(values).pointer, reports),
            predicted=2 * pass_seconds(a, target),
        )
        del keep
        found = from_c(reports)
        return (values[:, 0], found[0]) if vector else (values, found)


def _coef(coef: Any, a: Operator, y: Operator) -> tuple[Coef, bool]:
    """The coefficients as a fresh n x T array, and whether they came 1-D."""
    values = numbers(coef, "coef")
    vector = values.ndim == 1
    if vector:
        values = values.reshape(-1, 1)
    expected = (a.shape[1], y.shape[1])
    if values.shape != expected:
        came = "x".join(map(str, np.shape(coef)))
        raise bad_shape(f"coef is {came}, expected {expected[0]}x{expected[1]}")
    return values, vector


def _problem(
    a: Operator,
    alpha: float,
    l1_ratio: float,
    weights: Any,
    positive: bool,
    lower: Any,
    upper: Any,
    support_only: bool,
    mask: Mask | None,
) -> tuple[Any, object]:
    """The C problem, and what its pointers point to."""
    penalty = None if weights is None else numbers(weights, "weights", (a.shape[1],))
    problem = prepared(
        _ffi.unmerge_problem,
        alpha=real(alpha, "alpha"),
        l1_ratio=real(l1_ratio, "l1_ratio"),
        positive=boolean(positive, "positive"),
        support_only=boolean(support_only, "support_only"),
    )
    low, high = bounds(lower, upper, a.shape[1])
    problem.weights, problem.lower, problem.upper = doubles(penalty), doubles(low), doubles(high)
    if mask is not None:
        problem.mask = mask_handle(mask)
    return problem, (penalty, low, high, mask)
