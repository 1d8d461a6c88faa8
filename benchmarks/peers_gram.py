"""The peers where the Gram is given: subsets of atoms, and quadratic programs."""

from __future__ import annotations

from typing import Any

import numpy as np
from contestants import contestant
from problems import SETS, Data
from summary import Call, summary


# ---------------------------------------------------------------- at most k atoms


def _largest(x: Any, k: int) -> Any:
    return np.argpartition(-np.abs(x), k - 1)[:k]


def _fitted(G: Any, c: Any, S: Any) -> Any:
    w = np.zeros_like(c)
    w[S] = np.linalg.solve(G[np.ix_(S, S)], c[S])
    return w


def numpy_iht(G: Any, c: Any, k: int) -> Any:
    """Normalised: the exact step along the k largest; atoms have unit norm."""
    w = np.zeros_like(c)
    S = _largest(c, k)
    for _ in range(200):
        g = c - G @ w
        d = np.zeros_like(c)
        d[S] = g[S]
        u = w + (d @ d) / (d @ G @ d) * g
        S = _largest(u, k)
        new = np.zeros_like(c)
        new[S] = u[S]
        if np.linalg.norm(new - w) <= 1e-4 * np.linalg.norm(new):
            break
        w = new
    return _fitted(G, c, S)


def numpy_htp(G: Any, c: Any, k: int) -> Any:
    w, S = np.zeros_like(c), _largest(c, k)
    for _ in range(100):
        g = c - G @ w
        d = np.zeros_like(c)
        d[S] = g[S]
        bend = d @ G @ d
        new = _largest(w + ((d @ d) / bend if bend > 1e-20 else 1.0) * g, k)
        w = _fitted(G, c, new)
        if set(new.tolist()) == set(S.tolist()):
            break
        S = new
    return w


def _pursuit(G: Any, c: Any, k: int, more: int) -> Any:
    w = _fitted(G, c, _largest(c, k))
    rss = -c @ w
    for _ in range(100):
        union = np.union1d(np.flatnonzero(w), _largest(c - G @ w, more))
        new = _fitted(G, c, _largest(_fitted(G, c, union), k))
        if -c @ new >= rss:
            break
        w, rss = new, -c @ new
    return w


NUMPY = {
    "iht_gram": numpy_iht,
    "htp_gram": numpy_htp,
    "cosamp_gram": lambda G, c, k: _pursuit(G, c, k, min(2 * k, len(c))),
    "subspace_pursuit_gram": lambda G, c, k: _pursuit(G, c, k, k),
}


@contestant(*NUMPY, name="numpy")
def numpy_subset(data: Data, tol: Any, method: str) -> Call:
    G, c, _ = summary(data)
    return lambda: NUMPY[method](G, c, min(data.k, data.n))


@contestant("best_subset_gram", name="abess on the Cholesky factor", ladder=(5, 10, 20))  # atoms it exchanges at once
def abess_subset(data: Data, tol: Any) -> Call:
    from abess import LinearRegression
    from scipy.linalg import solve_triangular

    G, c, _ = summary(data)
    model = LinearRegression(support_size=min(data.k, data.n), fit_intercept=False, exchange_num=tol)

    def call() -> Any:
        L = np.linalg.cholesky(G)
        model.fit(L.T, solve_triangular(L, c, lower=True))
        return np.asarray(model.coef_).ravel()

    return call


# ---------------------------------------------------------------- quadratic programs

QUADRATIC = ("lasso_composite_gram", *SETS)


def _program(data: Data, method: str) -> tuple[Any, Any, Any, Any, Any]:
    """P, q, A, l, u of 1/2 x'Px + q'x with l <= Ax <= u; for the LASSO x = (w, t), -t <= w <= t."""
    from scipy import sparse

    G, c, _ = summary(data)
    n = data.n
    eye, P = sparse.eye(n, format="csc"), sparse.csc_matrix(np.triu(G))
    if method in SETS:
        upper, total = SETS[method]
        low, high = np.zeros(n), np.full(n, upper)
        if total is None:
            return P, -c, eye, low, high
        return P, -c, sparse.vstack([eye, np.ones((1, n))], format="csc"), np.append(low, total), np.append(high, total)
    l1 = data.penalties(method)[0]
    P = sparse.block_diag([P, sparse.csc_matrix((n, n))], format="csc")
    A = sparse.bmat([[eye, eye], [-eye, eye]], format="csc")
    return P, np.concatenate([-c, np.full(n, l1)]), A, np.zeros(2 * n), np.full(2 * n, np.inf)


@contestant(*QUADRATIC, name="osqp", ladder=(1e-4, 1e-5, 1e-6, 1e-7, 1e-8))
def osqp_given(data: Data, tol: Any, method: str) -> Call:
    import osqp

    P, q, A, low, high = _program(data, method)

    def call() -> Any:
        solver = osqp.OSQP()
        solver.setup(P, q, A, low, high, eps_abs=tol, eps_rel=tol, max_iter=100_000, verbose=False, polishing=True)
        return solver.solve().x[: data.n]

    return call


@contestant(*QUADRATIC, name="clarabel", ladder=(1e-5, 1e-7, 1e-9))
def clarabel_given(data: Data, tol: Any, method: str) -> Call:
    import clarabel
    from scipy import sparse

    P, q, A, low, high = _program(data, method)
    equal, below, above = low == high, (low < high) & np.isfinite(high), (low < high) & np.isfinite(low)
    rows = sparse.vstack([A[equal], A[below], -A[above]], format="csc")
    b = np.concatenate([high[equal], high[below], -low[above]])
    cones = [clarabel.ZeroConeT(int(equal.sum()))] if equal.any() else []
    cones.append(clarabel.NonnegativeConeT(int(below.sum() + above.sum())))

    def call() -> Any:
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
        return np.array(clarabel.DefaultSolver(P, q, rows, b, cones, settings).solve().x)[: data.n]

    return call
