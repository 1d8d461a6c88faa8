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
from oracles import LD, U

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


def case(seed: int) -> Case:
    rng = np.random.default_rng([seed, 77])
    s = oracles.sample(seed, top=4.0)
    A, y, n = s.A, s.y, s.A.shape[1]
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
    ridge = float(10.0 ** rng.uniform(-3, 1)) * float(np.median((s.A.astype(float) ** 2).sum(axis=0))) if seed % 3 == 1 else 0.0
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
