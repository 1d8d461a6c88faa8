"""Composite problems from the data itself, without a Gram: against the Gram, against other solvers, in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import unmerge
from unmerge import terms as t


def sample(rng: np.random.Generator, p: int, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    A = rng.standard_normal((p, n)) + 0.3 * rng.standard_normal((p, 1))
    w = np.where(rng.random(n) < min(0.3, 8 / n), rng.standard_normal(n), 0)
    w[0] = 1
    y = A @ w + 0.1 * rng.standard_normal(p)
    return A, y, float(np.abs(A.T @ y).max())


FAMILIES: dict[str, Any] = {
    "l1": lambda n, a: t.L1(0.1 * a),
    "weighted l1": lambda n, a: t.L1(0.1 * a, weights=np.linspace(0.5, 2, n)),
    "nonnegative": lambda n, a: t.Nonnegative(),
    "nonnegative l1": lambda n, a: t.NonnegativeL1(0.05 * a),
    "box": lambda n, a: t.Box(-0.2, 0.4),
    "simplex": lambda n, a: t.Simplex(1.0),
    "groups": lambda n, a: [t.Group(0.2 * a, atoms=range(i, min(i + 4, n))) for i in range(0, n, 4)],
    "linf": lambda n, a: t.LInf(0.5 * a),
    "elastic net": lambda n, a: t.ElasticNet(0.1 * a, l1_ratio=0.5),
    "huber": lambda n, a: t.Huber(0.1 * a, gamma=0.1),
    "l1 + box": lambda n, a: [t.L1(0.05 * a), t.Box(-0.2, 0.4)],
    "l1 of Kw + ridge": lambda n, a: [t.L1(0.05 * a, matrix=np.diff(np.eye(n), axis=0)), t.L2Squared(0.01 * a)],
    "half of the atoms": lambda n, a: t.L1(0.1 * a, atoms=range(0, n, 2)),
    "sparse group": lambda n, a: t.SparseGroup(0.2 * a, l1_ratio=0.5),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["auto", "admm"])
def test_the_answer_is_that_of_the_gram(family: str, engine: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng([seed, list(FAMILIES).index(family)])
        n = int(rng.integers(3, 40))
        A, y, top = sample(rng, int(rng.integers(2 * n + 5, 6 * n + 20)), n)
        terms = FAMILIES[family](n, top)
        expected, reference = unmerge.minimise((A, y), terms=terms, tol=1e-11)
        w, report = unmerge.minimise((A, y), terms=terms, stream=True, engine=engine, tol=1e-11, max_iter=50000)
        assert report.converged, (family, seed, report)
        assert np.abs(w - expected).max() <= 1e-8 * max(1, np.abs(expected).max()), (family, seed)
        assert report.objective == pytest.approx(reference.objective, rel=1e-9)
        assert report.passes > 1


def test_modules_factors_and_bases_are_read_as_they_are() -> None:
    rng = np.random.default_rng(1)
    shapes = {"a": (30, 20), "b": (50, 1), "c": (7, 300)}
    op, target, dense = unmerge.Operator(), unmerge.Operator(), []
    for name, (rows, cols) in shapes.items():
        op.add_module(name, rows, cols)
        target.add_module(name, rows, cols)
    for j in range(6):
        op.add_column(str(j))
        parts = []
        for name, (rows, cols) in shapes.items():
            if j % 3 == 0:
                B, A = rng.standard_normal((rows, 2)).astype(np.float32), rng.standard_normal((2, cols)).astype(np.float32)
                op.set_lora(name, str(j), B, A, scale=0.5)
                parts.append(0.5 * B.astype(float) @ A.astype(float))
            elif j % 3 == 1 or name != "b":
                X, base = (rng.standard_normal((rows, cols)).astype(np.float32) for _ in range(2))
                X = np.asfortranarray(X) if j == 2 else X
                op.set_dense(name, str(j), X, base=base, scale=2.0)
                parts.append(2.0 * (X.astype(float) - base.astype(float)))
            else:  # zero there
                parts.append(np.zeros((rows, cols)))
        dense.append(np.concatenate([q.ravel() for q in parts]))
    D = np.array(dense).T
    Y = D[:, :2] @ np.array([[1.0, 0.2], [-0.5, 1.0]]) + 0.1 * rng.standard_normal((D.shape[0], 2))
    for k in range(2):
        target.add_column(str(k))
        at = 0
        for name, (rows, cols) in shapes.items():
            target.set_dense(name, str(k), np.ascontiguousarray(Y[at : at + rows * cols, k].reshape(rows, cols)))
            at += rows * cols
    terms = [t.L1(0.05 * np.abs(D.T @ Y).max()), t.Box(-0.4, 0.9)]
    expected, _ = unmerge.minimise((D, Y), terms=terms)
    w, reports = unmerge.minimise((op, target), terms=terms, stream=True)
    assert w.shape == (6, 2) and all(r.converged for r in reports)
    np.testing.assert_allclose(w, expected, atol=1e-8)
    one = [unmerge.minimise((op, target), terms=terms, stream=True, threads=k)[0] for k in (1, 2, 3)]
    assert (one[0] == one[1]).all() and (one[0] == one[2]).all()
    for layout in (np.ascontiguousarray, np.asfortranarray):
        v, _ = unmerge.minimise((layout(D), Y[:, 0]), terms=terms, stream=True, start=expected[:, 0])
        np.testing.assert_allclose(v, expected[:, 0], atol=1e-8)


@pytest.mark.parametrize("positive", [False, True])
def test_wide_lasso_against_scikit_learn(positive: bool) -> None:
    from sklearn.linear_model import Lasso

    for seed in range(4):
        rng = np.random.default_rng(seed)
        p, n = 80, 1500
        A, y, top = sample(rng, p, n)
        alpha = (0.3, 0.1, 0.05, 0.02)[seed] * top
        term = t.NonnegativeL1(alpha) if positive else t.L1(alpha)
        w, report = unmerge.minimise((A, y), terms=term, stream=True)
        assert report.converged, report
        theirs = Lasso(alpha / p, fit_intercept=False, tol=1e-12, max_iter=1_000_000, positive=positive).fit(A, y).coef_
        wide = lambda v: v.astype(np.longdouble)
        f = lambda v: float(((wide(A) @ wide(v) - wide(y)) ** 2).sum() / 2 + alpha * np.abs(wide(v)).sum())
        assert f(w) <= f(theirs) * (1 + 1e-9) and f(w) >= f(theirs) * (1 - 1e-6)
        assert not positive or w.min() >= 0
        # The duality gap of the dual point that is the scaled residual, by the textbook.
        r = wide(y) - wide(A) @ wide(w)
        g = wide(A).T @ r
        reach = float(g.max() if positive else np.abs(g).max())
        theta = r * min(1, alpha / reach)
        gap = f(w) - float((wide(y) ** 2).sum() / 2 - ((wide(y) - theta) ** 2).sum() / 2)
        assert gap <= 1e-8 * f(w)
        assert report.duality_gap == pytest.approx(gap, abs=1e-12 * float(y @ y))
        assert report.objective == pytest.approx(f(w), rel=1e-10)
        assert (np.abs(g) <= alpha * (1 + 1e-6)).all() or positive


def test_the_gap_is_a_bound_before_the_end() -> None:
    rng = np.random.default_rng(5)
    A, y, top = sample(rng, 60, 400)
    for terms in (t.L1(0.05 * top), [t.Group(0.2 * top, atoms=range(i, i + 8)) for i in range(0, 400, 8)], t.LInf(3 * top)):
        _, end = unmerge.minimise((A, y), terms=terms, stream=True)
        assert end.converged and end.relative_gap <= 1e-7
        for steps in (1, 3, 10, 30):
            _, report = unmerge.minimise((A, y), terms=terms, stream=True, max_iter=steps, polish=False)
            assert report.duality_gap >= report.objective - end.objective - 1e-12 * float(y @ y), steps


def test_wide_sets_against_an_interior_point() -> None:
    clarabel = pytest.importorskip("clarabel")
    from scipy import sparse

    rng = np.random.default_rng(6)
    p, n = 40, 300
    A, y, top = sample(rng, p, n)
    alpha = 0.05 * top
    w, report = unmerge.minimise((A, y), terms=[t.L1(alpha), t.Box(-0.3, 0.3)], stream=True)
    assert report.converged
    # x = (w+, w-, r), r = Aw - y: 1/2 r'r + alpha sum (w+ + w-), 0 <= w+, w- <= 0.3
    P = sparse.diags(np.r_[np.zeros(2 * n), np.ones(p)], format="csc")
    q = np.r_[np.full(2 * n, alpha), np.zeros(p)]
    eye = sparse.eye(2 * n, 2 * n + p)
    rows = sparse.vstack([sparse.hstack([A, -A, -sparse.eye(p)]), eye, -eye], format="csc")
    b = np.r_[y, np.full(2 * n, 0.3), np.zeros(2 * n)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    x = np.array(clarabel.DefaultSolver(P, q, rows, b, [clarabel.ZeroConeT(p), clarabel.NonnegativeConeT(4 * n)], settings).solve().x)
    v = np.clip(x[:n] - x[n : 2 * n], -0.3, 0.3)
    f = lambda u: 0.5 * np.sum((A @ u - y) ** 2) + alpha * np.abs(u).sum()
    assert abs(w).max() <= 0.3 and f(w) <= f(v) * (1 + 1e-9) and f(w) >= f(v) * (1 - 1e-6)


def test_memory_does_not_grow_with_the_square_of_the_atoms() -> None:
    code = """
import resource, numpy as np, unmerge
rng = np.random.default_rng(0)
p, n = 60, 8_000
A = rng.standard_normal((p, n)); y = A[:, :3] @ [1.0, -1.0, 0.5]
alpha = 0.3 * np.abs(A.T @ y).max()
unmerge.minimise((A[:, :50], y), terms=unmerge.terms.L1(alpha), stream=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
w, report = unmerge.minimise((A, y), terms=unmerge.terms.L1(alpha), stream=True)
assert report.converged, report
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, *np.flatnonzero(w))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    grown, *support = (int(x) for x in done.stdout.split())
    assert {0, 1} <= set(support)
    assert grown * 1024 < 64e6  # n^2 doubles are 512 MB


def test_refusals_name_what_is_wrong() -> None:
    rng = np.random.default_rng(7)
    A, y, _ = sample(rng, 30, 5)
    with pytest.raises(TypeError, match="stream"):
        unmerge.minimise(unmerge.Gram(A, y), terms=t.L1(1.0), stream=True)
    with pytest.raises(ValueError, match="disjoint"):
        unmerge.minimise((A, y), terms=[t.L1(1.0), t.Nonnegative()], engine="fista", stream=True)
    with pytest.raises(ValueError, match="module"):
        unmerge.minimise((A, y[:-1]), terms=t.L1(1.0), stream=True)
    A[3, 2] = np.nan
    with pytest.raises(ValueError, match="atom 2.*row 3"):
        unmerge.minimise((A, y), terms=t.L1(1.0), stream=True)


def test_early_endings_and_empty_problems() -> None:
    rng = np.random.default_rng(8)
    A, y, top = sample(rng, 200, 1500)
    w, report = unmerge.minimise((A, y), terms=t.L1(0.01 * top), stream=True, max_iter=2, polish=False)
    assert report.outcome == "iteration limit" and report.iterations == 2 and np.isfinite(w).all()
    w, report = unmerge.minimise((A, y), terms=t.L1(1.01 * top), stream=True)
    assert report.converged and not w.any() and report.relative_gap <= 1e-12
    w, report = unmerge.minimise((A, 0 * y), terms=t.L1(1.0), stream=True)
    assert report.converged and not w.any()
    A[:, 4] = 0
    w, report = unmerge.minimise((A, y), terms=t.L1(0.2 * top), stream=True)
    assert report.converged and w[4] == 0 and "zero_atom" in report.flags
    w, report = unmerge.minimise((np.zeros((5, 0)), np.ones(5)), terms=(), stream=True)
    assert w.shape == (0,)
