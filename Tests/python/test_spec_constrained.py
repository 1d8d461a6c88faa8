"""Least squares and the LASSO under constraints, from their definitions: certificates recomputed in extended precision,
other people's solvers, the limits in which one method is another, and what has no interior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import clarabel
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.linear_model import ElasticNet, Ridge, lars_path

import oracles
import unmerge
from oracles import LD, U, Problem, ld

EACH = 520  # random problems per method, in lots
LOTS = 8
TOL = 1e-10


def lots(function: Any) -> Any:
    return pytest.mark.parametrize("lot", range(LOTS))(function)


def seeds(lot: int) -> range:
    return range(lot, EACH, LOTS)


@dataclass
class Case:
    A: np.ndarray
    y: np.ndarray
    rng: np.random.Generator
    condition: float

    @property
    def norms(self) -> np.ndarray:
        return np.linalg.norm(self.A, axis=0)

    @property
    def least_squares(self) -> np.ndarray:
        d = self.norms
        return np.linalg.lstsq(self.A / d, self.y, rcond=None)[0] / d


def case(seed: int, *, wide: bool = False, top: float = 3.0) -> Case:
    """p to 80, n to 24, condition to 10^top, atoms of different lengths, over four decades in every third problem."""
    rng = np.random.default_rng([seed, 417])
    if wide:
        p = int(rng.integers(4, 16))
        n = int(rng.integers(p + 1, 30))
        A = rng.standard_normal((p, n))
    else:
        p = int(rng.integers(12, 81))
        n = int(rng.integers(1, min(24, p - 4) + 1))
        A = oracles.with_condition(rng, p, n, 10 ** (top * rng.random()))
    condition = math.inf if wide else oracles.condition_of(A)
    A = A * 10.0 ** rng.uniform(-2, 2, n) if seed % 3 == 0 else A * rng.uniform(0.5, 2, n)
    truth = np.where(rng.random(n) < 0.6, rng.standard_normal(n), 0) / np.linalg.norm(A, axis=0)
    noise = rng.standard_normal(p)
    y = A @ truth + 10.0 ** rng.uniform(-3, 0) * noise / np.linalg.norm(noise)
    return Case(A, y, rng, condition)


def check_numbers(problem: Problem, coef: np.ndarray, report: unmerge.Report, objective: Any) -> None:
    """What the report says about coef."""
    noise = problem.rounding(coef) + 8 * len(coef) * U * float(problem.objective(coef))
    assert np.isfinite(coef).all()
    assert report.nonzeros == np.count_nonzero(coef)
    assert abs(report.rss - problem.rss(coef)) <= noise
    assert abs(report.yy - problem.yy) <= 1e-14 * problem.yy
    assert abs(report.objective - objective) <= noise + 1e-13 * abs(objective)
    assert report.duality_gap >= 0 or math.isnan(report.duality_gap)


def slack(problem: Problem, coef: np.ndarray) -> float:
    """What rounding in terms of the Gram leaves of an objective: the larger of its own and the tolerance's."""
    return float(TOL * max(float(problem.rss(coef)) / 2, problem.floor())) + problem.rounding(coef)


def linear_excess(problem: Problem, coef: np.ndarray, best: Any) -> Any:
    """max over the set of g'(x - w), g = A'r: at least what the objective is above its optimum; best = max of g'x."""
    g = problem.A.T @ problem.residual(coef)
    return best(g) - g @ ld(coef)


# ---------------------------------------------------------------- bounds


def boxes(c: Case) -> tuple[np.ndarray, np.ndarray]:
    """Around the least-squares solution: some to one side of it, some infinite, some that fix a coefficient."""
    n = c.A.shape[1]
    size = (np.abs(c.least_squares) + 0.1 * np.linalg.norm(c.y) / c.norms) * c.rng.choice([0.3, 1.0])
    middle = c.least_squares + c.rng.standard_normal(n) * size
    half = c.rng.uniform(0.05, 1, n) * size
    lower, upper = middle - half, middle + half
    lower[c.rng.random(n) < 0.15] = 0
    upper = np.maximum(upper, lower)
    if c.rng.random() < 0.5:
        lower[c.rng.random(n) < 0.3] = -np.inf
        upper[c.rng.random(n) < 0.3] = np.inf
    equal = (c.rng.random(n) < 0.1) & np.isfinite(lower)
    upper[equal] = lower[equal]
    return lower, upper


def kkt_between(problem: Problem, coef: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Largest correlation that an admissible move could still use."""
    w = ld(coef)
    p = problem.projected_gradient(w) if problem.l1.any() or problem.l2.any() else problem.gradient(w)
    p = np.where((w <= lower) & (p < 0), 0, np.where((w >= upper) & (p > 0), 0, p))
    return float(np.max(np.abs(p) / (problem.norms * np.sqrt(problem.yy)), initial=LD(0)))


@lots
def test_bvls(lot: int) -> None:
    for seed in seeds(lot):
        c = case(seed)
        lower, upper = boxes(c)
        problem = Problem.make(c.A, c.y)
        coef, report = unmerge.bvls((c.A, c.y), lower=lower, upper=upper)
        assert report.converged, (seed, report)
        assert (lower <= coef).all() and (coef <= upper).all(), seed
        check_numbers(problem, coef, report, problem.rss(coef) / 2)
        assert kkt_between(problem, coef, lower, upper) <= 1e-9, seed
        assert abs(report.violation - kkt_between(problem, coef, lower, upper)) <= 1e-12 * (1 + np.abs(coef * c.norms).sum() / np.linalg.norm(c.y))
        if np.isfinite(lower).all() and np.isfinite(upper).all():
            excess = linear_excess(problem, coef, lambda g: np.where(g > 0, g * upper, g * lower).sum())
            widths = float((problem.norms * (upper - lower)).sum() * np.sqrt(problem.yy))
            rounding = 8 * len(coef) * U * widths * (1 + problem.rounding(coef) / problem.floor()) ** 0.5
            assert -rounding <= excess <= slack(problem, coef) + rounding, seed
            assert math.isfinite(report.duality_gap)
        # scipy wants lower < upper: fixed coefficients are moved to the target.
        free = lower < upper
        if free.any():
            d = c.norms[free]
            rest = c.y - c.A[:, ~free] @ lower[~free]
            other = scipy.optimize.lsq_linear(
                c.A[:, free] / d, rest, (lower[free] * d, upper[free] * d), method="bvls", tol=1e-14, max_iter=500
            )
            assert report.objective <= other.cost + slack(problem, coef), seed


@lots
def test_bounds_in_the_elastic_net(lot: int) -> None:
    """KKT in extended precision; the path, verify and refine say the same."""
    for seed in seeds(lot):
        c = case(seed + 1000)
        lower, upper = boxes(c)
        alpha = float(np.max(np.abs(c.A.T @ c.y)) * 10 ** c.rng.uniform(-3, -0.3))
        ratio = float(c.rng.choice([1.0, 0.5, 0.0]))
        weights = c.rng.uniform(0, 2, c.A.shape[1]) if seed % 4 == 0 else None
        problem = Problem.make(c.A, c.y, alpha=alpha, l1_ratio=ratio, weights=weights)
        gram = unmerge.Gram(c.A, c.y)
        options = {"weights": weights, "lower": lower, "upper": upper}
        coef, report = unmerge.elastic_net(gram, alpha=alpha, l1_ratio=ratio, **options)
        assert report.converged, (seed, report)
        assert (lower <= coef).all() and (coef <= upper).all()
        check_numbers(problem, coef, report, problem.objective(coef))
        assert kkt_between(problem, coef, lower, upper) <= 1e-9, seed
        if ratio == 1:
            same, _ = unmerge.lasso(gram, alpha=alpha, **options)
            assert (same == coef).all()
        if ratio > 0 and seed % 4 == 0:
            _, path, reports = unmerge.lasso_path(gram, alphas=[2 * alpha, alpha], l1_ratio=ratio, **options)
            assert reports[1].converged
            assert abs(problem.objective(path[:, 1]) - problem.objective(coef)) <= slack(problem, coef)
        if seed % 4 == 1:
            claim = {"alpha": alpha, "l1_ratio": ratio, **options}
            _, streamed = unmerge.verify(c.A, c.y, coef, **claim)
            assert abs(streamed.violation - kkt_between(problem, coef, lower, upper)) <= 1e-13
            assert abs(streamed.objective - problem.objective(coef)) <= 1e-12 * float(problem.objective(coef))
            better, after = unmerge.refine(gram, c.A, c.y, coef, **claim)
            assert (lower <= better).all() and (better <= upper).all()
            assert after.violation <= max(streamed.violation, 1e-14)


# ---------------------------------------------------------------- mixtures


def best_mixture(g: np.ndarray, lower: Any, upper: Any, total: float) -> Any:
    """max g'x over lower <= x <= upper with sum x = total: what is left goes to the largest g first."""
    x = ld(lower).copy()
    left = ld(total) - x.sum()
    for j in np.argsort(-g):
        x[j] += min(left, ld(upper)[j] - x[j])
        left = ld(total) - x.sum()
    return g @ x


def cone_program(P: np.ndarray, q: np.ndarray, rows: Any, b: Any, cones: list[Any]) -> np.ndarray:
    """Clarabel: min 1/2 x'Px + q'x subject to b - rows x in the cones."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    upper = scipy.sparse.csc_matrix(np.triu(P))
    solution = clarabel.DefaultSolver(upper, q, scipy.sparse.csc_matrix(rows), np.asarray(b, dtype=float), cones, settings).solve()
    return np.array(solution.x)


@lots
def test_simplex(lot: int) -> None:
    for seed in seeds(lot):
        c = case(seed + 2000)
        n = c.A.shape[1]
        total = float(c.rng.choice([1.0, 10.0 ** c.rng.uniform(-2, 2)]))
        lower, upper = np.zeros(n), np.full(n, np.inf)
        if seed % 3 == 1:
            lower = c.rng.uniform(-1, 0.9, n) * total / n
            upper = lower + c.rng.uniform(0.5, 3, n) * total
            upper[0] += max(0.0, total - upper.sum())
        problem = Problem.make(c.A, c.y)
        coef, report = unmerge.simplex((c.A, c.y), total=total, lower=lower, upper=upper)
        assert report.converged, (seed, report)
        assert (lower <= coef).all() and (coef <= upper).all(), seed
        assert abs(coef.sum() - total) <= 1e-14 * np.abs(coef).sum(), (seed, coef.sum() - total)
        check_numbers(problem, coef, report, problem.rss(coef) / 2)
        room = np.minimum(upper, total - (lower.sum() - lower))
        excess = linear_excess(problem, coef, lambda g: best_mixture(g, lower, room, total))
        widths = float((problem.norms * (room - lower)).sum())
        assert excess <= slack(problem, coef) + 100 * n * U * widths * float(np.sqrt(problem.yy)) + problem.rounding(room), (seed, excess)
        assert excess >= -problem.rounding(room)
        # The multiplier is the common gradient of whoever is between bounds.
        free = (coef > lower) & (coef < room)
        g = np.asarray(problem.gradient(coef), dtype=float)
        scale = problem.norms * np.sqrt(problem.yy) * (1 + (problem.norms * np.abs(coef)).sum() / np.sqrt(problem.yy))
        assert (np.abs(-report.multiplier - g)[free] <= 1e-9 * scale[free]).all(), seed
        if seed % 3 == 0:  # the multiplier is the slope of the optimum
            continue
        d = c.norms
        rows = np.vstack([1 / d, -np.eye(n), np.eye(n)[np.isfinite(upper)]])
        b = np.concatenate([[total], -lower * d, (upper * d)[np.isfinite(upper)]])
        cones = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(len(b) - 1)]
        S = c.A / d
        x = cone_program(S.T @ S, -S.T @ c.y, rows, b, cones) / d
        x = np.clip(x, lower, upper)
        gap = report.objective - problem.rss(x) / 2
        assert gap <= 1e-7 * float(problem.yy) * (1 + np.abs(x * d).max() / np.sqrt(float(problem.yy))), seed


# ---------------------------------------------------------------- the LASSO in its constrained forms


def penalties(c: Case, seed: int) -> tuple[np.ndarray | None, np.ndarray]:
    n = c.A.shape[1]
    weights = c.rng.uniform(0.1, 3, n) if seed % 3 == 1 else None
    return weights, np.ones(n) if weights is None else weights


def norm_of(pi: np.ndarray, w: Any) -> Any:
    return (ld(pi) * np.abs(ld(w))).sum()


def largest(g: np.ndarray, pi: np.ndarray, positive: bool) -> Any:
    return np.max((g if positive else np.abs(g)) / ld(pi))


@lots
def test_lasso_tau(lot: int) -> None:
    for seed in seeds(lot):
        c = case(seed + 3000)
        weights, pi = penalties(c, seed)
        positive = seed % 4 == 3
        full = c.least_squares if not positive else unmerge.nnls((c.A, c.y))[0]
        reach = float(norm_of(pi, full))
        if reach == 0:
            continue
        tau = reach * float(c.rng.choice([c.rng.uniform(0.02, 0.98), 1e-6, 1 - 1e-6]))
        problem = Problem.make(c.A, c.y)
        coef, report = unmerge.lasso_tau((c.A, c.y), tau=tau, weights=weights, positive=positive)
        assert report.converged, (seed, report)
        assert not positive or (coef >= 0).all()
        assert abs(norm_of(pi, coef) - tau) <= 1e-14 * tau * len(coef), seed
        check_numbers(problem, coef, report, problem.rss(coef) / 2)
        excess = linear_excess(problem, coef, lambda g: tau * max(largest(g, pi, positive), LD(0)))
        width = tau * float(largest(problem.norms * np.sqrt(problem.yy), pi, False))
        assert -8 * len(coef) * U * width <= excess <= slack(problem, coef) + 100 * U * width, (seed, excess)
        # The multiplier is the alpha with the same answer.
        again, _ = unmerge.lasso((c.A, c.y), alpha=report.multiplier, weights=weights, positive=positive)
        assert np.max(np.abs(again - coef) * c.norms) <= 1e-9 * c.condition**2 * np.max(np.abs(coef) * c.norms), seed
        if seed % 3 == 2:
            n, d = len(coef), c.norms / pi
            S = c.A / (c.norms)
            # w d = x+ - x-, sum pi/d (x+ + x-) <= tau
            H, q = np.block([[S.T @ S, -S.T @ S], [-S.T @ S, S.T @ S]]), np.concatenate([-S.T @ c.y, S.T @ c.y])
            rows = np.vstack([np.tile(1 / d, 2), -np.eye(2 * n)] + ([np.hstack([np.zeros((n, n)), np.eye(n)])] if positive else []))
            b = np.concatenate([[tau], np.zeros(2 * n)] + ([np.zeros(n)] if positive else []))
            x = cone_program(H, q, rows, b, [clarabel.NonnegativeConeT(len(b))])
            other = (x[:n] - x[n:]) / c.norms
            other = other * min(1, tau / float(norm_of(pi, other)))
            assert report.objective <= problem.rss(other) / 2 + 1e-7 * problem.yy, seed


@pytest.mark.parametrize("noise", [1e-4, 1e-5])
def test_a_budget_that_is_least_squares_but_for_rounding(noise: float) -> None:
    """Condition 6e5: the norm that the Gram's least squares have is off in the sixth digit, and there may be no multiplier."""
    for seed in range(80):
        rng = np.random.default_rng([seed, 11])
        n = int(rng.integers(5, 60))
        A = oracles.with_condition(rng, 150, n, 10**5.75)
        y = A @ rng.standard_normal(n) + noise * rng.standard_normal(150)
        tau = float(np.abs(np.linalg.lstsq(A, y, rcond=None)[0]).sum()) * (1 - 1e-6 * (seed % 2))
        coef, report = unmerge.lasso_tau((A, y), tau=tau)
        assert report.converged, (seed, report)
        assert np.abs(coef).sum() <= tau * (1 + 1e-14 * n)


@lots
def test_bpdn(lot: int) -> None:
    for seed in seeds(lot):
        c = case(seed + 4000)
        weights, pi = penalties(c, seed)
        positive = seed % 4 == 3
        problem = Problem.make(c.A, c.y)
        full = c.least_squares if not positive else unmerge.nnls((c.A, c.y))[0]
        least, size = float(np.sqrt(problem.rss(full))), float(np.sqrt(problem.yy))
        share = float(c.rng.choice([c.rng.uniform(0.02, 0.98), 1e-4, 1 - 1e-6]))
        sigma = least + share * (size - least)
        relative = seed % 2 == 0
        coef, report = unmerge.bpdn((c.A, c.y), sigma=sigma / size if relative else sigma, relative=relative, weights=weights, positive=positive)
        # Rounding of ||r||^2, over the multiplier, is all that may be left.
        rounding = 40 * problem.rounding(coef) / report.multiplier if report.multiplier > 0 else 0
        assert report.converged or (report.outcome == "stalled" and report.duality_gap <= rounding), (seed, report)
        assert not positive or (coef >= 0).all()
        assert abs(problem.rss(coef) - sigma**2) <= 4 * problem.rounding(coef), seed
        check_numbers(problem, coef, report, norm_of(pi, coef))
        if report.multiplier == 0:  # sigma is the least-squares residual, to rounding
            continue
        # max y'u - sigma ||u|| over |A'u| <= pi is the dual; u = r / alpha
        r = problem.residual(coef)
        u = r / largest(problem.A.T @ r, pi, positive)
        dual = problem.y @ u - LD(sigma) * np.sqrt(u @ u)
        assert -rounding <= norm_of(pi, coef) - dual <= 1e-9 * norm_of(pi, coef) + rounding, (seed, norm_of(pi, coef) - dual)
        if seed % 3 == 2:
            n = len(coef)
            d = c.norms
            S = c.A / d
            R = np.linalg.qr(np.column_stack([S, c.y]))[1] / size
            R, z = R[:, :n], R[:, n]
            rows = np.vstack([-np.eye(2 * n), np.zeros((1, 2 * n)), np.hstack([R, -R])])
            b = np.concatenate([np.zeros(2 * n), [sigma / size], z])
            cones: list[Any] = [clarabel.NonnegativeConeT(2 * n), clarabel.SecondOrderConeT(len(z) + 1)]
            if positive:
                rows, b = np.vstack([np.hstack([np.zeros((n, n)), np.eye(n)]), rows]), np.concatenate([np.zeros(n), b])
                cones.insert(0, clarabel.NonnegativeConeT(n))
            x = cone_program(np.zeros((2 * n, 2 * n)), np.tile(pi / d, 2) * np.max(d / pi), rows, b, cones)
            other = norm_of(pi, (x[:n] - x[n:]) / d)
            assert abs(norm_of(pi, coef) - other) <= 1e-5 * other + 1e-6 * size * np.max(pi / d), (seed, norm_of(pi, coef), other)


@lots
def test_basis_pursuit(lot: int) -> None:
    """Wide problems: HiGHS agrees on the smallest norm."""
    for seed in seeds(lot):
        c = case(seed + 5000, wide=True)
        n = c.A.shape[1]
        weights, pi = penalties(c, seed)
        positive = seed % 4 == 3
        if positive:
            c.y = c.A @ np.where(c.rng.random(n) < 0.5, c.rng.uniform(0, 1, n) / c.norms, 0)
        coef, report = unmerge.basis_pursuit((c.A, c.y), weights=weights, positive=positive)
        assert report.converged, (seed, report)
        problem = Problem.make(c.A, c.y)
        assert np.linalg.norm(c.A @ coef - c.y) <= 1e-7 * np.linalg.norm(c.y), seed
        assert abs(report.objective - norm_of(pi, coef)) <= 1e-13 * norm_of(pi, coef)
        assert not positive or (coef >= 0).all()
        d = c.norms
        S = c.A / d
        if positive:
            lp = scipy.optimize.linprog(pi / d, A_eq=S, b_eq=c.y)
        else:
            lp = scipy.optimize.linprog(np.tile(pi / d, 2), A_eq=np.hstack([S, -S]), b_eq=c.y)
        assert lp.status == 0
        assert abs(report.objective - lp.fun) <= 1e-6 * lp.fun, (seed, report.objective, lp.fun)
        assert report.objective - report.duality_gap <= lp.fun * (1 + 1e-7)


@lots
def test_dantzig(lot: int) -> None:
    """HiGHS agrees on the linear program; every constraint holds to rounding; at most the LASSO's norm."""
    for seed in seeds(lot):
        c = case(seed + 6000, wide=seed % 5 == 4)
        n, d, size = c.A.shape[1], c.norms, float(np.linalg.norm(c.y))
        weights, pi = penalties(c, seed)
        share = float(10 ** c.rng.uniform(-3, -0.05))
        top = float(np.max(np.abs(c.A.T @ c.y) / pi))
        relative = seed % 2 == 0
        delta = share if relative else share * top
        coef, report = unmerge.dantzig((c.A, c.y), delta=delta, weights=weights, relative=relative)
        assert report.converged, (seed, report)
        problem = Problem.make(c.A, c.y)
        check_numbers(problem, coef, report, norm_of(pi, coef))
        noise = 8 * n * U * (1 + float((d * np.abs(coef)).sum()) / size)
        assert np.max((np.abs(problem.gradient(coef)) - share * top * pi) / (d * size)) <= noise, seed
        assert report.violation <= noise
        S = c.A / d
        G, b = S.T @ S, S.T @ c.y / size
        bound = share * top * pi / d / size
        lp = scipy.optimize.linprog(
            np.tile(pi / d, 2),
            A_ub=np.block([[G, -G], [-G, G]]),
            b_ub=np.concatenate([bound + b, bound - b]),
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        assert lp.status == 0
        assert abs(report.objective - lp.fun * size) <= 1e-8 * report.objective, seed
        lasso, _ = unmerge.lasso((c.A, c.y), alpha=share * top, weights=weights)
        assert report.objective <= float(norm_of(pi, lasso)) * (1 + 1e-10)


# ---------------------------------------------------------------- the path and its knots


@lots
def test_knots(lot: int) -> None:
    """Optimal at every knot; linear between them, where single solves agree."""
    for seed in seeds(lot):
        c = case(seed + 7000, wide=seed % 5 == 4)
        n, d = c.A.shape[1], c.norms
        weights, pi = penalties(c, seed)
        if seed % 6 == 1:
            pi = pi.copy()
            pi[0] = 0
            weights = pi
        positive = seed % 7 == 3
        ridge = float(c.rng.choice([0.0, 1e-2])) * float(d.min()) ** 2
        gram = unmerge.Gram(c.A, c.y)
        alphas, coefs, report = unmerge.lasso_knots(gram, weights=weights, positive=positive, ridge=ridge)
        assert report.converged, (seed, report)
        assert alphas[-1] == 0 and (np.diff(alphas) < 0).all()
        assert alphas[0] == pytest.approx(unmerge.alpha_max(gram, weights=weights, positive=positive), rel=1e-13, abs=1e-300)
        problem = Problem.make(c.A, c.y)
        scale = d * np.sqrt(float(problem.yy))
        for alpha, w in zip(alphas, coefs.T):
            g = problem.gradient(w) - LD(ridge) * ld(w)
            limit = LD(alpha) * ld(pi)
            off = np.where(w != 0, np.abs(g - np.sign(w) * limit), np.maximum((g if positive else np.abs(g)) - limit, 0))
            assert np.max(off / scale) <= 1e-12, seed
            assert not positive or (w >= 0).all()
        if ridge or len(alphas) < 2:
            continue
        for alpha in alphas[0] * c.rng.random(4) ** 3:
            i = int(np.clip(np.searchsorted(-alphas, -alpha), 1, len(alphas) - 1))
            share = (alphas[i - 1] - alpha) / (alphas[i - 1] - alphas[i])
            between = (1 - share) * coefs[:, i - 1] + share * coefs[:, i]
            single, _ = unmerge.lasso(gram, alpha=alpha, weights=weights, positive=positive)
            size = max(np.max(np.abs(single) * d), 1e-300)
            assert np.max(np.abs(single - between) * d) <= 1e-9 * size * max(1, c.condition if math.isfinite(c.condition) else 1), seed


def test_knots_are_those_of_lars() -> None:
    for seed in range(0, 60):
        c = case(seed + 8000)
        p = len(c.y)
        A = c.A / c.norms
        alphas, coefs, _ = unmerge.lasso_knots((A, c.y))
        theirs, _, path = lars_path(A, c.y, method="lasso", alpha_min=0)
        if len(theirs) != len(alphas):  # scikit-learn gives up at small alphas
            assert len(theirs) < len(alphas)
        for alpha, w in zip(theirs[:-1] * p, path.T):
            i = int(np.argmin(np.abs(alphas - alpha)))
            assert abs(alphas[i] - alpha) <= 1e-7 * alphas[0], seed
            assert np.max(np.abs(coefs[:, i] - w)) <= 1e-6 * np.max(np.abs(coefs)), seed


def test_knots_where_atoms_tie() -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((40, 6))
    y = rng.standard_normal(40)
    one, coefs, _ = unmerge.lasso_knots((A, y))
    both, twice, report = unmerge.lasso_knots((np.column_stack([A, A]), y))  # every atom twice
    assert report.converged and np.allclose(one, both, rtol=1e-9, atol=1e-12 * one[0])
    assert np.allclose(twice[:6] + twice[6:], coefs, atol=1e-10)
    Q, _ = np.linalg.qr(rng.standard_normal((40, 6)))
    even, ties, report = unmerge.lasso_knots((Q, Q @ np.ones(6)))  # all enter together
    assert report.converged and np.allclose(even, [1, 0]) and np.allclose(ties, np.column_stack([np.zeros(6), np.ones(6)]))


def test_knots_end_where_asked() -> None:
    c = case(3)
    alphas, coefs, report = unmerge.lasso_knots((c.A, c.y), alpha_min=0.1, relative=True)
    assert report.converged and alphas[-1] == pytest.approx(0.1 * alphas[0], rel=1e-14)
    single, _ = unmerge.lasso((c.A, c.y), alpha=0.1, relative=True)
    assert np.allclose(coefs[:, -1], single, rtol=1e-9, atol=1e-12)
    few, part, report = unmerge.lasso_knots((c.A, c.y), max_knots=2)
    everything, path, _ = unmerge.lasso_knots((c.A, c.y))
    assert report.outcome == "iteration limit" and (few == everything[:2]).all() and (part == path[:, :2]).all()
    above, nothing, report = unmerge.lasso_knots((c.A, c.y), alpha_min=2, relative=True)
    assert report.converged and len(above) == 1 and not nothing.any()


# ---------------------------------------------------------------- refit


@lots
def test_refit(lot: int) -> None:
    for seed in seeds(lot):
        c = case(seed + 9000)
        n = c.A.shape[1]
        given, _ = unmerge.lasso((c.A, c.y), alpha=float(10 ** c.rng.uniform(-3, -0.3)), relative=True)
        kept = given.copy()
        S = np.flatnonzero(given)
        coef, report = unmerge.refit((c.A, c.y), given)
        assert (given == kept).all() and report.converged
        d = c.norms[S]
        expected = np.zeros(n)
        expected[S] = np.linalg.lstsq(c.A[:, S] / d, c.y, rcond=None)[0] / d
        size = max(np.max(np.abs(expected) * c.norms), 1e-300)
        assert np.max(np.abs(coef - expected) * c.norms) <= 1e-13 * max(c.condition, 10) ** 2 * size, seed
        assert report.violation <= 1e-10 and not coef[given == 0].any()
        relax = float(c.rng.random())
        mixed, _ = unmerge.refit((c.A, c.y), given, relax=relax)
        assert np.max(np.abs(mixed - ((1 - relax) * given + relax * coef)) * c.norms) <= 1e-14 * size * n
        assert (unmerge.refit((c.A, c.y), given, relax=0)[0] == given).all()
        signed, report = unmerge.refit((c.A, c.y), given, keep_signs=True)
        assert report.converged and (signed * given >= 0).all()
        problem = Problem.make(c.A[:, S], c.y)
        lower = np.where(given[S] < 0, -np.inf, 0)
        assert kkt_between(problem, signed[S], lower, np.where(given[S] > 0, np.inf, 0)) <= 1e-9
        if (np.sign(coef) == np.sign(given)).all():
            assert np.max(np.abs(signed - coef) * c.norms) <= 1e-12 * max(c.condition, 10) ** 2 * size
        cut = float(np.max(np.abs(given)))
        held, report = unmerge.refit((c.A, c.y), given, lower=-cut, upper=cut)
        assert report.converged and (np.abs(held) <= cut).all()


# ---------------------------------------------------------------- penalties of other tools


def test_penalties_of_scikit_learn() -> None:
    for seed in range(40):
        c = case(seed + 11000)
        p = len(c.y)
        A = c.A / c.norms
        alpha, ratio = float(10 ** c.rng.uniform(-4, -1) * np.max(np.abs(A.T @ c.y)) / p), float(c.rng.uniform(0.1, 1))
        rows = c.rng.uniform(0.5, 2, p) if seed % 2 else np.ones(p)
        net = ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-14, max_iter=100000)
        net.fit(A, c.y, sample_weight=rows)
        root = np.sqrt(rows)
        ours, share = unmerge.convert_penalty("sklearn", alpha, ratio, rows=float(rows.sum()))
        coef, _ = unmerge.elastic_net((A * root[:, None], c.y * root), alpha=ours, l1_ratio=share)
        assert np.max(np.abs(coef - net.coef_)) <= 1e-5 * np.max(np.abs(coef), initial=1e-300)
        assert unmerge.convert_penalty("sklearn", ours, share, rows=float(rows.sum()), back=True) == pytest.approx((alpha, ratio))
        ours, share = unmerge.convert_penalty("ridge", alpha, 0)
        coef, _ = unmerge.elastic_net((A, c.y), alpha=ours, l1_ratio=share)
        other = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(A, c.y).coef_
        assert np.allclose(coef, other, rtol=1e-8, atol=1e-10 * np.max(np.abs(other)))


def test_penalties_in_closed_form() -> None:
    """One orthonormal atom: each tool's formula by hand, and the way back."""
    rng = np.random.default_rng(5)
    p, correlation = 50, 3.0
    a = rng.standard_normal(p)
    a /= np.linalg.norm(a)
    y = correlation * a + 0.1 * rng.standard_normal(p)
    c, yy = float(a @ y), float(y @ y)
    s = math.sqrt(yy / p)

    def soft(x: float, level: float) -> float:
        return math.copysign(max(abs(x) - level, 0), x)

    lam, mix = 0.3 / p, 0.6
    by_hand = {
        # w = argmin 1/(2p) ||r||^2 + lam (mix |w| + (1-mix)/2 w^2), and for glmnet the same of y/s, times s
        "sklearn": soft(c / p, lam * mix) / (1 / p + lam * (1 - mix)),
        "glmnet": s * soft(c / s / p, lam / s * mix) / (1 / p + lam / s * (1 - mix)),
        "spams": soft(c, lam) / (1 + mix),
        "adelie_cov": soft(c, lam * mix) / (1 + lam * (1 - mix)),
        "ridge": c / (1 + lam),
    }
    for tool, expected in by_hand.items():
        values = (lam, 0.0 if tool == "ridge" else mix)
        ours = unmerge.convert_penalty(tool, *values, rows=p, yy=yy)
        coef, _ = unmerge.elastic_net((a[:, None], y), alpha=ours[0], l1_ratio=ours[1])
        assert coef[0] == pytest.approx(expected, rel=1e-12), tool
        assert unmerge.convert_penalty(tool, *ours, rows=p, yy=yy, back=True) == pytest.approx(values, rel=1e-14)
    assert np.allclose(unmerge.glmnet_weights([1, 0, 3]), [0.75, 0, 2.25])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("lars", 1.0), "tool"),
        (("sklearn", -1.0, 1.0), "values[0]"),
        (("sklearn", 1.0, 1.5), "values[1]"),
        (("sklearn", 1.0, 1.0), "rows"),
        (("spams", 1.0, math.nan), "values[1]"),
    ],
)
def test_penalties_that_are_none(arguments: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word.replace("[", r"\[")):
        unmerge.convert_penalty(*arguments)
    with pytest.raises(ValueError, match="yy"):
        unmerge.convert_penalty("glmnet", 1.0, 1.0, rows=10)


# ---------------------------------------------------------------- what has no interior, and what has no solution

METHODS: dict[str, dict[str, Any]] = {
    "bvls": {"lower": -0.3, "upper": 0.3},
    "simplex": {},
    "lasso_tau": {"tau": 0.5},
    "bpdn": {"sigma": 0.5, "relative": True},
    "basis_pursuit": {},
    "dantzig": {"delta": 0.1, "relative": True},
}


def data(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((40, 6))
    return A, A @ [1.0, -0.5, 0.3, 0, 0, 0] + 0.2 * rng.standard_normal(40)


@pytest.mark.parametrize("name", METHODS)
def test_zero_atoms_duplicates_and_few_rows(name: str) -> None:
    A, y = data()
    options = METHODS[name]
    reference, _ = getattr(unmerge, name)((A, y), **options)
    with_zero = np.column_stack([A, np.zeros(40)])
    coef, report = getattr(unmerge, name)((with_zero, y), **options)
    assert report.converged and "zero_atom" in report.flags and coef[6] == 0
    assert np.allclose(coef[:6], reference, atol=1e-12)
    coef, report = getattr(unmerge, name)((np.column_stack([A, A]), y), **options)
    assert report.converged
    if name == "bvls":  # half each is admissible where the whole is not
        assert report.objective <= unmerge.bvls((A, y), **options)[1].objective
    else:
        assert np.allclose(coef[:6] + coef[6:], reference, atol=1e-9)
    coef, report = getattr(unmerge, name)((A[:3], y[:3]), **options)
    assert np.isfinite(coef).all() and (report.converged or "fully_explained" in report.flags)
    assert getattr(unmerge, name)((A, np.zeros(40)), **options)[1].converged
    many, reports = getattr(unmerge, name)((A, np.column_stack([y, -y])), **options)
    assert many.shape == (6, 2) and (many[:, 0] == reference).all() and reports[1].converged


@pytest.mark.parametrize("atoms", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("target", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("name", METHODS)
def test_scales(name: str, atoms: float, target: float) -> None:
    A, y = data(2)
    options = METHODS[name]
    unit = target / atoms
    scaled = {k: v * unit if k in ("lower", "upper", "tau", "total") else v for k, v in options.items()}
    if name == "simplex":
        scaled = {"total": unit}
    coef, report = getattr(unmerge, name)((A * atoms, y * target), **scaled)
    reference, _ = getattr(unmerge, name)((A, y), **options)
    assert report.converged and np.allclose(coef / unit, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_ends_early(name: str) -> None:
    A, y = data(3)
    options = METHODS[name]
    gram = unmerge.Gram(A, y)
    coef, report = getattr(unmerge, name)(gram, max_iter=1, **options)
    assert np.isfinite(coef).all() and report.outcome in ("iteration limit", "converged", "stalled")
    coef, report = getattr(unmerge, name)(gram, deadline=1e-9, **options)
    assert np.isfinite(coef).all() and report.outcome in ("time limit", "converged")
    big = np.random.default_rng(0).standard_normal((400, 300))
    coef, report = getattr(unmerge, name)(unmerge.Gram(big, big[:, 0]), progress=lambda _: True, **options)
    assert np.isfinite(coef).all()


def test_bounds_keep_a_zero_target_away_from_zero() -> None:
    A, _ = data(4)
    coef, report = unmerge.bvls((A, np.zeros(40)), lower=0.1, upper=1)
    other = scipy.optimize.lsq_linear(A, np.zeros(40), (0.1, 1), method="bvls", tol=1e-14)
    assert report.converged and report.yy == 0 and report.r2 == 0
    assert report.objective == pytest.approx(other.cost, rel=1e-10)
    assert np.allclose(coef, other.x, atol=1e-9)


def test_equal_bounds_fix_and_empty_ones_are_refused() -> None:
    A, y = data(5)
    coef, _ = unmerge.bvls((A, y), lower=[0.25] + [-9] * 5, upper=[0.25] + [9] * 5)
    rest = np.linalg.lstsq(A[:, 1:], y - 0.25 * A[:, 0], rcond=None)[0]
    assert coef[0] == 0.25 and np.allclose(coef[1:], rest)
    for call in (unmerge.bvls, unmerge.lasso, unmerge.elastic_net, unmerge.simplex):
        with pytest.raises(ValueError, match=r"lower\[0\] is 1\.0 .*upper\[0\] is 0\.0.*atom 0"):
            call((A, y), lower=1, upper=0)
    with pytest.raises(ValueError, match="NaN|nan"):
        unmerge.bvls((A, y), lower=math.nan)


def test_infeasible_says_how_near() -> None:
    A, y = data(6)
    with pytest.raises(unmerge.Infeasible, match=r"total is 9\.0.*between 0\.0 and 6\.0") as caught:
        unmerge.simplex((A, y), total=9, upper=1)
    assert caught.value.status == -13
    with pytest.raises(unmerge.Infeasible, match=r"between 1\.5"):
        unmerge.simplex((A, y), total=1, lower=0.25)
    least = math.sqrt(np.linalg.lstsq(A, y, rcond=None)[1][0])
    with pytest.raises(unmerge.Infeasible) as caught:
        unmerge.bpdn((A, y), sigma=0.5 * least)
    assert float(str(caught.value).split()[-1].rstrip(".")) == pytest.approx(least, rel=1e-9)


def test_ends_of_the_constraints() -> None:
    A, y = data(7)
    full = np.linalg.lstsq(A, y, rcond=None)[0]
    size, least = float(np.linalg.norm(y)), float(np.linalg.norm(y - A @ full))
    low, _ = unmerge.simplex((A, y), total=1.5, lower=0.25)  # the sum of the lower bounds
    high, report = unmerge.simplex((A, y), total=6, upper=1)
    assert (low == 0.25).all() and (high == 1).all() and report.converged
    assert not unmerge.lasso_tau((A, y), tau=0)[0].any()
    norm = np.abs(full).sum()
    for tau in (2 * norm, norm * (1 + 1e-12)):
        coef, report = unmerge.lasso_tau((A, y), tau=tau)
        assert report.converged and report.multiplier == 0 and np.allclose(coef, full)
    for sigma in (size, 2 * size):
        coef, report = unmerge.bpdn((A, y), sigma=sigma)
        assert report.converged and np.max(np.abs(coef)) <= 1e-12
    coef, report = unmerge.bpdn((A, y), sigma=least * (1 + 1e-9))
    assert np.linalg.norm(y - A @ coef) <= least * (1 + 2e-9)
    assert np.allclose(unmerge.basis_pursuit((A, y))[0], full)
    assert np.allclose(unmerge.dantzig((A, y), delta=0)[0], full)
    assert not unmerge.dantzig((A, y), delta=1, relative=True)[0].any()


def test_weights_of_zero() -> None:
    A, y = data(8)
    weights = np.array([0.0, 1, 1, 1, 1, 1])
    for name, options in (("lasso_tau", {"tau": 1e-3}), ("bpdn", {"sigma": 0.9, "relative": True}), ("dantzig", {"delta": 0.9, "relative": True})):
        coef, report = getattr(unmerge, name)((A, y), weights=weights, **options)
        assert report.converged and coef[0] != 0
        assert abs(A[:, 0] @ (y - A @ coef)) <= 1e-10 * np.linalg.norm(A[:, 0]) * np.linalg.norm(y)
    free, report = unmerge.lasso_tau((A, y), tau=0, weights=weights)
    assert report.converged and free[0] == pytest.approx(A[:, 0] @ y / (A[:, 0] @ A[:, 0])) and not free[1:].any()


def test_limits() -> None:
    """Each is the LASSO at its multiplier, and its neighbours at the ends."""
    A, y = data(9)
    coef, report = unmerge.lasso_tau((A, y), tau=0.8)
    again, single = unmerge.bpdn((A, y), sigma=math.sqrt(report.rss))
    assert np.allclose(coef, again, atol=1e-9) and single.multiplier == pytest.approx(report.multiplier)
    assert np.allclose(unmerge.lasso((A, y), alpha=report.multiplier)[0], coef, atol=1e-10)
    assert np.allclose(unmerge.bvls((A, y), lower=0)[0], unmerge.nnls((A, y))[0], atol=1e-12)
    assert np.allclose(unmerge.bvls((A, y))[0], np.linalg.lstsq(A, y, rcond=None)[0])
    z = np.array([0.9, 0.6, -0.2, 0.1])  # A = I: the projection on the simplex
    u = np.sort(z)[::-1]
    k = max(i for i in range(4) if u[i] > (u[: i + 1].sum() - 1) / (i + 1))
    assert np.allclose(unmerge.simplex((np.eye(4), z))[0], np.maximum(z - (u[: k + 1].sum() - 1) / (k + 1), 0))
    positive, _ = unmerge.lasso_tau((A, y), tau=0.5, positive=True)
    assert positive.sum() == pytest.approx(0.5)
    assert np.allclose(unmerge.simplex((A, y), total=0.5)[0], positive, atol=1e-10)  # where the budget binds
