"""SLOPE and the fused LASSO on several hundred random problems.  The optimum is known from the dual: the textbook gap of the
coefficients, in extended precision and with the dual norm over all subsets of ranks and all intervals, bounds the distance
from it without any other solver."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import unmerge

import oracles
from oracles import LD, U, ld

TOL = 1e-10
OBJECTIVE = 1e-9


# ---------------------------------------------------------------- the penalties and their duals, written out


class Slope:
    def __init__(self, alpha: float, weights: np.ndarray) -> None:
        self.lam = LD(alpha) * ld(weights)

    def value(self, w: np.ndarray) -> Any:
        return (self.lam * -np.sort(-abs(w))).sum()

    def dual(self, g: np.ndarray) -> Any:
        return (np.cumsum(-np.sort(-abs(g))) / np.cumsum(self.lam)).max()

    def reachable(self, r: np.ndarray, A: np.ndarray) -> np.ndarray:
        return r


class Fused:
    """Chains are lists of indices."""

    def __init__(self, alpha: float, l1_ratio: float, chains: list[list[int]]) -> None:
        self.l1, self.tv = LD(alpha) * LD(l1_ratio), LD(alpha) * (1 - LD(l1_ratio))
        self.chains = chains

    def value(self, w: np.ndarray) -> Any:
        return self.l1 * abs(w).sum() + self.tv * sum(abs(np.diff(w[c])).sum() for c in self.chains)

    def dual(self, g: np.ndarray) -> Any:
        worst = LD(0)
        for chain in self.chains:
            n, sums = len(chain), np.concatenate([[LD(0)], np.cumsum(g[chain])])
            for a in range(n):
                b = np.arange(a + 1, n + 1)
                bound = self.l1 * (b - a) + self.tv * (int(a > 0) + (b < n).astype(int))
                total = abs(sums[b] - sums[a])
                usable = bound > 0  # a whole chain of a pure total variation is made 0 by `reachable`
                worst = max(worst, (total[usable] / bound[usable]).max(initial=LD(0)))
        return worst

    def reachable(self, r: np.ndarray, A: np.ndarray) -> np.ndarray:
        if self.l1 > 0:
            return r
        constants = [A[:, c].sum(axis=1) for c in self.chains]
        basis: list[np.ndarray] = []
        for v in constants:
            for _ in range(2):
                for q in basis:
                    v = v - q * (q @ v)
            if v @ v > 0:
                basis.append(v / np.sqrt(v @ v))
        for _ in range(2):
            for q in basis:
                r = r - q * (q @ r)
        return r


def check(A: Any, y: Any, w: np.ndarray, penalty: Any, report: unmerge.Report, condition: float, n: int | None = None) -> None:
    A, y, w = ld(A), ld(y), ld(w)
    r = y - A @ w
    objective = r @ r / 2 + penalty.value(w)
    theta = penalty.reachable(r, A)
    dual = penalty.dual(A.T @ theta)
    theta = theta * (1 / dual if dual > 1 else LD(1))
    bound = objective - (y @ y - (y - theta) @ (y - theta)) / 2
    size = 1 + float((abs(w) * np.sqrt((A * A).sum(axis=0)).max()).sum() / np.sqrt(y @ y))
    noise = 32 * len(w) * U * float(y @ y) * size * size
    assert np.isfinite(w).all()
    assert report.outcome in ("converged", "stalled")
    if report.outcome == "converged":
        assert report.relative_gap <= TOL
        assert bound <= OBJECTIVE * objective + noise
    else:  # rounding stops it where the objective is rounding
        assert bound <= 1e-6 * objective + noise * condition
    assert abs(report.objective - objective) <= noise
    assert abs(report.rss - r @ r) <= noise
    assert report.duality_gap >= 0
    assert report.nonzeros == np.count_nonzero(w)
    assert abs(report.r2 - (1 - r @ r / (y @ y))) <= noise / float(y @ y)


def slope_weights(rng: np.random.Generator, n: int) -> np.ndarray:
    kind = rng.integers(0, 4)
    if kind == 0:
        return unmerge.oscar_weights(n, l1=1.0, pairwise=float(10 ** rng.uniform(-2, 0)))
    if kind == 1:
        return unmerge.benjamini_hochberg_weights(n, q=float(rng.uniform(0.01, 0.5)))
    if kind == 2:
        return np.ones(n)
    return -np.sort(-rng.uniform(0, 2, n) * (np.arange(n) < max(1, n // 2)) ** (rng.random() < 0.2))


def smallest_zero(penalty: Any, A: Any, y: Any) -> float:
    return float(penalty.dual(ld(A).T @ ld(y)))


@pytest.mark.parametrize("block", range(10))
def test_slope(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        rng = np.random.default_rng([seed, 1])
        s = oracles.sample(seed, top=3.0 if seed % 3 else 6.0, scaled=False)
        n = s.A.shape[1]
        weights = slope_weights(rng, n)
        alpha = smallest_zero(Slope(1.0, weights), s.A, s.y) * 10 ** rng.uniform(-3, -0.02)
        coef, report = unmerge.slope((s.A, s.y), alpha=alpha, weights=weights)
        check(s.A, s.y, coef, Slope(alpha, weights), report, s.condition)
        if report.outcome == "converged" and not math.isnan(report.df):
            assert report.df == len(np.unique(abs(coef[coef != 0])))


@pytest.mark.parametrize("block", range(10))
def test_fused_lasso(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        rng = np.random.default_rng([seed, 2])
        s = oracles.sample(seed, top=3.0 if seed % 3 else 6.0, scaled=False)
        n = s.A.shape[1]
        ratio = float(rng.choice([0.0, 1.0, 0.5, rng.uniform(0.01, 0.99)]))
        chains = [list(range(n))]
        top = smallest_zero(Fused(1.0, max(ratio, 0.3), chains), s.A, s.y)
        alpha = top * 10 ** rng.uniform(-3, -0.02)
        coef, report = unmerge.fused_lasso((s.A, s.y), alpha=alpha, l1_ratio=ratio)
        check(s.A, s.y, coef, Fused(alpha, ratio, chains), report, s.condition)
        if report.outcome == "converged" and not math.isnan(report.df):
            runs = np.flatnonzero(np.concatenate([[True], np.diff(coef) != 0]))
            assert report.df == (len(runs) if ratio == 0 else np.count_nonzero(coef[runs]))


def by_modules(rng: np.random.Generator, n: int, modules: int, rows: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Operators over modules, and the same as one dense block-diagonal A (columns by module, then atom)."""
    blocks = [rng.standard_normal((rows + l % 3, n)) * 10 ** rng.uniform(-0.5, 0.5, n) for l in range(modules)]
    truth = np.cumsum(rng.standard_normal((n, modules)) * (rng.random((n, modules)) < 0.2), axis=1)
    targets = [b @ truth[:, l] + 0.3 * rng.standard_normal(len(b)) for l, b in enumerate(blocks)]
    atoms = unmerge.Operator.from_vectors({str(j): {f"m{l}": b[:, j].copy() for l, b in enumerate(blocks)} for j in range(n)})
    target = unmerge.Operator.from_vectors({"y": {f"m{l}": t for l, t in enumerate(targets)}})
    A = np.zeros((sum(map(len, blocks)), n * modules))
    row = 0
    for l, b in enumerate(blocks):
        A[row : row + len(b), l * n : (l + 1) * n] = b
        row += len(b)
    return atoms, target, A, np.concatenate(targets)


@pytest.mark.parametrize("seed", range(40))
def test_fused_lasso_over_modules(seed: int) -> None:
    rng = np.random.default_rng([seed, 3])
    n, modules = int(rng.integers(1, 6)), int(rng.integers(1, 12))
    atoms, target, A, y = by_modules(rng, n, modules, int(rng.integers(n + 1, 20)))
    ratio = float(rng.choice([0.0, 1.0, 0.5, 0.1]))
    chains = [[l * n + j for l in range(modules)] for j in range(n)]
    alpha = smallest_zero(Fused(1.0, max(ratio, 0.3), chains), A, y) * 10 ** rng.uniform(-3, -0.02)
    gram = unmerge.Gram(atoms, target, folds=int(rng.integers(1, 4)))
    coef, report = unmerge.fused_lasso_modules(gram, alpha=alpha, l1_ratio=ratio)
    assert coef.shape == (n, modules)
    check(A, y, coef.T.reshape(-1), Fused(alpha, ratio, chains), report, oracles.condition_of(A))
    if ratio == 1 or modules == 1:  # nothing ties modules together: the LASSO of the block matrix
        plain, _ = unmerge.lasso((A, y), alpha=alpha * ratio)
        assert np.abs(coef.T.reshape(-1) - plain).max() <= 1e-8 * (1 + np.abs(plain).max())


def test_many_modules_take_no_square_of_their_number() -> None:
    rng = np.random.default_rng(4)
    atoms, target, _, _ = by_modules(rng, 20, 60, 40)
    coef, report = unmerge.fused_lasso_modules((atoms, target), alpha=0.3, relative=True)
    assert report.relative_gap <= TOL and report.nonzeros > 0
    zero, report = unmerge.fused_lasso_modules((atoms, target), alpha=1.0, relative=True)
    assert not zero.any() and report.nonzeros == 0


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("seed", range(40))
def test_lasso_is_a_case_of_both(seed: int) -> None:
    s = oracles.sample(seed, top=2.0, scaled=False)
    alpha = 10 ** np.random.default_rng(seed).uniform(-2.5, -0.1)
    gram = unmerge.Gram(s.A, s.y)
    lasso, report = unmerge.lasso(gram, alpha=alpha, relative=True)
    for coef, other in (unmerge.slope(gram, alpha=alpha, relative=True), unmerge.fused_lasso(gram, alpha=alpha, l1_ratio=1.0, relative=True)):
        assert np.abs(coef - lasso).max(initial=0) <= 1e-10 * s.condition**2 * np.abs(lasso).max(initial=0) + 1e-300
        assert other.objective == pytest.approx(report.objective, rel=1e-11)


def test_the_smallest_alpha_that_gives_zero() -> None:
    for seed in range(30):
        s = oracles.sample(seed, top=2.0, scaled=False)
        weights = unmerge.oscar_weights(s.A.shape[1], pairwise=0.1)
        for f, kw in ((unmerge.slope, {"weights": weights}), (unmerge.fused_lasso, {"l1_ratio": 0.3})):
            assert not f((s.A, s.y), alpha=1.0, relative=True, **kw)[0].any()
            assert f((s.A, s.y), alpha=0.999, relative=True, **kw)[0].any()


def test_orthonormal_atoms_are_the_prox() -> None:
    rng = np.random.default_rng(5)
    A, _ = np.linalg.qr(rng.standard_normal((60, 25)))
    y = rng.standard_normal(60)
    weights = unmerge.benjamini_hochberg_weights(25, q=0.2)
    assert np.allclose(unmerge.slope((A, y), alpha=0.2, weights=weights)[0], unmerge.prox.slope(A.T @ y, 0.2, weights=weights), atol=1e-13)
    assert np.allclose(unmerge.fused_lasso((A, y), alpha=0.2, l1_ratio=0.4)[0], unmerge.prox.fused(A.T @ y, 0.2, l1_ratio=0.4), atol=1e-13)


def test_oscar_ties_what_is_alike() -> None:
    rng = np.random.default_rng(6)
    common = rng.standard_normal(300)
    A = np.stack([common + 0.05 * rng.standard_normal(300) for _ in range(3)] + [rng.standard_normal(300) for _ in range(5)], axis=1)
    y = A[:, :3] @ [1.0, 1.1, 0.9] + 0.1 * rng.standard_normal(300)
    coef, _ = unmerge.slope((A, y), alpha=0.1, relative=True, weights=unmerge.oscar_weights(8, l1=0.0))
    assert coef[0] == coef[1] == coef[2] > 0


def test_huge_total_variation_is_one_number() -> None:
    rng = np.random.default_rng(7)
    A, y = rng.standard_normal((50, 9)), rng.standard_normal(50)
    coef, report = unmerge.fused_lasso((A, y), alpha=1e6, l1_ratio=0.0)
    a = A.sum(axis=1)
    assert np.allclose(coef, a @ y / (a @ a), rtol=1e-12) and len(set(coef)) == 1
    assert report.df == 1


def test_weights() -> None:
    assert unmerge.oscar_weights(4, l1=0.5, pairwise=2).tolist() == [6.5, 4.5, 2.5, 0.5]
    w = np.array([3.0, -1, 2, 0])
    pairs = sum(max(abs(w[i]), abs(w[j])) for i in range(4) for j in range(i))
    assert (unmerge.oscar_weights(4, l1=0.5, pairwise=2) * -np.sort(-abs(w))).sum() == pytest.approx(0.5 * 6 + 2 * pairs)
    from scipy.stats import norm

    assert unmerge.benjamini_hochberg_weights(50, q=0.1) == pytest.approx(norm.isf(np.arange(1, 51) * 0.1 / 100), rel=1e-12)
    for bad in ({"n": -1}, {"n": 3, "q": 0.0}, {"n": 3, "q": 1.0}):
        with pytest.raises(ValueError):
            unmerge.benjamini_hochberg_weights(**bad)
    with pytest.raises(ValueError, match="pairwise is -1.0"):
        unmerge.oscar_weights(3, pairwise=-1)


# ---------------------------------------------------------------- equivariances, warm starts, degenerate cases


def test_scales_and_orders() -> None:
    for seed in range(20):
        rng = np.random.default_rng([seed, 8])
        s = oracles.sample(seed, top=2.0, scaled=False)
        A, y, n = s.A.astype(float), s.y.astype(float), s.A.shape[1]
        weights = unmerge.oscar_weights(n, pairwise=0.05)
        coef, _ = unmerge.slope((A, y), alpha=0.1, relative=True, weights=weights)
        order, signs = rng.permutation(n), rng.choice([-1.0, 1.0], n)
        size = np.abs(coef).max(initial=0) + 1e-300
        moved, _ = unmerge.slope((A[:, order] * signs * 1e-20, y * 1e30), alpha=0.1, relative=True, weights=weights)
        assert np.abs(moved * 1e-50 - coef[order] * signs).max(initial=0) <= 1e-9 * size * s.condition
        coef, _ = unmerge.fused_lasso((A, y), alpha=0.1, relative=True)
        size = np.abs(coef).max(initial=0) + 1e-300
        moved, _ = unmerge.fused_lasso((A[:, ::-1] * -1e20, y * 1e-30), alpha=0.1, relative=True)
        assert np.abs(-moved * 1e50 - coef[::-1]).max(initial=0) <= 1e-9 * size * s.condition


def test_targets_threads_and_warm_starts() -> None:
    rng = np.random.default_rng(9)
    A, Y = rng.standard_normal((80, 30)), rng.standard_normal((80, 5))
    Y[:, 3] = 0
    gram = unmerge.Gram(A, Y)
    for f, kw in ((unmerge.slope, {"weights": unmerge.oscar_weights(30)}), (unmerge.fused_lasso, {})):
        coef, reports = f(gram, alpha=0.2, relative=True, threads=1, **kw)
        assert np.array_equal(f(gram, alpha=0.2, relative=True, threads=4, **kw)[0], coef)
        for t in range(5):
            alone, _ = f((A, Y[:, t]), alpha=0.2, relative=True, **kw)
            assert np.abs(alone - coef[:, t]).max() <= 1e-12
        assert not coef[:, 3].any() and reports[3].duality_gap == 0
        again, warm = f(gram, alpha=0.2, relative=True, start=coef, **kw)
        assert np.abs(again - coef).max() <= 1e-12 and all(r.iterations <= s.iterations for r, s in zip(warm, reports))
        frozen, report = f(gram, alpha=0.2, relative=True, start=coef + 0.1, max_iter=0, **kw)
        assert np.allclose(frozen[:, :3], (coef + 0.1)[:, :3], rtol=1e-15) and report[0].outcome == "iteration limit"


def test_degenerate() -> None:
    rng = np.random.default_rng(10)
    A, y = rng.standard_normal((40, 6)), rng.standard_normal(40)
    A[:, 2] = 0
    A[:, 4] = A[:, 1]
    coef, report = unmerge.slope((A, y), alpha=0.05, relative=True, weights=unmerge.oscar_weights(6, pairwise=0.1))
    assert report.relative_gap <= TOL and coef[2] == 0 and "zero_atom" in report.flags
    coef, report = unmerge.fused_lasso((A, y), alpha=0.05, relative=True)
    assert report.relative_gap <= TOL
    assert min(coef[1], coef[3]) <= coef[2] <= max(coef[1], coef[3])  # the zero atom is free to follow its neighbours
    for f in (unmerge.slope, unmerge.fused_lasso):
        coef, report = f((A, y * 0), alpha=1.0)
        assert not coef.any() and report.outcome == "converged"
        coef, report = f((A * 0, y), alpha=1.0)
        assert not coef.any() and report.outcome == "converged"
        coef, report = f((A, y), alpha=1e300)
        assert not coef.any() and report.duality_gap == pytest.approx(0, abs=1e-12)
        coef, report = f((A[:, [0, 1, 3]], y), alpha=0.0)
        assert np.allclose(coef, np.linalg.lstsq(A[:, [0, 1, 3]], y, rcond=None)[0], atol=1e-10)
        coef, report = f((A[:, :1], y), alpha=0.1, relative=True)
        assert coef.shape == (1,) and report.converged


@pytest.mark.parametrize(
    ("f", "options", "sentence"),
    [
        (unmerge.slope, {"weights": [1.0, 2.0]}, r"options->weights\[1\] is 2.0 after 1.0; they must not increase"),
        (unmerge.slope, {"weights": [0.0, 0.0]}, r"options->weights\[0\] is 0; the first must be > 0"),
        (unmerge.slope, {"alpha": -1}, "options->alpha is -1.0; it must be finite and >= 0"),
        (unmerge.fused_lasso, {"l1_ratio": 1.5}, r"options->l1_ratio is 1.5; it must be in \[0, 1\]"),
        (unmerge.fused_lasso, {"l1_ratio": 0, "relative": True}, "options->relative is 1 with l1_ratio 0"),
        (unmerge.fused_lasso_modules, {"target": 3}, r"options->target is 3; it must be in \[0, 1\)"),
    ],
)
def test_refusals(f: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        f((np.eye(3)[:, :2], np.ones(3)), **options)
