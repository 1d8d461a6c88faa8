"""Degenerate inputs: a defined answer for every method, no NaN in a coefficient, and no exception but the specified ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import oracles
import unmerge
from oracles import Problem

Solve = Callable[..., tuple[np.ndarray, Any]]

# Every method with options under which it has work to do, and the problem its answer solves.
METHODS: dict[str, tuple[Solve, dict[str, Any]]] = {
    "raw": (lambda d, **r: unmerge.dot(d, variant="raw", **r), {}),
    "cosine": (lambda d, **r: unmerge.dot(d, variant="cosine", **r), {}),
    "projection": (lambda d, **r: unmerge.dot(d, variant="projection", **r), {}),
    "joint": (lambda d, **r: unmerge.dot(d, variant="joint", **r), {}),
    "least squares": (lambda d, **r: unmerge.ridge(d, alpha=0, **r), {}),
    "ridge": (lambda d, **r: unmerge.ridge(d, alpha=0.5, **r), {"alpha": 0.5, "l1_ratio": 0.0}),
    "lasso": (lambda d, **r: unmerge.lasso(d, alpha=0.5, **r), {"alpha": 0.5}),
    "relative lasso": (lambda d, **r: unmerge.lasso(d, alpha=0.1, relative=True, **r), {}),
    "lasso 0": (lambda d, **r: unmerge.lasso(d, alpha=0, **r), {}),
    "positive lasso": (lambda d, **r: unmerge.lasso(d, alpha=0.5, positive=True, **r), {"alpha": 0.5, "positive": True}),
    "elastic net": (lambda d, **r: unmerge.elastic_net(d, alpha=0.5, l1_ratio=0.3, **r), {"alpha": 0.5, "l1_ratio": 0.3}),
    "nnls": (lambda d, **r: unmerge.nnls(d, **r), {"positive": True}),
    "omp": (lambda d, **r: unmerge.omp(d, k=3, **r), {}),
    "positive omp": (lambda d, **r: unmerge.omp(d, k=3, positive=True, **r), {}),
}
NAMES = list(METHODS)
DIRECTIONS = ("raw", "cosine", "projection")  # not a joint fit: no objective
CONVEX = ("ridge", "lasso", "positive lasso", "elastic net", "nnls")  # least squares, too, where it is unique
OUTCOMES = {"converged", "iteration limit", "time limit", "cancelled", "stalled"}


def run(name: str, A: np.ndarray, y: np.ndarray, **options: Any) -> tuple[np.ndarray, unmerge.Report]:
    """The answer, with what must hold in every case."""
    coef, report = METHODS[name][0]((A, y), **options)
    assert coef.shape == (A.shape[1],)
    assert np.isfinite(coef).all()
    assert report.outcome in OUTCOMES
    assert report.nonzeros == np.count_nonzero(coef)
    assert report.iterations >= 0
    if name not in DIRECTIONS:
        for value in (report.objective, report.rss, report.yy, report.r2, report.violation):
            assert math.isfinite(value)
        assert report.objective >= 0 and report.rss >= 0
        assert not report.duality_gap < 0
    return coef, report


def problem_of(name: str, A: np.ndarray, y: np.ndarray) -> Problem:
    return Problem.make(A, y, **METHODS[name][1])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, 99]).standard_normal(shape)


# ---------------------------------------------------------------- zero atoms


@pytest.mark.parametrize("name", NAMES)
def test_zero_atoms_get_zero_and_leave_the_rest_alone(name: str) -> None:
    A, y = normal(1, 40, 5), normal(2, 40)
    padded = np.zeros((40, 8))
    padded[:, [1, 2, 4, 5, 7]] = A
    coef, report = run(name, padded, y)
    plain, without = run(name, A, y)
    assert not coef[[0, 3, 6]].any()
    assert np.abs(coef[[1, 2, 4, 5, 7]] - plain).max() <= 1e-12 * np.abs(plain).max()
    assert "zero_atom" in report.flags
    assert "zero_atom" not in without.flags
    assert report.outcome == "converged"


@pytest.mark.parametrize("name", NAMES)
def test_only_zero_atoms(name: str) -> None:
    coef, report = run(name, np.zeros((30, 4)), normal(3, 30))
    assert not coef.any()
    assert report.outcome == "converged"
    assert "zero_atom" in report.flags
    if name not in DIRECTIONS:
        assert report.rss == pytest.approx(report.yy, rel=1e-14)
        assert report.r2 == pytest.approx(0, abs=1e-14)


# ---------------------------------------------------------------- duplicates


def twins(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Six atoms, of which 1 and 4 are the same, opposite, or one unit in the last place of float32 apart."""
    A = normal(4, 60, 6).astype(np.float32)
    twin = A[:, 1].copy()
    if kind == "opposite":
        twin = -twin
    if kind == "1 ulp":
        twin = np.where(np.arange(60) % 2, np.nextafter(twin, np.float32(9)), twin)
    A[:, 4] = twin
    y = A[:, 1].astype(np.float64) + 0.5 * A[:, 2] + 0.3 * normal(5, 60)
    return A, y


@pytest.mark.parametrize("kind", ["same", "opposite", "1 ulp"])
@pytest.mark.parametrize("name", NAMES)
def test_duplicate_atoms(kind: str, name: str) -> None:
    A, y = twins(kind)
    coef, report = run(name, A, y)
    if name in DIRECTIONS:
        return
    problem = problem_of(name, A, y)
    sign = -1.0 if kind == "opposite" else 1.0
    if kind == "1 ulp":  # what the dropped twin could still explain is rounding, but visible
        assert report.outcome in ("converged", "stalled")
        assert report.violation <= 1e-7
    else:
        assert report.outcome == "converged"
    assert abs(report.objective - problem.objective(coef)) <= problem.rounding(coef) or name == "relative lasso"
    assert abs(report.rss - problem.rss(coef)) <= problem.rounding(coef)
    # The fit is that of the data without the second twin.
    first = np.delete(np.arange(6), 4)
    if name in ("joint", "least squares", "lasso 0", "nnls"):
        alone, _ = run(name, A[:, first], y)
        best = problem_of(name, A[:, first], y).objective(alone)
        assert abs(problem.objective(coef) - best) <= 1e-12 * best
    if name in ("joint", "least squares"):
        assert "rank_deficient" in report.flags
        assert coef[4] == 0  # the later of the two
        assert np.abs(coef[first] - alone).max() <= 1e-9 * np.abs(alone).max()
    if name in ("lasso", "positive lasso", "elastic net", "ridge"):
        assert problem.gap(coef) <= 1e-9 * problem.objective(coef) or name == "ridge"
        assert problem.violation(coef) <= 1e-7
    if name in ("ridge", "elastic net"):
        assert abs(coef[1] - sign * coef[4]) <= 1e-6 * abs(coef[1])  # strictly convex: an even split
        assert coef[1] != 0
    if name in ("omp", "positive omp"):  # a dependent atom is passed over
        assert len({1, 4} & set(report.order)) == 1
        if kind == "same" or (kind == "opposite" and name == "omp"):  # a tie goes to the lower index
            assert 1 in report.order
            assert coef[4] == 0


@pytest.mark.parametrize("n", [2, 5, 20])
@pytest.mark.parametrize("name", NAMES)
def test_all_atoms_equal(name: str, n: int) -> None:
    a, y = normal(6, 50), normal(7, 50)
    y = y if a @ y > 0 else -y
    A = np.repeat(a[:, None], n, axis=1)
    coef, report = run(name, A, y)
    if name in DIRECTIONS:
        assert coef == pytest.approx(np.full(n, coef[0]), rel=1e-14)
        return
    one = a @ y / (a @ a)
    total = {
        "ridge": a @ y / (a @ a + 0.5 / n),
        "lasso": (a @ y - 0.5) / (a @ a),
        "positive lasso": (a @ y - 0.5) / (a @ a),
        "elastic net": (a @ y - 0.15) / (a @ a + 0.35 / n),
        "relative lasso": 0.9 * one,
    }.get(name, one)
    assert coef.sum() == pytest.approx(total, rel=1e-8)
    assert report.outcome == "converged"
    if name in ("joint", "least squares"):
        assert np.array_equal(np.flatnonzero(coef), [0])
        assert "rank_deficient" in report.flags
    if name in ("omp", "positive omp"):
        assert report.order == [0]
        assert "clipped" in report.flags
    if name == "ridge":
        assert np.abs(coef - coef[0]).max() <= 1e-9 * abs(coef[0])


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15])
def test_near_duplicates_determine_their_sum(distance: float) -> None:
    A = normal(8, 200, 4)
    A /= np.linalg.norm(A, axis=0)
    other = A[:, 3] - A[:, 0] * (A[:, 0] @ A[:, 3])
    A[:, 3] = A[:, 0] + distance * other
    y = A[:, 0] + A[:, 1] + 1e-6 * distance * normal(9, 200)
    for name in ("joint", "least squares", "nnls", "omp"):
        coef, report = run(name, A, y)
        # OMP may take the other twin, which is that far away.
        tolerance = max(1e-8, 3 * distance) if name == "omp" else 1e-8
        assert coef[0] + coef[3] == pytest.approx(1, abs=tolerance)
        assert coef[1] == pytest.approx(1, abs=tolerance)
        assert coef[2] == pytest.approx(0, abs=tolerance)
    if distance <= 1e-7:
        for name in ("joint", "least squares"):
            assert {"rank_deficient", "reduced_accuracy"} & run(name, A, y)[1].flags


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("name", NAMES)
def test_zero_target(name: str) -> None:
    coef, report = run(name, normal(10, 30, 5), np.zeros(30))
    assert not coef.any()
    assert report.outcome == "converged"
    assert report.yy == 0
    assert report.r2 == 0
    if name not in DIRECTIONS:
        assert report.objective == report.rss == 0
        assert report.violation == 0
        assert report.duality_gap == 0 or math.isnan(report.duality_gap)
        assert not report.relative_gap > 0


@pytest.mark.parametrize("name", NAMES)
def test_target_orthogonal_to_every_atom(name: str) -> None:
    A, y = normal(11, 40, 5), np.zeros(40)
    A[30:], y[30:] = 0, normal(12, 10)
    coef, report = run(name, A, y)
    assert not coef.any()
    assert report.outcome == "converged"
    if name not in DIRECTIONS:
        assert report.rss == report.yy > 0
        assert report.r2 == 0
    if "omp" in name:
        assert report.order == []
    assert unmerge.alpha_max((A, y)) == 0
    alphas, coefs, reports = unmerge.lasso_path((A, y), n_alphas=4)
    assert not coefs.any() and not alphas.any()


@pytest.mark.parametrize("name", ["joint", "least squares", "lasso 0", "nnls"])
def test_target_in_the_span(name: str) -> None:
    A, w = normal(13, 300, 6), np.array([1.0, 0.2, 3.0, 0.1, 0.7, 2.0])
    coef, report = run(name, A, A @ w)
    assert np.abs(coef - w).max() <= 1e-13
    assert math.sqrt(float(Problem.make(A, A @ w).rss(coef))) <= 1e-13 * np.linalg.norm(A @ w)
    assert "fully_explained" in report.flags
    assert report.outcome == "converged"


def test_target_negative_for_the_positive_methods() -> None:
    A = np.abs(normal(14, 40, 5))
    y = -np.abs(normal(15, 40))
    for name in ("nnls", "positive lasso", "positive omp"):
        coef, report = run(name, A, y)
        assert not coef.any()
        assert report.outcome == "converged"
        assert report.rss == report.yy
    assert unmerge.alpha_max((A, y), positive=True) == 0


# ---------------------------------------------------------------- sizes


def test_k_beyond_the_atoms_or_the_rank_is_clipped() -> None:
    A, y = normal(16, 50, 6), normal(17, 50)
    full, _ = unmerge.ridge((A, y), alpha=0)
    for k in (7, 100, 2**40):
        coef, report = unmerge.omp((A, y), k=k)
        assert "clipped" in report.flags
        assert report.outcome == "converged"
        assert sorted(report.order) == list(range(6))
        assert np.abs(coef - full).max() <= 1e-12
    assert "clipped" not in unmerge.omp((A, y), k=6)[1].flags
    A[:, 5] = A[:, 0] + A[:, 1]
    coef, report = unmerge.omp((A, y), k=6)
    assert "clipped" in report.flags
    assert len(report.order) == 5
    assert report.rss == pytest.approx(float(np.linalg.lstsq(A[:, :5], y, rcond=None)[1][0]), rel=1e-11)
    A[:, 3] = 0
    coef, report = unmerge.omp((A, y), k=5)
    assert "clipped" in report.flags and "zero_atom" in report.flags
    assert 3 not in report.order and len(report.order) == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p, n", [(0, 0), (0, 3), (5, 0), (1, 1), (1, 4), (2, 1)])
def test_empty_and_tiny(name: str, p: int, n: int) -> None:
    A, y = normal(18, p, n), normal(19, p)
    coef, report = run(name, A, y)
    assert report.yy == pytest.approx(float(y @ y), rel=1e-14)
    if n == 0 or p == 0:
        assert not coef.any()
        assert report.outcome == "converged"
        if name not in DIRECTIONS:
            assert report.rss == report.yy
            assert report.objective == report.yy / 2
    elif name in ("joint", "least squares", "lasso 0", "omp"):
        assert float(Problem.make(A, y).rss(coef)) <= 1e-28 * float(y @ y) or p > n
        if n > p:
            assert "rank_deficient" in report.flags or name == "omp"
    elif name in CONVEX:
        problem = problem_of(name, A, y)
        assert problem.violation(coef) <= 1e-9


def test_empty_data_elsewhere() -> None:
    for p, n in ((0, 0), (0, 3), (5, 0)):
        A, y = np.zeros((p, n)), np.ones(p)
        g = unmerge.Gram(A, y)
        assert (g.atoms, g.entries, g.targets) == (n, p, 1)
        assert g.arrays().G.shape == (n, n)
        assert unmerge.alpha_max(g) == 0
        assert unmerge.Gram.from_bytes(g.to_bytes()).entries == p
        correlation, report = unmerge.verify(A, y, np.zeros(n))
        assert not correlation.any()
        assert report.rss == pytest.approx(p, rel=1e-15)
        better, _ = unmerge.refine(g, A, y, np.zeros(n))
        assert not better.any()
        alphas, coefs, reports = unmerge.lasso_path(g, n_alphas=3)
        assert coefs.shape == (n, 3) and not coefs.any()


def test_no_targets() -> None:
    g = unmerge.Gram(normal(20, 10, 3), np.zeros((10, 0)))
    assert (g.atoms, g.targets) == (3, 0)
    assert g.arrays().C.shape == (3, 0)
    for method in (unmerge.nnls, unmerge.lasso, unmerge.ridge, unmerge.omp, unmerge.dot):
        coefs, reports = method(g)
        assert coefs.shape == (3, 0)
        assert reports == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p, n", [(3, 5), (10, 25), (30, 31)])
def test_more_atoms_than_rows(name: str, p: int, n: int) -> None:
    A, y = normal(21, p, n), normal(22, p)
    coef, report = run(name, A, y)
    if name in ("joint", "least squares", "lasso 0"):
        assert math.sqrt(float(Problem.make(A, y).rss(coef) / (y @ y))) <= 1e-9
        assert "rank_deficient" in report.flags
    if name in ("joint", "least squares"):
        assert np.count_nonzero(coef) <= p
    if name in CONVEX:
        problem = problem_of(name, A, y)
        assert problem.violation(coef) <= 1e-9
        assert report.outcome == "converged"
    coef, report = unmerge.omp((A, y), k=n)
    assert "clipped" in report.flags or "fully_explained" in report.flags
    assert len(report.order) <= p
    assert float(Problem.make(A, y).rss(coef)) <= 1e-18 * float(y @ y)


@pytest.mark.parametrize("k", [6, 10, 14, 20])
@pytest.mark.parametrize("family", ["Hilbert", "Vandermonde"])
def test_hopelessly_conditioned_dictionaries(family: str, k: int) -> None:
    """cond up to 1e20: no NaN, a flag, and a fit within rounding of what LAPACK finds."""
    t = np.linspace(0.01, 1, 200)
    A = 1 / (t[:, None] + np.arange(k)) if family == "Hilbert" else t[:, None] ** np.arange(k)
    y = np.sin(5 * t) + 0.1 * normal(23, 200)
    d = np.linalg.norm(A, axis=0)
    for name in NAMES:
        coef, report = run(name, A, y)
        if name not in DIRECTIONS:
            assert abs(report.rss - Problem.make(A, y).rss(coef)) <= Problem.make(A, y).rounding(coef)
        if name in ("joint", "least squares") and k >= 10:
            assert {"rank_deficient", "reduced_accuracy"} & report.flags
        if name in ("joint", "least squares"):
            # atoms whose part beyond the others is below 1e-6 of them cannot be told from rounding in a Gram, and the machine's
            # rounding decides about those that are near
            kept = np.linalg.svd(A / d)
            rank = int((kept[1] > 1e-4 * kept[1][0]).sum())
            reachable = y - kept[0][:, :rank] @ (kept[0][:, :rank].T @ y)
            assert float(Problem.make(A, y).rss(coef)) <= 1.01 * float(reachable @ reachable)
            assert report.rss == pytest.approx(float(Problem.make(A, y).rss(coef)), rel=1e-2)
        if name in ("ridge", "lasso", "elastic net"):
            problem = problem_of(name, A, y)
            assert problem.violation(coef) <= 1e-7


# ---------------------------------------------------------------- penalties at their ends


def test_alpha_at_its_ends() -> None:
    A, y = normal(24, 60, 7), normal(25, 60)
    g = unmerge.Gram(A, y)
    top = unmerge.alpha_max(g)
    least_squares, _ = unmerge.ridge(g, alpha=0)
    for alpha in (top, np.nextafter(top, np.inf), 1e300, np.finfo(float).max):
        for method in (unmerge.lasso, lambda d, alpha: unmerge.elastic_net(d, alpha=alpha, l1_ratio=1.0)):
            coef, report = method(g, alpha=alpha)
            assert not coef.any()
            assert report.outcome == "converged"
            assert report.duality_gap == 0
            assert report.objective == report.yy / 2
    for alpha in (0.0, 5e-324, 1e-300, 1e-20):
        for method in (unmerge.lasso, unmerge.ridge, unmerge.elastic_net):
            coef, report = method(g, alpha=alpha)
            assert np.abs(coef - least_squares).max() <= 1e-10
            assert report.outcome == "converged"
    for alpha in (1e150, 1e300, np.finfo(float).max):
        coef, report = unmerge.ridge(g, alpha=alpha)
        assert np.isfinite(coef).all()
        assert np.abs(coef).max() <= 1e-140
        assert math.isfinite(report.objective)


def test_weights_at_their_ends() -> None:
    A, y = normal(26, 60, 5), normal(27, 60)
    for weights in ([0, 0, 0, 0, 0], [1e300, 1, 1, 1, 1], [1e-300, 1, 1, 1, 1], [0, 1e100, 1e-100, 1, 2]):
        for method in (unmerge.lasso, unmerge.ridge, unmerge.elastic_net):
            for alpha in (0.0, 0.5, 3.0):
                coef, report = method((A, y), alpha=alpha, weights=np.array(weights, dtype=float))
                assert np.isfinite(coef).all()
                # A weight of 1e-100 asks for a correlation of 1e-100, which rounding may deny to the gap.
                assert report.outcome == "converged" or (report.outcome == "stalled" and 1e-100 in weights)
                ratio = {unmerge.lasso: 1.0, unmerge.ridge: 0.0}.get(method, 0.5)
                problem = Problem.make(A, y, alpha, ratio, weights)
                assert problem.violation(coef) <= 1e-9
                if alpha and weights[0] == 1e300:
                    assert abs(coef[0]) <= 1e-290


def test_path_through_its_ends() -> None:
    A, y = normal(28, 60, 5), normal(29, 60)
    alphas, coefs, reports = unmerge.lasso_path((A, y), alphas=[0.0, 1e300, 1.0, 1.0, 5e-324])
    assert np.array_equal(alphas, [0.0, 1e300, 1.0, 1.0, 5e-324])
    assert np.isfinite(coefs).all()
    assert not coefs[:, 1].any()
    assert np.abs(coefs[:, 2] - coefs[:, 3]).max() <= 1e-12
    assert np.abs(coefs[:, 0] - unmerge.ridge((A, y), alpha=0)[0]).max() <= 1e-11
    alphas, coefs, _ = unmerge.lasso_path((A, np.zeros(60)), n_alphas=3)
    assert not coefs.any() and not alphas.any()


# ---------------------------------------------------------------- scales


@pytest.mark.parametrize(
    "dtype, power",
    [(np.float32, 30), (np.float64, 100), (np.float64, 30), (np.float16, 3), (ml_dtypes.bfloat16, 30)],
)
@pytest.mark.parametrize("which", ["large", "small", "mixed"])
def test_scales_of_atoms(dtype, power: int, which: str) -> None:
    """Least squares, NNLS and OMP do not see the lengths of the atoms."""
    n = 5
    A = normal(30, 80, n)
    y = (A @ np.array([1.0, 0.0, 2.0, 0.5, 0.0]) + 0.3 * normal(31, 80)).astype(np.float32)
    exponents = {"large": np.full(n, power), "small": np.full(n, -power), "mixed": np.linspace(-power, power, n)}[which]
    scaled = (A * 10.0**exponents).astype(dtype)
    stored = scaled.astype(np.float64)
    assert np.isfinite(stored).all() and stored.all()
    lengths = np.sqrt((oracles.ld(scaled) ** 2).sum(axis=0))
    for name in ("joint", "least squares", "nnls", "omp", "projection", "lasso 0"):
        coef, report = run(name, scaled, y)
        unit = (oracles.ld(scaled) / lengths).astype(np.float64)
        expected, plain = run(name, unit, y)
        assert np.abs(coef * lengths - expected).max() <= 1e-11 * np.abs(expected).max()
        assert report.outcome == "converged"
        if name != "projection":
            assert report.rss == pytest.approx(plain.rss, rel=1e-11)
            assert report.condition == pytest.approx(plain.condition, rel=0.5)
    assert np.abs(run("cosine", scaled, y)[0] - run("cosine", unit, y)[0]).max() <= 1e-14
    for name in NAMES:
        coef, report = run(name, scaled, y)
        if name in CONVEX:
            assert problem_of(name, scaled, y).violation(coef) <= 1e-9


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e100])
def test_scales_of_the_target(scale: float) -> None:
    A, y = normal(32, 80, 5), normal(33, 80)
    for name in ("joint", "least squares", "nnls", "omp", "ridge", "relative lasso", "projection"):
        coef, report = run(name, A, scale * y)
        expected, plain = run(name, A, y)
        assert np.abs(coef / scale - expected).max() <= 1e-10 * np.abs(expected).max()
        assert report.outcome == "converged"
        if name != "projection":
            assert report.rss / scale / scale == pytest.approx(plain.rss, rel=1e-10)
            assert report.r2 == pytest.approx(plain.r2, abs=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_subnormal_data(name: str) -> None:
    for dtype, size in ((np.float32, 1e-40), (np.float64, 1e-310), (np.float16, 1e-6), (ml_dtypes.bfloat16, 1e-39)):
        A = (normal(34, 50, 4) * size).astype(dtype)
        assert np.count_nonzero(A.astype(np.float64)) > 100
        coef, report = run(name, A, normal(35, 50))  # finite, whatever underflows
        if dtype in (np.float32, np.float16) and name in ("joint", "nnls", "omp"):
            unit = A.astype(np.float64) / size
            assert np.abs(coef * size - run(name, unit, normal(35, 50))[0]).max() <= 1e-10
        run(name, A, (normal(36, 50) * size).astype(dtype))
        run(name, normal(37, 50, 4), (normal(36, 50) * size).astype(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_values_of_each_type(name: str) -> None:
    """Squares of the largest float32 are far inside double: nothing overflows."""
    for dtype, size in ((np.float32, 3.4e38), (np.float16, 65504.0), (ml_dtypes.bfloat16, 3.38e38)):
        signs = np.sign(normal(38, 60, 4))
        A = (signs * size).astype(dtype)
        y = (np.sign(normal(39, 60)) * size).astype(dtype)
        top = float(np.abs(A.astype(np.float64)).max())
        coef, report = run(name, A, y)
        assert report.yy == pytest.approx(60 * top**2, rel=1e-14)
        if name in ("joint", "nnls", "omp", "projection", "cosine"):
            unit, plain = run(name, signs, np.sign(normal(39, 60)))
            assert np.abs(coef - unit).max() <= 1e-12
            if name not in DIRECTIONS:
                assert report.rss / top / top == pytest.approx(plain.rss, rel=1e-12)


def test_one_huge_and_many_tiny_rows() -> None:
    A, y = normal(40, 500, 3), normal(41, 500)
    A[250] *= 1e12
    y[250] *= 1e12
    problem = Problem.make(A, y)
    coef, _ = run("least squares", A, y)
    best = oracles.minimiser(problem, coef)
    assert problem.objective(coef) - problem.objective(best) <= problem.rounding(coef)
    assert np.isfinite(coef).all()


# ---------------------------------------------------------------- NaN and infinity


PLACES = [(0, 0), (7, 3), (1234, 1), (2998, 4), (2999, 0)]


def names(message: str, row: int, atom: str) -> bool:
    found = re.findall(r"\d+", message)
    return str(row) in found and atom in re.findall(r"\w+", message)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_atoms_are_named(dtype, value: float) -> None:
    for row, atom in PLACES:
        A, y = normal(42, 3000, 5).astype(dtype), normal(43, 3000).astype(dtype)
        A[row, atom] = value
        for B in (A, np.asfortranarray(A)):
            with pytest.raises(unmerge.InvalidValue) as refusal:
                unmerge.Gram(B, y)
            assert refusal.value.name == "UNMERGE_E_NONFINITE"
            assert names(str(refusal.value), row, str(atom)), str(refusal.value)
    with pytest.raises(ValueError):
        unmerge.nnls((A, y))
    with pytest.raises(ValueError):
        unmerge.verify(A, y, np.zeros(5))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_targets_are_named(value: float) -> None:
    for row in (0, 999, 2999):
        A, Y = normal(44, 3000, 5), normal(45, 3000, 4)
        Y[row, 2] = value
        with pytest.raises(unmerge.InvalidValue) as refusal:
            unmerge.Gram(A, Y)
        assert refusal.value.name == "UNMERGE_E_NONFINITE"
        assert names(str(refusal.value), row, "2"), str(refusal.value)


@pytest.mark.parametrize("precision", ["fast", "exact", "auto"])
def test_non_finite_in_a_large_pass(precision: str) -> None:
    p = 2**19 + 1000
    A = oracles.normal_windows(46, p, 4).copy(order="F")
    y = A[:, 0].copy()
    A[p - 5, 2] = np.inf
    with pytest.raises(ValueError) as refusal:
        unmerge.Gram(A, y, precision=precision)
    assert names(str(refusal.value), p - 5, "2"), str(refusal.value)


def test_the_first_of_several_and_none_left_out() -> None:
    A, y = normal(47, 100, 4), normal(48, 100)
    A[60, 2] = A[30, 3] = np.nan
    with pytest.raises(ValueError) as refusal:
        unmerge.Gram(A, y)
    assert names(str(refusal.value), 60, "2") or names(str(refusal.value), 30, "3")
    with pytest.raises(ValueError):
        unmerge.Gram(A, y, columns="on_demand")
    acc = unmerge.Accumulator(4)
    acc.add(A, y)
    with pytest.raises(ValueError) as refusal:
        acc.gram()
    assert refusal.value.name == "UNMERGE_E_NONFINITE"


def test_non_finite_in_modules_bases_and_factors() -> None:
    def operator(**broken: Any) -> unmerge.Operator:
        values = {
            "values": normal(49, 20, 30),
            "base": normal(50, 20, 30),
            "B": normal(51, 20, 2),
            "F": normal(52, 2, 30),
        }
        for part, place in broken.items():
            values[part][place] = np.nan
        op = unmerge.Operator()
        op.add_module("embed", 10, 10)
        op.add_module("layers.3.q", 20, 30)
        for name in ("law", "medicine"):
            op.add_column(name)
        op.set_dense("layers.3.q", "law", values["values"], base=values["base"])
        op.set_lora("layers.3.q", "medicine", values["B"], values["F"])
        return op

    good = operator()
    assert np.isfinite(unmerge.Gram(good, good).arrays().G).all()
    places = [("values", (3, 4), "law"), ("base", (0, 0), "law"), ("B", (5, 1), "medicine"), ("F", (1, 7), "medicine")]
    for part, place, column in places:
        bad = operator(**{part: place})
        for pair in ((bad, good), (good, bad)):
            with pytest.raises(unmerge.InvalidValue) as refusal:
                unmerge.Gram(*pair)
            assert refusal.value.name == "UNMERGE_E_NONFINITE"
            assert column in str(refusal.value)


# ---------------------------------------------------------------- limits of the run


@pytest.mark.parametrize("name", NAMES)
def test_max_iter_zero_and_one(name: str) -> None:
    A, y = normal(53, 80, 12) + normal(54, 80, 1), normal(55, 80)
    full, best = run(name, A, y)
    assert best.outcome == "converged"
    before = math.inf
    for limit in (0, 1, 2, 10_000):
        coef, report = run(name, A, y, max_iter=limit)
        if name in DIRECTIONS:
            assert np.array_equal(coef, full)
            continue
        problem = problem_of(name, A, y)
        assert report.outcome in ("converged", "iteration limit")
        assert abs(report.rss - problem.rss(coef)) <= problem.rounding(coef)
        assert report.objective <= before * (1 + 1e-12)
        before = report.objective
        measure = report.violation if math.isnan(report.relative_gap) else report.relative_gap
        assert report.outcome != "converged" or measure <= 1e-10
        if limit == 0 and name in ("lasso", "positive lasso", "elastic net", "nnls"):
            assert not coef.any()  # the start is certified as it is
            assert report.outcome == "iteration limit"
            assert report.rss == pytest.approx(report.yy, rel=1e-14)
    assert np.array_equal(coef, full)


@pytest.mark.parametrize("name", NAMES)
def test_extreme_tolerances(name: str) -> None:
    A, y = normal(56, 80, 10), normal(57, 80)
    full, _ = run(name, A, y)
    for tol in (5e-324, 1e-300, 1e-17):
        coef, report = run(name, A, y, tol=tol)
        measure = report.violation if math.isnan(report.relative_gap) else report.relative_gap
        assert report.outcome in ("converged", "stalled")
        assert report.outcome == "stalled" or name in DIRECTIONS or measure <= tol
        assert np.abs(coef - full).max() <= 1e-9 * np.abs(full).max()
    for tol in (0.5, np.nextafter(1.0, 0.0)):
        coef, report = run(name, A, y, tol=tol)
        assert report.outcome == "converged"
        if name not in DIRECTIONS:
            assert report.objective <= report.yy / 2 * (1 + 1e-12)
    for tol in (0.0, 1.0, -1e-3, 2.0, math.nan, math.inf):
        with pytest.raises(ValueError):
            run(name, A, y, tol=tol)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: unmerge.lasso(d, alpha=-1),
        lambda d: unmerge.lasso(d, alpha=math.nan),
        lambda d: unmerge.lasso(d, alpha=math.inf),
        lambda d: unmerge.ridge(d, alpha=-1e-300),
        lambda d: unmerge.elastic_net(d, l1_ratio=-0.1),
        lambda d: unmerge.elastic_net(d, l1_ratio=1.1),
        lambda d: unmerge.elastic_net(d, l1_ratio=math.nan),
        lambda d: unmerge.elastic_net(d, l1_ratio=0, relative=True),
        lambda d: unmerge.lasso(d, weights=[1, 1, 1, -1e-9]),
        lambda d: unmerge.lasso(d, weights=[1, 1, 1, math.nan]),
        lambda d: unmerge.ridge(d, weights=[1, 1, 1, math.inf]),
        lambda d: unmerge.lasso(d, weights=[1, 1, 1]),
        lambda d: unmerge.lasso(d, start=[1, 1, 1]),
        lambda d: unmerge.lasso(d, start=[1, 1, 1, math.nan]),
        lambda d: unmerge.nnls(d, start=[1, 1, 1, math.inf]),
        lambda d: unmerge.nnls(d, max_iter=-1),
        lambda d: unmerge.nnls(d, deadline=-1),
        lambda d: unmerge.nnls(d, deadline=math.nan),
        lambda d: unmerge.nnls(d, threads=-1),
        lambda d: unmerge.omp(d, k=0),
        lambda d: unmerge.omp(d, k=-3),
        lambda d: unmerge.omp(d, residual_tol=-0.1),
        lambda d: unmerge.omp(d, residual_tol=1.1),
        lambda d: unmerge.omp(d, residual_tol=math.nan),
        lambda d: unmerge.dot(d, variant="nearest"),
        lambda d: unmerge.lasso_path(d, n_alphas=0),
        lambda d: unmerge.lasso_path(d, alpha_min_ratio=0),
        lambda d: unmerge.lasso_path(d, alpha_min_ratio=1),
        lambda d: unmerge.lasso_path(d, l1_ratio=0),
        lambda d: unmerge.lasso_path(d, target=1),
        lambda d: unmerge.lasso_path(d, target=-1),
        lambda d: unmerge.lasso_path(d, alphas=[1.0, -1.0]),
        lambda d: unmerge.lasso_path(d, alphas=[1.0, math.nan]),
        lambda d: unmerge.alpha_max(d, l1_ratio=0),
        lambda d: unmerge.alpha_max(d, l1_ratio=1.5),
        lambda d: unmerge.Gram(*d, folds=0),
        lambda d: unmerge.Gram(*d, accuracy=math.nan),
        lambda d: unmerge.Gram(*d, precision="double"),
        lambda d: unmerge.Gram(d[0], d[1][:-1]),
        lambda d: unmerge.verify(*d, np.zeros(3)),
        lambda d: unmerge.verify(*d, np.zeros(4), alpha=-1),
        lambda d: unmerge.verify(*d, [0, 0, 0, math.nan]),
    ],
)
def test_what_is_outside_its_range_is_refused(call: Callable[[Any], Any]) -> None:
    with pytest.raises(unmerge.UnmergeError) as refusal:
        call((normal(58, 20, 4), normal(59, 20)))
    assert isinstance(refusal.value, ValueError)
    assert len(str(refusal.value)) > 10


# ---------------------------------------------------------------- hard cases for active sets


@pytest.mark.parametrize("seed", range(20))
def test_ties_and_degenerate_steps_end(seed: int) -> None:
    """Small integers: many exact ties, zero steps and dependent atoms, where an active set could cycle."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    A = rng.integers(-1, 2, (25, n)).astype(float)
    y = rng.integers(-2, 3, 25).astype(float)
    for name in NAMES:
        coef, report = run(name, A, y)
        assert report.outcome in ("converged", "stalled")
        assert report.iterations < 10_000
        if name in CONVEX:
            assert problem_of(name, A, y).violation(coef) <= 1e-8
    alphas, coefs, reports = unmerge.lasso_path((A, y), n_alphas=15)
    for i, alpha in enumerate(alphas):
        if alpha:
            problem = Problem.make(A, y, alpha)
            assert problem.gap(coefs[:, i]) <= 1e-9 * problem.objective(coefs[:, i]) + problem.rounding(coefs[:, i])


@pytest.mark.parametrize("seed", range(40))
def test_omp_gives_exact_ties_to_the_lower_index(seed: int) -> None:
    """Wherever the two equal or opposite atoms are: equal columns, equal scores."""
    rng = np.random.default_rng([seed, 61])
    p, n = int(rng.integers(20, 3000)), int(rng.integers(2, 40))
    A = rng.standard_normal((p, n)).astype(np.float32)
    i, j = sorted(rng.choice(n, 2, replace=False))
    A[:, j] = A[:, i] * (1 if seed % 2 else -1)
    y = (2 * A[:, i] + 0.1 * rng.standard_normal(p)).astype(np.float32)
    for data in ((A, y), unmerge.Gram(A, y, columns="on_demand"), unmerge.Gram(A, y, folds=3)):
        coef, report = unmerge.omp(data, k=min(n, 3))
        assert report.order[0] == i
        assert j not in report.order


def test_atoms_on_a_simplex_boundary() -> None:
    """y is a vertex of the cone, and the unconstrained answer is on its boundary: exact zeros."""
    A = np.abs(normal(60, 40, 6))
    coef, report = run("nnls", A, A[:, 2] * 3)
    assert np.array_equal(np.flatnonzero(coef), [2])
    assert coef[2] == pytest.approx(3, rel=1e-14)
    coef, report = run("positive omp", A, A[:, 2] * 3)
    assert report.order == [2]
    coef, report = run("omp", A, A[:, 2] * -3)
    assert report.order == [2]
