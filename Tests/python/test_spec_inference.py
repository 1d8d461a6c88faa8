"""Standard errors and identifiability, from the specification: sums over the rows in extended precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import unmerge
from modular import RNG, data, modules
from oracles import LD, ld
from oracles import solve as exact_solve
from scipy import stats


def inverse(G: np.ndarray) -> np.ndarray:
    return np.stack([exact_solve(G, e) for e in np.eye(len(G)).astype(LD)], axis=1)


def close(a: Any, b: Any, rtol: float) -> bool:
    a, b = ld(a), ld(b)
    return bool(np.all(np.abs(a - b) <= rtol * np.abs(b)))


# ---------------------------------------------------------------- standard errors


def sandwich(A: np.ndarray, y: np.ndarray, groups: list[np.ndarray] | None) -> tuple[np.ndarray, np.ndarray, float, float]:
    """(w, cov, degrees, rss), from the rows."""
    X, t = ld(A), ld(y)
    p, k = X.shape
    bread = inverse(X.T @ X)
    w = bread @ (X.T @ t)
    r = t - X @ w
    if groups is None:
        return w, bread * (r @ r) / (p - k), float(p - k), float(r @ r)
    L = len(groups)
    scores = [X[g].T @ r[g] for g in groups]
    meat = sum(np.outer(s, s) for s in scores)
    return w, LD(L) / (L - 1) * (p - 1) / (p - k) * bread @ meat @ bread, float(L - 1), float(r @ r)


@pytest.mark.parametrize("covariance", ["classical", "cluster"])
@pytest.mark.parametrize("support", [None, [4], [5, 0, 2]])
def test_standard_errors_are_the_textbook_s(covariance: Any, support: list[int] | None) -> None:
    sizes = [60, 100, 40, 120, 80]
    starts = np.cumsum([0, *sizes])
    for seed in range(5):
        A, y = data(seed)
        chosen = list(range(6)) if support is None else support
        groups = [np.arange(s, e) for s, e in zip(starts, starts[1:])] if covariance == "cluster" else None
        w, cov, degrees, rss = sandwich(A[:, chosen], y, groups)
        l = RNG(seed).standard_normal((2, len(chosen)))
        found = unmerge.least_squares_inference(
            modules(A, y, sizes), support=support, covariance=covariance, contrasts=l, confidence=0.9
        )
        assert [c.name for c in found.coefficients] == [str(j) for j in chosen]
        assert found.degrees == degrees and found.rank == len(chosen) and found.clusters == (5 if groups else 0)
        assert close(found.rss, rss, 1e-11) and close(found.sigma2, rss / (400 - len(chosen)), 1e-11)
        assert math.isclose(found.r2, 1 - rss / (y @ y), rel_tol=1e-12)
        assert np.max(np.abs(ld(found.cov) - cov) / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))) < 1e-9
        everything = np.concatenate([w, ld(l) @ w]), np.concatenate([np.diag(cov), np.diag(ld(l) @ cov @ ld(l).T)])
        quantile = stats.t.ppf(0.95, degrees)
        for item, estimate, variance in zip(found.coefficients + found.contrasts, *everything):
            se = math.sqrt(variance)
            assert math.isclose(item.estimate, estimate, rel_tol=1e-9, abs_tol=1e-12)
            assert math.isclose(item.standard_error, se, rel_tol=1e-9)
            assert math.isclose(item.t, estimate / se, rel_tol=1e-8, abs_tol=1e-10)
            assert math.isclose(item.p_value, 2 * stats.t.sf(float(abs(estimate / se)), degrees), rel_tol=1e-6, abs_tol=1e-300)
            assert math.isclose(item.low, estimate - quantile * se, rel_tol=1e-8, abs_tol=1e-9)
            assert math.isclose(item.high, estimate + quantile * se, rel_tol=1e-8, abs_tol=1e-9)
        G = ld(A[:, chosen]).T @ ld(A[:, chosen])
        assert close([c.vif for c in found.coefficients], np.diag(G) * np.diag(inverse(G)), 1e-10)
        assert all(math.isnan(c.vif) for c in found.contrasts)
        assert str(len(chosen)) and "std error" in str(found)


def test_standard_errors_of_random_problems() -> None:
    rng = RNG(50)
    for _ in range(250):
        k, sizes = int(rng.integers(1, 5)), [int(s) for s in rng.integers(3, 20, int(rng.integers(2, 8)))]
        A = rng.standard_normal((sum(sizes), k)) * 10.0 ** rng.uniform(-4, 4, k) + rng.exponential() * rng.standard_normal((sum(sizes), 1))
        y = A @ rng.standard_normal(k) + rng.standard_normal(len(A))
        gram = modules(A, y, sizes)
        starts = np.cumsum([0, *sizes])
        groups = [np.arange(s, e) for s, e in zip(starts, starts[1:])]
        for kind, parts in (("classical", None), ("cluster", groups)):
            found = unmerge.least_squares_inference(gram, covariance=kind)  # type: ignore[arg-type]
            w, cov, degrees, _ = sandwich(A, y, parts)
            # Rounding of the Gram is relative to ||y||, residuals and scores are not.
            tol = (1e-13 * max(c.vif for c in found.coefficients) + 1e-12) / math.sqrt(1 - found.r2)
            se = np.sqrt(np.diag(cov))
            assert found.degrees == degrees
            assert np.all(np.abs([c.estimate for c in found.coefficients] - w) <= tol * (np.abs(w) + se * 1e3))
            assert np.all(np.abs([c.standard_error for c in found.coefficients] - se) <= 1e4 * tol * se)


def test_student_s_t_over_its_whole_range() -> None:
    """p-values and quantiles for every number of degrees of freedom, through fits of 1 atom to k + 1 entries."""
    for degrees in (1, 2, 3, 5, 10, 40, 99, 100, 101, 1000, 20_000, 99_999, 100_001, 300_000):
        a = np.ones(degrees + 1)
        base = RNG(degrees).standard_normal(degrees + 1)
        base -= base.mean()
        base /= np.sqrt(base @ base / degrees)  # s2 = 1
        for t in (0.0, 1e-3, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0):
            y = base + t / math.sqrt(degrees + 1)
            found = unmerge.least_squares_inference((a[:, None], y), confidence=0.99)
            item = found.coefficients[0]
            expected = 2 * stats.t.sf(item.t, degrees) if item.t > 0 else 2 * stats.t.cdf(item.t, degrees)
            assert math.isclose(item.p_value, expected, rel_tol=1e-9, abs_tol=1e-290), (degrees, t)
            half = (item.high - item.low) / 2 / item.standard_error
            assert math.isclose(half, stats.t.ppf(0.995, degrees), rel_tol=1e-10), degrees


def test_clusters_of_the_caller_and_of_the_gram() -> None:
    A, y = data(1, p=4096)
    gram = modules(A, y, [512] * 8)
    pairs = unmerge.least_squares_inference(gram, covariance="cluster", clusters=[0, 0, 5, 5, 1, 1, 3, 3])
    _, cov, degrees, _ = sandwich(A, y, list(np.arange(4096).reshape(4, 1024)))
    assert pairs.clusters == 4 and pairs.degrees == degrees == 3 and close(np.diag(pairs.cov), np.diag(cov), 1e-9)
    assert unmerge.least_squares_inference(unmerge.Gram(A, y, folds=6), covariance="cluster").clusters == 6
    for bad in ([0] * 8, [-1] * 8, [0, 1]):
        with pytest.raises(ValueError, match="cluster"):
            unmerge.least_squares_inference(gram, covariance="cluster", clusters=bad)
    with pytest.raises(ValueError, match="module"):
        unmerge.least_squares_inference(unmerge.Gram(A, y), covariance="cluster")


def test_coverage_of_clustered_errors() -> None:
    """Errors that go together within clusters: classical intervals are far too short, clustered ones hold."""
    rng = RNG(2)
    hits = {"classical": 0, "cluster": 0}
    for _ in range(120):
        A = rng.standard_normal((40, 1)).repeat(20, axis=0) + 0.3 * rng.standard_normal((800, 1))
        y = A[:, 0] + rng.standard_normal((40, 1)).repeat(20, axis=0)[:, 0] + 0.3 * rng.standard_normal(800)
        gram = modules(A, y, [20] * 40)
        for kind in hits:
            c = unmerge.least_squares_inference(gram, covariance=kind).coefficients[0]  # type: ignore[arg-type]
            hits[kind] += c.low <= 1 <= c.high
    assert hits["cluster"] >= 102 and hits["classical"] <= 80  # of 120; 114 are wanted


def test_inference_on_dependent_and_zero_atoms() -> None:
    A, y = data(3, n=3)
    A = np.column_stack([A, A[:, 0] - A[:, 1], np.zeros(400)])
    found = unmerge.least_squares_inference((A, y), support=[4, 0, 1, 3, 2], contrasts=[[0, 1, 1, 0, 0], [0, 1, 0, 1, 0]])
    assert found.rank == 3
    for i in (0, 3):
        c = found.coefficients[i]
        assert c.estimate == 0 and math.isnan(c.standard_error) and c.vif == math.inf and np.isnan(found.cov[i]).all()
    w, cov, _, _ = sandwich(A[:, :3], y, None)
    assert close([found.coefficients[i].estimate for i in (1, 2, 4)], w, 1e-9)
    assert math.isclose(found.contrasts[0].standard_error, math.sqrt(np.array([1, 1, 0]) @ cov @ np.array([1, 1, 0])), rel_tol=1e-9)
    assert math.isnan(found.contrasts[1].estimate)


def test_inference_refuses_what_it_cannot_answer() -> None:
    A, y = data(4, p=5, n=5)
    with pytest.raises(ValueError, match="entries"):
        unmerge.least_squares_inference((A, y))
    A, y = data(4, p=50, n=4)
    for options in ({"support": [0, 0]}, {"support": [4]}, {"support": [-1]}, {"confidence": 1.0}, {"confidence": 0.0}, {"target": 1}, {"contrasts": [1.0]}, {"contrasts": [[1, 2, math.nan, 3]]}, {"covariance": "hc0"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            unmerge.least_squares_inference((A, y), **options)  # type: ignore[arg-type]


def test_scaling_atoms_and_target() -> None:
    A, y = data(5)
    d = np.array([1e-6, 2.0, 1e5, 1.0, 0.25, 1e3])
    for kind in ("classical", "cluster"):
        one = unmerge.least_squares_inference(modules(A, y, [100] * 4), covariance=kind)  # type: ignore[arg-type]
        two = unmerge.least_squares_inference(modules(A * d, 8 * y, [100] * 4), covariance=kind)  # type: ignore[arg-type]
        for a, b, s in zip(one.coefficients, two.coefficients, 8 / d):
            assert math.isclose(b.estimate, s * a.estimate, rel_tol=1e-10)
            assert math.isclose(b.standard_error, s * a.standard_error, rel_tol=1e-10)
            assert math.isclose(b.vif, a.vif, rel_tol=1e-10)


# ---------------------------------------------------------------- identifiability


def test_identifiability_of_independent_atoms() -> None:
    for seed in range(10):
        A, _ = data(seed, p=200, n=7)
        found = unmerge.identifiability(A)
        G = ld(A).T @ ld(A)
        d = np.sqrt(np.diag(G))
        C = (G / np.outer(d, d)).astype(float)
        assert close(found.singular, np.linalg.svd(C, compute_uv=False), 1e-10)
        assert math.isclose(found.condition, np.linalg.cond(C), rel_tol=1e-9)
        assert found.rank == 7 and found.groups == []
        assert close([a.vif for a in found.atoms], np.diag(G) * np.diag(inverse(G)), 1e-10)
        np.fill_diagonal(C, 0)
        assert [a.nearest for a in found.atoms] == list(np.abs(C).argmax(axis=0))
        assert np.allclose([a.cosine for a in found.atoms], C[np.abs(C).argmax(axis=0), range(7)], rtol=1e-12)
        assert np.allclose([a.norm for a in found.atoms], d.astype(float), rtol=1e-13)


def test_groups_of_dependent_atoms() -> None:
    rng = RNG(0)
    B = rng.standard_normal((300, 8))
    A = np.column_stack(
        [B[:, 0], B[:, 1], 3 * B[:, 0], B[:, 2], B[:, 3], B[:, 2] - 0.01 * B[:, 3], np.zeros(300), B[:, 4], -B[:, 0], B[:, 5:]]
    )
    found = unmerge.identifiability((A, B[:, 0]))
    assert found.groups == [[0, 2, 8], [3, 4, 5]]
    assert found.rank == 8 and found.condition == math.inf
    for j, a in enumerate(found.atoms):
        inside = j in (0, 2, 3, 4, 5, 8)
        assert (a.group is not None) == inside and (a.vif == math.inf) == inside
    assert math.isnan(found.atoms[6].vif) and found.atoms[6].nearest is None
    # The others: variance inflation among themselves and representatives of the groups.
    rest = [1, 7, 9, 10, 11]
    X = ld(A[:, [*rest, 0, 3, 4]])
    assert close([found.atoms[j].vif for j in rest], (np.diag(X.T @ X) * np.diag(inverse(X.T @ X)))[:5], 1e-9)
    assert "[0, 2, 8]" in str(found)
    # Removing all but the span leaves everything determined.
    assert unmerge.identifiability((A[:, [0, 1, 3, 4, 7, 9, 10, 11]], B[:, 0])).groups == []


def test_float32_copies_are_told_as_dependent() -> None:
    A = RNG(1).standard_normal((1000, 4)).astype(np.float32)
    A[:, 3] = (A[:, 0].astype(np.float64) * (1 / 3)).astype(np.float32)  # equal but for float32 rounding
    assert unmerge.identifiability(A).groups == [[0, 3]]


def test_identifiability_of_few_atoms() -> None:
    one = unmerge.identifiability(np.ones((5, 1)))
    assert (one.rank, one.condition, one.atoms[0].vif, one.atoms[0].nearest) == (1, 1.0, 1.0, None)
    none = unmerge.identifiability(np.zeros((5, 2)))
    assert none.rank == 0 and math.isnan(none.condition) and none.groups == []


def test_statistics_need_all_columns() -> None:
    lazy = unmerge.Gram(RNG(3).standard_normal((2000, 70)), RNG(4).standard_normal(2000), columns="on_demand", blocks="one")
    for question in (
        lambda: unmerge.identifiability(lazy),
        lambda: unmerge.least_squares_inference(lazy),
        lambda: unmerge.lasso_cv(lazy),
        lambda: unmerge.stability_selection(lazy),
        lambda: unmerge.information_criteria(lazy, np.zeros(70)),
    ):
        with pytest.raises(ValueError, match="on demand"):
            question()
