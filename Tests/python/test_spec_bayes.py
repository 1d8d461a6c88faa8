"""Bayesian selection from the specification: variational Garrote, sparse Bayesian learning, spike and slab.

Oracles: the free energy and its equations in extended precision and by finite differences; enumeration of all 2^n sets with the
p x p covariance of y; NumPy's expectation-maximisation; scikit-learn's ARDRegression; closed forms of orthogonal designs.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import unmerge
from oracles import LD, ld
from scipy.optimize import brentq
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.linear_model import ARDRegression

RNG = np.random.default_rng


def planted(
    seed: int, p: int = 200, n: int = 10, active: int = 2, noise: float = 0.5, common: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = RNG(seed)
    A = rng.standard_normal((p, n)) + common * rng.standard_normal((p, 1))
    A *= np.exp(rng.uniform(-2, 2, n))  # no method may depend on norms
    w = np.zeros(n)
    w[rng.permutation(n)[:active]] = rng.choice([-1, 1], active) * rng.uniform(0.5, 1.5, active)
    w /= np.linalg.norm(A, axis=0) / math.sqrt(p)
    return A, A @ w + noise * rng.standard_normal(p), w


def modules(A: np.ndarray, y: np.ndarray, count: int) -> unmerge.Gram:
    """A Gram with one block for each of `count` runs of rows."""
    a, t = unmerge.Operator(), unmerge.Operator()
    parts = np.array_split(np.arange(len(A)), count)
    for op, M in ((a, A), (t, y[:, None])):
        for i, part in enumerate(parts):
            op.add_module(f"m{i}", len(part), 1)
        for j in range(M.shape[1]):
            c = op.add_column(str(j))
            for i, part in enumerate(parts):
                op.set_dense(i, c, np.ascontiguousarray(M[part, j : j + 1]))
    return unmerge.Gram(a, t)


# ---------------------------------------------------------------- variational Garrote


def expected_error(A: Any, y: Any, m: Any, w: Any) -> Any:
    """p E, in extended precision."""
    r = A @ (m * w) - y
    return r @ r + np.sum(m * (1 - m) * w * w * np.sum(A * A, axis=0))


def free_energy(A: Any, y: Any, m: Any, w: Any, sigma2: Any, gamma: float, q: float) -> Any:
    """Of the header, by its formula."""
    E = expected_error(A, y, m, w) / LD(len(y))
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.where(m > 0, m * np.log(m), 0) + np.where(m < 1, (1 - m) * np.log1p(-m), 0)
    prior = -gamma * m.sum() + len(m) * np.logaddexp(LD(0), LD(gamma))
    return LD(q) / 2 * (E / sigma2 + np.log(2 * LD(np.pi) * sigma2)) + prior + h.sum()


def errors(A: np.ndarray, y: np.ndarray, f: unmerge.VariationalGarrote, q: float, known: bool) -> tuple[float, float, float]:
    """How far m, w (as correlations) and sigma2 (relatively) are from their equations, in extended precision."""
    A, y, m, w = ld(A), ld(y), ld(f.inclusion), ld(f.weights)
    d2 = np.sum(A * A, axis=0)
    field = f.gamma + q * w * w * d2 / (2 * len(y) * LD(f.sigma2))
    em = np.max(np.abs(m - 1 / (1 + np.exp(-field))))
    v = m * w
    ew = np.max(np.abs(A.T @ (A @ v - y) - d2 * (v - w)) / np.sqrt(d2 * (y @ y)))
    es = 0.0 if known else abs(expected_error(A, y, m, w) / len(y) / LD(f.sigma2) - 1)
    return float(em), float(ew), float(es)


@pytest.mark.parametrize("known", [False, True])
def test_garrote_is_stationary(known: bool) -> None:
    worst = np.zeros(3)
    for seed in range(300):
        rng = RNG(1000 + seed)
        p, n = int(rng.integers(20, 300)), int(rng.integers(1, 25))
        A, y, _ = planted(seed, p, n, active=int(rng.integers(0, n + 1)), noise=rng.uniform(0.1, 2), common=rng.uniform(0, 1))
        q = float(rng.choice([p, p / 4]))
        sigma2 = float(rng.uniform(0.2, 3)) if known else None
        f = unmerge.variational_garrote((A, y), gamma=float(rng.uniform(-8, 1)), sigma2=sigma2, effective=q)
        assert f.report.converged, seed
        got = errors(A, y, f, q, known)
        # The answer says itself how good it is, and is right.
        assert got[0] <= f.report.violation + 1e-9, (seed, got)
        worst = np.maximum(worst, got)
        F = free_energy(ld(A), ld(y), ld(f.inclusion), ld(f.weights), LD(f.sigma2), f.gamma, q)
        assert abs(float(F) - f.free_energy) <= 1e-9 * max(1, abs(f.free_energy)), seed
        np.testing.assert_allclose(f.coef, f.inclusion * f.weights, rtol=1e-9, atol=1e-12 * np.abs(f.weights).max())
    assert np.all(worst <= 1e-8), worst


def test_gradient_of_the_free_energy_vanishes_by_finite_differences() -> None:
    for seed in range(20):
        A, y, _ = planted(seed, 80, 8, active=3, common=0.5)
        f = unmerge.variational_garrote((A, y), gamma=-2.0)
        d = np.linalg.norm(A, axis=0) / math.sqrt(80)
        A, y, h = ld(A), ld(y), LD(1e-6)

        def F(x: Any) -> Any:
            m = 1 / (1 + np.exp(-x[:8]))
            return free_energy(A, y, m, x[8:16] / ld(d), np.exp(x[16]), -2.0, 80)

        x = np.concatenate([np.log(ld(f.inclusion) / (1 - ld(f.inclusion))), ld(f.weights) * ld(d), [np.log(LD(f.sigma2))]])
        x[:8] = np.clip(x[:8], -40, 40)
        for i in range(17):
            e = np.zeros(17, dtype=LD)
            e[i] = h
            assert abs((F(x + e) - F(x - e)) / (2 * h)) < 1e-6, (seed, i)


def all_sets(n: int) -> np.ndarray:
    return np.array(list(itertools.product([0, 1], repeat=n)), dtype=float)


def test_garrote_against_enumeration() -> None:
    """F bounds -log P(y | w, sigma2) from above; in sparse regimes m is the posterior to 0.05."""
    far = []
    for seed in range(60):
        n = 4 + seed % 9
        A, y, _ = planted(seed, 200, n, active=1 + seed % 2)
        f = unmerge.variational_garrote((A, y), gamma=-4.0)
        S = all_sets(n)
        rss = np.sum((y[:, None] - A @ (S * f.weights).T) ** 2, axis=0)
        joint = -100 * np.log(2 * np.pi * f.sigma2) - rss / (2 * f.sigma2) - 4.0 * S.sum(axis=1) - n * np.logaddexp(0, -4.0)
        evidence = logsumexp(joint)
        assert f.free_energy >= -evidence - 1e-9
        far.append(np.max(np.abs(np.exp(joint - evidence) @ S - f.inclusion)))
    assert max(far) <= 0.05, sorted(far)[-5:]


def test_orthogonal_design_is_n_scalar_fixed_points() -> None:
    for seed in range(50):
        rng = RNG(seed)
        p, n, gamma = 60, 9, float(rng.uniform(-5, 0))
        Q = np.linalg.qr(rng.standard_normal((p, n)))[0] * np.exp(rng.uniform(-3, 3, n))
        y = Q @ (rng.standard_normal(n) * (rng.random(n) < 0.4) / np.linalg.norm(Q, axis=0)) * 5 + rng.standard_normal(p) * 0.5
        d2 = np.sum(Q * Q, axis=0)
        w = Q.T @ y / d2
        given = unmerge.variational_garrote((Q, y), gamma=gamma, sigma2=0.3)
        np.testing.assert_allclose(given.weights, w, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(given.inclusion, expit(gamma + w * w * d2 / (2 * 0.3)), rtol=1e-8)
        found = unmerge.variational_garrote((Q, y), gamma=gamma)

        def rest(e: float) -> float:
            return e - (y @ y - np.sum(expit(gamma + w * w * d2 * p / (2 * e)) * w * w * d2))

        # sigma2 solves one scalar equation; of its roots the one with the lowest F.
        grid = np.geomspace(1e-4 * (y @ y), 2 * (y @ y), 4000)
        values = np.array([rest(e) for e in grid])
        roots = [brentq(rest, a, b, xtol=1e-14 * (y @ y)) for a, b, s, t in zip(grid, grid[1:], values, values[1:]) if s * t < 0]
        energies = [
            float(free_energy(ld(Q), ld(y), ld(expit(gamma + w * w * d2 * p / (2 * e))), ld(w), LD(e / p), gamma, p)) for e in roots
        ]
        assert found.free_energy == pytest.approx(min(energies), abs=1e-7)
        best = roots[int(np.argmin(energies))]
        assert found.sigma2 == pytest.approx(best / p, rel=1e-6)
        np.testing.assert_allclose(found.inclusion, expit(gamma + w * w * d2 * p / (2 * best)), rtol=1e-5)


def reference_start(A: np.ndarray, y: np.ndarray, gamma: float) -> float:
    """F of the damped fixed point from m = prior, with nothing clever."""
    p, n = A.shape
    G, c, d = A.T @ A, A.T @ y, np.sum(A * A, axis=0)
    m, last = np.full(n, expit(gamma)), math.inf
    for _ in range(3000):
        w = np.linalg.solve((G - np.diag(d)) * m + np.diag(d), c)
        v = m * w
        E = (y @ y - 2 * c @ v + v @ G @ v + np.sum(m * (1 - m) * w * w * d)) / p
        step = expit(gamma + w * w * d / (2 * E)) - m
        m = np.clip(m + 0.3 * step, 1e-300, 1 - 1e-15)
        if np.max(np.abs(step)) < 1e-11:
            break
    last = float(free_energy(ld(A), ld(y), ld(m), ld(w), LD(E), gamma, p))
    return last


def test_free_energy_is_never_above_the_plain_fixed_point() -> None:
    for seed in range(40):
        A, y, _ = planted(seed, 90, 12, active=4, common=1.0)
        for gamma in (-8.0, -3.0, -0.5):
            f = unmerge.variational_garrote((A, y), gamma=gamma)
            assert f.free_energy <= reference_start(A, y, gamma) + 1e-6, (seed, gamma)


def test_path_recovers_a_planted_support_of_five_percent() -> None:
    right = 0
    for seed in range(6):
        rng = RNG(seed)
        A = rng.standard_normal((100, 100))
        w = np.zeros(100)
        w[rng.permutation(100)[:5]] = rng.choice([-1.0, 1.0], 5)
        y = A @ w + 0.3 * rng.standard_normal(100)
        f = unmerge.garrote_path(modules(A, y, 5), n_gammas=15)
        assert f.folds == 5
        right += f.selected == list(np.flatnonzero(w)) and f.components == 5
    assert right >= 5, right


def test_path_is_the_lower_of_both_directions_and_its_curves_are_what_they_say() -> None:
    A, y, w = planted(3, 640, 12, active=3, common=0.7)
    gram = unmerge.Gram(A, y, folds=4)
    f = unmerge.garrote_path(gram, n_gammas=25)
    assert f.unconverged == 0 and np.all(np.diff(f.gammas) > 0)
    assert f.expected[0] < 1e-3 and f.gammas[-1] == pytest.approx(-1)
    for i, gamma in enumerate(f.gammas):
        assert f.free_energies[i] <= reference_start(A, y, float(gamma)) + 1e-6
        m = f.inclusion[:, i]
        with np.errstate(divide="ignore", invalid="ignore"):
            h = -np.where(m > 0, m * np.log(m), 0) - np.where(m < 1, (1 - m) * np.log1p(-m), 0)
        assert f.entropies[i] == pytest.approx(h.mean(), abs=1e-9)
        assert f.expected[i] == pytest.approx(m.sum())
    # Held-out errors: the same path without each fold, by hand.
    held = np.zeros((25, 4))
    for k, block in enumerate(gram.blocks):
        rest = [b for b in range(4) if b != k]
        train = gram.subset(blocks=rest)
        other = unmerge.garrote_path(train, gammas=f.gammas, effective=640 * train.entries / gram.entries, held_out=False)
        G, c, yy = gram.arrays(k)
        for i in range(25):
            v = other.coefs[:, i]
            held[i, k] = (yy[0] - 2 * c[:, 0] @ v + v @ G @ v) / block.entries
    np.testing.assert_allclose(f.held_out, held.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(f.standard_error, held.std(axis=1, ddof=1) / 2, rtol=1e-5)
    assert f.best == int(np.argmin(f.held_out))
    limit = f.held_out[f.best] + f.standard_error[f.best]
    assert np.all(f.held_out[f.transition : f.best + 1] <= limit)
    assert f.transition == 0 or f.held_out[f.transition - 1] > limit
    assert f.selected == list(np.flatnonzero(w))


def test_effective_entries_are_a_temperature() -> None:
    A, y, _ = planted(5, 300, 8)
    hot = unmerge.variational_garrote((A, y), sigma2=0.25, effective=60)
    same = unmerge.variational_garrote((A, y), sigma2=0.25 * 5)
    np.testing.assert_allclose(hot.inclusion, same.inclusion, rtol=1e-9)


def test_garrote_does_not_depend_on_scales_or_order() -> None:
    A, y, _ = planted(6, 120, 7, common=0.5)
    f = unmerge.variational_garrote((A, y))
    s, order = np.array([1e-9, 1, 1e8, 3, -2, 0.1, 5]), RNG(0).permutation(7)
    g = unmerge.variational_garrote(((A * s)[:, order], 1e-6 * y))
    np.testing.assert_allclose(g.inclusion, f.inclusion[order], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(g.coef, (1e-6 * f.coef / s)[order], rtol=1e-6)
    assert g.sigma2 == pytest.approx(1e-12 * f.sigma2)


def test_garrote_on_degenerate_data() -> None:
    A, y, _ = planted(7, 60, 4)
    nothing = unmerge.variational_garrote((A, 0 * y))
    assert nothing.report.converged and not nothing.coef.any()
    np.testing.assert_allclose(nothing.inclusion, expit(-3))
    holes = unmerge.variational_garrote((np.c_[A, 0 * y, A[:, :1]], y))
    assert holes.report.converged and "zero_atom" in holes.report.flags
    assert holes.inclusion[4] == pytest.approx(expit(-3)) and holes.coef[4] == 0
    perfect = unmerge.variational_garrote((A, A[:, 0]))
    assert perfect.report.r2 == pytest.approx(1) and np.all(np.isfinite(perfect.coef))
    assert perfect.inclusion[0] == pytest.approx(1) and "fully_explained" in perfect.report.flags


# ---------------------------------------------------------------- sparse Bayesian learning


def evidence(A: np.ndarray, y: np.ndarray, alphas: np.ndarray, sigma2: float) -> float:
    inside = np.isfinite(alphas)
    C = sigma2 * np.eye(len(y)) + (A[:, inside] / alphas[inside]) @ A[:, inside].T
    return float(multivariate_normal(np.zeros(len(y)), C).logpdf(y))


def conditions(A: np.ndarray, y: np.ndarray, f: unmerge.SparseBayes, q: float, known: bool) -> float:
    """The largest violation of stationarity, in extended precision."""
    inside = np.isfinite(f.alphas)
    B, y, k = ld(A[:, inside]), ld(y), LD(q) / len(y) / LD(f.sigma2)
    alpha = ld(f.alphas[inside])
    d = np.sqrt(np.sum(ld(A) ** 2, axis=0))
    # In units of 1/d, so that inverses are as accurate as they can be.
    H = k * (B / d[inside]).T @ (B / d[inside]) + np.diag(alpha / d[inside] ** 2)
    S = ld(np.linalg.inv(H.astype(float)))
    for _ in range(3):
        S = S + S @ (np.eye(len(S), dtype=LD) - H @ S)
    mu = k * S @ ((B / d[inside]).T @ y)
    a = alpha / d[inside] ** 2
    worst = float(np.max(np.abs(1 - a * (np.diag(S) + mu * mu)), initial=0))
    r = y - (B / d[inside]) @ mu
    for j in np.flatnonzero(~inside):
        x = ld(A[:, j]) / d[j]
        h = (B / d[inside]).T @ x
        s, Q = k * (1 - k * h @ S @ h), k * x @ r
        worst = max(worst, float(Q * Q / s - 1))
    if not known:
        trace = np.sum(1 - a * np.diag(S))
        worst = max(worst, float(abs(q - k * r @ r - trace) / q))
    np.testing.assert_allclose(f.coef[inside], (mu / d[inside]).astype(float), rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(f.variance[inside], (np.diag(S) / d[inside] ** 2).astype(float), rtol=1e-6)
    return worst


@pytest.mark.parametrize("known", [False, True])
def test_sparse_bayes_is_stationary(known: bool) -> None:
    for seed in range(250):
        rng = RNG(seed)
        p, n = int(rng.integers(40, 200)), int(rng.integers(1, 20))
        A, y, _ = planted(seed, p, n, active=int(rng.integers(0, n // 2 + 1)), noise=rng.uniform(0.2, 1), common=rng.uniform(0, 1))
        q = float(rng.choice([p, 0.7 * p]))
        sigma2 = float(rng.uniform(0.05, 1)) if known else None
        f = unmerge.sparse_bayes((A, y), sigma2=sigma2, effective=q)
        assert f.report.converged and "local_minimum" in f.report.flags, (seed, f.report)
        assert conditions(A, y, f, q, known) <= 1e-8, seed
        assert np.all(f.coef[~np.isfinite(f.alphas)] == 0)


def test_evidence_is_that_of_the_marginal_gaussian() -> None:
    for seed in range(20):
        A, y, _ = planted(seed, 50, 8, active=3)
        for algorithm in ("fast", "em"):
            f = unmerge.sparse_bayes((A, y), algorithm=algorithm, max_iter=60)
            assert f.log_evidence == pytest.approx(evidence(A, y, f.alphas, f.sigma2), abs=1e-6)
            assert f.report.objective == -f.log_evidence


def test_em_never_lowers_the_evidence() -> None:
    for seed in range(10):
        A, y, _ = planted(seed, 60, 10, active=3, common=0.5)
        values = [unmerge.sparse_bayes((A, y), algorithm="em", max_iter=i).log_evidence for i in range(40)]
        assert np.all(np.diff(values) >= -1e-10), seed


def test_fast_against_a_long_em() -> None:
    """Plain NumPy, all atoms inside to begin with; the optimum of these problems is the same."""
    for seed in range(4):
        A, y, _ = planted(seed, 100, 6, active=2, noise=0.7)
        p, n = A.shape
        d = np.linalg.norm(A, axis=0)
        B = A / d
        G, c, alpha, s2 = B.T @ B, B.T @ y, np.full(n, 1.0), 0.1 * y @ y / p
        for _ in range(20000):
            S = np.linalg.inv(G / s2 + np.diag(alpha))
            mu = S @ c / s2
            alpha, kept = 1 / (mu * mu + np.diag(S)), alpha
            s2 = (np.sum((y - B @ mu) ** 2) + s2 * np.sum(1 - kept * np.diag(S))) / p
        f = unmerge.sparse_bayes((A, y))
        assert f.log_evidence >= evidence(B, y, alpha, s2) - 1e-7
        assert f.log_evidence == pytest.approx(evidence(B, y, alpha, s2), abs=2e-2)
        np.testing.assert_allclose(f.coef * d, mu, atol=2e-2 * np.abs(mu).max())
        assert f.sigma2 == pytest.approx(s2, rel=1e-3)


def test_sparse_bayes_against_scikit_learn() -> None:
    """ARDRegression prunes at an alpha of its own; where it has settled its answer is ours."""
    for seed in range(4):
        A, y, w = planted(seed, 300, 12, active=4, noise=0.3)
        d = np.linalg.norm(A, axis=0) / math.sqrt(300)
        tiny = 1e-12
        theirs = ARDRegression(
            fit_intercept=False, alpha_1=tiny, alpha_2=tiny, lambda_1=tiny, lambda_2=tiny, tol=1e-12, max_iter=20000, threshold_lambda=1e8
        ).fit(A / d, y)
        f = unmerge.sparse_bayes((A, y))
        ours = evidence(A / d, y, f.alphas / d**2, f.sigma2)
        assert ours >= evidence(A / d, y, np.where(theirs.coef_ != 0, theirs.lambda_, np.inf), 1 / theirs.alpha_) - 1e-4
        np.testing.assert_allclose((f.coef * d)[w != 0], theirs.coef_[w != 0], rtol=2e-3)
        assert f.sigma2 == pytest.approx(1 / theirs.alpha_, rel=5e-3)


def test_sparse_bayes_of_an_orthogonal_design() -> None:
    rng = RNG(0)
    Q = np.linalg.qr(rng.standard_normal((40, 6)))[0] * [1, 2, 3, 0.1, 10, 5]
    y, s2 = rng.standard_normal(40), 0.4
    d2 = np.sum(Q * Q, axis=0)
    s, q = d2 / s2, Q.T @ y / s2
    alpha = np.where(q * q > s, s * s / np.where(q * q > s, q * q - s, 1), np.inf)
    f = unmerge.sparse_bayes((Q, y), sigma2=s2)
    np.testing.assert_allclose(f.alphas, alpha, rtol=1e-8)
    np.testing.assert_allclose(f.coef, q / (alpha + s), rtol=1e-8)
    np.testing.assert_allclose(f.variance, np.where(np.isfinite(alpha), 1 / (alpha + s), 0), rtol=1e-8)


def test_sparse_bayes_on_degenerate_data() -> None:
    A, y, _ = planted(8, 60, 4)
    nothing = unmerge.sparse_bayes((A, 0 * y))
    assert nothing.report.converged and not nothing.coef.any() and np.all(np.isinf(nothing.alphas))
    holes = unmerge.sparse_bayes((np.c_[A, 0 * y, A[:, :1]], y))
    # Of twins only the sum of 1 / alpha is determined, and their conditions only to rounding.
    assert holes.report.violation < 1e-6 and holes.coef[4] == 0
    perfect = unmerge.sparse_bayes((A, A @ [1.0, 0, 2, 0]))
    assert perfect.report.r2 == pytest.approx(1) and np.all(np.isfinite(perfect.coef))
    np.testing.assert_allclose(perfect.coef[[0, 2]], [1, 2], rtol=1e-6)


# ---------------------------------------------------------------- spike and slab


def brute(A: np.ndarray, y: np.ndarray, **o: float) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """log evidence, inclusion, posterior mean and log joints, set by set, through the p x p covariance of y."""
    p, n = A.shape
    S = all_sets(n)
    joint, means = [], []
    for s in S:
        B = A[:, s > 0]
        prior = s.sum() * math.log(o["prior"]) + (n - s.sum()) * math.log(1 - o["prior"])
        if "sigma2" in o:
            data = multivariate_normal(np.zeros(p), o["sigma2"] * np.eye(p) + o["slab"] * B @ B.T).logpdf(y)
            ridge = o["sigma2"] / o["slab"]
        else:
            C = o["scale"] / o["shape"] * (np.eye(p) + o["slab"] * B @ B.T)
            data = multivariate_t(np.zeros(p), C, df=2 * o["shape"]).logpdf(y)
            ridge = 1 / o["slab"]
        joint.append(prior + data)
        w = np.zeros(n)
        w[s > 0] = np.linalg.solve(B.T @ B + ridge * np.eye(B.shape[1]), B.T @ y)
        means.append(w)
    total = logsumexp(joint)
    share = np.exp(np.array(joint) - total)
    return float(total), share @ S, share @ np.array(means), np.array(joint)


@pytest.mark.parametrize("known", [False, True])
def test_spike_slab_is_brute_force(known: bool) -> None:
    for seed in range(30):
        rng = RNG(seed)
        n = 1 + seed % 7
        A, y, _ = planted(seed, 30, n, active=n // 2, common=0.8)
        o = {"prior": rng.uniform(0.1, 0.9), "slab": rng.uniform(0.1, 5)}
        o |= {"sigma2": rng.uniform(0.1, 2)} if known else {"shape": rng.uniform(0.5, 3), "scale": rng.uniform(0.5, 3)}
        f = unmerge.spike_slab((A, y), **o)
        total, inclusion, mean, joint = brute(A, y, **o)
        assert f.log_evidence == pytest.approx(total, abs=1e-8)
        np.testing.assert_allclose(f.inclusion, inclusion, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(f.coef, mean, rtol=1e-7, atol=1e-10)
        assert f.best_log_joint == pytest.approx(joint.max(), abs=1e-8) and f.sets == 2**n
        np.testing.assert_array_equal(f.best != 0, all_sets(n)[int(np.argmax(joint))] > 0)
        sizes = np.bincount(all_sets(n).sum(axis=1).astype(int), np.exp(joint - total))
        np.testing.assert_allclose(f.sizes, sizes, rtol=1e-8, atol=1e-12)


def test_spike_slab_at_ten_atoms() -> None:
    A, y, _ = planted(1, 40, 10, active=3, common=0.5)
    o = {"prior": 0.3, "slab": 1.0, "sigma2": 0.3}
    f = unmerge.spike_slab((A, y), **o)
    total, inclusion, mean, _ = brute(A, y, **o)
    assert f.log_evidence == pytest.approx(total, abs=1e-8)
    np.testing.assert_allclose(f.inclusion, inclusion, rtol=1e-8)
    np.testing.assert_allclose(f.coef, mean, rtol=1e-7, atol=1e-10)


def test_enumeration_is_calibrated_on_draws_from_its_prior() -> None:
    said, truth = [], []
    for seed in range(400):
        rng = RNG(50_000 + seed)
        A = rng.standard_normal((40, 8)) + 0.7 * rng.standard_normal((40, 1))
        sigma2 = 1 / rng.gamma(3, 1 / 3)
        s = rng.random(8) < 0.3
        y = A @ np.where(s, rng.standard_normal(8) * math.sqrt(0.1 * sigma2), 0) + math.sqrt(sigma2) * rng.standard_normal(40)
        said.append(unmerge.spike_slab((A, y), prior=0.3, slab=0.1, shape=3, scale=3).inclusion)
        truth.append(s)
    P, s = np.concatenate(said), np.concatenate(truth)
    for low in np.arange(0, 1, 0.1):
        at = (P >= low) & (P < low + 0.1)
        spread = math.sqrt(np.sum(P[at] * (1 - P[at])))
        # 4 standard errors, in ten bins: fails once in 1600 when calibrated.
        assert abs(np.sum(s[at] - P[at])) <= 4 * spread + 1e-9, (low, at.sum())
    assert np.ptp(P) > 0.8


def test_spike_slab_temperature_zero_atoms_and_duplicates() -> None:
    A, y, _ = planted(2, 100, 4)
    hot = unmerge.spike_slab((A, y), sigma2=0.25, effective=20)
    same = unmerge.spike_slab((A, y), sigma2=0.25 * 5)
    np.testing.assert_allclose(hot.inclusion, same.inclusion, rtol=1e-9)
    plain = unmerge.spike_slab((A, y), prior=0.2)
    holes = unmerge.spike_slab((np.c_[A, 0 * y], y), prior=0.2)
    np.testing.assert_allclose(holes.inclusion, [*plain.inclusion, 0.2], rtol=1e-10)
    np.testing.assert_allclose(holes.sizes, np.convolve(plain.sizes, [0.8, 0.2]), rtol=1e-10)
    assert holes.log_evidence == pytest.approx(plain.log_evidence, abs=1e-9)
    twins = unmerge.spike_slab((np.c_[A, A[:, 0]], y))
    assert twins.inclusion[0] == pytest.approx(twins.inclusion[4], rel=1e-8)
    assert np.all(np.isfinite(unmerge.spike_slab((A, 0 * y)).inclusion))


def test_spike_slab_of_twenty_atoms_and_not_of_more() -> None:
    A, y, w = planted(3, 200, 20, active=3)
    f = unmerge.spike_slab((A, y), prior=0.1)
    assert f.sets == 2**20 and f.selected == list(np.flatnonzero(w))
    assert f.sizes.sum() == pytest.approx(1) and f.inclusion.sum() == pytest.approx(f.sizes @ np.arange(21))
    with pytest.raises(unmerge.errors.InvalidValue, match="21 atoms"):
        unmerge.spike_slab((RNG(0).standard_normal((40, 21)), RNG(1).standard_normal(40)))


@pytest.mark.parametrize(
    ("call", "options", "word"),
    [
        ("variational_garrote", {"gamma": math.nan}, "gamma"),
        ("variational_garrote", {"sigma2": -1.0}, "sigma2"),
        ("variational_garrote", {"effective": 0}, "effective"),
        ("garrote_path", {"gammas": [-1.0, -2.0], "held_out": False}, "gammas"),
        ("sparse_bayes", {"algorithm": "slow"}, "algorithm"),
        ("sparse_bayes", {"target": 1}, "target"),
        ("spike_slab", {"prior": 1.0}, "prior"),
        ("spike_slab", {"slab": 0.0}, "slab"),
        ("spike_slab", {"shape": 1.0}, "shape"),
    ],
)
def test_wrong_options_are_named(call: str, options: dict[str, Any], word: str) -> None:
    A, y, _ = planted(0, 64, 3)
    with pytest.raises(ValueError, match=word):
        getattr(unmerge, call)((A, y), **options)


def test_answers_print() -> None:
    A, y, w = planted(0, 200, 10)
    (j, *_) = np.flatnonzero(w)
    for found in (unmerge.variational_garrote((A, y)), unmerge.sparse_bayes((A, y)), unmerge.spike_slab((A, y))):
        assert f"\n{j:>4}  " in str(found) and j in found.selected
    assert "transition" in str(unmerge.garrote_path((A, y), held_out=False))
