"""Group penalties: gaps recomputed in extended precision from the data by the textbook formula, an interior-point method on
the cone program, the limits in which group methods must equal others, and what happens at the edges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import oracles
import unmerge
from oracles import LD, U, ld

try:
    import clarabel
    from scipy import sparse
except ImportError:  # the textbook gap bounds the distance from the optimum all the same
    clarabel = None


@dataclass
class GroupProblem:
    """1/2 ||Aw - y||^2 + sum_j l1_j |w_j| + sum_g norm_g ||w_g|| + 1/2 sum_j l2_j w_j^2 over disjoint groups, w >= 0 if
    positive; overlapping groups are made disjoint by repeating columns of A."""

    A: np.ndarray
    y: np.ndarray
    groups: list[np.ndarray]
    l1: np.ndarray
    norm: np.ndarray
    l2: np.ndarray
    positive: bool = False

    @property
    def yy(self) -> Any:
        return self.y @ self.y

    def objective(self, w: Any) -> Any:
        w = oracles.ld(w)
        r = self.y - self.A @ w
        norms = [np.sqrt(w[g] @ w[g]) for g in self.groups]
        return r @ r / 2 + self.l1 @ np.abs(w) + self.norm @ np.array(norms, LD) + self.l2 @ (w * w) / 2

    def gradient(self, w: Any) -> np.ndarray:
        w = oracles.ld(w)
        return self.A.T @ (self.y - self.A @ w) - self.l2 * w

    def _excess(self, h: np.ndarray, g: np.ndarray) -> Any:
        reach = np.maximum(h[g], 0) if self.positive else np.abs(h[g])
        over = np.maximum(reach - self.l1[g], 0)
        return np.sqrt(over @ over)

    def gap(self, w: Any) -> Any:
        """P(w) - D(s r) with the largest feasible s by bisection; the ridge is rows of the data.  Coefficients without any
        penalty need a residual orthogonal to their columns: it is projected there first."""
        w = oracles.ld(w)
        keep = self.l2 > 0
        A = np.concatenate([self.A, np.diag(np.sqrt(self.l2))[keep]])
        y = np.concatenate([self.y, np.zeros(int(keep.sum()), LD)])
        r = y - A @ w
        in_group = np.zeros(len(w), bool)
        for g, k in zip(self.groups, self.norm, strict=True):
            in_group[g] |= bool(k > 0)
        free = ~in_group & (self.l1 == 0) & ((w > 0) | (not self.positive))
        if free.any():
            F = A[:, free]
            for _ in range(2):
                r = r - F @ oracles.solve(F.T @ F, F.T @ r)
        h = A.T @ r
        h[free] = 0
        # Coefficients in no group are groups of their own without a norm.
        groups = [*self.groups, *(np.array([j]) for j in np.flatnonzero(~in_group & ~free))]
        norm = [*self.norm, *([LD(0)] * (len(groups) - len(self.groups)))]
        s = LD(1)
        for g, k in zip(groups, norm, strict=True):
            if self._excess(s * h, g) <= k:
                continue
            low, high = LD(0), s
            for _ in range(80):
                middle = (low + high) / 2
                low, high = (middle, high) if self._excess(middle * h, g) <= k else (low, middle)
            s = low
        theta = s * r
        return self.objective(w) - (y @ theta - theta @ theta / 2)

    def violation(self, w: Any) -> float:
        """Distance of the gradient from the subdifferential per group, over its longest atom and ||y||."""
        w, h = oracles.ld(w), self.gradient(w)
        d = np.sqrt((self.A * self.A).sum(axis=0))
        worst = LD(0)
        covered = np.zeros(len(w), bool)
        for g in self.groups:
            covered[g] = True
        groups = [*self.groups, *(np.array([j]) for j in np.flatnonzero(~covered))]
        norm = [*self.norm, *([LD(0)] * (len(groups) - len(self.groups)))]
        for g, k in zip(groups, norm, strict=True):
            if len(g) == 0 or d[g].max() == 0:
                continue
            for part in [g] if k > 0 else [np.array([j]) for j in g]:
                size = np.sqrt(w[part] @ w[part])
                zero = h[part] - self.l1[part] if self.positive else np.sign(h[part]) * (np.abs(h[part]) - self.l1[part])
                open_ = h[part] > self.l1[part] if self.positive else np.abs(h[part]) > self.l1[part]
                at_zero = np.where(open_, zero, 0)
                if size == 0:
                    distance = max(LD(0), np.sqrt(at_zero @ at_zero) - k)
                else:
                    p = np.where(w[part] == 0, at_zero, h[part] - self.l1[part] * np.sign(w[part]) - k * w[part] / size)
                    distance = np.sqrt(p @ p)
                if d[part].max() > 0:
                    worst = max(worst, distance / d[part].max() / np.sqrt(self.yy))
        return float(worst)

    def rounding(self, w: Any) -> float:
        size = np.sqrt(self.yy) + (np.sqrt((self.A * self.A).sum(axis=0)) * np.abs(oracles.ld(w))).sum()
        return float(8 * max(len(self.l1), 1) * U * size**2)

    def floor(self) -> float:
        return float(8 * max(self.A.shape[1], 1) * U * self.yy)


def interior_point(q: GroupProblem) -> np.ndarray:
    """Clarabel on: min 1/2 w'(G + l2)w - c'w + l1'a + norm't subject to |w| <= a, ||w_g|| <= t_g, in scaled coordinates."""
    d = np.sqrt((q.A * q.A).sum(axis=0))
    d = np.where(d > 0, d, 1)
    size = np.sqrt(q.yy)
    A = np.asarray(q.A / d, dtype=np.float64)
    y = np.asarray(q.y / size, dtype=np.float64)
    n, m = A.shape[1], len(q.groups)
    G = A.T @ A + np.diag(np.asarray(q.l2 / d / d, dtype=np.float64))
    P = sparse.block_diag([sparse.csc_matrix(np.triu(G)), sparse.csc_matrix((n + m, n + m))], format="csc")
    cost = np.concatenate([-(A.T @ y), np.asarray(q.l1 / d / size, float), np.asarray(q.norm / size, float)])
    rows, cones, k = [], [], 0
    eye = sparse.identity(n, format="csc")
    none = sparse.csc_matrix((n, m))
    rows += [sparse.hstack([eye, -eye, none]), sparse.hstack([-eye, -eye if not q.positive else 0 * eye, none])]
    k = 2 * n
    cones.append(clarabel.NonnegativeConeT(k))
    for g, members in enumerate(q.groups):
        block = sparse.lil_matrix((len(members) + 1, 2 * n + m))
        block[0, 2 * n + g] = -1
        for i, j in enumerate(members):
            block[i + 1, j] = -1 / float(d[j])
        rows.append(block.tocsc())
        cones.append(clarabel.SecondOrderConeT(len(members) + 1))
    constraint = sparse.vstack(rows, format="csc")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    b = np.zeros(constraint.shape[0])
    answer = np.array(clarabel.DefaultSolver(P, cost, constraint, b, cones, settings).solve().x)
    w = answer[:n] * np.asarray(size / d, float)
    return np.maximum(w, 0) if q.positive else w


# ---------------------------------------------------------------- random problems


@dataclass
class Case:
    A: np.ndarray
    y: np.ndarray
    options: dict[str, Any]
    lists: list[list[int]]
    problem: GroupProblem  # over memberships, then over atoms in no group
    index: np.ndarray  # atom of each coefficient of `problem`

    @property
    def is_partition(self) -> bool:
        return len(set(self.index.tolist())) == len(self.index)


def sample(rng: np.random.Generator, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of different lengths, correlated or of condition up to about 1e4, and a target with noise; some in float32."""
    p, n = int(rng.integers(45, 140)), int(rng.integers(1, 41))
    A = rng.standard_normal((p, n))
    if seed % 2:
        A += 10 ** rng.uniform(-1, 1) * rng.standard_normal((p, 1))
    else:
        A = (A * 10 ** rng.uniform(-4, 0, n)) @ rng.standard_normal((n, n))
    A *= 10 ** rng.uniform(-2, 2, n) / np.sqrt((A * A).sum(axis=0))
    truth = np.where(rng.random(n) < rng.choice([0.1, 0.4, 1.0]), rng.standard_normal(n), 0) / np.sqrt((A * A).sum(axis=0))
    y, noise = A @ truth, rng.standard_normal(p)
    y += 10 ** rng.uniform(-3, 0.5) * (np.linalg.norm(y) or 1) * noise / np.linalg.norm(noise)
    return (A.astype(np.float32), y.astype(np.float32)) if seed % 3 == 2 else (A, y)


def case(seed: int) -> Case:
    rng = np.random.default_rng([seed, 77])
    A, y = sample(rng, seed)
    n = A.shape[1]
    lists: list[list[int]] = []
    order = rng.permutation(n).tolist() if seed % 3 else list(range(n))
    while order:
        k = int(rng.integers(1, 9))
        lists.append(order[:k])
        order = order[k:]
    if seed % 6 == 1 and len(lists) > 1:  # some atoms in no group
        lists.pop()
    if seed % 5 == 2:  # overlap
        for _ in range(3):
            lists.append(rng.choice(n, size=int(rng.integers(1, min(n, 6) + 1)), replace=False).tolist())
    if seed % 7 == 3:
        lists.insert(1, [])
    l1_ratio = [0.0, 0.05, 0.0, 0.5, 0.95, 0.0, 1.0][seed % 7]
    positive = seed % 8 == 5
    omega = rng.uniform(0.3, 3, len(lists)) if seed % 4 == 1 else None
    if omega is not None and seed % 8 == 1:
        omega[0] = 0.0
    weights = rng.uniform(0.2, 3, n) if seed % 4 == 2 else None
    ridge = float(10.0 ** rng.uniform(-3, 1)) * float(np.median((A.astype(float) ** 2).sum(axis=0))) if seed % 3 == 1 else 0.0
    ridge_weights = rng.uniform(0, 2, len(lists)) if seed % 6 == 4 else None
    index = [j for members in lists for j in members]
    loose = sorted(set(range(n)) - set(index))
    groups, at = [], 0
    for members in lists:
        groups.append(np.arange(at, at + len(members)))
        at += len(members)
    index = np.array([*index, *loose], dtype=int)
    c = np.abs(A.astype(np.float64).T @ y)
    alpha = float(c.max() * 10.0 ** rng.uniform(-3, -0.05))
    pi = np.ones(n) if weights is None else weights
    om = np.sqrt([len(m) for m in lists]) if omega is None else omega
    rw = np.ones(len(lists)) if ridge_weights is None else ridge_weights
    l2 = np.zeros(len(index), LD)
    for g, members in enumerate(groups):
        l2[members] = LD(ridge) * LD(rw[g])
    problem = GroupProblem(
        oracles.ld(A)[:, index],
        oracles.ld(y),
        groups,
        LD(alpha) * LD(l1_ratio) * oracles.ld(pi)[index],
        LD(alpha) * (1 - LD(l1_ratio)) * oracles.ld(om),
        l2,
        positive,
    )
    options = {
        "groups": lists, "alpha": alpha, "l1_ratio": l1_ratio, "group_weights": omega, "weights": weights, "ridge": ridge,
        "ridge_weights": ridge_weights, "positive": positive,
    }  # fmt: skip
    return Case(A, y, options, lists, problem, index)


def split(c: Case, coef: np.ndarray, latent: np.ndarray) -> np.ndarray:
    """Coefficients of the problem with repeated columns."""
    return np.concatenate([latent, coef[c.index[len(latent) :]]])


def check(problem: GroupProblem, w: np.ndarray, report: unmerge.Report, tol: float = 1e-10) -> None:
    """What a report says, recomputed; and that it converged."""
    objective, noise, gap = problem.objective(w), problem.rounding(w), problem.gap(w)
    assert np.isfinite(w).all()
    assert report.outcome == "converged", report
    assert abs(report.objective - objective) <= noise
    assert gap <= tol * max(objective, problem.floor()) + noise
    assert report.duality_gap >= 0
    assert report.relative_gap <= tol
    assert not problem.positive or (w >= 0).all()
    size = 1 + float((np.sqrt((problem.A**2).sum(axis=0)) * np.abs(oracles.ld(w))).sum() / np.sqrt(problem.yy))
    assert abs(report.violation - problem.violation(w)) <= 8 * len(w) * U * size


@pytest.mark.parametrize("batch", range(27))
def test_random_problems(batch: int) -> None:
    for seed in range(20 * batch, 20 * batch + 20):
        c = case(seed)
        coef, report, latent = unmerge.group_lasso((c.A, c.y), **c.options, latent=True)
        sums = np.zeros(len(coef))
        np.add.at(sums, c.index[: len(latent)], latent)
        grouped = np.isin(np.arange(len(coef)), c.index[: len(latent)])
        assert np.allclose(coef[grouped], sums[grouped], rtol=1e-15, atol=0)
        w = split(c, coef, latent)
        check(c.problem, w, report)
        if clarabel is not None:
            theirs = interior_point(c.problem)
            best = c.problem.objective(theirs)
            assert c.problem.objective(w) <= best * (1 + 1e-9) + c.problem.rounding(w), seed


# ---------------------------------------------------------------- limits


def orthonormal(rng: np.random.Generator, p: int, n: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((p, n)))[0]


def block_threshold(c: np.ndarray, groups: list[list[int]], l1: float, norm: np.ndarray, ridge: float) -> np.ndarray:
    w = np.zeros_like(c)
    for g, k in zip(groups, norm, strict=True):
        x = np.sign(c[g]) * np.maximum(np.abs(c[g]) - l1, 0)
        size = np.linalg.norm(x)
        w[g] = x * max(0, 1 - k / size) / (1 + ridge) if size > 0 else 0
    return w


@pytest.mark.parametrize("seed", range(12))
def test_orthonormal_atoms_have_a_closed_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, y = orthonormal(rng, 60, 20), rng.standard_normal(60)
    groups = [list(range(0, 3)), list(range(3, 10)), [12, 10, 11], list(range(13, 20))]
    omega, ratio, ridge = rng.uniform(0.5, 2, 4), [0.0, 0.3, 0.8][seed % 3], [0.0, 2.0][seed % 2]
    c = A.T @ y
    for alpha in (0.02, 0.2, 0.6):
        w, report = unmerge.group_lasso(
            (A, y), groups=groups, alpha=alpha, l1_ratio=ratio, group_weights=omega, ridge=ridge
        )
        expected = block_threshold(c, groups, alpha * ratio, alpha * (1 - ratio) * omega, ridge)
        assert np.abs(w - expected).max() <= 1e-14
        assert report.nonzeros == np.count_nonzero(expected)
        if ratio == 0:  # the divergence of the block soft threshold
            df = sum(
                (1 + (len(g) - 1) * (1 - alpha * k / np.linalg.norm(c[g]))) / (1 + ridge)
                for g, k in zip(groups, omega, strict=True)
                if np.linalg.norm(c[g]) > alpha * k
            )
            assert ridge > 0 or abs(report.df - df) <= 1e-12 * max(1, df)


@pytest.mark.parametrize("seed", range(10))
def test_one_group_has_a_closed_form(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, y = rng.standard_normal((50, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal(50)
    values, V = np.linalg.eigh(A.T @ A)
    b = V.T @ (A.T @ y)
    alpha = 0.3 * np.linalg.norm(b) / np.sqrt(6)
    w, _ = unmerge.group_lasso((A, y), groups=[0] * 6, alpha=alpha)
    # (G + alpha sqrt(6) / ||w||) w = c: at the answer's own norm, and that norm is the fixed point
    size = np.linalg.norm(w)
    assert np.allclose(w, V @ (b * size / (values * size + alpha * np.sqrt(6))), rtol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_one_and_l1_ratio_one_are_the_lasso(seed: int) -> None:
    rng = np.random.default_rng([seed, 300])
    A, y = sample(rng, 1)
    n = A.shape[1]
    c = np.abs(A.T @ y).max()
    weights = rng.uniform(0.5, 2, n)
    lasso, _ = unmerge.lasso((A, y), alpha=0.1 * c, weights=weights)
    single, _ = unmerge.group_lasso((A, y), groups=range(n), alpha=0.1 * c, group_weights=weights)
    mixed, _ = unmerge.group_lasso((A, y), groups=np.arange(n) // 3, alpha=0.1 * c, l1_ratio=1, weights=weights)
    d = np.linalg.norm(A, axis=0)
    for w in (single, mixed):
        assert np.abs(d * (w - lasso)).max() <= 1e-12 * max(np.abs(d * lasso).max(), 1e-300)
    net, _ = unmerge.elastic_net((A, y), alpha=0.2 * c, l1_ratio=0.5)
    group, _ = unmerge.group_lasso((A, y), groups=range(n), alpha=0.1 * c, ridge=0.1 * c)
    assert np.abs(d * (net - group)).max() <= 1e-12 * np.abs(d * net).max()


@pytest.mark.parametrize("seed", range(8))
def test_overlap_is_repeated_columns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, y = rng.standard_normal((80, 12)), rng.standard_normal(80)
    lists = [[0, 1, 2, 3], [3, 4, 5], [5, 0, 6], [7, 8], [8, 9, 10, 11]]
    index = [j for members in lists for j in members]
    labels = [g for g, members in enumerate(lists) for _ in members]
    options = {"alpha": 0.2, "relative": True, "l1_ratio": [0, 0.4][seed % 2], "ridge": [0, 3.0][seed // 2 % 2]}
    w, report, latent = unmerge.group_lasso((A, y), groups=lists, latent=True, **options)
    v, repeated = unmerge.group_lasso((A[:, index], y), groups=labels, **options)
    assert np.abs(latent - v).max() <= 1e-9 * np.abs(v).max()
    assert abs(report.objective - repeated.objective) <= 1e-12 * report.objective
    assert np.allclose(w, np.bincount(index, v, minlength=12), atol=1e-9 * np.abs(v).max())
    again, second, parts = unmerge.group_lasso((A, y), groups=lists, latent=True, start=latent, max_iter=0, **options)
    assert np.array_equal(parts, latent) and second.relative_gap <= 1e-10


def test_several_targets_are_one_at_a_time() -> None:
    rng = np.random.default_rng(3)
    A, Y = rng.standard_normal((70, 15)), rng.standard_normal((70, 4))
    Y[:, 2] = 0
    labels = ["a", "b", "c", "d", "e"] * 3
    options = {"groups": labels, "alpha": 0.3, "relative": True, "l1_ratio": 0.2}
    W, reports = unmerge.group_lasso((A, Y), **options)
    alphas = unmerge.group_alpha_max((A, Y), groups=labels, l1_ratio=0.2)
    for t in range(4):
        w, report = unmerge.group_lasso((A, Y[:, t]), **options)
        assert np.array_equal(w, W[:, t]) and report.objective == reports[t].objective
        if t != 2:
            absolute, _ = unmerge.group_lasso((A, Y[:, t]), **options | {"alpha": 0.3 * alphas[t], "relative": False})
            assert np.allclose(absolute, w, rtol=1e-10)
    one, _ = unmerge.group_lasso((A, Y), threads=1, **options)
    assert np.array_equal(one, W)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("positive", [False, True])
def test_alpha_max_is_the_edge(ratio: float, positive: bool) -> None:
    for seed in range(10):
        rng = np.random.default_rng([seed, 5])
        A, y = rng.standard_normal((40, 12)) * 10 ** rng.uniform(-2, 2, 12), rng.standard_normal(40)
        options = {"groups": np.arange(12) // 3, "l1_ratio": ratio, "positive": positive,
                   "weights": rng.uniform(0.5, 2, 12), "group_weights": rng.uniform(0.5, 2, 4)}  # fmt: skip
        if seed % 2:  # one group is free
            options["group_weights"][1] = 0
            options["weights"][3:6] = 0
        top = unmerge.group_alpha_max((A, y), **options)
        penalised = np.ones(12, bool)
        penalised[3:6] = seed % 2 == 0
        for factor, empty in ((1.0, True), (1.5, True), (1 - 1e-6, False)):
            w, report = unmerge.group_lasso((A, y), alpha=factor * top, **options)
            assert report.outcome == "converged"
            assert (not w[penalised].any()) == empty
        if seed % 2 and not positive:
            free = np.linalg.lstsq(A[:, 3:6], y, rcond=None)[0]
            w, _ = unmerge.group_lasso((A, y), alpha=2 * top, **options)
            assert np.allclose(w[3:6], free, rtol=1e-10)


@pytest.mark.parametrize("ratio", [0.0, 0.25])
def test_path_is_single_solves(ratio: float) -> None:
    rng = np.random.default_rng(8)
    A, Y = rng.standard_normal((100, 40)) + rng.standard_normal((100, 1)), rng.standard_normal((100, 2))
    Y[:, 1] += A[:, :8].sum(axis=1)
    labels = np.arange(40) // 5
    alphas, coefs, reports = unmerge.group_lasso_path((A, Y), groups=labels, l1_ratio=ratio, n_alphas=30, target=1)
    assert not coefs[:, 0].any() and all(r.converged for r in reports)
    assert math.isclose(alphas[-1], 1e-3 * alphas[0], rel_tol=1e-12)
    for i in (1, 7, 15, 29):
        w, report = unmerge.group_lasso((A, Y[:, 1]), groups=labels, l1_ratio=ratio, alpha=alphas[i])
        assert np.abs(w - coefs[:, i]).max() <= 1e-8 * np.abs(w).max()
        assert math.isclose(report.df, reports[i].df, rel_tol=1e-6)
    order = [5.0, 0.0, 50.0]
    _, coefs, reports = unmerge.group_lasso_path((A, Y), groups=labels, l1_ratio=ratio, alphas=order, target=1)
    assert np.allclose(coefs[:, 1], np.linalg.lstsq(A, Y[:, 1], rcond=None)[0], rtol=1e-8)
    assert reports[1].converged and abs(reports[1].df - 40) <= 1e-8
    w, _ = unmerge.group_lasso((A, Y[:, 1]), groups=labels, l1_ratio=ratio, alpha=50.0)
    assert np.allclose(coefs[:, 2], w, rtol=1e-8)


def test_columns_on_demand_give_the_same() -> None:
    rng = np.random.default_rng(2)
    A = rng.standard_normal((400, 200))
    y = A[:, 40:44] @ [1.0, -1.0, 0.5, 0.2] + 0.1 * rng.standard_normal(400)
    gram = unmerge.Gram(A, y, columns="on_demand")
    w, report = unmerge.group_lasso(gram, groups=np.arange(200) // 4, alpha=0.4, relative=True)
    full, _ = unmerge.group_lasso(unmerge.Gram(A, y), groups=np.arange(200) // 4, alpha=0.4, relative=True)
    assert np.allclose(w, full, rtol=1e-10, atol=0) and set(np.flatnonzero(w)) == {40, 41, 42, 43}
    assert gram.columns < 200 and report.converged


# ---------------------------------------------------------------- degrees of freedom


@pytest.mark.parametrize("ratio", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["plain", "ridge", "positive", "overlap", "free", "modules"])
def test_df_is_the_divergence_of_the_fit(ratio: float, kind: str) -> None:
    rng = np.random.default_rng([11, int(10 * ratio)])
    p, n = 24, 12
    A, y = rng.standard_normal((p, n)), rng.standard_normal(p)
    y += A[:, :3] @ [1.0, 2.0, 1.5]
    options: dict[str, Any] = {"groups": [[0, 1, 2], [3, 4, 5, 6], [7, 8], [9, 10, 11]], "l1_ratio": ratio, "tol": 1e-14}
    if kind == "ridge":
        options["ridge"] = 3.0
    if kind == "positive":
        options["positive"] = True
    if kind == "overlap":
        options["groups"] = [[0, 1, 2, 3], [3, 4, 5, 6], [7, 8, 0], [9, 10, 11]]
    if kind == "free":
        options |= {"group_weights": [1, 0, 1, 1], "weights": [1.0] * 3 + [0.0] * 4 + [1.0] * 5}

    def fit(y: np.ndarray) -> tuple[np.ndarray, float]:
        if kind == "modules":
            halves = {"a": slice(0, 12), "b": slice(12, 24)}
            atoms = {str(j): {m: A[s, j] for m, s in halves.items()} for j in range(6)}
            op = unmerge.Operator.from_vectors(atoms)
            gram = unmerge.Gram(op, unmerge.Operator.from_vectors({"y": {m: y[s] for m, s in halves.items()}}))
            w, report = unmerge.group_lasso_modules(gram, alpha=1.0, l1_ratio=ratio, tol=1e-14)
            return np.concatenate([A[s, :6] @ w[:, m] for m, s in enumerate(halves.values())]), report.df
        w, report = unmerge.group_lasso((A, y), alpha=1.0, **options)
        return A @ w, report.df

    h, trace = 1e-5, 0.0
    for i in range(p):
        step = np.zeros(p)
        step[i] = h
        trace += (fit(y + step)[0][i] - fit(y - step)[0][i]) / (2 * h)
    df = fit(y)[1]
    assert 0.5 < df < n
    assert abs(df - trace) <= 1e-6 * df


# ---------------------------------------------------------------- a coefficient per atom and module


def module_data(seed: int, n: int, parts: int, targets: int = 1) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Operators, and the explicit block-diagonal matrix in the order of `members`: module by module."""
    rng = np.random.default_rng([seed, 4])
    rows = [int(rng.integers(n + 3, n + 20)) for _ in range(parts)]
    blocks = [rng.standard_normal((r, n)) + rng.standard_normal((r, 1)) for r in rows]
    y = [b @ np.where(np.arange(n) % 3 == 0, 1.0, 0)[:, None] + rng.standard_normal((len(b), targets)) for b in blocks]
    atoms = {str(j): {f"m{m}": b[:, j] for m, b in enumerate(blocks)} for j in range(n)}
    ys = {str(t): {f"m{m}": v[:, t] for m, v in enumerate(y)} for t in range(targets)}
    explicit = np.zeros((sum(rows), n * parts))
    at = 0
    for m, b in enumerate(blocks):
        explicit[at : at + rows[m], m * n : (m + 1) * n] = b
        at += rows[m]
    return unmerge.Operator.from_vectors(atoms), unmerge.Operator.from_vectors(ys), explicit, np.concatenate(y)


@pytest.mark.parametrize("seed", range(24))
def test_modules_are_the_explicit_block_matrix(seed: int) -> None:
    n, parts = [(5, 4), (8, 3), (3, 9), (6, 1)][seed % 4]
    a, y, explicit, target = module_data(seed, n, parts)
    rng = np.random.default_rng(seed)
    gram = unmerge.Gram(a, y, folds=1 + seed % 3)
    kind = ["atoms", "modules", "labels", "pairs", "singles"][seed % 5]
    atoms, mods = np.meshgrid(np.arange(n), np.arange(parts), indexing="ij")
    groups: Any = kind
    labels = {"atoms": atoms, "modules": mods, "labels": rng.integers(0, 4, (n, parts)), "singles": atoms * parts + mods}
    if kind == "pairs":
        groups = [list(zip(rng.integers(0, n, 1), rng.integers(0, parts, 1), strict=True)) for _ in range(3)]
        groups.append([(j, m) for j in range(n) for m in range(parts) if (j + m) % 2])
        flat: Any = [[m * n + j for j, m in members] for members in groups]
    else:
        groups = labels[kind] if kind in ("labels", "singles") else kind
        flat = labels[kind].T.reshape(-1)
    options = {"alpha": [0.4, 0.1, 0.01][seed % 3], "relative": True, "l1_ratio": [0, 0.3][seed % 2],
               "ridge": [0, 2.0][seed // 2 % 2], "positive": seed % 7 == 6}  # fmt: skip
    weights = rng.uniform(0.5, 2, (n, parts))
    w, report = unmerge.group_lasso_modules(gram, groups=groups, weights=weights, **options)
    v, expected = unmerge.group_lasso((explicit, target[:, 0]), groups=flat, weights=weights.T.reshape(-1), **options)
    assert w.shape == (n, parts) and report.converged
    assert np.abs(w.T.reshape(-1) - v).max() <= 1e-8 * np.abs(v).max()
    assert math.isclose(report.objective, expected.objective, rel_tol=1e-11)
    assert math.isclose(report.df, expected.df, rel_tol=1e-6)
    assert math.isclose(report.yy, expected.yy, rel_tol=1e-13)


def test_modules_several_targets_warm_start_and_latent() -> None:
    a, y, explicit, target = module_data(1, 5, 4, targets=3)
    gram = unmerge.Gram(a, y)
    w, reports, latent = unmerge.group_lasso_modules(gram, alpha=0.2, relative=True, l1_ratio=0.1, latent=True)
    assert w.shape == (5, 4, 3) and latent.shape == (20, 3) and len(reports) == 3
    assert np.array_equal(latent.reshape(5, 4, 3), w)
    for t in range(3):
        v, _ = unmerge.group_lasso((explicit, target[:, t]), groups=list(range(5)) * 4, alpha=0.2, relative=True, l1_ratio=0.1)
        assert np.allclose(w[:, :, t].T.reshape(-1), v, rtol=1e-8, atol=1e-12)
    for start in (w, latent):
        again, second = unmerge.group_lasso_modules(gram, alpha=0.2, relative=True, l1_ratio=0.1, start=start, max_iter=0)
        assert np.array_equal(again, w)
        assert all(r.relative_gap <= 1e-10 for r in second)


def test_modules_without_penalty_are_least_squares_each() -> None:
    a, y, explicit, target = module_data(2, 4, 3)
    w, report = unmerge.group_lasso_modules(unmerge.Gram(a, y), alpha=0)
    assert np.allclose(w.T.reshape(-1), np.linalg.lstsq(explicit, target[:, 0], rcond=None)[0], rtol=1e-10)
    assert report.converged and report.duality_gap >= 0 and abs(report.df - 12) <= 1e-9


def test_ten_thousand_columns() -> None:
    rng = np.random.default_rng(0)
    n, parts, rows = 64, 160, 70
    X = rng.standard_normal((parts, rows, n)) + 0.5 * rng.standard_normal((parts, rows, 1))
    y = X[:, :, :6].sum(axis=2) + rng.standard_normal((parts, rows))
    a = unmerge.Operator.from_vectors({str(j): {str(m): X[m, :, j] for m in range(parts)} for j in range(n)})
    gram = unmerge.Gram(a, unmerge.Operator.from_vectors({"y": {str(m): y[m] for m in range(parts)}}))
    for ratio in (0.0, 0.2):
        w, report = unmerge.group_lasso_modules(gram, alpha=0.5, relative=True, l1_ratio=ratio)
        assert report.converged and set(np.flatnonzero(w.any(axis=1))) == set(range(6))
        # The optimality conditions, from the data.
        h = np.einsum("mrn,mr->nm", X, y - np.einsum("mrn,nm->mr", X, w))
        c = np.einsum("mrn,mr->nm", X, y)

        def scale(x: np.ndarray, l1: float) -> Any:
            return np.linalg.norm(np.maximum(np.abs(x) - l1, 0), axis=1)

        low, high = 0.0, float(np.abs(c).max() * parts)
        for _ in range(200):
            middle = (low + high) / 2
            over = (scale(c, middle * ratio) > middle * (1 - ratio) * parts**0.5).any()
            low, high = (middle, high) if over else (low, middle)
        alpha = 0.5 * high
        norms = np.linalg.norm(w[:6], axis=1, keepdims=True)
        gradient = h[:6] - alpha * ratio * np.sign(w[:6]) - alpha * (1 - ratio) * parts**0.5 * w[:6] / norms
        assert np.abs(gradient[w[:6] != 0]).max() <= 1e-9 * alpha
        assert (np.abs(h[:6][w[:6] == 0]) <= alpha * ratio * (1 + 1e-9)).all()
        assert (scale(h[6:], alpha * ratio) <= alpha * (1 - ratio) * parts**0.5 * (1 + 1e-9)).all()


# ---------------------------------------------------------------- edges


def test_no_penalty_is_least_squares_or_nnls() -> None:
    s = oracles.sample(41, top=3)
    n = s.A.shape[1]
    groups = np.arange(n) // 3
    free, report = unmerge.group_lasso((s.A, s.y), groups=groups, alpha=0)
    assert np.allclose(free, unmerge.ridge((s.A, s.y), alpha=0)[0], rtol=1e-8) and report.converged
    assert abs(report.df - n) <= 1e-6
    ridge, report = unmerge.group_lasso((s.A, s.y), groups=groups, alpha=0, ridge=0.3)
    assert np.allclose(ridge, unmerge.ridge((s.A, s.y), alpha=0.3)[0], rtol=1e-8)
    G = s.A.astype(float).T @ s.A
    assert abs(report.df - np.trace(np.linalg.solve(G + 0.3 * np.eye(n), G))) <= 1e-8 * n
    positive, _ = unmerge.group_lasso((s.A, s.y), groups=groups, alpha=0, positive=True)
    assert np.allclose(positive, unmerge.nnls((s.A, s.y))[0], rtol=1e-8)
    nothing, _ = unmerge.group_lasso((s.A, s.y), groups=groups, group_weights=np.zeros(groups[-1] + 1), alpha=5.0)
    assert np.allclose(nothing, free, rtol=1e-8)


@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_zero_and_equal_atoms(ratio: float) -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((50, 9))
    A[:, 1] = 0
    A[:, 4] = A[:, 3]  # singular within a group
    A[:, 8] = A[:, 0]  # equal in two groups
    y = A @ rng.standard_normal(9) + rng.standard_normal(50)
    options = {"groups": [0, 0, 0, 1, 1, 1, 2, 2, 2], "l1_ratio": ratio}
    for alpha in (0.5, 0.1, 1e-3, 1e-7):
        w, report = unmerge.group_lasso((A, y), alpha=alpha, relative=True, **options)
        assert report.outcome == "converged" and "zero_atom" in report.flags
        assert w[1] == 0 and abs(w[3] - w[4]) <= 1e-6 * np.abs(w).max() + (1e9 if ratio else 0)
        top = alpha * unmerge.group_alpha_max((A, y), **options)
        q = GroupProblem(
            oracles.ld(A), oracles.ld(y), [np.arange(3 * g, 3 * g + 3) for g in range(3)],
            np.full(9, LD(top * ratio)), np.full(3, LD(top) * (1 - LD(ratio)) * np.sqrt(LD(3))), np.zeros(9, LD),
        )  # fmt: skip
        assert q.gap(w) <= 1e-10 * q.objective(w) + q.rounding(w)
    w, report = unmerge.group_lasso((A * 0, y), alpha=0.1, **options)
    assert not w.any() and report.converged and report.duality_gap == 0


def test_nothing_to_explain_and_nothing_to_explain_with() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((20, 6)), rng.standard_normal(20)
    w, report = unmerge.group_lasso((A, 0 * y), groups=[0, 0, 1, 1, 2, 2])
    assert not w.any() and report.converged and report.duality_gap == 0 and report.r2 == 0
    assert unmerge.group_alpha_max((A, 0 * y), groups=[0, 0, 1, 1, 2, 2]) == 0
    w, report = unmerge.group_lasso((A[:, :0], y), groups=[])
    assert w.shape == (0,) and report.converged
    w, report = unmerge.group_lasso((A, y), groups=[[], [0, 1], [], []], alpha=1e6)
    assert not w[:2].any() and np.allclose(w[2:], np.linalg.lstsq(A[:, 2:], y, rcond=None)[0])


@pytest.mark.parametrize("alpha", [1e300, 1e-300, 1e-12])
def test_extreme_alphas_and_scales(alpha: float) -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((40, 8)), rng.standard_normal(40)
    for a, b in ((1.0, 1.0), (1e-100, 1e100), (1e100, 1e-100)):
        for ratio in (0.0, 0.5):
            w, report = unmerge.group_lasso((a * A, b * y), groups=[0, 0, 0, 0, 1, 1, 1, 1], alpha=alpha * (a * b), l1_ratio=ratio)
            assert np.isfinite(w).all() and report.outcome == "converged", report
            if alpha > 1:
                assert not w.any()
            else:
                assert np.allclose(w * (a / b), np.linalg.lstsq(A, y, rcond=None)[0], rtol=1e-6)
    w, report = unmerge.group_lasso((A, y), groups=[0] * 8, alpha=1.0, ridge=1e300)
    assert np.abs(w).max() < 1e-290 and report.converged


def test_atoms_of_very_different_length_in_one_group() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((40, 6)) * np.array([1e-30, 1, 1e30, 1e-3, 1, 1e3]), rng.standard_normal(40)
    for ratio in (0.0, 0.5):
        w, report = unmerge.group_lasso((A, y), groups=[0, 0, 0, 1, 1, 1], alpha=0.1, relative=True, l1_ratio=ratio)
        assert report.converged and np.isfinite(w).all()


def test_more_atoms_than_rows() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((30, 80)), rng.standard_normal(30)
    groups = [np.arange(4 * g, 4 * g + 4) for g in range(20)]
    for ratio in (0.0, 0.3):
        for alpha in (0.5, 0.1, 0.01):
            w, report = unmerge.group_lasso((A, y), groups=groups, alpha=alpha, l1_ratio=ratio, relative=True)
            top = alpha * unmerge.group_alpha_max((A, y), groups=groups, l1_ratio=ratio)
            q = GroupProblem(
                oracles.ld(A), oracles.ld(y), groups, np.full(80, LD(top * ratio)),
                np.full(20, 2 * LD(top) * (1 - LD(ratio))), np.zeros(80, LD),
            )  # fmt: skip
            check(q, w, report)


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5])
def test_nearly_collinear_atoms(ratio: float) -> None:
    """One common direction a thousand times as long as the rest: groups that want to leave block the way of others."""
    for seed in range(12):
        rng = np.random.default_rng([seed, 31])
        p, n = int(rng.integers(60, 120)), int(rng.integers(10, 50))
        A = rng.standard_normal((p, n)) + 1e3 * rng.standard_normal((p, 1))
        y = A @ np.where(rng.random(n) < 0.3, rng.standard_normal(n), 0) + 0.1 * rng.standard_normal(p)
        labels = rng.integers(0, n // 3, n)
        groups = [np.flatnonzero(labels == g) for g in range(n // 3) if (labels == g).any()]
        gram = unmerge.Gram(A, y)
        positive = seed % 3 == 2
        top = unmerge.group_alpha_max(gram, groups=groups, l1_ratio=ratio, positive=positive)
        for alpha in (1e-1, 1e-4, 1e-7):
            w, report = unmerge.group_lasso(gram, groups=groups, alpha=alpha * top, l1_ratio=ratio, positive=positive)
            q = GroupProblem(
                oracles.ld(A), oracles.ld(y), groups, np.full(n, LD(alpha * top) * LD(ratio)),
                LD(alpha * top) * (1 - LD(ratio)) * np.sqrt(np.array([len(g) for g in groups], LD)), np.zeros(n, LD), positive,
            )  # fmt: skip
            assert report.converged and report.iterations < 2000
            assert q.objective(w) - q.gap(w) <= report.objective + q.rounding(w)
            assert q.gap(w) <= 1e-10 * q.objective(w) + 1e3 * q.rounding(w)


def test_what_stops_a_run_leaves_the_best_so_far() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((500, 200)), rng.standard_normal(500)
    gram = unmerge.Gram(A, y)
    options = {"groups": np.arange(200) // 4, "alpha": 0.01, "relative": True}
    w, report = unmerge.group_lasso(gram, deadline=1e-9, **options)
    assert report.outcome == "time limit" and np.isfinite(w).all() and math.isnan(report.df)
    w, report = unmerge.group_lasso(gram, progress=lambda _: True, deadline=1e-9, **options)
    assert report.outcome in ("cancelled", "time limit")


def test_budgets() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((60, 30)), rng.standard_normal(60)
    options = {"groups": np.arange(30) // 3, "alpha": 0.01, "relative": True, "l1_ratio": 0.1}
    w, report = unmerge.group_lasso((A, y), max_iter=1, **options)
    assert report.outcome == "iteration limit" and report.iterations <= 1 and report.relative_gap > 1e-10
    full, best = unmerge.group_lasso((A, y), **options)
    warm, again = unmerge.group_lasso((A, y), start=full, **options)
    assert again.converged and again.iterations <= best.iterations and np.allclose(warm, full, rtol=1e-9, atol=1e-12)
    same, zero = unmerge.group_lasso((A, y), start=w, max_iter=0, **options)
    assert np.array_equal(same, w) and zero.outcome == "iteration limit"


REFUSED = [
    ({"groups": [0, 0, 0, 1]}, "groups"),
    ({"groups": [[0, 1], [1, 6]]}, "options->members"),
    ({"groups": [[0, 0, 1]]}, "distinct"),
    ({"groups": [[0, -1]]}, "options->members"),
    ({"groups": [0] * 6, "alpha": -1}, "alpha"),
    ({"groups": [0] * 6, "alpha": math.nan}, "alpha"),
    ({"groups": [0] * 6, "l1_ratio": 1.5}, "l1_ratio"),
    ({"groups": [0] * 6, "ridge": math.inf}, "ridge"),
    ({"groups": [0] * 6, "group_weights": [1, 2]}, "group_weights"),
    ({"groups": [0] * 6, "group_weights": [-1]}, "group_weights"),
    ({"groups": [0] * 6, "ridge_weights": [math.nan]}, "ridge_weights"),
    ({"groups": [0] * 6, "weights": [1, 1, 1, 1, 1, -2]}, "weights"),
    ({"groups": [0] * 6, "start": [1, 2, 3]}, "start"),
    ({"groups": [0] * 6, "start": [math.nan] * 6}, "coef"),
    ({"groups": 3}, "groups"),
    ({"groups": "atoms"}, "groups"),
]


@pytest.mark.parametrize(("options", "word"), REFUSED, ids=lambda x: x if isinstance(x, str) else None)
def test_wrong_calls_are_refused_by_name(options: dict[str, Any], word: str) -> None:
    A, y = np.eye(6), np.ones(6)
    with pytest.raises((ValueError, TypeError), match=word):
        unmerge.group_lasso((A, y), **options)


def test_modules_are_refused_by_name() -> None:
    a, y, _, _ = module_data(0, 3, 2)
    gram = unmerge.Gram(a, y)
    for options, word in (
        ({"groups": "rows"}, "groups"),
        ({"groups": np.zeros((2, 3), int)}, "groups"),
        ({"groups": [[(0, 2)]]}, "modules"),
        ({"weights": np.ones(6)}, "weights"),
    ):
        with pytest.raises((ValueError, TypeError), match=word):
            unmerge.group_lasso_modules(gram, **options)
    A = np.random.default_rng(0).standard_normal((100, 80))
    with pytest.raises(ValueError, match="on demand"):
        unmerge.group_lasso_modules(unmerge.Gram(A, A[:, 0], columns="on_demand"))


# ---------------------------------------------------------------- the norm of what a group contributes


def prediction_problem(seed: int) -> tuple[np.ndarray, np.ndarray, list[list[int]], np.ndarray]:
    """Groups of one to six atoms of lengths over four decades, correlated within; some atoms in no group."""
    rng = np.random.default_rng([seed, 31])
    sizes = rng.integers(1, 7, int(rng.integers(1, 7)))
    n = int(sizes.sum()) + int(rng.integers(0, 3))
    p = int(rng.integers(n + 5, 3 * n + 30))
    A = rng.standard_normal((p, n)) + rng.uniform(0, 2) * rng.standard_normal((p, 1))
    A = A * 10 ** rng.uniform(-2, 2, n)
    order = rng.permutation(n)
    ends = np.cumsum(sizes)
    groups = [order[end - size : end].tolist() for end, size in zip(ends, sizes)]
    w = rng.standard_normal(n) / np.linalg.norm(A, axis=0) * np.repeat(rng.random(n) < 0.6, 1)
    return A, A @ w + 0.3 * rng.standard_normal(p) * np.linalg.norm(A @ w) / np.sqrt(p), groups, rng.uniform(0.3, 2, len(groups))


def test_norm_of_the_prediction() -> None:
    """Stationarity and the gap from A itself, in extended precision: g in the group is alpha k A_g'A_g w_g / ||A_g w_g||."""
    dense = 0
    for seed in range(500):
        A, y, groups, k = prediction_problem(seed)
        weights = k if seed % 2 else np.sqrt([len(g) for g in groups])
        rng = np.random.default_rng([seed, 32])
        ridge = float(rng.choice([0, 0.3]))
        options = {"groups": groups, "group_norm": "prediction", "group_weights": k if seed % 2 else None, "ridge": ridge}
        gram = unmerge.Gram(A, y)
        top = unmerge.group_alpha_max(gram, **options)
        alpha = float(top * 10 ** rng.uniform(-2.5, -0.05))
        coef, report = unmerge.group_lasso(gram, alpha=alpha, **options)
        assert report.converged, (seed, report)
        Al, w = ld(A), ld(coef)
        r = ld(y) - Al @ w
        yy = float(y @ y)
        norms = [np.sqrt(((Al[:, g] @ w[g]) ** 2).sum()) for g in groups]
        objective = r @ r / 2 + alpha * sum(a * b for a, b in zip(weights, norms)) + ridge / 2 * sum(b * b for b in norms)
        assert abs(report.objective - objective) <= 1e-11 * yy
        # The dual point: ||P_g r|| <= alpha k_g with P_g the projector on the span of the group.
        for g, weight, norm in zip(groups, weights, norms):
            Q, _ = np.linalg.qr(A[:, g])
            z = Q.T @ (r.astype(float) - ridge * A[:, g] @ coef[g])
            assert np.linalg.norm(z) <= alpha * weight * (1 + 1e-6) + 1e-9 * np.sqrt(yy), seed
            if norm > 0:
                u = Q.T @ (A[:, g] @ coef[g])
                assert np.abs(z - alpha * weight * u / np.linalg.norm(u)).max() <= 1e-6 * np.sqrt(yy), seed
                dense += 1
        free = sorted(set(range(A.shape[1])) - set(sum(groups, [])))
        assert np.abs(A[:, free].T @ r.astype(float) / np.linalg.norm(A[:, free], axis=0)).max(initial=0) <= 1e-7 * np.sqrt(yy)
        assert not unmerge.group_lasso(gram, alpha=top, **options)[0][sum(groups, [])].any()
    assert dense > 500


def test_norm_of_the_prediction_knows_no_basis() -> None:
    """Orthonormal groups: the two norms agree.  A change of basis within a group changes the coefficients, not the fit."""
    for seed in range(20):
        A, y, groups, _ = prediction_problem(seed)
        rng = np.random.default_rng([seed, 33])
        Q = A.copy()
        for g in groups:
            Q[:, g] = np.linalg.qr(A[:, g])[0]
        options = {"groups": groups, "alpha": 0.2, "relative": True}
        plain, one = unmerge.group_lasso((Q, y), **options)
        same, two = unmerge.group_lasso((Q, y), group_norm="prediction", **options)
        assert np.abs(plain - same).max() <= 1e-7 * np.abs(plain).max(initial=1e-300) and two.objective == pytest.approx(one.objective)
        assert two.df == pytest.approx(one.df, rel=1e-6, abs=1e-9, nan_ok=True)
        coef, report = unmerge.group_lasso((A, y), group_norm="prediction", **options)
        mixed = A.copy()
        for g in groups:
            mixed[:, g] = A[:, g] @ (rng.standard_normal((len(g), len(g))) + 3 * np.eye(len(g)))
        other, again = unmerge.group_lasso((mixed, y), group_norm="prediction", **options)
        assert np.linalg.norm(A @ coef - mixed @ other) <= 1e-6 * np.linalg.norm(y)
        assert again.objective == pytest.approx(report.objective, rel=1e-8) and again.df == pytest.approx(report.df, rel=1e-5, nan_ok=True)


def test_norm_of_the_prediction_where_atoms_depend_or_are_shared() -> None:
    rng = np.random.default_rng(5)
    A = rng.standard_normal((60, 5))
    y = A[:, :2] @ [1.0, -1.0] + 0.1 * rng.standard_normal(60)
    options = {"alpha": 0.1, "relative": True, "group_norm": "prediction"}
    single, _ = unmerge.group_lasso((A, y), groups=[[0, 1], [2, 3], [4]], group_weights=[1, 1, 1], **options)
    twice = np.column_stack([A, A[:, 0], np.zeros(60)])
    coef, report = unmerge.group_lasso((twice, y), groups=[[0, 1, 5, 6], [2, 3], [4]], group_weights=[1, 1, 1], **options)
    assert report.converged and "zero_atom" in report.flags and coef[6] == 0
    assert np.allclose(twice @ coef, A @ single, atol=1e-9) and coef[0] == pytest.approx(coef[5], abs=1e-10)
    shared, report, latent = unmerge.group_lasso((A, y), groups=[[0, 1], [1, 2]], latent=True, **options)
    assert report.converged and latent.shape == (4,) and shared[1] == pytest.approx(latent[1] + latent[2], abs=1e-14)
    again, _ = unmerge.group_lasso((A, y), groups=[[0, 1], [1, 2]], start=latent, **options)
    assert np.allclose(again, shared, atol=1e-10)
    frozen, _ = unmerge.group_lasso((A, y), groups=[[0, 1], [2, 3]], start=single, max_iter=0, **options)
    assert np.allclose(frozen, single, atol=1e-13)
    alphas, coefs, reports = unmerge.group_lasso_path((A, y), groups=[[0, 1], [2, 3]], group_norm="prediction", n_alphas=5)
    for alpha, coef in zip(alphas, coefs.T):
        direct, _ = unmerge.group_lasso((A, y), groups=[[0, 1], [2, 3]], group_norm="prediction", alpha=float(alpha))
        assert np.allclose(coef, direct, atol=1e-8)
    Y = np.column_stack([y, A[:, 2], 0 * y])
    both, reports = unmerge.group_lasso((A, Y), groups=[[0, 1], [2, 3]], group_norm="prediction", alpha=1.0)
    assert np.allclose(both[:, 0], unmerge.group_lasso((A, y), groups=[[0, 1], [2, 3]], group_norm="prediction", alpha=1.0)[0])
    assert not both[:, 2].any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"l1_ratio": 0.5}, "options->l1_ratio is 0.5; with UNMERGE_GROUP_NORM_PREDICTION it must be 0"),
        ({"positive": True}, "options->positive is 1; with UNMERGE_GROUP_NORM_PREDICTION"),
        ({"group_norm": "length"}, "group_norm"),
    ],
)
def test_norm_of_the_prediction_refuses(change: dict[str, Any], sentence: str) -> None:
    A = np.eye(4)[:, :2]
    with pytest.raises(ValueError, match=sentence):
        unmerge.group_lasso((A, np.ones(4)), **({"groups": [[0, 1]], "group_norm": "prediction"} | change))
    lazy = unmerge.Gram(A, np.ones(4), columns="on_demand")
    with pytest.raises(ValueError, match="columns on demand"):
        unmerge.group_lasso(lazy, groups=[[0, 1]], group_norm="prediction")


# ---------------------------------------------------------------- the certificate from the data


def test_verify_knows_groups() -> None:
    """Objective by the formula; the gap bounds what better coefficients gain; what is no answer is not called one."""
    for seed in range(60):
        A, y, groups, k = prediction_problem(seed)
        rng = np.random.default_rng([seed, 34])
        penalties = {
            "groups": groups, "group_weights": k, "l1_ratio": float(rng.choice([0, 0.4])), "ridge": float(rng.choice([0, 0.2])),
            "weights": rng.uniform(0.5, 2, A.shape[1]), "positive": bool(seed % 3 == 2),
        }  # fmt: skip
        gram = unmerge.Gram(A, y)
        alpha = float(unmerge.group_alpha_max(gram, **penalties)) * 10 ** float(rng.uniform(-2, -0.1))
        coef, report = unmerge.group_lasso(gram, alpha=alpha, **penalties)
        correlation, seen = unmerge.verify(A, y, coef, alpha=alpha, **penalties)
        assert report.converged and seen.streamed and seen.objective == pytest.approx(report.objective, rel=1e-9)
        assert np.allclose(correlation, A.T @ (y - A @ coef), atol=1e-9 * np.linalg.norm(A) * np.linalg.norm(y))
        assert seen.nonzeros == report.nonzeros and (seen.converged or np.isnan(report.duality_gap) or seen.violation < 1e-9)
        other = np.where(coef != 0, coef * rng.uniform(0.5, 1.5, len(coef)), 0)
        _, off = unmerge.verify(A, y, other, alpha=alpha, **penalties)
        r = ld(y) - ld(A) @ ld(other)
        l1 = (ld(penalties["weights"]) * abs(ld(other))).sum()
        norms = [np.sqrt((ld(other)[g] ** 2).sum()) for g in groups]
        mixed = penalties["l1_ratio"] * l1 + (1 - penalties["l1_ratio"]) * sum(a * b for a, b in zip(k, norms))
        objective = r @ r / 2 + alpha * mixed + penalties["ridge"] / 2 * sum(x * x for x in norms)
        assert off.objective == pytest.approx(float(objective), rel=1e-10)
        if coef.any():
            assert not off.converged
        if np.isfinite(off.duality_gap):
            assert off.duality_gap >= (off.objective - report.objective) * (1 - 1e-9)
    _, wrong = unmerge.verify(A, y, -np.ones(A.shape[1]), alpha=1.0, groups=groups, positive=True)
    assert not wrong.converged and wrong.duality_gap == math.inf


def test_verify_refuses_groups_it_cannot_judge() -> None:
    A, y, w = np.eye(4)[:, :3], np.ones(4), np.zeros(3)
    for options, sentence in (
        ({"groups": [[0, 1], [1, 2]]}, "problem->groups has 1 in several groups"),
        ({"groups": [[0, 1]], "lower": -np.ones(3)}, "bounds must be left as they are"),
        ({"groups": [[0, 1]], "support_only": True}, "support_only and bounds must be left"),
        ({"groups": [[0, 3]]}, r"options->members\[1\] is 3"),
        ({"groups": [[0, 1]], "alpha": -1.0}, "options->alpha is -1.0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            unmerge.verify(A, y, w, **options)
