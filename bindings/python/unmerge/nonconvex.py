"""Penalties that are concave in |w|: exact zeros as with the LASSO, and large coefficients that are not shrunk.

``coef, report = unmerge.mcp(data, alpha=…)``; data and run options as in :mod:`unmerge.methods`.

These problems have many minima.  Each method starts twice, from a path of falling alphas and from the LASSO, and returns
the better end.  The report says what is known of it: ``violation`` of the stationarity conditions, the flag
"local_minimum" (a strict one, certified), the flag "convex" (no other minimum has this support or a part of it), and a
``duality_gap`` where the problem is convex as a whole, NaN else.
"""

from __future__ import annotations

from typing import Any

from . import _ffi
from ._library import prepared
from ._options import boolean, real
from ._run import ProgressOption, Run
from .methods import Coef, Data, Reports, _solve


def mcp(
    data: Data,
    *,
    alpha: float = 1.0,
    gamma: float = 3.0,
    relative: bool = False,
    weights: Any = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Minimax concave penalty: 1/2 ||Aw-y||^2 + sum phi_j(w_j).

    phi_j(w) = l|w| - d_j^2 w^2 / (2 gamma) up to d_j^2 |w| = gamma l, then constant; d_j = ||a_j||, l = alpha weights_j.

    alpha >= 0 in the LASSO's units (with ``relative`` a fraction of :func:`alpha_max`); gamma > 1: large is the LASSO, towards
    1 hard thresholding.  start: coefficients to begin with, instead of the path.  Zhang 2010; Breheny & Huang 2011.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_mcp_options,
            alpha=real(alpha, "alpha"),
            gamma=real(gamma, "gamma"),
            relative=boolean(relative, "relative"),
        )
        return _solve("mcp", data, run, options, weights=weights, start=start, on_demand=True)


def scad(
    data: Data,
    *,
    alpha: float = 1.0,
    gamma: float = 3.7,
    relative: bool = False,
    weights: Any = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Smoothly clipped absolute deviation: 1/2 ||Aw-y||^2 + sum phi_j(w_j).

    phi_j'(w) = l up to d_j^2 w = l, (gamma l - d_j^2 w) / (gamma - 1) up to gamma l, then 0, for w > 0; d_j = ||a_j||,
    l = alpha weights_j.  gamma > 2; the rest as in :func:`mcp`.  Fan & Li 2001.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_scad_options,
            alpha=real(alpha, "alpha"),
            gamma=real(gamma, "gamma"),
            relative=boolean(relative, "relative"),
        )
        return _solve("scad", data, run, options, weights=weights, start=start, on_demand=True)


def cel0(
    data: Data,
    *,
    alpha: float = 1.0,
    relative: bool = False,
    weights: Any = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """Counting atoms, continuously: same global minimisers as 1/2 ||Aw-y||^2 + alpha sum_{w_j != 0} weights_j.

    alpha >= 0 is what an atom has to lower 1/2 ||Aw-y||^2 by; with ``relative`` a fraction of the largest that leaves an atom
    in, max c_j^2 / (2 ||a_j||^2 weights_j).  Robust over a decade of alpha; coefficients are those of least squares on the
    support.  Soubies, Blanc-Féraud & Aubert 2015.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_cel0_options, alpha=real(alpha, "alpha"), relative=boolean(relative, "relative")
        )
        return _solve("cel0", data, run, options, weights=weights, start=start, on_demand=True)


def lq(
    data: Data,
    *,
    alpha: float = 1.0,
    q: float = 0.5,
    relative: bool = False,
    weights: Any = None,
    start: Any = None,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """l_q: 1/2 ||Aw-y||^2 + alpha sum weights_j |w_j|^q, q in [0.1, 0.95].

    0 is stationary whatever the data; the answer is a point that no single coefficient can improve.  alpha >= 0; with
    ``relative`` a fraction of the largest that leaves an atom in.  Xu, Chang, Xu & Zhang 2012.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_lq_options,
            alpha=real(alpha, "alpha"),
            q=real(q, "q"),
            relative=boolean(relative, "relative"),
        )
        return _solve("lq", data, run, options, weights=weights, start=start, on_demand=True)
