"""The peers for LASSO, elastic net and the path of LASSOs."""

from __future__ import annotations

from typing import Any

import numpy as np
from contestants import contestant
from problems import CV_FOLDS, Data
from summary import Call, dense, summary


NETS = ("lasso", "elastic_net", "elastic_net_95")


# ---------------------------------------------------------------- LASSO and elastic net


def small_descent(G: Any, c: Any, yy: float, l1: float, l2: float, tol: float) -> Any:
    """scikit-learn's coordinate descent on a Gram, the function under Lasso(precompute=G)."""
    from sklearn.linear_model import _cd_fast

    w, rng = np.zeros_like(c), np.random.RandomState(0)
    y = np.array([np.sqrt(yy)])  # only its norm is used
    return _cd_fast.enet_coordinate_descent_gram(w, l1, l2, G, c, y, 100_000, tol, rng, False, False)[0]


@contestant(*NETS, name="numpy Gram + sklearn cd_gram", ladder=(1e-4, 1e-6, 1e-8, 1e-10))
def gram_cd(data: Data, tol: Any, method: str) -> Call:
    l1, l2 = data.penalties(method)
    return lambda: small_descent(*summary(data), l1, l2, tol)


@contestant(*NETS, name="numpy Gram + adelie gaussian_cov", ladder=(1e-5, 1e-7, 1e-9, 1e-11))
def gram_adelie(data: Data, tol: Any, method: str) -> Call:
    alpha, ratio = data.elastic_net(method)
    return _adelie_cov(data, tol, [alpha], ratio, lambda betas: betas[-1])


@contestant(*NETS, name="sklearn (precompute=True)", ladder=(1e-4, 1e-5, 1e-6, 1e-8))
def sklearn_precompute(data: Data, tol: Any, method: str) -> Call:
    from sklearn.linear_model import ElasticNet

    alpha, ratio = data.elastic_net(method)
    model = ElasticNet(
        alpha / data.p, l1_ratio=ratio, precompute=True, fit_intercept=False, copy_X=False, tol=tol, max_iter=100_000
    )
    return lambda: model.fit(data.A, data.y).coef_


@contestant(*NETS, name="spams lasso (LARS)")
def spams_lasso(data: Data, tol: Any, method: str) -> Call:
    import spams

    l1, l2 = data.penalties(method)
    y = np.asfortranarray(data.y[:, None])
    return lambda: dense(spams.lasso(y, D=data.A, lambda1=l1, lambda2=l2, mode=2, numThreads=1))


@contestant(*NETS, name="celer", ladder=(1e-4, 1e-6, 1e-8), copies=1.1)
def celer(data: Data, tol: Any, method: str) -> Call:
    import celer

    alpha, ratio = data.elastic_net(method)
    if method == "lasso":
        model = celer.Lasso(alpha / data.p, fit_intercept=False, tol=tol)
    else:
        model = celer.ElasticNet(alpha / data.p, l1_ratio=ratio, fit_intercept=False, tol=tol)
    return lambda: model.fit(data.A, data.y).coef_


@contestant(*NETS, name="skglm", ladder=(1e-6, 1e-7, 1e-8, 1e-9, 1e-10))
def skglm(data: Data, tol: Any, method: str) -> Call:
    import skglm

    alpha, ratio = data.elastic_net(method)
    if method == "lasso":
        model = skglm.Lasso(alpha / data.p, fit_intercept=False, tol=tol)
    else:
        model = skglm.ElasticNet(alpha / data.p, l1_ratio=ratio, fit_intercept=False, tol=tol)
    return lambda: model.fit(data.A, data.y).coef_


@contestant(*NETS, name="adelie grpnet", ladder=(1e-5, 1e-7, 1e-9, 1e-11))
def adelie_naive(data: Data, tol: Any, method: str) -> Call:
    alpha, ratio = data.elastic_net(method)
    return _adelie_naive(data, tol, [alpha], ratio, lambda betas: betas[-1])


def _adelie_cov(data: Data, tol: float, alphas: Any, ratio: float, pick: Any) -> Call:
    import adelie

    def call() -> Any:
        G, c, _ = summary(data)
        state = adelie.gaussian_cov(
            np.asfortranarray(G), c, alpha=ratio, lmda_path=np.array(alphas), tol=tol, early_exit=False, progress_bar=False
        )
        return pick(state.betas.toarray())

    return call


def _adelie_naive(data: Data, tol: float, alphas: Any, ratio: float, pick: Any) -> Call:
    import adelie

    grid = np.array(alphas, dtype=np.float32) / np.float32(data.p)

    def call() -> Any:
        state = adelie.grpnet(
            X=adelie.matrix.dense(data.A, method="naive", n_threads=1),
            glm=adelie.glm.gaussian(y=data.y, dtype=np.float32),
            alpha=ratio,
            lmda_path=grid,
            tol=tol,
            intercept=False,
            early_exit=False,
            progress_bar=False,
        )
        return pick(state.betas.toarray())

    return call


# ---------------------------------------------------------------- the path of 100 alphas


@contestant("lasso_path", name="numpy Gram + sklearn lasso_path", ladder=(1e-4, 1e-6, 1e-8, 1e-10))
def gram_lasso_path(data: Data, tol: Any) -> Call:
    from sklearn.linear_model import lasso_path

    def call() -> Any:
        G, c, yy = summary(data)
        # With a Gram, lasso_path wants X for its type and number of rows and y for its norm: one row, so that alpha is
        # ours, and float64, as float32 stalls above the error that qualifies.
        stand_in = np.zeros((1, data.n)), np.array([np.sqrt(yy)])
        options = {"precompute": G, "Xy": c, "check_input": False, "tol": tol, "max_iter": 100_000}
        return lasso_path(*stand_in, alphas=data.alphas, **options)[1].T

    return call


@contestant("lasso_path", name="numpy Gram + sklearn lars_path_gram")
def gram_lars(data: Data, tol: Any) -> Call:
    from sklearn.linear_model import lars_path_gram

    def call() -> Any:
        G, c, _ = summary(data)
        # n_samples=1: with p its absolute thresholds are met too early
        limit = {"alpha_min": data.alphas[-1], "max_iter": 100 * data.n}
        knots, _, path = lars_path_gram(c, G, n_samples=1, method="lasso", **limit)
        return np.stack([np.interp(-data.alphas, -knots, row) for row in path]).T

    return call


@contestant("lasso_path", name="numpy Gram + adelie gaussian_cov", ladder=(1e-5, 1e-7, 1e-9, 1e-11))
def gram_adelie_path(data: Data, tol: Any) -> Call:
    return _adelie_cov(data, tol, data.alphas, 1.0, lambda betas: betas)


@contestant("lasso_path", name="adelie grpnet", ladder=(1e-7, 1e-9), largest=256, reason="took > 60 s")
def adelie_path(data: Data, tol: Any) -> Call:
    return _adelie_naive(data, tol, data.alphas, 1.0, lambda betas: betas)


# ---------------------------------------------------------------- cross-validation


def _sklearn_cv(data: Data, tol: Any, dtype: Any) -> Call:
    from sklearn.linear_model import LassoCV
    from sklearn.model_selection import KFold

    model = LassoCV(
        alphas=data.alphas / data.p, cv=KFold(CV_FOLDS), fit_intercept=False, copy_X=False, tol=tol, max_iter=100_000
    )
    return lambda: model.fit(data.A.astype(dtype, copy=False), data.y.astype(dtype)).mse_path_


@contestant("lasso_cv", name="sklearn LassoCV", ladder=(1e-4, 1e-6), copies=2)
def sklearn_cv(data: Data, tol: Any) -> Call:
    return _sklearn_cv(data, tol, np.float32)


@contestant("lasso_cv", name="sklearn LassoCV, float64 copy", ladder=(1e-4, 1e-6, 1e-8), copies=5)
def sklearn_cv_double(data: Data, tol: Any) -> Call:
    return _sklearn_cv(data, tol, np.float64)
