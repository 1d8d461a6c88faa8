"""Model selection from one Gram, from the specification: cross-validation, criteria, degrees of freedom, stability selection.

Oracles: scikit-learn's LassoCV, ElasticNetCV and LassoLarsIC; closed forms and the textbook sums in extended precision;
finite differences.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import unmerge
from oracles import LD, ld
from oracles import solve as exact_solve
from sklearn.linear_model import ElasticNetCV, LassoCV, LassoLarsIC

RNG = np.random.default_rng


def data(seed: int = 0, p: int = 400, n: int = 12, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    A = rng.standard_normal((p, n)) + 0.5 * rng.standard_normal((p, 1))
    w = np.where(rng.random(n) < 0.4, rng.standard_normal(n), 0)
    return A, A @ w + noise * rng.standard_normal(p)


def modules(A: np.ndarray, y: np.ndarray, sizes: list[int]) -> unmerge.Gram:
    """A Gram with one block per run of rows."""
    starts = np.cumsum([0, *sizes])
    assert starts[-1] == len(A)
    a, t = unmerge.Operator(), unmerge.Operator()
    Y = y.reshape(len(y), -1)
    parts = [slice(s, e) for s, e in zip(starts, starts[1:])]
    for op in (a, t):
        for i, size in enumerate(sizes):
            op.add_module(f"m{i}", size, 1)
    for op, M in ((a, A), (t, Y)):
        for j in range(M.shape[1]):
            c = op.add_column(str(j))
            for i, part in enumerate(parts):
                op.set_dense(i, c, np.ascontiguousarray(M[part, j : j + 1]))
    return unmerge.Gram(a, t)


def splits(sizes: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    starts = np.cumsum([0, *sizes])
    rows = np.arange(starts[-1])
    return [(np.r_[rows[:s], rows[e:]], rows[s:e]) for s, e in zip(starts, starts[1:])]


def relative(a: Any, b: Any) -> float:
    return float(np.max(np.abs(ld(a) - ld(b)) / np.maximum(np.abs(ld(b)), 1e-300)))


# ---------------------------------------------------------------- cross-validation


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5, 0.9])
@pytest.mark.parametrize("positive", [False, True])
def test_fold_errors_are_those_of_scikit_learn(l1_ratio: float, positive: bool) -> None:
    sizes = [80, 61, 99, 100, 60]
    A, y = data(1)
    cv = unmerge.cross_validate(modules(A, y, sizes), l1_ratio=l1_ratio, n_alphas=40, positive=positive)
    grid = cv.alphas / len(y)
    kind = LassoCV if l1_ratio == 1 else ElasticNetCV
    extra = {} if l1_ratio == 1 else {"l1_ratio": l1_ratio}
    theirs = kind(
        alphas=grid, cv=splits(sizes), fit_intercept=False, tol=1e-15, max_iter=1_000_000, positive=positive, **extra
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(A, y)
    assert relative(cv.errors, theirs.mse_path_) < 1e-10
    assert relative(cv.mean, theirs.mse_path_.mean(axis=1)) < 1e-10
    assert cv.alpha / len(y) == theirs.alpha_
    assert np.allclose(cv.coef, theirs.coef_, rtol=1e-7, atol=1e-9)
    assert cv.unconverged == 0 and all(r.converged for r in cv.reports)


def test_fold_errors_of_random_problems() -> None:
    """100 problems of 5 folds: conditions up to 1e6, more atoms than rows of a fold, any number of weights."""
    rng = RNG(100)
    for _ in range(100):
        n, sizes = int(rng.integers(1, 12)), [int(s) for s in rng.integers(4, 30, 5)]
        A = rng.standard_normal((sum(sizes), n)) * 10.0 ** rng.uniform(-3, 3, n)
        A += 10.0 ** rng.uniform(-3, 3) * rng.standard_normal((len(A), 1)) * rng.standard_normal(n)
        y = A @ (rng.standard_normal(n) * (rng.random(n) < 0.5)) + rng.exponential() * rng.standard_normal(len(A))
        gram = modules(A, y, sizes)
        cv = unmerge.lasso_cv(gram, n_alphas=6, alpha_min_ratio=1e-2, fold_coefs=True)
        assert cv.unconverged == 0
        for k, (train, test) in enumerate(splits(sizes)):
            for i, alpha in enumerate(cv.alphas):
                w = ld(cv.fold_coefs[k][:, i])
                r = ld(y[train]) - ld(A[train]) @ w
                l1 = LD(alpha) * len(train) / len(A)
                # Optimal for the training rows, by the textbook gap; and the error is that of w on the others.
                primal = r @ r / 2 + l1 * np.abs(w).sum()
                s = min(LD(1), l1 / np.max(np.abs(ld(A[train]).T @ r)))
                dual = ld(y[train]) @ ld(y[train]) / 2 - ((ld(y[train]) - s * r) ** 2).sum() / 2
                assert primal - dual <= 2e-10 * primal + 1e-13 * float(y @ y)
                error = ((ld(y[test]) - ld(A[test]) @ w) ** 2).mean()
                assert abs(LD(cv.errors[i, k]) - error) <= 1e-10 * error + 1e-13 * (ld(y[test]) ** 2).mean()


def test_bounds_hold_in_every_fold() -> None:
    A, y = data(20, p=300, n=6)
    gram = modules(A, y, [100, 100, 100])
    cv = unmerge.lasso_cv(gram, n_alphas=8, lower=-0.1, upper=[0.2] * 6, fold_coefs=True)
    assert cv.fold_coefs is not None and cv.fold_coefs.min() >= -0.1 and cv.fold_coefs.max() <= 0.2
    signed = unmerge.lasso_cv(gram, n_alphas=8, lower=0.0)
    assert np.allclose(signed.errors, unmerge.lasso_cv(gram, n_alphas=8, positive=True).errors, rtol=1e-12)
    with pytest.raises(ValueError, match="bounds"):
        unmerge.lasso_cv(gram, lower=0.1)


def test_grid_begins_at_alpha_max_of_all_the_data() -> None:
    A, y = data(2, p=4000)
    cv = unmerge.lasso_cv((A, y), n_alphas=7, alpha_min_ratio=1e-2)
    assert math.isclose(cv.alphas[0], np.abs(A.T @ y).max(), rel_tol=1e-12)
    assert np.allclose(cv.alphas, cv.alphas[0] * 1e-2 ** (np.arange(7) / 6), rtol=1e-12)
    assert cv.errors.shape == (7, 5)  # five folds by hash


@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_errors_have_a_closed_form(weighted: bool) -> None:
    sizes = [50, 30, 70]
    A, y = data(3, p=150, n=6)
    pi = RNG(0).uniform(0, 2, 6) if weighted else np.ones(6)
    cv = unmerge.ridge_cv(modules(A, y, sizes), n_alphas=12, weights=pi if weighted else None, fold_coefs=True)
    assert math.isclose(cv.alphas[0], (A**2).sum(), rel_tol=1e-12) and math.isclose(cv.alphas[-1], 1e-9 * cv.alphas[0], rel_tol=1e-9)
    for k, (train, test) in enumerate(splits(sizes)):
        G, c = ld(A[train]).T @ ld(A[train]), ld(A[train]).T @ ld(y[train])
        for i, alpha in enumerate(cv.alphas):
            w = exact_solve(G + np.diag(ld(pi)) * LD(alpha) * LD(len(train)) / LD(150), c)
            assert np.allclose(cv.fold_coefs[k][:, i], w.astype(float), rtol=1e-9, atol=1e-12)
            assert relative(cv.errors[i, k], ((ld(y[test]) - ld(A[test]) @ w) ** 2).mean()) < 1e-10


def test_choice_is_argmin_and_one_standard_error() -> None:
    for seed in range(20):
        A, y = data(seed, p=250, n=8, noise=2.0)
        alphas = RNG(seed).permutation(np.geomspace(0.1, 300, 15))
        cv = unmerge.lasso_cv(modules(A, y, [50] * 5), alphas=alphas)
        assert np.array_equal(cv.alphas, alphas)  # the caller's order
        mean = cv.errors.mean(axis=1)
        se = cv.errors.std(axis=1, ddof=1) / math.sqrt(5)
        assert np.allclose(cv.mean, mean, rtol=1e-13) and np.allclose(cv.standard_error, se, rtol=1e-10)
        assert cv.best == int(np.argmin(mean))
        within = alphas[mean <= mean[cv.best] + se[cv.best]]
        assert cv.alpha_one_se == within.max() >= cv.alpha
        assert np.array_equal(cv.coef_one_se, cv.coefs[:, cv.one_se])


def test_ties_go_to_the_larger_alpha() -> None:
    A, y = data(4, p=100, n=3)
    top = 10 * np.abs(A.T @ y).max()
    cv = unmerge.lasso_cv(modules(A, y, [50, 50]), alphas=[top, 2 * top, 1.5 * top])  # all of them give 0
    assert (cv.best, cv.one_se) == (1, 1) and not cv.coefs.any()


def test_errors_are_those_of_the_coefficients_without_cancellation() -> None:
    """Almost perfect fits: rss is 1e-12 of yy, and the difference of the three terms keeps the digits of the block."""
    A, y = data(5, p=300, n=5, noise=0)
    y = y + 1e-6 * RNG(1).standard_normal(300)
    gram = modules(A, y, [100, 100, 100])
    cv = unmerge.lasso_cv(gram, alphas=[1e-8, 1e-9], fold_coefs=True)
    for k in range(3):
        G, C, yy = (ld(x) for x in gram.arrays(k))
        for i in range(2):
            w = ld(cv.fold_coefs[k][:, i])
            direct = (yy[0] - 2 * C[:, 0] @ w + w @ G @ w) / 100
            assert direct < 1e-11 and abs(LD(cv.errors[i, k]) - direct) <= 1e-18 * yy[0] / 100 + 1e-9 * direct


def test_training_grams_are_added_and_never_subtracted() -> None:
    """One fold holds 1e16 times the energy of the others: what is subtracted from a sum would leave noise."""
    A, y = data(6, p=200, n=4)
    A[:50], y[:50] = 1e8 * A[:50], 1e8 * y[:50]
    cv = unmerge.lasso_cv(modules(A, y, [50, 50, 50, 50]), alphas=[1.0], fold_coefs=True)
    train = slice(50, None)
    w, report = unmerge.lasso((A[train], y[train]), alpha=0.75)
    assert report.converged and np.allclose(cv.fold_coefs[0][:, 0], w, rtol=1e-10)


def test_own_folds_of_blocks() -> None:
    A, y = data(7, p=240, n=5)
    gram = modules(A, y, [60, 60, 60, 60])
    cv = unmerge.lasso_cv(gram, folds=[0, -1, 1, 0], n_alphas=5, fold_coefs=True)
    assert cv.errors.shape == (5, 2) and list(cv.folds) == [0, -1, 1, 0]
    for k, held in enumerate(([0, 3], [2])):
        rest = gram.subset(blocks=[b for b in range(4) if b not in held])
        for i, alpha in enumerate(cv.alphas):
            w, _ = unmerge.lasso(rest, alpha=alpha * rest.entries / 240)
            assert np.allclose(cv.fold_coefs[k][:, i], w, rtol=1e-9, atol=1e-12)
    for folds in ([0, 0, 0, 0], [0, 2, 2, 0], [0, -2, 1, 1], [0, 1], [0, 1, 2, 9]):
        with pytest.raises(ValueError, match="fold"):
            unmerge.lasso_cv(gram, folds=folds)


def test_default_folds_are_the_gram_s() -> None:
    A, y = data(8, p=3000, n=3)
    assert unmerge.lasso_cv(unmerge.Gram(A, y, folds=7), n_alphas=2).errors.shape == (2, 7)
    assert unmerge.lasso_cv(modules(A, y, [1000] * 3), n_alphas=2).errors.shape == (2, 3)
    with pytest.raises(ValueError, match="folds"):
        unmerge.lasso_cv(unmerge.Gram(A, y))
    with pytest.raises(TypeError, match="folds"):
        unmerge.lasso_cv(unmerge.Gram(A, y), folds=5)


def test_fold_answers_do_not_depend_on_threads_or_scales() -> None:
    A, y = data(9, p=1000, n=10)
    gram = modules(A, y, [250] * 4)
    one, four = (unmerge.lasso_cv(gram, n_alphas=20, threads=t, fold_coefs=True) for t in (1, 4))
    assert np.array_equal(one.errors, four.errors) and np.array_equal(one.fold_coefs, four.fold_coefs)
    large = unmerge.lasso_cv(modules(A, 1024 * y, [250] * 4), n_alphas=20)
    assert np.allclose(large.errors, 1024.0**2 * one.errors, rtol=1e-9) and np.allclose(large.alphas, 1024 * one.alphas)
    order = RNG(0).permutation(10)
    mixed = unmerge.lasso_cv(modules(A[:, order] * np.where(order % 2, 1, -1), y, [250] * 4), n_alphas=20)
    assert np.allclose(mixed.errors, one.errors, rtol=1e-9)


def test_cross_validation_of_degenerate_data() -> None:
    A, y = data(10, p=200, n=4)
    zero = unmerge.lasso_cv(modules(A, np.zeros(200), [100, 100]), n_alphas=3)
    assert not zero.errors.any() and not zero.coefs.any()
    A[:100, 0] = 0  # unseen by one training set
    A[:, 2] = A[:, 1]
    cv = unmerge.lasso_cv(modules(A, y, [100, 100]), n_alphas=10)
    assert np.isfinite(cv.errors).all()


def test_cross_validation_prints_a_table() -> None:
    A, y = data(11, p=4000)
    text = str(unmerge.lasso_cv((A, y)))
    assert "5-fold" in text and "best" in text and "1 SE" in text


# ---------------------------------------------------------------- degrees of freedom


def divergence(method: Any, A: np.ndarray, y: np.ndarray, h: float = 1e-6) -> float:
    """sum_i d(Aw)_i / dy_i by central differences, one target per direction."""
    p = len(y)
    Y = np.concatenate([y[:, None] + h * np.eye(p), y[:, None] - h * np.eye(p)], axis=1)
    W, _ = method(unmerge.Gram(A, Y, precision="exact"))
    fit = A @ W
    return float(np.trace(fit[:, :p] - fit[:, p:]) / (2 * h))


METHODS = {
    "ols": lambda g: unmerge.ridge(g, alpha=0),
    "joint": lambda g: unmerge.dot(g, variant="joint"),
    "ridge": lambda g: unmerge.ridge(g, alpha=7.0),
    "ridge, weighted": lambda g: unmerge.ridge(g, alpha=7.0, weights=[0, 1, 2, 0.5, 3, 1, 0, 9]),
    "lasso": lambda g: unmerge.lasso(g, alpha=4.0, tol=1e-13),
    "lasso, weighted": lambda g: unmerge.lasso(g, alpha=4.0, weights=[0, 1, 2, 0.5, 3, 1, 0, 9], tol=1e-13),
    "lasso, positive": lambda g: unmerge.lasso(g, alpha=4.0, positive=True, tol=1e-13),
    "elastic net": lambda g: unmerge.elastic_net(g, alpha=9.0, l1_ratio=0.4, tol=1e-13),
    "elastic net, l1_ratio 0": lambda g: unmerge.elastic_net(g, alpha=9.0, l1_ratio=0.0, tol=1e-13),
    "nnls": lambda g: unmerge.nnls(g, tol=1e-13),
    "bvls": lambda g: unmerge.bvls(g, lower=-0.2, upper=0.3, tol=1e-13),
    "lasso, bounded": lambda g: unmerge.lasso(g, alpha=4.0, lower=-0.2, upper=0.3, tol=1e-13),
}


@pytest.mark.parametrize("name", METHODS)
def test_df_is_the_divergence_of_the_fit(name: str) -> None:
    method = METHODS[name]
    for seed in range(5):
        A, y = data(seed, p=30, n=8, noise=1.0)
        _, report = method(unmerge.Gram(A, y))
        assert abs(report.df - divergence(method, A, y)) < 2e-5, seed


def test_df_of_dependent_atoms_is_the_rank() -> None:
    A, y = data(0, p=60, n=5)
    A = np.concatenate([A, A[:, :2], np.zeros((60, 1))], axis=1)
    for method in (METHODS["ols"], METHODS["joint"]):
        assert method(unmerge.Gram(A, y))[1].df == 5
    _, report = unmerge.ridge((A, y), alpha=1e3)
    mu = np.linalg.eigvalsh(A.T @ A)
    assert math.isclose(report.df, (mu / (mu + 1e3)).sum(), rel_tol=1e-10)
    assert unmerge.lasso((A, y), alpha=1e-3)[1].df == 5


def test_df_along_a_path_and_where_there_is_no_formula() -> None:
    A, y = data(1)
    _, coefs, reports = unmerge.lasso_path((A, y), n_alphas=30)
    assert [r.df for r in reports] == list(np.count_nonzero(coefs, axis=0))
    assert math.isnan(unmerge.omp((A, y), k=3)[1].df) and math.isnan(unmerge.dot((A, y))[1].df)


# ---------------------------------------------------------------- information criteria


def test_criteria_are_those_of_lasso_lars_ic() -> None:
    A, y = data(12, p=500, n=10)
    gram = unmerge.Gram(A, y)
    for name in ("aic", "bic"):
        theirs = LassoLarsIC(criterion=name, fit_intercept=False).fit(A, y)
        _, coefs, reports = unmerge.lasso_path(gram, alphas=theirs.alphas_ * 500, tol=1e-13)
        found = unmerge.information_criteria(gram, coefs, reports)
        assert relative(found.sigma2, theirs.noise_variance_) < 1e-10
        # At a knot the support is the limit from either side: theirs counts as we do except where a coefficient is 0.
        same = np.count_nonzero(coefs, axis=0) == np.count_nonzero(theirs_path(A, y), axis=0)
        assert same.mean() > 0.5
        ours = getattr(found, name)
        assert relative(ours[same], theirs.criterion_[same]) < 1e-9
        # Both call the same fit best.
        assert np.array_equal(coefs[:, found.best[name]] != 0, theirs.coef_ != 0)


def theirs_path(A: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import lars_path

    return lars_path(A, y, method="lasso")[2]


@pytest.mark.parametrize("effective", [None, 150.0])
@pytest.mark.parametrize("sigma2", ["full", "unknown", 0.3])
def test_criteria_follow_their_formulas(effective: float | None, sigma2: Any) -> None:
    from scipy.special import gammaln

    A, y = data(13, p=600, n=9)
    gram = modules(A, y, [200, 300, 100])
    _, coefs, reports = unmerge.lasso_path(gram, l1_ratio=0.5, n_alphas=12)
    found = unmerge.information_criteria(gram, coefs, reports, sigma2=sigma2, gamma=0.7, effective=effective)
    p, q, n = 600, effective or 600, 9
    full = ld(y) - ld(A) @ exact_solve(ld(A).T @ ld(A), ld(A).T @ ld(y))
    for i in range(12):
        df = reports[i].df
        rss = float(((ld(y) - ld(A) @ ld(coefs[:, i])) ** 2).sum())
        s2 = {"full": float(full @ full) / (q - n) * q / p, "unknown": rss / p}.get(sigma2, sigma2)
        D = q * math.log(2 * math.pi * s2) + q / p * rss / s2
        binomial = gammaln(n + 1) - gammaln(df + 1) - gammaln(n - df + 1)
        expected = {
            "aic": D + 2 * df,
            "bic": D + math.log(q) * df,
            "ebic": D + math.log(q) * df + 1.4 * binomial,
            "cp": math.nan if sigma2 == "unknown" else q / p * rss / s2 - q + 2 * df,
            "gcv": rss / p / (1 - df / q) ** 2,
        }
        for name, value in expected.items():
            assert np.isclose(getattr(found, name)[i], value, rtol=1e-9, atol=1e-7, equal_nan=True), (name, i)
    for name in ("aic", "bic", "ebic", "gcv"):
        assert found.best[name] == int(np.argmin(getattr(found, name)))
    assert (found.best["cp"] is None) == (sigma2 == "unknown")
    assert "GCV" in str(found)


def test_gcv_is_leave_one_out_with_the_mean_leverage() -> None:
    A, y = data(14, p=200, n=5)
    gram = unmerge.Gram(A, y)
    w, report = unmerge.ridge(gram, alpha=11.0)
    H = A @ np.linalg.solve(A.T @ A + 11 * np.eye(5), A.T)
    expected = 200 * ((y - H @ y) ** 2).sum() / np.trace(np.eye(200) - H) ** 2
    assert math.isclose(unmerge.information_criteria(gram, w, report).gcv[0], expected, rel_tol=1e-10)


def test_criteria_refuse_what_they_cannot_use() -> None:
    A, y = data(15, p=50, n=4)
    gram = unmerge.Gram(A, y)
    w = np.zeros(4)
    for options in ({"gamma": 1.5}, {"gamma": -0.1}, {"sigma2": 0.0}, {"sigma2": -1.0}, {"effective": 0}, {"effective": -3.0}, {"effective": 4.0}, {"target": 1}):
        with pytest.raises(ValueError, match=next(iter(options)).replace("effective", "(effective|sigma)")):
            unmerge.information_criteria(gram, w, **options)
    with pytest.raises(ValueError, match="coef"):
        unmerge.information_criteria(gram, np.zeros(3))
    with pytest.raises(ValueError, match="df"):
        unmerge.information_criteria(gram, w, [-1.0])
    assert math.isnan(unmerge.information_criteria(gram, w, [math.nan]).aic[0])


# ---------------------------------------------------------------- stability selection


def mix(x: int) -> int:
    """The mixing function of splitmix64."""
    mask = 2**64 - 1
    z = (x + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_frequencies_are_those_of_the_halves() -> None:
    A, y = data(16, p=1100, n=8, noise=3.0)
    gram = modules(A, y, [50] * 22)
    pairs, seed, q = 6, 5, 3
    found = unmerge.stability_selection(gram, pairs=pairs, seed=seed, q=q, n_alphas=25, path=True)
    entered, nonzero = np.zeros(8), np.zeros((8, 25))
    for pair in range(pairs):
        order = sorted(range(22), key=lambda b: mix(mix(mix(seed) ^ pair) ^ b))
        for half in (order[:11], order[11:]):
            part = gram.subset(blocks=sorted(half))
            _, coefs, _ = unmerge.lasso_path(part, alphas=found.alphas * part.entries / gram.entries)
            union = np.logical_or.accumulate(coefs != 0, axis=1)
            sizes = union.sum(axis=0)
            entered += union[:, np.flatnonzero(sizes <= q)[-1]]
            nonzero += coefs != 0
    assert np.array_equal(found.frequency, entered / (2 * pairs)) and np.array_equal(found.path, nonzero / (2 * pairs))
    assert math.isclose(found.mean_selected, entered.sum() / (2 * pairs))
    assert found.selected == list(np.flatnonzero(entered >= 0.75 * 2 * pairs))
    assert math.isclose(found.bound, found.mean_selected**2 / 8 / 0.5)
    again = unmerge.stability_selection(gram, pairs=pairs, seed=seed, q=q, n_alphas=25, threads=3)
    assert np.array_equal(again.frequency, found.frequency) and again.path is None
    other = unmerge.stability_selection(gram, pairs=pairs, seed=seed + 1, q=q, n_alphas=25)
    assert not np.array_equal(other.frequency, found.frequency)


def test_stability_selection_finds_what_was_planted() -> None:
    rng = RNG(17)
    false = 0
    bounds = []
    for _ in range(10):
        A = rng.standard_normal((6400, 40)).astype(np.float32)
        truth = rng.choice(40, 4, replace=False)
        y = (A[:, truth] @ np.full(4, 0.2) + rng.standard_normal(6400)).astype(np.float32)
        found = unmerge.stability_selection((A, y), seed=int(rng.integers(1000)))
        assert found.q == 5 and set(truth) <= set(found.selected)
        false += len(set(found.selected) - set(truth))
        bounds.append(found.bound)
    # Expected at most sum(bounds) = 6.25 * 2 * ...; Markov's inequality would allow more, the bound is far from tight.
    assert false <= sum(bounds)


def test_unimodal_bound() -> None:
    A, y = data(18, p=2000, n=30, noise=3.0)
    gram = modules(A, y, [100] * 20)
    for threshold in (0.6, 0.75, 0.76, 0.9, 1.0):
        f = unmerge.stability_selection(gram, threshold=threshold, n_alphas=40)
        theta, B = f.mean_selected / 30, 50
        constant = 1 / (2 * (2 * threshold - 1 - 1 / (2 * B))) if threshold <= 0.75 else 4 * (1 - threshold + 1 / (2 * B)) / (1 + 1 / B)
        assert math.isclose(f.bound_unimodal, constant * f.mean_selected * theta, rel_tol=1e-12)
        assert f.bound_unimodal <= f.bound * 1.02


def test_stability_selection_needs_twenty_blocks_and_says_how() -> None:
    A, y = data(19, p=190, n=3)
    with pytest.raises(ValueError, match="20.*folds"):
        unmerge.stability_selection(modules(A, y, [10] * 19))
    gram = modules(A, y, [5] * 38)
    for options in ({"threshold": 0.5}, {"threshold": 1.1}, {"q": -1}, {"pairs": 0}, {"l1_ratio": 0.0}, {"alpha_min_ratio": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            unmerge.stability_selection(gram, **options)
    assert "selected" in str(unmerge.stability_selection(gram, pairs=2, n_alphas=5))
