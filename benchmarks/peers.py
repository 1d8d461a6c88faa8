"""The peers for everything but the LASSO family, the group penalties and what begins with a Gram, in peers_lasso, peers_groups
and peers_gram."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers_gram  # noqa: F401
import peers_groups  # noqa: F401
from contestants import contestant
from peers_lasso import small_descent
from problems import SIGMA, SIX, Data, normal_equations
from summary import Call, dense, summary


# ---------------------------------------------------------------- the summary itself


@contestant("gram", name="scipy ssyrk")
def ssyrk(data: Data, tol: Any) -> Call:
    from scipy.linalg.blas import ssyrk

    return lambda: ssyrk(1.0, data.A, trans=1)


@contestant("gram", name="numpy D @ D.T")
def numpy_gram(data: Data, tol: Any) -> Call:
    return lambda: data.D @ data.D.T


@contestant("dot", name="numpy D @ y")
def numpy_dot(data: Data, tol: Any) -> Call:
    return lambda: data.D @ data.y


# ---------------------------------------------------------------- ridge


def small_ridge(data: Data, G: Any, c: Any) -> Any:
    from scipy.linalg import cho_factor, cho_solve

    G.flat[:: len(c) + 1] += data.ridge_alpha
    return cho_solve(cho_factor(G, lower=True, overwrite_a=True), c)


@contestant("ridge", name="numpy Gram + scipy cho_solve")
def gram_cho_solve(data: Data, tol: Any) -> Call:
    return lambda: small_ridge(data, *summary(data)[:2])


def _sklearn_ridge(solver: str) -> Any:
    def make(data: Data, tol: Any) -> Call:
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=data.ridge_alpha, fit_intercept=False, solver=solver, tol=tol, copy_X=False)
        return lambda: model.fit(data.A, data.y).coef_

    return make


for solver in ("cholesky", "sparse_cg", "lsqr"):
    ladder = (1e-4,) if solver == "cholesky" else (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    contestant("ridge", name=f"sklearn Ridge({solver})", ladder=ladder)(_sklearn_ridge(solver))


# ---------------------------------------------------------------- NNLS


def small_nnls(G: Any, c: Any) -> Any:
    from scipy.linalg import solve_triangular
    from scipy.optimize import nnls

    L = np.linalg.cholesky(G)
    return nnls(L.T, solve_triangular(L, c, lower=True))[0]


@contestant("nnls", name="numpy Gram + scipy nnls on its Cholesky factor")
def gram_nnls(data: Data, tol: Any) -> Call:
    return lambda: small_nnls(*summary(data)[:2])


@contestant("nnls", name="spams lasso(pos)", ladder=(1e-4, 1e-5, 1e-6))
def spams_nnls(data: Data, tol: Any) -> Call:
    import spams

    y = np.asfortranarray(data.y[:, None])
    l1 = tol * data.alphas[0]  # the LASSO with next to no penalty
    return lambda: dense(spams.lasso(y, D=data.A, lambda1=l1, mode=2, pos=True, numThreads=1))


@contestant("nnls", name="scipy nnls", copies=3, largest=64, reason="takes minutes")
def scipy_nnls(data: Data, tol: Any) -> Call:
    from scipy.optimize import nnls

    return lambda: nnls(data.A, data.y)[0]


# ---------------------------------------------------------------- OMP


@contestant("omp", name="numpy OMP, Gram columns on demand")
def numpy_omp(data: Data, tol: Any) -> Call:
    """One pass for the correlations and one per atom for its column of the Gram; atoms have unit norm."""

    def call() -> Any:
        c = (data.D @ data.y).astype(np.float64)
        columns, w, r = np.zeros((data.n, data.k)), np.zeros(data.n), c
        chosen: list[int] = []
        for step in range(min(data.k, data.n)):
            score = np.abs(r)
            score[chosen] = -1
            chosen.append(int(score.argmax()))
            columns[:, step] = data.D @ data.D[chosen[-1]]
            known = columns[:, : step + 1]
            w[chosen] = np.linalg.solve(known[chosen], c[chosen])
            r = c - known @ w[chosen]
        return w

    return call


@contestant("omp", name="numpy Gram + sklearn orthogonal_mp_gram")
def gram_omp(data: Data, tol: Any) -> Call:
    from sklearn.linear_model import orthogonal_mp_gram

    return lambda: orthogonal_mp_gram(*summary(data)[:2], n_nonzero_coefs=data.k, copy_Gram=False, copy_Xy=False)


@contestant("omp", name="spams omp")
def spams_omp(data: Data, tol: Any) -> Call:
    import spams

    y = np.asfortranarray(data.y[:, None])
    # without eps the answer has been empty
    return lambda: dense(spams.omp(y, D=data.A, L=data.k, eps=0.0, numThreads=1))


@contestant("omp", name="sklearn orthogonal_mp, precompute=False", copies=1.1)
def sklearn_omp_data(data: Data, tol: Any) -> Call:
    from sklearn.linear_model import orthogonal_mp

    return lambda: orthogonal_mp(data.A, data.y, n_nonzero_coefs=data.k)


@contestant("omp", name="sklearn OrthogonalMatchingPursuit", copies=1.1)
def sklearn_omp(data: Data, tol: Any) -> Call:
    from sklearn.linear_model import OrthogonalMatchingPursuit

    model = OrthogonalMatchingPursuit(n_nonzero_coefs=data.k, fit_intercept=False, precompute=True)
    return lambda: model.fit(data.A, data.y).coef_


# ---------------------------------------------------------------- basis pursuit denoising


@contestant("bpdn", name="spgl1 on a float64 copy", ladder=(1e-5, 1e-6, 1e-8), copies=2.1)
def spgl1_bpdn(data: Data, tol: Any) -> Call:
    import spgl1

    # In float32 its line search fails before 1e-6.
    return lambda: spgl1.spg_bpdn(data.A.astype(np.float64), data.y.astype(np.float64), SIGMA, opt_tol=tol, verbosity=0)[0]


@contestant("bpdn", name="numpy float64 Gram + spgl1 on its Cholesky factor", ladder=(1e-5, 1e-6, 1e-8))
def gram_spgl1(data: Data, tol: Any) -> Call:
    """Rows of L' in place of those of A: the same inner products, but for the part of y outside the span."""
    import spgl1
    from scipy.linalg import solve_triangular

    def call() -> Any:
        G, c, yy = normal_equations(data.D, data.y)  # in float32 ||y||^2 - z'z has too few digits
        L = np.linalg.cholesky(G)
        z = solve_triangular(L, c, lower=True)
        rest = max(SIGMA**2 - (yy - z @ z), 0.0)
        return spgl1.spg_bpdn(L.T, z, np.sqrt(rest), opt_tol=tol, verbosity=0)[0]

    return call


# ---------------------------------------------------------------- six methods on bfloat16


@contestant("six", name="numpy Gram of a float32 copy + the best small solvers", copies=1)
def numpy_six(data: Data, tol: Any) -> Call:
    from sklearn.linear_model import orthogonal_mp_gram

    def call() -> Any:
        G, c, yy = summary(Data.of(data.D.astype(np.float32), data.y.astype(np.float32), np.ones(1)))
        answers = {
            "dot": c,
            "lasso": small_descent(G, c, yy, *data.penalties("lasso"), 1e-8),
            "elastic_net": small_descent(G, c, yy, *data.penalties("elastic_net"), 1e-8),
            "nnls": small_nnls(G, c),
            "omp": orthogonal_mp_gram(G, c, n_nonzero_coefs=data.k),
            "ridge": small_ridge(data, G.copy(), c),
        }
        return [answers[name] for name in SIX]

    return call
