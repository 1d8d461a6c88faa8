"""The peers for the group penalties: groups of atoms in their order, weights the root of their size."""

from __future__ import annotations

from typing import Any

import numpy as np
from contestants import contestant
from problems import GROUP, GROUP_RATIOS, Data
from summary import Call, summary

GROUP_METHODS = ("group_lasso", "sparse_group_lasso")


def _skglm(data: Data, method: str, rows: int, tol: float) -> Any:
    """A function of X and y, rows of them: skglm divides the fit by their number."""
    from skglm.datafits import QuadraticGroup
    from skglm.penalties import WeightedGroupL2, WeightedL1GroupL2
    from skglm.solvers import GroupBCD

    def fit(X: Any, y: Any) -> Any:
        ratio, alpha = GROUP_RATIOS[method], data.group_alpha / rows
        pointers = np.append(data.starts, data.n).astype(np.int32)
        indices = np.arange(data.n, dtype=np.int32)
        weights = np.full(len(data.starts), GROUP**0.5)
        if ratio == 0:
            penalty = WeightedGroupL2(alpha, weights.astype(X.dtype), pointers, indices, positive=False)
        else:
            penalty = WeightedL1GroupL2(alpha, (1 - ratio) * weights, np.full(data.n, ratio), pointers, indices)
        strategy = "subdiff" if ratio == 0 else "fixpoint"
        solver = GroupBCD(max_iter=1000, max_epochs=50_000, tol=tol, ws_strategy=strategy)
        return solver.solve(X, y, QuadraticGroup(pointers, indices), penalty)[0]

    return fit


@contestant(*GROUP_METHODS, name="numpy Gram + skglm on its Cholesky factor", ladder=(1e-5, 1e-6, 1e-7, 1e-8, 1e-9))
def gram_skglm(data: Data, tol: Any, method: str) -> Call:
    fit = _skglm(data, method, data.n, tol)
    return lambda: _on_factor(fit, *summary(data)[:2])


def _on_factor(fit: Any, G: Any, c: Any) -> Any:
    """A'A = LL' and A'y = L(L^-1 c): the same problem with n rows, but for a constant."""
    from scipy.linalg import solve_triangular

    L = np.linalg.cholesky(G)
    return fit(np.asfortranarray(L.T), solve_triangular(L, c, lower=True))


@contestant("group_lasso_gram", name="skglm on the Cholesky factor", ladder=(1e-5, 1e-6, 1e-7, 1e-8, 1e-9))
def skglm_given(data: Data, tol: Any) -> Call:
    fit = _skglm(data, "group_lasso_gram", data.n, tol)
    G, c, _ = summary(data)
    return lambda: _on_factor(fit, G, c)


@contestant(*GROUP_METHODS, name="skglm", ladder=(1e-6, 1e-7, 1e-8), copies=2.1)
def skglm(data: Data, tol: Any, method: str) -> Call:
    fit = _skglm(data, method, data.p, tol)
    # Its groups are compiled for float64.
    return lambda: fit(np.asfortranarray(data.A, dtype=np.float64), data.y.astype(np.float64))


def _adelie(data: Data, tol: float, G: Any, c: Any) -> Any:
    import adelie

    state = adelie.gaussian_cov(
        np.asfortranarray(G), c, groups=data.starts, alpha=1.0, lmda_path=np.array([data.group_alpha]), tol=tol,
        early_exit=False, progress_bar=False,
    )  # fmt: skip
    return state.betas.toarray()[-1]


ADELIE = (1e-5, 1e-7, 1e-9, 1e-11)


@contestant("group_lasso", name="numpy Gram + adelie gaussian_cov", ladder=ADELIE)
def gram_adelie(data: Data, tol: Any) -> Call:
    return lambda: _adelie(data, tol, *summary(data)[:2])


@contestant("group_lasso_gram", name="adelie gaussian_cov", ladder=ADELIE)
def adelie_given(data: Data, tol: Any) -> Call:
    G, c, _ = summary(data)
    G = np.asfortranarray(G)
    return lambda: _adelie(data, tol, G, c)


@contestant("group_lasso", name="adelie grpnet", ladder=ADELIE)
def adelie_naive(data: Data, tol: Any) -> Call:
    import adelie

    def call() -> Any:
        state = adelie.grpnet(
            X=adelie.matrix.dense(data.A, method="naive", n_threads=1),
            glm=adelie.glm.gaussian(y=data.y, dtype=np.float32),
            groups=data.starts,
            alpha=1.0,
            lmda_path=np.array([data.group_alpha], dtype=np.float32) / np.float32(data.p),
            tol=tol,
            intercept=False,
            early_exit=False,
            progress_bar=False,
        )
        return state.betas.toarray()[-1]

    return call
