"""The methods on several hundred random problems: other people's solvers, certificates recomputed in extended precision,
and the limits in which one method must equal another."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Ridge, orthogonal_mp

import oracles
import unmerge
from oracles import LD, U, Problem, Sample

TOL = 1e-10  # the default
OBJECTIVE = 1e-9


def given_as(seed: int, A: np.ndarray, y: np.ndarray) -> Any:
    """The same data as a pair, a Gram, an operator with a target, or a pair of operators over pieces of the rows."""
    form = seed % 4
    if form == 0:
        return A, y
    if form == 1:
        return unmerge.Gram(A, y)
    if form == 2:
        return unmerge.Operator.from_matrix(A).with_target(y)
    half = len(y) // 2
    pieces = {"first": slice(0, half), "second": slice(half, None)}
    atoms = {str(j): {m: A[s, j] for m, s in pieces.items()} for j in range(A.shape[1])}
    return unmerge.Operator.from_vectors(atoms), unmerge.Operator.from_vectors({"y": {m: y[s] for m, s in pieces.items()}})


def check_report(problem: Problem, coef: np.ndarray, report: unmerge.Report, condition: float, tol: float = TOL) -> None:
    """Everything a report says about coef, recomputed from the data."""
    n = len(coef)
    noise = problem.rounding(coef)
    objective, rss, yy = problem.objective(coef), problem.rss(coef), problem.yy
    size = 1 + float((problem.norms * np.abs(oracles.ld(coef))).sum() / np.sqrt(yy))
    assert np.isfinite(coef).all()
    assert report.nonzeros == np.count_nonzero(coef)
    assert abs(report.objective - objective) <= noise
    assert abs(report.rss - rss) <= noise
    assert report.rss >= 0
    assert abs(report.yy - yy) <= 1e-14 * yy
    assert abs(report.r2 - (1 - rss / yy)) <= noise / yy
    assert report.seconds >= 0
    assert abs(report.violation - problem.violation(coef)) <= 8 * n * U * size
    assert not problem.positive or (coef >= 0).all()
    # Gap: consistent, and never below the true distance (stated by the caller, who knows the optimum).
    if not math.isnan(report.duality_gap):
        assert report.duality_gap >= 0
        if report.objective > 10 * problem.floor():
            assert report.relative_gap == pytest.approx(report.duality_gap / report.objective, rel=1e-9, abs=1e-300)
    measure = report.violation if math.isnan(report.relative_gap) else report.relative_gap
    if report.outcome == "converged":
        assert measure <= tol
    else:  # rounding may stop it, but only at the level of rounding
        assert report.outcome == "stalled"
        assert math.isnan(report.duality_gap) or (
            report.duality_gap <= noise + 0.5 * (10 * n * U * condition * size) ** 2 * float(yy)
        )


def agrees(coef: np.ndarray, reference: np.ndarray, norms: np.ndarray, tolerance: float) -> None:
    """Coefficients, each in units of its atom's length, relative to the largest."""
    scaled, expected = oracles.ld(coef) * norms, reference * norms
    assert np.max(np.abs(scaled - expected), initial=0) <= tolerance * np.max(np.abs(expected), initial=0)


def direct_tolerance(condition: float) -> float:
    """For methods that end in a Cholesky solve: the Gram squares the condition number; never more than 1e-7 cond."""
    return min(1e-7 * condition, 1e-12 + 1e-13 * condition**2)


# ---------------------------------------------------------------- the l1 family


def sklearn_start(problem: Problem) -> np.ndarray:
    """scikit-learn's coordinate descent, in float64: 1/(2p) loss, one penalty for all atoms."""
    p = len(problem.y)
    share = problem.l1[0] + problem.l2[0]
    weights = np.asarray((problem.l1 + problem.l2) / share, dtype=np.float64)
    ratio = float(problem.l1[0] / share)
    # A weight pi on both penalties is not an atom's rescaling unless one of them is absent; rows carry the l2 part.
    A = np.concatenate([problem.A, np.diag(np.sqrt(problem.l2))]).astype(np.float64) / weights
    y = np.concatenate([problem.y, np.zeros(len(weights))]).astype(np.float64)
    model = ElasticNet(
        alpha=float(share) * ratio / (p + len(weights)),
        l1_ratio=1.0,
        fit_intercept=False,
        tol=1e-14,
        max_iter=3000,
        positive=problem.positive,
        precompute=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(A, y).coef_ / weights


def l1_problem(seed: int, sample: Sample, l1_ratio: float) -> tuple[Problem, dict[str, Any]]:
    rng = np.random.default_rng([seed, 3])
    positive = seed % 4 == 1
    weights = rng.uniform(0.2, 3, sample.A.shape[1]) if seed % 5 == 0 else None
    c = np.abs(sample.A.astype(np.float64).T @ sample.y)
    top = np.max(c if weights is None else c / weights) / l1_ratio
    options = {"alpha": float(top * 10.0 ** rng.uniform(-3, -0.05)), "positive": positive, "weights": weights}
    return Problem.make(sample.A, sample.y, l1_ratio=l1_ratio, **options), options


def check_l1(problem: Problem, coef: np.ndarray, report: unmerge.Report, condition: float) -> np.ndarray:
    start = sklearn_start(problem)
    best = oracles.minimiser(problem, start)
    optimum = problem.objective(best)
    assert problem.gap(best) <= 1e-14 * optimum  # the reference is right
    objective, noise = problem.objective(coef), problem.rounding(coef)
    assert objective - optimum <= OBJECTIVE * optimum
    assert objective <= problem.objective(start) * (1 + OBJECTIVE)
    assert report.duality_gap >= objective - optimum - noise
    assert problem.gap(coef) <= 2 * TOL * max(optimum, problem.floor()) + noise
    check_report(problem, coef, report, condition)
    agrees(coef, best, problem.norms, 1e-7 * condition)
    return best


@pytest.mark.parametrize("seed", range(110))
def test_lasso(seed: int) -> None:
    s = oracles.sample(seed)
    problem, options = l1_problem(seed, s, 1.0)
    coef, report = unmerge.lasso(given_as(seed, s.A, s.y), **options)
    check_l1(problem, coef, report, s.condition)


@pytest.mark.parametrize("seed", range(200, 280))
def test_elastic_net(seed: int) -> None:
    s = oracles.sample(seed)
    ratio = [0.95, 0.5, 0.1, 0.01][seed % 4]
    problem, options = l1_problem(seed, s, ratio)
    coef, report = unmerge.elastic_net(given_as(seed, s.A, s.y), l1_ratio=ratio, **options)
    check_l1(problem, coef, report, s.condition)


@pytest.mark.parametrize("seed", range(300, 325))
def test_lasso_with_more_atoms_than_rows(seed: int) -> None:
    s = oracles.sample(seed, wide=True)
    problem, options = l1_problem(seed, s, 1.0)
    options["alpha"] = max(options["alpha"], 1e-2 * float(np.max(np.abs(problem.A.T @ problem.y))))
    problem = Problem.make(s.A, s.y, **options)
    coef, report = unmerge.lasso(given_as(seed, s.A, s.y), **options)
    support = np.flatnonzero(coef)
    condition = oracles.condition_of(s.A[:, support]) if len(support) else 1.0
    assert condition < 1e6
    check_l1(problem, coef, report, condition)


# ---------------------------------------------------------------- least squares, ridge, NNLS


def check_quadratic(problem: Problem, coef: np.ndarray, report: unmerge.Report, condition: float, start: Any) -> None:
    best = oracles.minimiser(problem, start)
    optimum, objective, noise = problem.objective(best), problem.objective(coef), problem.rounding(coef)
    assert problem.quadratic_bound(best) <= 1e-14 * optimum  # the reference is right
    assert objective - optimum <= OBJECTIVE * optimum
    assert objective <= problem.objective(start) * (1 + OBJECTIVE)
    if not math.isnan(report.duality_gap):
        assert report.duality_gap >= objective - optimum - noise
    check_report(problem, coef, report, condition)
    agrees(coef, best, problem.norms, direct_tolerance(condition))


@pytest.mark.parametrize("seed", range(400, 460))
def test_least_squares(seed: int) -> None:
    """dot "joint" and ridge with alpha = 0, to numpy's lstsq."""
    s = oracles.sample(seed)
    A, y = s.A.astype(np.float64), s.y.astype(np.float64)
    d = np.linalg.norm(A, axis=0)
    start = np.linalg.lstsq(A / d, y, rcond=None)[0] / d
    problem = Problem.make(s.A, s.y)
    data = given_as(seed, s.A, s.y)
    coef, report = unmerge.dot(data, variant="joint") if seed % 2 else unmerge.ridge(data, alpha=0)
    assert "rank_deficient" not in report.flags
    check_quadratic(problem, coef, report, s.condition, start)
    assert s.condition**2 / (3 * len(coef)) <= report.condition <= 1.01 * len(coef) * s.condition**2


@pytest.mark.parametrize("seed", range(500, 560))
def test_ridge(seed: int) -> None:
    s = oracles.sample(seed)
    rng = np.random.default_rng([seed, 4])
    A, y = s.A.astype(np.float64), s.y.astype(np.float64)
    alpha = float(np.max((A * A).sum(axis=0)) * 10 ** rng.uniform(-6, 1))
    weights = rng.uniform(0.1, 4, A.shape[1]) if seed % 2 else None
    scale = 1 if weights is None else 1 / np.sqrt(weights)
    start = Ridge(alpha=alpha, fit_intercept=False, solver="cholesky").fit(A * scale, y).coef_ * scale
    problem = Problem.make(s.A, s.y, alpha=alpha, l1_ratio=0, weights=weights)
    coef, report = unmerge.ridge(given_as(seed, s.A, s.y), alpha=alpha, weights=weights)
    check_quadratic(problem, coef, report, s.condition, start)
    agrees(start, oracles.ld(coef), problem.norms, 1e-7 * s.condition)


@pytest.mark.parametrize("seed", range(600, 690))
def test_nnls(seed: int) -> None:
    s = oracles.sample(seed, positive=True)
    A, y = s.A.astype(np.float64), s.y.astype(np.float64)
    d = np.linalg.norm(A, axis=0)
    problem = Problem.make(s.A, s.y, positive=True)
    coef, report = unmerge.nnls(given_as(seed, s.A, s.y))
    assert (coef >= 0).all()
    start = scipy.optimize.nnls(A / d, y, maxiter=300 * len(d))[0] / d
    check_quadratic(problem, coef, report, s.condition, start)
    if seed % 3 == 0:
        other = np.maximum(scipy.optimize.lsq_linear(A / d, y, (0, np.inf), method="bvls").x, 0) / d
        assert problem.objective(coef) <= problem.objective(other) * (1 + OBJECTIVE)


@pytest.mark.parametrize("seed", [*range(700, 720), 10150])
def test_nnls_with_more_atoms_than_rows(seed: int) -> None:
    s = oracles.sample(seed, wide=True, positive=True)
    problem = Problem.make(s.A, s.y, positive=True)
    coef, report = unmerge.nnls(given_as(seed, s.A, s.y))
    start = scipy.optimize.nnls(s.A.astype(np.float64), s.y.astype(np.float64), maxiter=10_000)[0]
    best = min(problem.objective(start), problem.objective(oracles.minimiser(problem, start)))
    assert (coef >= 0).all()
    assert problem.objective(coef) - best <= OBJECTIVE * best + problem.rounding(coef)
    assert problem.violation(coef) <= 1e-9
    assert math.isnan(report.duality_gap)  # the bound needs an invertible G
    assert report.outcome == "converged"
    assert report.violation <= TOL
    assert abs(report.rss - problem.rss(coef)) <= problem.rounding(coef)
    if best > 1e-4 * problem.yy:
        support = np.flatnonzero(start > 1e-9 * start.max())
        assert np.array_equal(np.flatnonzero(coef), support)
        agrees(coef, oracles.ld(start), problem.norms, direct_tolerance(oracles.condition_of(s.A[:, support])))


# ---------------------------------------------------------------- dot


@pytest.mark.parametrize("seed", range(800, 812))
def test_dot(seed: int) -> None:
    s = oracles.sample(seed)
    A, y = oracles.ld(s.A), oracles.ld(s.y)
    c, d, e = A.T @ y, np.sqrt((A * A).sum(axis=0)), np.sqrt(y @ y)
    data = given_as(seed, s.A, s.y)
    for variant, expected, scale in (("raw", c, d * e), ("cosine", c / (d * e), 1), ("projection", c / d**2, e / d)):
        coef, report = unmerge.dot(data, variant=variant)
        assert np.max(np.abs(coef - expected) / scale) <= 1e-14
        assert math.isnan(report.objective) and math.isnan(report.rss) and math.isnan(report.duality_gap)
        assert report.outcome == "converged"
        assert report.yy == pytest.approx(float(e * e), rel=1e-14)
    cosine = unmerge.dot((s.A, s.A[:, 0]), variant="cosine")[0]
    assert cosine[0] == pytest.approx(1, abs=1e-15)
    assert np.abs(cosine).max() <= 1


def test_orthonormal_atoms_have_closed_forms() -> None:
    rng = np.random.default_rng(1)
    Q, _ = np.linalg.qr(rng.standard_normal((200, 12)))
    y = rng.standard_normal(200)
    c = Q.T @ y
    g = unmerge.Gram(Q, y)
    a = 0.4 * np.abs(c).max()
    soft = np.sign(c) * np.maximum(np.abs(c) - a, 0)
    expected = [
        (unmerge.dot(g, variant="raw"), c),
        (unmerge.dot(g, variant="projection"), c),
        (unmerge.dot(g, variant="joint"), c),
        (unmerge.ridge(g, alpha=3), c / 4),
        (unmerge.lasso(g, alpha=a), soft),
        (unmerge.lasso(g, alpha=a, positive=True), np.maximum(c - a, 0)),
        (unmerge.elastic_net(g, alpha=2 * a, l1_ratio=0.5), soft / (1 + a)),
        (unmerge.nnls(g), np.maximum(c, 0)),
        (unmerge.omp(g, k=5), np.where(np.abs(c) >= np.sort(np.abs(c))[-5], c, 0)),
        (unmerge.omp(g, k=3, positive=True), np.where(c >= np.sort(c)[-3], c, 0)),
    ]
    for (coef, report), answer in expected:
        assert np.abs(coef - answer).max() <= 1e-13
        assert report.outcome == "converged"
    assert unmerge.omp(g, k=5)[1].order == list(np.argsort(-np.abs(c))[:5])


def test_two_atoms_by_hand() -> None:
    # min ||A w - y||^2, w >= 0, whose unconstrained answer has a negative weight: optimum (0, 1.6), residual sqrt(0.2).
    A, y = np.array([[3.0, 2.0], [2.0, 1.0]]), np.array([3.0, 2.0]) @ np.diag([1.0, 1.0]) + np.array([0.4, -0.8])
    coef, report = unmerge.nnls((A, y))
    brute = [np.zeros(2)]
    for j in range(2):
        w = np.zeros(2)
        w[j] = max(0.0, A[:, j] @ y / (A[:, j] @ A[:, j]))
        brute.append(w)
    full = np.linalg.solve(A, y)
    if (full >= 0).all():
        brute.append(full)
    best = min(brute, key=lambda w: np.sum((A @ w - y) ** 2))
    assert np.abs(coef - best).max() <= 1e-12
    assert report.rss == pytest.approx(np.sum((A @ best - y) ** 2), abs=1e-13)
    # 2x2 LASSO with G = [[1, r], [r, 1]], c = (1, b): both active gives w = G^-1 (c - alpha).
    r, b, alpha = 0.5, 0.9, 0.2
    g = unmerge.Gram.from_arrays(np.array([[1, r], [r, 1]]), np.array([1, b]), 2.0, 10)
    coef, _ = unmerge.lasso(g, alpha=alpha)
    expected = np.array([(1 - alpha) - r * (b - alpha), (b - alpha) - r * (1 - alpha)]) / (1 - r * r)
    assert np.abs(coef - expected).max() <= 1e-14


@pytest.mark.parametrize("seed", range(6))
def test_nnls_is_the_best_of_all_supports(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 8
    A, y = rng.standard_normal((20, n)) + rng.standard_normal((20, 1)), rng.standard_normal(20)
    best = math.inf
    for bits in range(2**n):
        S = [j for j in range(n) if bits >> j & 1]
        w = np.linalg.lstsq(A[:, S], y, rcond=None)[0] if S else np.zeros(0)
        if (w >= 0).all():
            best = min(best, float(np.sum((A[:, S] @ w - y) ** 2)))
    assert unmerge.nnls((A, y))[1].rss == pytest.approx(best, rel=1e-11)


# ---------------------------------------------------------------- OMP


@pytest.mark.parametrize("seed", range(900, 970))
def test_omp(seed: int) -> None:
    s = oracles.sample(seed, top=3.5)
    n = s.A.shape[1]
    k = 1 + seed % min(n, 12)
    order, best, margin = oracles.omp(s.A, s.y, k)
    coef, report = unmerge.omp(given_as(seed, s.A, s.y), k=k)
    assert margin > 1e-9  # otherwise the order would be a matter of rounding
    assert report.order == order
    assert report.iterations == k
    problem = Problem.make(s.A, s.y)
    condition = oracles.condition_of(s.A[:, order])
    agrees(coef, best, problem.norms, direct_tolerance(condition))
    assert not np.delete(coef, order).any()
    noise = problem.rounding(coef)
    assert abs(report.objective - problem.objective(coef)) <= noise
    assert abs(report.rss - problem.rss(coef)) <= noise
    size = 1 + float((problem.norms * np.abs(coef)).sum() / np.sqrt(problem.yy))
    assert abs(report.violation - oracles.support_violation(s.A, s.y, coef)) <= 8 * n * U * size
    assert report.violation <= TOL
    assert report.outcome == "converged"
    # scikit-learn scores |a'r| without dividing by ||a||: give it unit atoms.
    d = np.asarray(problem.norms, dtype=np.float64)
    other = orthogonal_mp(s.A.astype(np.float64) / d, s.y.astype(np.float64), n_nonzero_coefs=k) / d
    assert set(np.flatnonzero(other)) == set(order)
    agrees(coef, oracles.ld(other), problem.norms, 1e-7 * condition)


@pytest.mark.parametrize("seed", range(4))
def test_omp_recovers_every_support_of_incoherent_atoms(seed: int) -> None:
    """Exact recovery is a theorem for k < (1 + 1/mu) / 2, where mu is the largest cosine of two atoms."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((3000, 20)) * 10 ** rng.uniform(-3, 3, 20)
    B = A / np.linalg.norm(A, axis=0)
    mu = np.abs(B.T @ B - np.eye(20)).max()
    k = math.ceil((1 + 1 / mu) / 2) - 1
    assert k >= 4
    supports = [sorted(rng.choice(20, k, replace=False)) for _ in range(60)]
    weights = np.zeros((20, 60))
    for t, S in enumerate(supports):
        weights[S, t] = rng.choice([-1, 1], k) * rng.uniform(0.1, 1, k) / np.linalg.norm(A[:, S], axis=0)
    coefs, reports = unmerge.omp((A, A @ weights), k=k)
    assert [sorted(r.order) for r in reports] == supports
    assert np.abs((coefs - weights) * np.linalg.norm(A, axis=0)[:, None]).max() <= 1e-12


def test_omp_residuals_fall_and_stop() -> None:
    rng = np.random.default_rng(2)
    A, y = rng.standard_normal((300, 30)), rng.standard_normal(300)
    g = unmerge.Gram(A, y)
    rss = [unmerge.omp(g, k=k)[1].rss for k in range(1, 31)]
    assert (np.diff(rss) < 0).all()
    whole = unmerge.omp(g, k=30)[1].order
    for k in (1, 4, 17):
        assert unmerge.omp(g, k=k)[1].order == whole[:k]
    yy = float(y @ y)
    for k in (1, 3, 9, 20):
        between = math.sqrt((rss[k - 1] + rss[k - 2]) / 2 / yy) if k > 1 else math.sqrt((rss[0] + yy) / 2 / yy)
        coef, report = unmerge.omp(g, k=30, residual_tol=between)
        assert report.order == whole[:k]
        assert report.rss <= between**2 * yy
    coef, report = unmerge.omp(g, k=5, residual_tol=1)
    assert report.order == [] and not coef.any()


@pytest.mark.parametrize("seed", range(8))
def test_positive_omp(seed: int) -> None:
    rng = np.random.default_rng([seed, 5])
    A = rng.standard_normal((120, 15)) + 0.5 * rng.standard_normal((120, 1))
    y = A @ np.where(rng.random(15) < 0.4, rng.standard_normal(15), 0) + rng.standard_normal(120)
    B, before = oracles.ld(A), math.inf
    for k in range(1, 9):
        coef, report = unmerge.omp((A, y), k=k, positive=True)
        assert (coef >= 0).all()
        assert len(report.order) <= k
        chosen = report.order
        assert set(np.flatnonzero(coef)) <= set(chosen)
        # non-negative least squares on the selection
        part = Problem.make(A[:, chosen], y, positive=True)
        best = oracles.minimiser(part, coef[chosen])
        agrees(coef[chosen], best, part.norms, 1e-10)
        assert report.rss <= before * (1 + 1e-14)
        before = report.rss
        if k == 1:
            score = B.T @ oracles.ld(y) / np.sqrt((B * B).sum(axis=0))
            assert chosen == ([int(np.argmax(score))] if score.max() > 0 else [])


# ---------------------------------------------------------------- the certificate at points that are no answer


@pytest.mark.parametrize("seed", range(24))
def test_certificate_of_a_start(seed: int) -> None:
    """max_iter = 0 certifies the start: the gap there is large, so its formula is visible above rounding."""
    s = oracles.sample(seed, top=2)
    problem, options = l1_problem(seed, s, 0.6)
    rng = np.random.default_rng([seed, 6])
    start = rng.standard_normal(s.A.shape[1]) / np.asarray(problem.norms, dtype=float) * float(np.sqrt(problem.yy)) / 9
    start[rng.random(len(start)) < 0.3] = 0
    if problem.positive:
        start = np.abs(start)
    coef, report = unmerge.elastic_net((s.A, s.y), l1_ratio=0.6, start=start, max_iter=0, **options)
    assert np.all(np.abs(coef - start) <= 4 * U * np.abs(start))
    assert report.iterations == 0
    assert report.outcome in ("iteration limit", "converged")
    objective, noise = problem.objective(start), problem.rounding(start)
    optimum = problem.objective(oracles.minimiser(problem, sklearn_start(problem)))
    textbook = problem.gap(start)
    noise += 16 * U * float(objective)  # the penalty of a poor start dwarfs the fit
    assert report.duality_gap >= objective - optimum - noise
    assert report.duality_gap <= textbook * (1 + 1e-9) + noise  # no looser than the scaled residual's
    assert abs(report.objective - objective) <= noise
    assert abs(report.rss - problem.rss(start)) <= noise
    assert report.violation == pytest.approx(problem.violation(start), rel=1e-12)
    assert (report.relative_gap <= TOL) == (report.outcome == "converged")


@pytest.mark.parametrize("seed", range(16))
def test_certificate_of_an_nnls_start(seed: int) -> None:
    """The gap is 1/2 v'G^-1 v of the projected gradient v."""
    s = oracles.sample(seed, top=2)
    problem = Problem.make(s.A, s.y, positive=True)
    rng = np.random.default_rng([seed, 7])
    start = np.abs(rng.standard_normal(s.A.shape[1])) / np.asarray(problem.norms, dtype=float)
    start *= float(np.sqrt(problem.yy)) / 9
    start[rng.random(len(start)) < 0.3] = 0
    coef, report = unmerge.nnls((s.A, s.y), start=start, max_iter=0)
    assert np.all(np.abs(coef - start) <= 4 * U * np.abs(start))
    bound = problem.quadratic_bound(start)
    assert abs(report.duality_gap - bound) <= 1e-9 * bound
    assert abs(report.objective - problem.objective(start)) <= problem.rounding(start)
    assert report.violation == pytest.approx(problem.violation(start), rel=1e-12)
    distance = problem.objective(start) - problem.objective(oracles.minimiser(problem, start))
    assert report.duality_gap >= distance - problem.rounding(start)


@pytest.mark.parametrize("method", ["lasso", "elastic_net", "nnls"])
def test_a_start_at_the_answer_is_the_answer(method: str) -> None:
    call = getattr(unmerge, method)
    for seed in range(10):
        s = oracles.sample(1000 + seed, top=3)
        g = unmerge.Gram(s.A, s.y)
        options = {} if method == "nnls" else {"alpha": 0.1 * unmerge.alpha_max(g)}
        coef, cold = call(g, **options)
        again, warm = call(g, start=coef, **options)
        assert warm.iterations <= 2
        assert warm.outcome == "converged"
        assert np.abs(again - coef).max() <= 1e-12 * np.abs(coef).max()
        # A start far away leads to the same answer, and is not written to.
        far = np.abs(np.random.default_rng(seed).standard_normal(len(coef))) * (np.abs(coef).max() + 1)
        kept = far.copy()
        again, report = call(g, start=far, **options)
        assert np.array_equal(far, kept)
        assert report.outcome == "converged"
        assert abs(report.objective - cold.objective) <= 1e-9 * cold.objective


def test_fewer_iterations_never_claim_more() -> None:
    s = oracles.sample(13, top=4)
    problem = Problem.make(s.A, s.y, alpha=1e-2 * float(np.abs(s.A.astype(float).T @ s.y).max()))
    options = {"alpha": float(problem.l1[0])}
    zero = float(problem.yy) / 2
    for limit in (1, 2, 3, 5, 10):
        coef, report = unmerge.lasso((s.A, s.y), max_iter=limit, tol=1e-13, **options)
        assert report.iterations <= limit
        assert problem.objective(coef) <= zero * (1 + 1e-14)
        assert report.duality_gap <= problem.gap(coef) * (1 + 1e-9) + problem.rounding(coef)
        assert (report.relative_gap <= 1e-13) == (report.outcome == "converged")


# ---------------------------------------------------------------- many targets, many forms


def many_targets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    A = rng.standard_normal((500, 20)) + rng.standard_normal((500, 1))
    Y = A @ np.where(rng.random((20, 7)) < 0.3, rng.standard_normal((20, 7)), 0) + rng.standard_normal((500, 7))
    Y[:, 3] = 0
    return A, Y


CALLS = [
    ("dot", {"variant": "raw"}),
    ("dot", {"variant": "cosine"}),
    ("dot", {"variant": "projection"}),
    ("dot", {"variant": "joint"}),
    ("ridge", {"alpha": 2.0}),
    ("lasso", {"alpha": 30.0}),
    ("lasso", {"alpha": 0.1, "relative": True, "positive": True}),
    ("elastic_net", {"alpha": 0.2, "relative": True, "l1_ratio": 0.4}),
    ("nnls", {}),
    ("omp", {"k": 4}),
    ("omp", {"k": 6, "positive": True}),
]


@pytest.mark.parametrize("method, options", CALLS)
def test_many_targets_at_once_are_one_by_one(method: str, options: dict[str, Any]) -> None:
    """From the same Gram to the bit; from the data as far as the entries of the Gram agree."""
    A, Y = many_targets()
    call = getattr(unmerge, method)
    gram = unmerge.Gram(A, Y)
    coefs, reports = call(gram, **options)
    assert coefs.shape == (20, 7)
    assert len(reports) == 7
    g = gram.arrays()
    for t in range(7):
        one = unmerge.Gram.from_arrays(g.G, g.C[:, t], g.yy[t], 500)
        coef, report = call(one, **options)
        assert np.array_equal(coef, coefs[:, t])
        assert (report.outcome, report.iterations, report.order) == (
            reports[t].outcome,
            reports[t].iterations,
            reports[t].order,
        )
        assert np.array_equal([report.objective, report.duality_gap], [reports[t].objective, reports[t].duality_gap], True)
        alone, _ = call((A, Y[:, t].copy()), **options)
        assert np.abs(alone - coefs[:, t]).max() <= 1e-12 * np.abs(coefs[:, t]).max()


def test_a_target_is_the_same_alone_and_among_others() -> None:
    A, Y = many_targets()
    together = unmerge.Gram(A, Y).arrays()
    for t in range(7):
        alone = unmerge.Gram(A, Y[:, t].copy()).arrays()
        assert np.array_equal(alone.G, together.G)
        assert np.array_equal(alone.yy[0], together.yy[t])
        scale = np.sqrt(np.diag(together.G) * together.yy[t])
        assert (np.abs(alone.C[:, 0] - together.C[:, t]) <= 1e-14 * scale).all()


@pytest.mark.parametrize("method, options", CALLS)
def test_answers_do_not_depend_on_the_form_or_the_threads(method: str, options: dict[str, Any]) -> None:
    A, Y = many_targets()
    call = getattr(unmerge, method)
    for y in (Y, Y[:, 0]):
        expected, _ = call(unmerge.Gram(A, y), **options)
        op = unmerge.Operator.from_matrix(A)
        forms = [(A, y), (op, y), op.with_target(y), (A, unmerge.Operator.from_matrix(y)), [np.asfortranarray(A), y]]
        for data in forms:
            coef = call(data, **options)[0]
            assert coef.shape == expected.shape
            assert np.all(np.abs(coef - expected) <= 1e-12 * np.abs(expected).max(axis=0))
        for threads in (1, 2, 3, 5):
            assert np.array_equal(call(unmerge.Gram(A, y), threads=threads, **options)[0], expected)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("seed", range(12))
def test_limits(seed: int) -> None:
    s = oracles.sample(1100 + seed, top=3)
    g = unmerge.Gram(s.A, s.y)
    n = s.A.shape[1]
    norms = np.linalg.norm(s.A.astype(float), axis=0)
    weights = np.random.default_rng(seed).uniform(0.5, 2, n)
    alpha = 0.05 * unmerge.alpha_max(g)
    tolerance = direct_tolerance(s.condition)

    def near(a: np.ndarray, b: np.ndarray, tolerance: float = tolerance) -> None:
        assert np.abs((a - b) * norms).max() <= tolerance * max(np.abs(b * norms).max(), 1e-300)

    lasso = unmerge.lasso(g, alpha=alpha, weights=weights)[0]
    near(unmerge.elastic_net(g, alpha=alpha, l1_ratio=1, weights=weights)[0], lasso, 1e-7 * s.condition)
    ridge = unmerge.ridge(g, alpha=alpha, weights=weights)[0]
    near(unmerge.elastic_net(g, alpha=alpha, l1_ratio=0, weights=weights)[0], ridge)
    least_squares = unmerge.dot(g, variant="joint")[0]
    near(unmerge.ridge(g, alpha=0)[0], least_squares)
    near(unmerge.lasso(g, alpha=0)[0], least_squares)
    near(unmerge.elastic_net(g, alpha=0, l1_ratio=0.3)[0], least_squares)
    near(unmerge.lasso(g, alpha=0, weights=weights)[0], least_squares)
    near(unmerge.lasso(g, alpha=alpha, weights=np.zeros(n))[0], least_squares)
    near(unmerge.ridge(g, alpha=alpha, weights=np.zeros(n))[0], least_squares)
    near(unmerge.omp(g, k=n)[0], least_squares)
    nonnegative = unmerge.nnls(g)[0]
    near(unmerge.lasso(g, alpha=0, positive=True)[0], nonnegative)
    near(unmerge.elastic_net(g, alpha=0, l1_ratio=0, positive=True)[0], nonnegative)
    # the next target has the non-negative answer as its least-squares answer
    B = s.A.astype(np.float64)
    inside = B @ (np.abs(least_squares) + 1e-3 / norms)
    h = unmerge.Gram(B, inside)
    near(unmerge.nnls(h)[0], unmerge.ridge(h, alpha=0)[0])
    one = unmerge.ridge(g.subset(atoms=[0]), alpha=0)[0]
    near(one, unmerge.dot(g, variant="projection")[0][:1], 1e-13)


@pytest.mark.parametrize("seed", range(10))
def test_alpha_max(seed: int) -> None:
    s = oracles.sample(1200 + seed, top=2)
    n = s.A.shape[1]
    weights = np.random.default_rng(seed).uniform(0.3, 3, n)
    c = oracles.ld(s.A).T @ oracles.ld(s.y)
    g = unmerge.Gram(s.A, s.y)
    for positive in (False, True):
        reach = np.maximum(c, 0) if positive else np.abs(c)
        for w in (None, weights):
            for ratio in (1.0, 0.3):
                expected = float(np.max(reach if w is None else reach / w) / LD(ratio))
                top = unmerge.alpha_max(g, l1_ratio=ratio, weights=w, positive=positive)
                assert top == pytest.approx(expected, rel=1e-12, abs=1e-13 * float(np.sqrt(s.y @ s.y)))
                if expected == 0:
                    continue
                options = {"l1_ratio": ratio, "weights": w, "positive": positive}
                for factor in (1.0, 1 + 1e-9, 2.0, 1e6):
                    coef, report = unmerge.elastic_net(g, alpha=top * factor, **options)
                    assert not coef.any()
                    assert report.outcome == "converged"
                    assert report.nonzeros == 0
                assert report.objective == report.yy / 2
                assert report.duality_gap == 0
                assert not unmerge.elastic_net(g, alpha=1, relative=True, **options)[0].any()
                assert unmerge.elastic_net(g, alpha=top * (1 - 1e-6), **options)[0].any()
                near, _ = unmerge.elastic_net(g, alpha=0.5, relative=True, **options)
                assert np.array_equal(near, unmerge.elastic_net(g, alpha=0.5 * top, **options)[0])


def test_alpha_max_of_many_targets() -> None:
    A, Y = many_targets()
    top = unmerge.alpha_max((A, Y))
    assert top.shape == (7,)
    assert np.allclose(top, np.abs(A.T @ Y).max(axis=0), rtol=1e-13, atol=0)
    assert top[3] == 0
    coefs, _ = unmerge.lasso((A, Y), alpha=0.3, relative=True)
    for t in range(7):
        alone = unmerge.lasso((A, Y[:, t].copy()), alpha=float(0.3 * top[t]))[0]
        assert np.abs(coefs[:, t] - alone).max() <= 1e-12 * np.abs(alone).max()


def test_unpenalised_atoms() -> None:
    """Weight 0: the atom is fitted freely, and alpha_max is that of the rest after it has been projected out."""
    for seed in range(8):
        rng = np.random.default_rng([seed, 8])
        A = rng.standard_normal((200, 9)) + rng.standard_normal((200, 1))
        y = A @ rng.standard_normal(9) + rng.standard_normal(200)
        weights = np.where(np.arange(9) < 2, 0.0, rng.uniform(0.5, 2, 9))
        Q, _ = np.linalg.qr(A[:, :2])
        free = np.abs(A.T @ (y - Q @ (Q.T @ y)))[2:] / weights[2:]
        g = unmerge.Gram(A, y)
        top = unmerge.alpha_max(g, weights=weights)
        assert top == pytest.approx(free.max(), rel=1e-11)
        coef, report = unmerge.lasso(g, alpha=top * (1 + 1e-9), weights=weights)
        assert not coef[2:].any()
        agrees(coef[:2], oracles.ld(np.linalg.lstsq(A[:, :2], y, rcond=None)[0]), np.ones(2), 1e-11)
        assert unmerge.lasso(g, alpha=top * (1 - 1e-6), weights=weights)[0][2:].any()
        for method, ratio in ((unmerge.lasso, 1.0), (unmerge.elastic_net, 0.5)):
            for positive in (False, True):
                alpha = 0.2 * top
                coef, report = method(g, alpha=alpha, weights=weights, positive=positive)
                problem = Problem.make(A, y, alpha, ratio, weights, positive)
                best = oracles.minimiser(problem, np.zeros(9))
                assert problem.violation(best) <= 1e-16
                assert report.outcome == "converged"
                assert problem.violation(coef) <= 1e-9
                assert problem.objective(coef) - problem.objective(best) <= OBJECTIVE * problem.objective(best)
                agrees(coef, best, problem.norms, 1e-9)
        coef, _ = unmerge.ridge(g, alpha=5, weights=weights)
        agrees(coef, oracles.minimiser(Problem.make(A, y, 5, 0, weights), coef), np.ones(9), 1e-11)


# ---------------------------------------------------------------- equivariance


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_scaling_the_target(seed: int, scale: float) -> None:
    s = oracles.sample(seed, top=2, scaled=False)
    A, y = s.A.astype(np.float64), s.y.astype(np.float64)
    alpha = 0.1 * float(np.abs(A.T @ y).max())
    pairs = [
        (unmerge.lasso((A, y), alpha=alpha), unmerge.lasso((A, scale * y), alpha=scale * alpha)),
        (unmerge.elastic_net((A, y), alpha=alpha), None),
        (unmerge.ridge((A, y), alpha=0.3), unmerge.ridge((A, scale * y), alpha=0.3)),
        (unmerge.nnls((A, y)), unmerge.nnls((A, scale * y))),
        (unmerge.omp((A, y), k=5), unmerge.omp((A, scale * y), k=5)),
        (unmerge.dot((A, y), variant="joint"), unmerge.dot((A, scale * y), variant="joint")),
    ]
    for first, second in pairs:
        if second is not None:
            (one, report), (two, scaled) = first, second
            assert np.abs(two - scale * one).max() <= 1e-8 * scale * max(np.abs(one).max(), 1e-300)
            # A residual from the Gram is a difference of numbers of the size of ||y||^2 (1 + |w|^2 d^2).
            floor = 16 * A.shape[1] * 2.0**-53 * scaled.yy * (1 + float(((one * np.linalg.norm(A, axis=0)) ** 2).sum()) / report.yy)
            assert scaled.objective == pytest.approx(scale**2 * report.objective, rel=1e-9, abs=floor)
            assert scaled.order == report.order


@given(seed=st.integers(0, 10**6))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_permuting_flipping_and_scaling_atoms(seed: int) -> None:
    s = oracles.sample(seed, top=2, scaled=False)
    A, y = s.A.astype(np.float64), s.y.astype(np.float64)
    n = A.shape[1]
    rng = np.random.default_rng([seed, 9])
    order, signs = rng.permutation(n), rng.choice([-1.0, 1.0], n)
    lengths = 10 ** rng.uniform(-3, 3, n)
    alpha = 0.1 * float(np.abs(A.T @ y).max())

    def near(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-8) -> None:
        assert np.abs(a - b).max() <= tolerance * max(np.abs(b).max(), 1e-300)

    moved = A[:, order]
    near(unmerge.lasso((moved, y), alpha=alpha)[0], unmerge.lasso((A, y), alpha=alpha)[0][order])
    near(unmerge.nnls((moved, y))[0], unmerge.nnls((A, y))[0][order])
    near(unmerge.ridge((moved, y), alpha=1)[0], unmerge.ridge((A, y), alpha=1)[0][order])
    near(unmerge.omp((moved, y), k=4)[0], unmerge.omp((A, y), k=4)[0][order])
    near(unmerge.lasso((A * signs, y), alpha=alpha)[0], signs * unmerge.lasso((A, y), alpha=alpha)[0])
    near(unmerge.omp((A * signs, y), k=4)[0], signs * unmerge.omp((A, y), k=4)[0])
    near(unmerge.dot((A * signs, y), variant="joint")[0], signs * unmerge.dot((A, y), variant="joint")[0])
    # lengths: least squares, NNLS and OMP do not see them; a penalty weight is a length
    scaled = A * lengths
    near(unmerge.ridge((scaled, y), alpha=0)[0] * lengths, unmerge.ridge((A, y), alpha=0)[0])
    near(unmerge.nnls((scaled, y))[0] * lengths, unmerge.nnls((A, y))[0])
    near(unmerge.omp((scaled, y), k=4)[0] * lengths, unmerge.omp((A, y), k=4)[0])
    near(unmerge.dot((scaled, y), variant="cosine")[0], unmerge.dot((A, y), variant="cosine")[0], 1e-13)
    plain = unmerge.lasso((A, y), alpha=alpha)[0]
    near(unmerge.lasso((scaled, y), alpha=alpha, weights=lengths)[0] * lengths, plain)
    near(unmerge.lasso((A / lengths, y), alpha=alpha)[0] / lengths, unmerge.lasso((A, y), alpha=alpha, weights=lengths)[0])
    near(
        unmerge.ridge((scaled, y), alpha=0.7, weights=lengths**2)[0] * lengths,
        unmerge.ridge((A, y), alpha=0.7)[0],
    )
    near(unmerge.lasso((A, y), alpha=alpha, weights=np.full(n, 2.0))[0], unmerge.lasso((A, y), alpha=2 * alpha)[0])


@given(seed=st.integers(0, 10**6))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_rows_of_zeros_and_the_order_of_rows_change_nothing(seed: int) -> None:
    s = oracles.sample(seed, top=2)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(s.y))
    A, y = s.A[order], s.y[order]
    padded, target = np.zeros((len(y) + 50, A.shape[1]), A.dtype), np.zeros(len(y) + 50, y.dtype)
    padded[25:-25], target[25:-25] = A, y
    alpha = 0.1 * unmerge.alpha_max((s.A, s.y))
    for method, options in (("lasso", {"alpha": alpha}), ("nnls", {}), ("omp", {"k": 3})):
        call = getattr(unmerge, method)
        plain, report = call((s.A, s.y), **options)
        for data in ((A, y), (padded, target)):
            coef, other = call(data, **options)
            assert np.abs(coef - plain).max() <= 1e-8 * np.abs(plain).max(initial=1e-300)
            assert other.objective == pytest.approx(report.objective, rel=1e-10)
            assert other.order == report.order


def test_an_unrelated_atom_changes_nothing() -> None:
    s = oracles.sample(21, top=2)
    A, y = s.A.astype(np.float64), s.y.astype(np.float64)
    other = np.random.default_rng(4).standard_normal(len(y))
    Q, _ = np.linalg.qr(np.column_stack([A, y]))
    other -= Q @ (Q.T @ other)
    other -= Q @ (Q.T @ other)
    wider = np.column_stack([other, A])
    for method, options in (("ridge", {"alpha": 0}), ("nnls", {}), ("lasso", {"alpha": 0.05, "relative": True})):
        plain = getattr(unmerge, method)((A, y), **options)[0]
        coef = getattr(unmerge, method)((wider, y), **options)[0]
        assert abs(coef[0]) * np.linalg.norm(other) <= 1e-12 * np.linalg.norm(y)
        assert np.abs(coef[1:] - plain).max() <= 1e-8 * np.abs(plain).max()


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "seed, options",
    [(0, {}), (1, {"positive": True}), (2, {"l1_ratio": 0.5}), (5, {"l1_ratio": 0.9, "positive": True}), (9, {})],
)
def test_path(seed: int, options: dict[str, Any]) -> None:
    s = oracles.sample(1300 + seed, top=3)
    weights = np.random.default_rng(seed).uniform(0.5, 2, s.A.shape[1]) if seed == 9 else None
    g = unmerge.Gram(s.A, s.y)
    top = unmerge.alpha_max(g, weights=weights, **options)
    alphas, coefs, reports = unmerge.lasso_path(g, n_alphas=25, alpha_min_ratio=1e-3, weights=weights, **options)
    assert np.allclose(alphas, top * 1e-3 ** (np.arange(25) / 24), rtol=1e-13, atol=0)
    assert coefs.shape == (s.A.shape[1], 25)
    assert not coefs[:, 0].any()
    assert coefs[:, 1].any()
    for i, (alpha, report) in enumerate(zip(alphas, reports)):
        problem = Problem.make(s.A, s.y, alpha=alpha, weights=weights, **{"l1_ratio": 1.0, **options})
        check_report(problem, coefs[:, i], report, s.condition)
        optimum = problem.objective(oracles.minimiser(problem, coefs[:, i]))
        assert problem.objective(coefs[:, i]) - optimum <= OBJECTIVE * optimum
        single = unmerge.elastic_net(g, alpha=alpha, weights=weights, **{"l1_ratio": 1.0, **options})[0]
        agrees(coefs[:, i], oracles.ld(single), problem.norms, 1e-7 * s.condition)
    rss = [r.rss for r in reports]
    assert (np.diff(rss) <= 1e-9 * rss[0]).all()
    if weights is None and options.get("l1_ratio", 1.0) == 1.0:
        assert (np.diff(np.abs(coefs).sum(axis=0)) >= -1e-9 * np.abs(coefs).sum(axis=0).max()).all()


def test_path_in_the_callers_order() -> None:
    A, Y = many_targets()
    g = unmerge.Gram(A, Y)
    for t in (0, 6):
        grid = np.array([5.0, 80.0, 0.0, 5.0, 1e9, 20.0])
        alphas, coefs, reports = unmerge.lasso_path(g, alphas=grid, target=t)
        assert np.array_equal(alphas, grid)
        assert np.abs(coefs[:, 0] - coefs[:, 3]).max() <= 1e-10
        assert not coefs[:, 4].any()
        for i, alpha in enumerate(grid):
            single, report = unmerge.lasso(g, alpha=alpha)
            assert np.abs(coefs[:, i] - single[:, t]).max() <= 1e-8
            assert reports[i].objective == pytest.approx(report[t].objective, rel=1e-9)
            assert reports[i].outcome == "converged"
        assert np.abs(coefs[:, 2] - unmerge.ridge(g, alpha=0)[0][:, t]).max() <= 1e-10
    alphas, coefs, reports = unmerge.lasso_path(g, n_alphas=1)
    assert len(alphas) == len(reports) == coefs.shape[1] == 1
    assert alphas[0] == pytest.approx(unmerge.alpha_max(g)[0], rel=1e-13)
    assert not coefs.any()


# ---------------------------------------------------------------- verify and refine


@pytest.mark.parametrize("seed", range(20))
def test_verify(seed: int) -> None:
    s = oracles.sample(1400 + seed)
    rng = np.random.default_rng([seed, 11])
    n = s.A.shape[1]
    coef = np.where(rng.random(n) < 0.7, rng.standard_normal(n), 0) / np.linalg.norm(s.A.astype(float), axis=0)
    positive = seed % 3 == 1
    coef = np.abs(coef) if positive else coef
    weights = rng.uniform(0.2, 2, n) if seed % 2 else None
    alpha, ratio = [(0.0, 1.0), (0.3, 1.0), (2.0, 0.4), (5.0, 0.0)][seed % 4]
    problem = Problem.make(s.A, s.y, alpha, ratio, weights, positive)
    pair = (s.A, s.y) if seed % 2 else given_as(3, s.A, s.y)
    correlation, report = unmerge.verify(
        *pair, coef, alpha=alpha, l1_ratio=ratio, weights=weights, positive=positive
    )
    assert report.streamed
    residual = problem.residual(coef)
    size = np.sqrt(problem.yy) + (problem.norms * np.abs(coef)).sum()
    assert np.all(np.abs(correlation - problem.A.T @ residual) <= 1e-14 * problem.norms * size)
    assert abs(report.rss - problem.rss(coef)) <= 1e-14 * (np.sqrt(problem.rss(coef)) * size + 1e-14 * size**2)
    assert abs(report.objective - problem.objective(coef)) <= 1e-13 * problem.objective(coef)
    expected = problem.violation(coef)
    assert abs(report.violation - expected) <= 1e-13 * (float(size / np.sqrt(problem.yy)) + expected)
    assert report.yy == pytest.approx(float(problem.yy), rel=1e-14)
    optimum = problem.objective(oracles.minimiser(problem, np.zeros(n)))
    if not math.isnan(report.duality_gap):
        assert report.duality_gap >= (problem.objective(coef) - optimum) * (1 - LD(1e-9))
    if (problem.l1 > 0).all():
        assert report.duality_gap <= problem.gap(coef) * (1 + 1e-9)


def test_verify_of_a_perfect_fit_sees_below_the_gram() -> None:
    """The residual comes from the data: its norm is right to the last digits of y, not to the square root of them."""
    rng = np.random.default_rng(12)
    A, w = rng.standard_normal((2000, 6)), rng.standard_normal(6)
    y = (oracles.ld(A) @ oracles.ld(w)).astype(np.float64)
    problem = Problem.make(A, y)
    _, report = unmerge.verify(A, y, w)
    size = float(np.sqrt(problem.yy) + (problem.norms * np.abs(w)).sum())
    assert math.sqrt(report.rss) <= 1e-15 * size
    bumped = w + [1e-9, 0, 0, 0, 0, 0]
    _, report = unmerge.verify(A, y, bumped)
    assert report.rss == pytest.approx(float(problem.rss(bumped)), rel=1e-5)


def test_verify_of_many_targets() -> None:
    A, Y = many_targets()
    coefs, _ = unmerge.lasso((A, Y), alpha=30.0)
    correlations, reports = unmerge.verify(A, Y, coefs, alpha=30.0)
    assert correlations.shape == coefs.shape
    for t in range(7):
        correlation, report = unmerge.verify(A, Y[:, t].copy(), coefs[:, t].copy(), alpha=30.0)
        size = np.linalg.norm(A, axis=0) * (np.linalg.norm(Y[:, t]) + np.linalg.norm(A) * np.abs(coefs[:, t]).sum())
        assert np.all(np.abs(correlation - correlations[:, t]) <= 1e-14 * size)
        assert report.objective == pytest.approx(reports[t].objective, rel=1e-13)
        assert report.rss == pytest.approx(reports[t].rss, rel=1e-13)
        assert report.outcome == reports[t].outcome == "converged"


def test_verify_of_a_support() -> None:
    rng = np.random.default_rng(13)
    A, y = rng.standard_normal((150, 12)), rng.standard_normal(150)
    coef, _ = unmerge.omp((A, y), k=4)
    _, report = unmerge.verify(A, y, coef, support_only=True)
    assert report.violation <= 1e-14
    assert abs(report.violation - oracles.support_violation(A, y, coef)) <= 1e-15
    assert unmerge.verify(A, y, coef)[1].violation == pytest.approx(Problem.make(A, y).violation(coef), rel=1e-10)
    coef[np.flatnonzero(coef)[0]] *= 1.01
    _, report = unmerge.verify(A, y, coef, support_only=True)
    assert report.violation == pytest.approx(oracles.support_violation(A, y, coef), rel=1e-10)


def digits(problem: Problem, coef: np.ndarray, best: np.ndarray) -> float:
    return float(np.max(np.abs(oracles.ld(coef) - best) * problem.norms) / np.max(np.abs(best) * problem.norms))


REFINED = [
    ("least squares", {}, lambda g, o: unmerge.ridge(g, alpha=0)),
    ("ridge", {"alpha": 1e-9, "l1_ratio": 0.0}, lambda g, o: unmerge.ridge(g, alpha=o["alpha"])),
    ("nnls", {"positive": True}, lambda g, o: unmerge.nnls(g)),
    ("lasso", {"alpha": 1e-7}, lambda g, o: unmerge.lasso(g, alpha=o["alpha"])),
    ("elastic net", {"alpha": 1e-7, "l1_ratio": 0.5}, lambda g, o: unmerge.elastic_net(g, alpha=o["alpha"])),
]


@pytest.mark.parametrize("condition", [1e4, 1e5, 7e5])
@pytest.mark.parametrize("name, options, solve", REFINED, ids=[r[0] for r in REFINED])
def test_refine_wins_digits(condition: float, name: str, options: dict[str, Any], solve: Any) -> None:
    """One streamed step: three digits or more, or the accuracy of a backward stable method."""
    gains = []
    for seed in range(3):
        rng = np.random.default_rng([seed, 14])
        A = oracles.with_condition(rng, 2000, 16, condition) * 10 ** rng.uniform(-1, 1, 16)
        true = oracles.condition_of(A)
        weights = rng.uniform(0.5, 2, 16) * (1 if options.get("positive") else rng.choice([-1, 1], 16))
        y = A @ (weights / np.linalg.norm(A, axis=0)) + 1e-6 * rng.standard_normal(2000)
        problem = Problem.make(A, y, **options)
        g = unmerge.Gram(A, y)
        coef, report = solve(g, options)
        before = coef.copy()
        better, refined = unmerge.refine(g, A, y, coef, **options)
        assert np.array_equal(coef, before)
        assert refined.streamed
        best = oracles.minimiser(problem, coef)
        assert problem.quadratic_bound(best) <= 1e-13 * problem.objective(best)
        assert np.array_equal(np.flatnonzero(better), np.flatnonzero(best))
        first, second = digits(problem, coef, best), digits(problem, better, best)
        assert second <= max(1e-3 * first, 1e-14 * true), (seed, first, second)
        gains.append(first / max(second, 1e-17))
        assert problem.objective(better) <= problem.objective(coef) * (1 + 1e-14)
        size = np.sqrt(problem.yy) + (problem.norms * np.abs(better)).sum()
        noise = 1e-14 * (np.sqrt(problem.rss(better)) * size + 1e-14 * size**2)
        assert abs(refined.rss - problem.rss(better)) <= noise
        assert abs(refined.objective - problem.objective(better)) <= noise
        assert abs(refined.violation - problem.violation(better)) <= 1e-14
        again, _ = unmerge.refine(g, A, y, better, **options)
        assert digits(problem, again, best) <= max(10 * second, 1e-15 * true)
    assert max(gains) >= 100


def test_refine_of_a_selection() -> None:
    rng = np.random.default_rng(15)
    A = oracles.with_condition(rng, 1500, 10, 1e5)
    y = A @ rng.standard_normal(10) + 1e-5 * rng.standard_normal(1500)
    g = unmerge.Gram(A, y)
    coef, report = unmerge.omp(g, k=7)
    better, refined = unmerge.refine(g, A, y, coef, support_only=True)
    S = np.flatnonzero(coef)
    assert np.array_equal(np.flatnonzero(better), S)
    part = Problem.make(A[:, S], y)
    best = oracles.minimiser(part, coef[S])
    assert digits(part, better[S], best) <= max(1e-3 * digits(part, coef[S], best), 1e-14 * oracles.condition_of(A[:, S]))
    assert refined.violation <= 1e-14


def test_refine_of_the_fast_gram() -> None:
    """With a Gram right to 2e-8 one step multiplies the error by about cond(G) 2e-8."""
    p, n = 2**19 + 99, 24
    rng = np.random.default_rng(16)
    A = rng.standard_normal((p, n), dtype=np.float32) + np.float32(12) * rng.standard_normal((p, 1), dtype=np.float32)
    weights = np.tile([1.0, -2.0, 0.5, 3.0, -1.0, 0.25], 4)
    y = (A.astype(np.float64) @ weights).astype(np.float32)
    square = oracles.condition_of(A) ** 2
    assert 100 < square < 1e5
    G, C, _ = oracles.double_gram(A, y)
    best = np.linalg.solve(G, C[:, 0])
    g = unmerge.Gram(A, y, precision="fast")
    coef, report = unmerge.ridge(g, alpha=0)
    assert np.abs(coef - best).max() <= 2e-8 * n * square * 3
    once, _ = unmerge.refine(g, A, y, coef)
    twice, _ = unmerge.refine(g, A, y, once)
    first, second, third = (np.abs(w - best).max() / 3 for w in (coef, once, twice))
    assert first > 1e-8  # there was something to win
    assert second <= max(20 * n * square * 2e-8 * first, 1e-11)
    assert second <= 0.1 * first
    assert third <= 1e-10


def test_refine_keeps_signs() -> None:
    """A coefficient that would change its sign stays where it is and shows up in the violation."""
    rng = np.random.default_rng(17)
    A = rng.standard_normal((100, 4))
    y = A @ np.array([1.0, -1.0, 0.5, 2.0])
    wrong = np.array([1.0, 0.3, 0.5, 2.0])
    better, report = unmerge.refine(unmerge.Gram(A, y), A, y, wrong, alpha=1e-3)
    assert better[1] >= 0
    assert report.violation > 1e-3
    assert abs(report.violation - Problem.make(A, y, 1e-3).violation(better)) <= 1e-12


def test_fully_explained_and_reduced_accuracy_are_flagged() -> None:
    rng = np.random.default_rng(18)
    A = rng.standard_normal((400, 5))
    y = A @ np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    for method in (unmerge.nnls, lambda d: unmerge.ridge(d, alpha=0), lambda d: unmerge.omp(d, k=5)):
        coef, report = method((A, y))
        assert "fully_explained" in report.flags
        assert np.abs(coef - [1.0, 2.0, 0.5, 1.0, 3.0]).max() <= 1e-12
        assert "fully_explained" not in method((A, y + 1e-3 * rng.standard_normal(400)))[1].flags
    hard = oracles.with_condition(rng, 400, 8, 9e5)
    easy = oracles.with_condition(rng, 400, 8, 10.0)
    y = rng.standard_normal(400)
    assert "reduced_accuracy" in unmerge.ridge((hard, y), alpha=0)[1].flags
    assert "reduced_accuracy" not in unmerge.ridge((easy, y), alpha=0)[1].flags
