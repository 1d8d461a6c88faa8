"""Compression to the entries that matter: exactly k per module, ties to the lower index, from dense columns and factors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import unmerge


def kept(columns: list[np.ndarray], k: int) -> np.ndarray:
    """The reference: the k largest of max |entry|, the lower index first among equals, in ascending order."""
    score = np.max([np.abs(oracles.ld(c)).reshape(-1) for c in columns], axis=0)
    order = np.lexsort((np.arange(score.size), -score))
    return np.sort(order[:k])


def from_columns(modules: dict[str, list[np.ndarray]]) -> unmerge.Operator:
    n = len(next(iter(modules.values())))
    return unmerge.Operator.from_vectors({str(j): {m: c[j] for m, c in modules.items()} for j in range(n)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 31, 599, 600, 601, 10**9])
def test_exactly_k_largest(dtype, k: int) -> None:
    rng = np.random.default_rng(k)
    modules = {"a": [rng.standard_normal((20, 30)).astype(dtype) for _ in range(4)]}
    m = unmerge.mask(from_columns(modules), per_module=k)
    expected = kept(modules["a"], k)
    assert np.array_equal(m.indices("a"), expected)
    assert np.array_equal(m.indices(0), expected)
    assert m.count("a") == m.count() == min(k, 600)


@given(
    p=st.integers(1, 200),
    n=st.integers(1, 4),
    k=st.integers(1, 220),
    levels=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_ties_go_to_the_lower_index(p: int, n: int, k: int, levels: int, seed: int) -> None:
    A = np.random.default_rng(seed).integers(-levels, levels + 1, (p, n)).astype(np.float32)
    m = unmerge.mask(A, per_module=k)
    assert np.array_equal(m.indices(0), kept(list(A.T), k))


def test_all_entries_equal_or_zero() -> None:
    for A in (np.zeros((50, 2)), np.ones((50, 2)), -np.ones((50, 1), dtype=np.float32)):
        assert np.array_equal(unmerge.mask(A, per_module=7).indices(0), np.arange(7))
    signed_zeros = np.array([[0.0], [-0.0], [0.0], [1e-45]], dtype=np.float32)
    assert np.array_equal(unmerge.mask(signed_zeros, per_module=2).indices(0), [0, 3])


def test_ties_in_bfloat16_differences() -> None:
    """Differences of two bfloat16 models take few values: most of the choice is ties."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal((64, 100)).astype(ml_dtypes.bfloat16)
    models = [
        (base.astype(np.float32) * (1 + rng.choice([0, 0, 0.01], base.shape))).astype(ml_dtypes.bfloat16) for _ in range(3)
    ]
    op = unmerge.Operator.from_vectors({str(j): {"m": x} for j, x in enumerate(models)}, base={"m": base})
    differences = [oracles.ld(x) - oracles.ld(base) for x in models]
    assert len(np.unique(np.abs(differences).max(axis=0))) < 500
    for k in (1, 100, 640, 3000, 6399):
        assert np.array_equal(unmerge.mask(op, per_module=k).indices("m"), kept(differences, k))


def test_float32_differences_with_scales() -> None:
    rng = np.random.default_rng(2)
    base = rng.standard_normal((50, 80)).astype(np.float32)
    models = [(base + 1e-3 * rng.standard_normal(base.shape)).astype(np.float32) for _ in range(3)]
    scales = [1.0, -3.0, 0.25]
    op = unmerge.Operator()
    op.add_module("m", 50, 80)
    for j, (x, s) in enumerate(zip(models, scales)):
        op.add_column(str(j))
        op.set_dense("m", j, x, base=base, scale=s)
    differences = [s * (oracles.ld(x) - oracles.ld(base)) for x, s in zip(models, scales)]
    assert np.array_equal(unmerge.mask(op, per_module=400).indices("m"), kept(differences, 400))


def test_integer_factors_are_compared_exactly() -> None:
    rng = np.random.default_rng(3)
    op, columns = unmerge.Operator(), []
    op.add_module("m", 40, 70)
    for j in range(3):
        B, F = rng.integers(-2, 3, (40, 4)), rng.integers(-2, 3, (4, 70))
        op.add_column(str(j))
        op.set_lora("m", j, B.astype(np.float32), F.astype(ml_dtypes.bfloat16), scale=0.5)
        columns.append(0.5 * (B @ F))
    for k in (1, 50, 700, 2799):
        assert np.array_equal(unmerge.mask(op, per_module=k).indices("m"), kept(columns, k))


def mixed() -> tuple[unmerge.Operator, unmerge.Operator, dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(4)
    a, y = unmerge.Operator(), unmerge.Operator()
    shapes = {"q": (60, 90), "norm": (37, 1), "v": (128, 33)}
    for name in ("x", "y", "z"):
        a.add_column(name)
    y.add_column("t")
    dense_a, dense_y = {}, {}
    for m, shape in shapes.items():
        for op in (a, y):
            op.add_module(m, *shape)
        columns = np.zeros((3, *shape))
        B, F = rng.standard_normal((shape[0], 3)).astype(np.float32), rng.standard_normal((3, shape[1])).astype(np.float32)
        a.set_lora(m, "x", B, F, scale=0.7)
        columns[0] = 0.7 * (B.astype(np.float64) @ F)
        W, base = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape).astype(np.float32)
        if m != "norm":
            a.set_dense(m, "y", W, base=base)
            columns[1] = W.astype(np.float64) - base
        if m != "q":
            a.set_dense(m, "z", W)
            columns[2] = W
        T = rng.standard_normal(shape).astype(np.float32)
        y.set_dense(m, "t", T)
        dense_a[m], dense_y[m] = columns.reshape(3, -1).T, T.reshape(-1).astype(np.float64)
    return a, y, dense_a, dense_y


def test_factors_and_dense_columns_together() -> None:
    a, _, dense, _ = mixed()
    m = unmerge.mask(a, per_module=200)
    for name, columns in dense.items():
        assert np.array_equal(m.indices(name), kept(list(columns.T), 200))
        assert m.count(name) == min(200, len(columns))
    assert m.count() == 200 + 37 + 200


@pytest.mark.parametrize("total", [3, 4, 5, 100, 311, 100_000])
def test_total_is_shared_equally(total: int) -> None:
    a, _, dense, _ = mixed()
    m = unmerge.mask(a, total=total)
    k = total // 3
    for name, columns in dense.items():
        assert m.count(name) == min(k, len(columns))  # what a small module leaves is not given to others
        assert np.array_equal(m.indices(name), kept(list(columns.T), k))


def test_default_total_is_the_papers() -> None:
    """8,928 entries in each of 112 modules are 999,936: the default."""
    rng = np.random.default_rng(5)
    modules = {f"m{i}": [rng.standard_normal(9000 if i < 2 else 3).astype(np.float32)] for i in range(112)}
    m = unmerge.mask(from_columns(modules))
    assert [m.count(i) for i in (0, 1, 2, 111)] == [8928, 8928, 3, 3]
    assert np.array_equal(m.indices("m1"), kept(modules["m1"], 8928))


def test_a_budget_that_keeps_nothing_is_refused() -> None:
    a, _, _, _ = mixed()
    for options in ({"total": 2}, {"total": 0}, {"total": -3}, {"per_module": 0}, {"per_module": -1}):
        with pytest.raises(ValueError):
            unmerge.mask(a, **options)


def test_masks_do_not_depend_on_the_threads() -> None:
    a, _, _, _ = mixed()
    one = unmerge.mask(a, per_module=333, threads=1)
    for threads in (2, 3, 4, 7):
        other = unmerge.mask(a, per_module=333, threads=threads)
        assert all(np.array_equal(one.indices(i), other.indices(i)) for i in range(3))


@pytest.mark.parametrize("precision", ["exact", "fast", "auto"])
@pytest.mark.parametrize("k", [1, 50, 1000, 10**6])
def test_masked_gram_is_the_gram_of_the_kept_entries(k: int, precision: str) -> None:
    a, y, dense_a, dense_y = mixed()
    m = unmerge.mask(a, per_module=k)
    g = unmerge.Gram(a, y, mask=m, precision=precision)
    assert [b.module for b in g.blocks] == list(dense_a)
    assert g.entries == m.count()
    rows, targets = [], []
    for i, name in enumerate(dense_a):
        chosen = m.indices(name)
        rows.append(dense_a[name][chosen])
        targets.append(dense_y[name][chosen])
        assert g.blocks[i].entries == len(chosen)
        assert oracles.entry_error(g.arrays(i), oracles.gram(rows[-1], targets[-1])) <= 1e-12
    A, Y = np.concatenate(rows), np.concatenate(targets)
    assert oracles.entry_error(g.arrays(), oracles.gram(A, Y)) <= 1e-12
    if k == 1000:
        coef, report = unmerge.ridge(g, alpha=0.1)
        assert report.yy == pytest.approx(Y @ Y, rel=1e-13)
        best = np.linalg.solve(A.T @ A + 0.1 * np.eye(3), A.T @ Y)
        assert np.abs(coef - best).max() <= 1e-10 * np.abs(best).max()


def test_masked_dense_gram_is_as_accurate_as_a_whole_one() -> None:
    rng = np.random.default_rng(6)
    A = rng.standard_normal((30_000, 6)).astype(np.float32)
    y = rng.standard_normal(30_000).astype(np.float32)
    m = unmerge.mask(A, per_module=4321)
    g = unmerge.Gram(A, y, mask=m, precision="exact")
    chosen = m.indices(0)
    assert np.array_equal(chosen, kept(list(A.T), 4321))
    assert oracles.entry_error(g.arrays(), oracles.gram(A[chosen], y[chosen])) <= 5e-15
    for threads in (1, 2, 3):
        again = unmerge.Gram(A, y, mask=m, precision="exact", threads=threads)
        assert all(np.array_equal(x, z) for x, z in zip(g.arrays(), again.arrays()))
    folded = unmerge.Gram(A, y, mask=m, folds=3)
    assert sum(b.entries for b in folded.blocks) == 4321
    assert oracles.entry_error(folded.arrays(), oracles.gram(A[chosen], y[chosen])) <= 1e-14
    whole = unmerge.Gram(A, y, mask=unmerge.mask(A, per_module=30_000), precision="exact")
    assert oracles.entry_error(whole.arrays(), oracles.gram(A, y)) <= 5e-15


def test_masked_columns_on_demand() -> None:
    rng = np.random.default_rng(7)
    A = rng.standard_normal((5000, 120)).astype(np.float32)
    y = (A[:, 5] - 2 * A[:, 80]).astype(np.float32)
    m = unmerge.mask(A, per_module=1500)
    chosen = m.indices(0)
    g = unmerge.Gram(A, y, mask=m, columns="on_demand", precision="exact")
    coef, report = unmerge.lasso(g, alpha=0.05, relative=True)
    expected, _ = unmerge.lasso((A[chosen], y[chosen]), alpha=0.05, relative=True)
    assert np.abs(coef - expected).max() <= 1e-8
    problem = oracles.Problem.make(A[chosen], y[chosen], 0.05 * float(np.abs(A[chosen].astype(float).T @ y[chosen]).max()))
    assert problem.gap(coef) <= 1e-9 * problem.objective(coef)


def test_masked_verify_and_refine() -> None:
    a, y, dense_a, dense_y = mixed()
    m = unmerge.mask(a, per_module=500)
    A = np.concatenate([dense_a[name][m.indices(name)] for name in dense_a])
    Y = np.concatenate([dense_y[name][m.indices(name)] for name in dense_y])
    problem = oracles.Problem.make(A, Y, alpha=3.0, l1_ratio=0.5)
    coef = np.array([0.1, -0.2, 0.3])
    correlation, report = unmerge.verify(a, y, coef, alpha=3.0, l1_ratio=0.5, mask=m)
    size = float(np.sqrt(problem.yy) + (problem.norms * np.abs(coef)).sum())
    assert np.all(np.abs(correlation - problem.A.T @ problem.residual(coef)) <= 1e-12 * problem.norms * size)
    assert report.streamed
    assert report.yy == pytest.approx(float(problem.yy), rel=1e-13)
    assert report.rss == pytest.approx(float(problem.rss(coef)), rel=1e-12)
    assert report.objective == pytest.approx(float(problem.objective(coef)), rel=1e-12)
    assert report.violation == pytest.approx(problem.violation(coef), rel=1e-10)
    whole = unmerge.verify(a, y, coef, alpha=3.0, l1_ratio=0.5)[1]
    assert whole.yy > 1.5 * report.yy  # the mask was not ignored
    g = unmerge.Gram(a, y, mask=m)
    start, _ = unmerge.ridge(g, alpha=0)
    better, refined = unmerge.refine(g, a, y, start * (1 + 1e-6), mask=m)
    least_squares = oracles.Problem.make(A, Y)
    assert np.abs(better - oracles.minimiser(least_squares, start)).max() <= 1e-10
    assert refined.rss == pytest.approx(float(least_squares.rss(better)), rel=1e-12)


def test_a_mask_of_other_modules_is_refused() -> None:
    a, y, _, _ = mixed()
    other = unmerge.mask(np.ones((10, 2)), per_module=3)
    with pytest.raises(ValueError):
        unmerge.Gram(a, y, mask=other)
    with pytest.raises(ValueError):
        unmerge.verify(a, y, np.zeros(3), mask=other)
