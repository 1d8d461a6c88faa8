"""Full-size unmerging with a known answer: p = 999,936 float32, 8 to 512 correlated task vectors, y stored in float32 or
bfloat16."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache

import ml_dtypes
import numpy as np
import pytest

import oracles
import unmerge

SIZES = [8, 64, 512]
EXACT_TO = 1e-6


@lru_cache(maxsize=None)
def truth(n: int, positive: bool) -> np.ndarray:
    rng = np.random.default_rng([n, positive])
    weights = np.zeros(n)
    k = {8: 2, 64: 4, 512: 5}[n]
    chosen = np.sort(rng.choice(n, k, replace=False))
    values = rng.uniform(0.2, 1.2, k)
    weights[chosen] = values if positive else values * np.where(np.arange(k) % 2, -1, 1)
    return weights


@lru_cache(maxsize=None)
def in_double(n: int, positive: bool) -> np.ndarray:
    weights, A = truth(n, positive), atoms(n)
    return sum(weights[j] * A[:, j].astype(np.float64) for j in np.flatnonzero(weights))


def atoms(n: int) -> np.ndarray:
    """512 columns are made once; fewer are the first of them."""
    return oracles.task_vectors(512)[:, :n]


@lru_cache(maxsize=None)
def gram(n: int) -> unmerge.Gram:
    """Two targets, signed and positive weights, through precision "auto"."""
    Y = np.stack([in_double(n, positive) for positive in (False, True)], axis=1).astype(np.float32)
    return unmerge.Gram(atoms(n), Y)


def support(w: np.ndarray) -> list[int]:
    return [int(j) for j in np.flatnonzero(w)]


@pytest.mark.parametrize("n", SIZES)
def test_least_squares_finds_the_weights(n: int) -> None:
    for coefs, reports in (unmerge.ridge(gram(n), alpha=0), unmerge.dot(gram(n), variant="joint")):
        for t, positive in enumerate((False, True)):
            assert np.abs(coefs[:, t] - truth(n, positive)).max() <= EXACT_TO
            assert reports[t].r2 >= 1 - 1e-7  # 2e-8 is what an entry of the fast Gram may be off
            assert reports[t].outcome == "converged"


@pytest.mark.parametrize("n", SIZES)
def test_nnls_finds_positive_weights(n: int) -> None:
    coefs, reports = unmerge.nnls(gram(n))
    coef, weights = coefs[:, 1], truth(n, True)
    assert np.abs(coef - weights).max() <= EXACT_TO
    assert support(coef) == support(weights)
    assert (coefs >= 0).all()
    assert reports[1].outcome in ("converged", "stalled")
    assert "fully_explained" in reports[1].flags


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    "method",
    [unmerge.nnls, lambda g: unmerge.ridge(g, alpha=0), lambda g: unmerge.lasso(g, alpha=1e-9)],
    ids=["nnls", "least squares", "lasso"],
)
def test_converged_means_that_the_gap_is_reached(n: int, method) -> None:
    """Also at a nearly perfect fit, where the objective is close to the rounding floor."""
    for report in method(gram(n))[1]:
        measure = report.violation if np.isnan(report.relative_gap) else report.relative_gap
        assert report.outcome in ("converged", "stalled")
        assert (measure <= 1e-10) == (report.outcome == "converged")


@pytest.mark.parametrize("n", SIZES)
def test_omp_finds_the_support_and_the_weights(n: int) -> None:
    for t, positive in enumerate((False, True)):
        weights = truth(n, positive)
        k = np.count_nonzero(weights)
        for options in ({"k": k}, {"k": 10, "residual_tol": 1e-3}):
            coefs, reports = unmerge.omp(gram(n), **options)
            assert sorted(reports[t].order) == support(weights) == support(coefs[:, t])
            assert np.abs(coefs[:, t] - weights).max() <= EXACT_TO
    coefs, reports = unmerge.omp(gram(n), k=np.count_nonzero(truth(n, True)), positive=True)
    assert sorted(reports[1].order) == support(truth(n, True))
    assert np.abs(coefs[:, 1] - truth(n, True)).max() <= EXACT_TO


@pytest.mark.parametrize("n", SIZES)
def test_greedy_selection_stops_at_a_perfect_fit(n: int) -> None:
    """More atoms were allowed than there are in y: the ones that are there come first, and hold all the weight."""
    coefs, reports = unmerge.omp(gram(n), k=10)
    for t, positive in enumerate((False, True)):
        weights = truth(n, positive)
        k = np.count_nonzero(weights)
        assert sorted(reports[t].order[:k]) == support(weights)
        assert np.abs(coefs[:, t] - weights).max() <= EXACT_TO


@pytest.mark.parametrize("n", SIZES)
def test_lasso_support_contains_the_truth_and_refits_to_it(n: int) -> None:
    coefs, reports = unmerge.lasso(gram(n), alpha=1e-3, relative=True)
    for t, positive in enumerate((False, True)):
        weights = truth(n, positive)
        S = support(coefs[:, t])
        assert set(S) >= set(support(weights))
        assert np.array_equal(np.sign(coefs[weights != 0, t]), np.sign(weights[weights != 0]))
        assert reports[t].outcome == "converged"
        assert reports[t].relative_gap <= 1e-10
        assert np.abs(coefs[:, t] - weights).max() <= 1e-2  # the bias of the penalty
        refit, _ = unmerge.ridge(gram(n).subset(atoms=S), alpha=0)
        assert np.abs(refit[:, t] - weights[S]).max() <= EXACT_TO


@pytest.mark.parametrize("n", [8, 64])
def test_from_the_pair_and_refined(n: int) -> None:
    """refine takes the coefficients to the rounding of y itself: y was stored in float32, 3e-8 of its entries."""
    A, y = atoms(n), in_double(n, True).astype(np.float32)
    coef, report = unmerge.nnls((A, y))
    assert np.abs(coef - truth(n, True)).max() <= EXACT_TO
    start, _ = unmerge.ridge(gram(n), alpha=0)
    better, refined = unmerge.refine(unmerge.Gram(A, y), A, y, start[:, 1].copy())
    assert refined.streamed
    noise = y.astype(np.float64) - in_double(n, True)
    G, C, _ = oracles.double_gram(A, noise)
    expected = truth(n, True) + np.linalg.solve(G, C[:, 0])
    assert np.abs(better - expected).max() <= 1e-11
    assert np.abs(better - truth(n, True)).max() <= 1e-9
    assert refined.rss == pytest.approx(float(noise @ noise - C[:, 0] @ np.linalg.solve(G, C[:, 0])), rel=1e-3)


@pytest.mark.parametrize("n", [8, 64])
def test_target_stored_in_bfloat16(n: int) -> None:
    """Rounding entry i to bfloat16 adds an error uniform in +-ulp_i / 2, of variance ulp_i^2 / 12 and independent of the rest:
    the weights move by G^-1 A'e, of covariance G^-1 (sum_i ulp_i^2 / 12 a_i a_i') G^-1.  Six deviations."""
    A, weights = atoms(n), truth(n, False)
    y = in_double(n, False).astype(np.float32).astype(ml_dtypes.bfloat16)
    stored = y.astype(np.float32)
    G, _, _ = oracles.double_gram(A, stored)
    middle = np.zeros((n, n))
    for start in range(0, len(A), 65536):
        rows = A[start : start + 65536].astype(np.float64)
        exponent = np.frexp(stored[start : start + 65536])[1]  # |y| in [2^(e-1), 2^e): 8 significant bits, ulp 2^(e-8)
        middle += (rows.T * np.ldexp(1.0, exponent - 8) ** 2) @ rows / 12
    inverse = np.linalg.inv(G)
    deviation = np.sqrt(np.diag(inverse @ middle @ inverse))
    assert deviation.max() < 1e-5  # the bound says something
    for coef, _ in (unmerge.ridge((A, y), alpha=0), unmerge.dot((A, y), variant="joint")):
        assert np.all(np.abs(coef - weights) <= 6 * deviation + EXACT_TO / 10)
    coef, report = unmerge.omp((A, y), k=np.count_nonzero(weights))
    assert support(coef) == support(weights)
    assert np.abs(coef - weights).max() <= 6 * deviation.max() + EXACT_TO / 10
    assert 1 - 2.0**-14 / 12 <= report.r2 <= 1 - 2.0**-16 / 12  # an ulp is between 2^-8 and 2^-7 of an entry


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_atoms_of_any_storage_type(stored: str) -> None:
    """Atoms as they are stored: y is made of the stored values, so the weights must come back."""
    dtype = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[stored]
    A = (atoms(8) * np.float32(64)).astype(dtype)  # away from float16's subnormals
    weights = np.array([0.5, 0, 0.25, 0, 0, 0.8, 0, 0.1])
    y = (A.astype(np.float64) @ weights).astype(np.float32)
    assert np.abs(unmerge.nnls((A, y))[0] - weights).max() <= EXACT_TO
    assert np.abs(unmerge.ridge((A, y), alpha=0)[0] - weights).max() <= EXACT_TO
    coef, report = unmerge.omp((A, y), k=4)
    assert support(coef) == support(weights)
    assert np.abs(coef - weights).max() <= EXACT_TO


def test_a_target_without_rounding_has_an_exact_support() -> None:
    """Integer atoms and dyadic weights: y, G and c are exact, so what is not in y gets exactly nothing."""
    rng = np.random.default_rng(5)
    n = 40
    A = rng.integers(-4, 5, (n, oracles.P_FULL), dtype=np.int8).astype(np.float32).T
    weights = np.zeros(n)
    weights[[1, 7, 20, 39]] = [0.5, 1.25, 2.0, 0.125]
    y = sum(w * A[:, j].astype(np.float64) for j, w in enumerate(weights) if w).astype(np.float32)
    for precision in ("auto", "exact", "fast"):
        g = unmerge.Gram(A, y, precision=precision)
        coef, report = unmerge.nnls(g)
        assert support(coef) == support(weights)
        assert np.abs(coef - weights).max() <= 1e-14
        assert report.outcome == "converged"
        assert "fully_explained" in report.flags
        coef, report = unmerge.omp(g, k=10)
        assert support(coef) == support(weights) == sorted(report.order)
        assert "fully_explained" in report.flags


def test_checkpoints_with_a_base() -> None:
    """Raw checkpoints are nearly parallel (cond about 1e4); minus the base they are not, and the weights come back."""
    n, rows, cols = 8, 8928, 112
    base = np.random.default_rng(6).standard_normal((rows, cols), dtype=np.float32)
    deltas = atoms(n)
    models = [base + deltas[:, j].reshape(rows, cols) for j in range(n)]
    weights = np.array([0.3, 0, 0.25, 0, 0.2, 0, 0, 0.6])
    merged = (base + sum(w * (m.astype(np.float64) - base) for w, m in zip(weights, models) if w)).astype(np.float32)
    a = unmerge.Operator.from_vectors({str(j): {"m": m} for j, m in enumerate(models)}, base={"m": base})
    y = unmerge.Operator.from_vectors({"merged": {"m": merged}}, base={"m": base})
    g = unmerge.Gram(a, y)
    # The merged checkpoint was rounded at the size of the base, 1e3 times the deltas: that noise is in y.
    A = np.stack([(m.astype(np.float64) - base).reshape(-1) for m in models], axis=1)
    noise = (merged.astype(np.float64) - base).reshape(-1) - A @ weights
    expected = weights + np.linalg.lstsq(A.T @ A, A.T @ noise, rcond=None)[0]
    assert np.abs(expected - weights).max() <= 1e-6
    coef, report = unmerge.ridge(g, alpha=0)
    assert np.abs(coef - expected).max() <= 1e-6
    assert report.condition < 100
    coef, report = unmerge.nnls(g)
    assert np.abs(coef - weights).max() <= 2e-6
    assert support(np.where(coef > 1e-5, coef, 0)) == support(weights)


MEMORY = """
import re
import numpy as np
import unmerge
from unmerge._library import library

def status(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

n, p = 64, 999_936
A = np.empty((n, p), dtype=np.float32)
rng = np.random.default_rng(0)
for j in range(n):
    rng.standard_normal(p, dtype=np.float32, out=A[j])
y = A[3] * np.float32(0.5)
y += A[40]
A = A.T
library()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from what is resident now
before = max(status("VmHWM"), status("VmRSS"))
def call():
    {call}
call()
print("MiB", status("VmHWM") - before)
"""


@pytest.mark.parametrize(
    "call",
    [
        "coef, _ = unmerge.nnls((A, y)); assert abs(coef[40] - 1) < 1e-6",
        "unmerge.Gram(A, y, precision='exact')",
        "unmerge.Gram(A, y, precision='fast')",
        "unmerge.Gram(np.ascontiguousarray(A[:1000]), y[:1000], folds=5); unmerge.Gram(A, y, folds=5)",
        "unmerge.verify(A, y, np.ones(n), alpha=0.1)",
        "g = unmerge.Gram(A, y); unmerge.refine(g, A, y, unmerge.ridge(g, alpha=0)[0])",
    ],
)
def test_memory_beside_the_data(call: str) -> None:
    """At most 64 MiB beside 244 MiB of atoms, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEMORY.replace("{call}", call)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth = float(done.stdout.split()[1])
    assert 0 <= growth <= 64
