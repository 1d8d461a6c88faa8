"""Hoyer's sparsity and group sparse projection against their definition: written out a second time in extended precision, a
general solver on tiny problems, the optimality conditions, and the limits in which one answer equals another."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import unmerge
from unmerge import _ffi, prox
from unmerge._library import library

from oracles import LD, ld

gsp = unmerge.group_sparse_projection


def sp(x: Any, w: Any = None) -> float:
    x = abs(ld(np.ravel(x)))
    w = ld(np.ones(len(x)) if w is None else np.ravel(w))
    if not x.any():
        return 1.0
    x = x / x.max()
    norm = np.sqrt((w * w).sum())
    return float((norm - (w * x).sum() / np.sqrt((x * x).sum())) / (norm - w.min()))


def average(groups: Sequence[Any], weights: Sequence[Any] | None = None) -> float:
    pairs = [(g, None if weights is None else weights[i]) for i, g in enumerate(groups) if np.size(g) >= 2]
    return float(np.mean([sp(g, w) for g, w in pairs]))


def beta(n: int) -> float:
    return 1 / (np.sqrt(n) - 1)


def ragged(r: np.random.Generator, count: int = 7) -> list[np.ndarray]:
    return [r.standard_normal(int(r.integers(2, 60))) * np.exp(r.normal()) for _ in range(count)]


# ---------------------------------------------------------------- the measure


def test_levels_of_equal_entries() -> None:
    for n in (2, 3, 64, 1152):
        for k in (1, 2, n // 2, n):
            x = np.zeros(n)
            x[:k] = -3.0
            assert unmerge.hoyer_sparsity(x) == pytest.approx((np.sqrt(n) - np.sqrt(k)) / (np.sqrt(n) - 1), abs=1e-14)
    x = np.zeros(1152)
    x[:58] = 1
    assert unmerge.hoyer_sparsity(x) == pytest.approx(0.8, abs=2e-3)
    assert unmerge.hoyer_sparsity(np.zeros(5)) == 1 and np.isnan(unmerge.hoyer_sparsity(np.ones(1)))


def test_measure_against_its_formula() -> None:
    r = np.random.default_rng(1)
    for _ in range(50):
        n = int(r.integers(2, 200))
        x = r.standard_normal((n, 3)) * 10.0 ** r.integers(-200, 200)
        w = r.uniform(0, 2, n)
        assert unmerge.hoyer_sparsity(x) == pytest.approx([sp(x[:, j]) for j in range(3)], abs=1e-13)
        assert unmerge.hoyer_sparsity(x, w) == pytest.approx([sp(x[:, j], w) for j in range(3)], abs=1e-13)
        assert unmerge.hoyer_sparsity(x, np.full(n, 0.3)) == pytest.approx(unmerge.hoyer_sparsity(x), abs=1e-13)
        assert unmerge.hoyer_sparsity(w, w) == pytest.approx(0, abs=1e-14)
        e = np.zeros(n)
        e[np.argmin(w)] = -7
        assert unmerge.hoyer_sparsity(e, w) == pytest.approx(1, abs=1e-14)


# ---------------------------------------------------------------- one vector


def bisected_direction(a: np.ndarray, s: float) -> np.ndarray:
    """(a - t)_+ / ||.|| of the mass asked for, t by bisection in extended precision; no ties."""
    n = len(a)
    mass = LD(np.sqrt(LD(n))) - LD(s) * (np.sqrt(LD(n)) - 1)
    low, high = LD(0), a.max()
    for _ in range(300):
        t = (low + high) / 2
        u = np.maximum(a - t, 0)
        norm = np.sqrt((u * u).sum())
        low, high = (t, high) if norm > 0 and u.sum() > mass * norm else (low, t)
    u = np.maximum(a - low, 0)
    return u / np.sqrt((u * u).sum())


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_vector_against_bisection(n: int) -> None:
    r = np.random.default_rng(n)
    for _ in range(30):
        x = r.standard_normal(n) * np.exp(r.normal())
        s = float(r.uniform(0.01, 0.99))
        z, report = unmerge.hoyer_projection(x, sparsity=s)
        if sp(x) >= s:
            assert np.array_equal(z, x)
            continue
        d = bisected_direction(abs(ld(x)), s)
        expected = np.sign(x) * d * (d * abs(ld(x))).sum()
        assert np.abs(z - expected).max() <= 1e-12 * abs(x).max()
        assert abs(sp(z) - s) <= 1e-13 and report.sparsity == pytest.approx(s, abs=1e-13)
        assert np.array_equal(prox.nonnegative_hoyer(abs(x), s), abs(z))
        assert np.array_equal(prox.nonnegative_hoyer(x, s), prox.hoyer(np.maximum(x, 0), s))


def test_vector_of_ties() -> None:
    for n in (2, 3, 9):
        for s in (0.1, 0.5, 0.9, 1.0):
            z = prox.hoyer(-np.ones(n), s)
            assert abs(sp(z) - s) <= 2e-15 * n and (z <= 0).all()
            assert np.argmax(abs(z)) == 0 and np.ptp(z[1:]) == 0
            # All directions of this mass are equally near: the distance is n - mass^2.
            mass = np.sqrt(n) - s * (np.sqrt(n) - 1)
            assert ((z + 1) ** 2).sum() == pytest.approx(n - mass**2, abs=1e-13)
    x = np.array([1.0, 2, 2, 0.5])
    z = prox.hoyer(x, 0.9)
    assert z[0] == z[3] == 0 and z[1] > z[2] > 0 and abs(sp(z) - 0.9) <= 1e-14
    assert prox.hoyer(x, 1.0).tolist() == [0, 2, 0, 0]


# ---------------------------------------------------------------- groups: optimality


def check_kkt(groups: Sequence[np.ndarray], z: Sequence[np.ndarray], report: Any) -> None:
    """Directions are shrunk by thresholds in proportion to beta; the average is met; the gap recomputed is 0."""
    mu, dual, objective = report.multiplier, 0.0, 0.0
    for c, y, one in zip(groups, z, report.details):
        if c.size < 2 or not c.any():
            assert np.array_equal(c, y)
            continue
        a, t = abs(ld(c)).ravel(), LD(mu) * LD(beta(c.size))
        assert one.threshold == pytest.approx(float(t), rel=1e-8)
        u = np.maximum(a - t, 0)
        value = np.sqrt((u * u).sum()) if u.any() else (a - t).max()
        d = abs(ld(y)).ravel()
        scale = np.sqrt((d * d).sum())
        assert one.scale == pytest.approx(float(scale), rel=1e-12)
        d = d / scale
        if "tied" not in one.state and u.any():
            assert np.abs(d - u / value).max() <= 1e-9
        assert float((d * a).sum()) == pytest.approx(float(scale), rel=1e-12)
        assert (np.sign(y) * np.sign(c) >= 0).all()
        objective += float((d * a).sum())
        dual += float(value)
    counted = [c for c in groups if c.size >= 2 and c.any()]
    zeros = sum(c.size >= 2 and not c.any() for c in groups)
    k = sum(np.sqrt(c.size) * beta(c.size) for c in counted) - (len(counted) + zeros) * report.target + zeros
    dual += mu * k
    assert report.objective == pytest.approx(objective, rel=1e-12)
    assert abs(dual - objective) <= 1e-9 * objective and report.relative_gap <= 1e-12


class Target:
    """A report that knows what was asked for."""

    def __init__(self, report: Any, target: float) -> None:
        self.report, self.target = report, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.report, name)


def test_conditions_average_and_gap() -> None:
    r = np.random.default_rng(2)
    for s in (0.3, 0.5, 0.7, 0.85, 0.95, 0.99):
        for _ in range(20):
            groups = ragged(r)
            z, report = gsp(groups, sparsity=s)
            if average(groups) >= s:
                assert report.iterations == 0 and all(np.array_equal(a, b) for a, b in zip(z, groups))
                continue
            assert abs(average(z) - s) <= 1e-12 and average(z) >= s - 1e-13
            assert report.sparsity == pytest.approx(average(z), abs=1e-13)
            check_kkt(groups, z, Target(report, s))
            assert report.nonzeros == sum(map(np.count_nonzero, z))
            error = sum(((a - b) ** 2).sum() for a, b in zip(groups, z))
            assert report.squared_error == pytest.approx(error, rel=1e-10)


def test_no_direction_of_a_general_solver_is_better() -> None:
    r = np.random.default_rng(3)
    for _ in range(10):
        a = abs(r.standard_normal((4, 3)))
        s = 0.6
        _, report = gsp(a, sparsity=s)
        b, k = beta(4), 3 * 2 * beta(4) - 3 * s
        best = -np.inf
        for _ in range(15):
            start = abs(r.standard_normal((4, 3)))
            start /= np.linalg.norm(start, axis=0)
            found = scipy.optimize.minimize(
                lambda v: -(v * a.ravel()).sum(),
                start.ravel(),
                jac=lambda v: -a.ravel(),
                bounds=[(0, 1)] * 12,
                constraints=[
                    {"type": "eq", "fun": lambda v: (v.reshape(4, 3) ** 2).sum(0) - 1},
                    {"type": "ineq", "fun": lambda v: k - b * v.sum()},
                ],
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            x = found.x.reshape(4, 3)
            if abs((x**2).sum(0) - 1).max() <= 1e-10 and b * x.sum() <= k + 1e-10:
                best = max(best, -found.fun)
        assert best <= report.objective + 1e-8
        assert best >= report.objective - 1e-6  # the solver does come near: the comparison means something


def test_multiplier_is_the_slope_of_the_objective() -> None:
    """d objective / d (r s) = -mu, by finite differences; larger s, larger mu, smaller objective."""
    r = np.random.default_rng(4)
    groups = ragged(r)
    h = 1e-5
    last = 0.0
    for s in np.linspace(0.5, 0.95, 10):
        if average(groups) > s - h:
            continue
        up, here, down = (gsp(groups, sparsity=float(v))[1] for v in (s + h, s, s - h))
        slope = (up.objective - down.objective) / (2 * h * len(groups))
        assert slope == pytest.approx(-here.multiplier, rel=1e-4)
        assert here.multiplier > last
        last = here.multiplier


def test_tied_by_one_multiplier_not_by_one_level() -> None:
    """What the grouping is for: levels differ, and the sum of correlations beats that of equal levels."""
    r = np.random.default_rng(5)
    c = r.standard_normal((64, 20)) * np.exp(1.5 * r.standard_normal(20))
    z, report = gsp(c, sparsity=0.6)
    alone, _ = unmerge.hoyer_projection(c, sparsity=0.6)
    assert np.ptp([g.sparsity for g in report.details]) > 0.3
    assert report.objective > np.linalg.norm(alone, axis=0).sum()
    assert np.linalg.norm(c - z) < 0.5 * np.linalg.norm(c - alone)


# ---------------------------------------------------------------- equivariance and limits


def test_equivariance() -> None:
    r = np.random.default_rng(6)
    groups = ragged(r)
    z, report = gsp(groups, sparsity=0.7)
    order = r.permutation(len(groups))
    within = [r.permutation(len(g)) for g in groups]
    signs = [r.choice([-1.0, 1.0], len(g)) for g in groups]
    moved, _ = gsp([groups[i] for i in order], sparsity=0.7)
    assert all(np.allclose(moved[k], z[i], rtol=0, atol=1e-13 * abs(z[i]).max()) for k, i in enumerate(order))
    moved, _ = gsp([g[p] for g, p in zip(groups, within)], sparsity=0.7)
    assert all(np.allclose(a, b[p], rtol=0, atol=1e-12 * abs(b).max()) for a, b, p in zip(moved, z, within))
    flipped, _ = gsp([s * g for g, s in zip(groups, signs)], sparsity=0.7)
    assert all(np.array_equal(a, s * b) for a, b, s in zip(flipped, z, signs))
    for scale in (2.0**-40, 2.0**30):
        scaled, other = gsp([scale * g for g in groups], sparsity=0.7)
        assert all(np.array_equal(a, scale * b) for a, b in zip(scaled, z))
        assert other.multiplier == pytest.approx(scale * report.multiplier, rel=1e-14)


def test_one_group_is_the_vector_projection() -> None:
    r = np.random.default_rng(7)
    for _ in range(50):
        x = r.standard_normal(int(r.integers(2, 300)))
        s = float(r.uniform(0.2, 1))
        z, _ = gsp([x], sparsity=s)
        assert np.abs(z[0] - prox.hoyer(x, s)).max() <= 1e-10 * abs(x).max()
    for x in (np.ones(5), np.array([1.0, 1, 0.5]), np.array([3.0, -3])):
        assert np.allclose(gsp([x], sparsity=0.8)[0][0], prox.hoyer(x, 0.8), rtol=0, atol=1e-14)


def test_projecting_twice_changes_nothing() -> None:
    r = np.random.default_rng(8)
    for s in (0.5, 0.8, 0.95):
        z, _ = gsp(ragged(r), sparsity=s)
        again, report = gsp(z, sparsity=s)
        assert all(np.allclose(a, b, rtol=0, atol=1e-11 * max(abs(b).max(), 1e-300)) for a, b in zip(again, z))


def test_matrix_list_and_strides_are_the_same_call() -> None:
    r = np.random.default_rng(9)
    c = r.standard_normal((70, 11)) * np.exp(r.standard_normal(11))
    z, report = gsp(c, sparsity=0.7)
    parts, other = gsp([c[:, j] for j in range(11)], sparsity=0.7)
    assert np.array_equal(np.column_stack(parts), z) and other.multiplier == report.multiplier
    for view in (np.asfortranarray(c), np.vstack([c, c])[:70], np.repeat(c, 2, axis=1)[:, ::2], np.ascontiguousarray(c.T).T):
        assert np.array_equal(gsp(view, sparsity=0.7)[0], z)
    assert np.allclose(gsp(c[::-1, ::-1], sparsity=0.7)[0], z[::-1, ::-1], rtol=0, atol=1e-13)
    long = r.standard_normal((5000, 3))
    assert np.array_equal(gsp(long, sparsity=0.6)[0], gsp(np.asfortranarray(long), sparsity=0.6)[0])
    shaped, _ = gsp([c[:, 0].reshape(7, 10), c[:, 1].reshape(2, 5, 7)], sparsity=0.7)
    assert shaped[0].shape == (7, 10) and shaped[1].shape == (2, 5, 7)


def test_float32_is_computed_in_double() -> None:
    r = np.random.default_rng(10)
    c = (r.standard_normal((500, 9)) * np.exp(r.standard_normal(9))).astype(np.float32)
    z, report = gsp(c, sparsity=0.8)
    wide, exact = gsp(c.astype(np.float64), sparsity=0.8)
    assert z.dtype == np.float32 and np.array_equal(z, wide.astype(np.float32))
    assert report.multiplier == pytest.approx(exact.multiplier, rel=1e-12) and abs(report.sparsity - 0.8) <= 1e-13
    half = c.astype(np.float16)
    assert np.array_equal(gsp(half, sparsity=0.8)[0], gsp(half.astype(np.float32), sparsity=0.8)[0].astype(np.float64)) or np.allclose(
        gsp(half, sparsity=0.8)[0], gsp(half.astype(np.float64), sparsity=0.8)[0], rtol=1e-12, atol=0
    )


def test_normalising_is_dividing_and_multiplying_back() -> None:
    r = np.random.default_rng(11)
    groups = ragged(r)
    for word, size in (("l2", lambda c: np.linalg.norm(c)), ("rms", lambda c: np.linalg.norm(c) / np.sqrt(len(c)))):
        z, _ = gsp(groups, sparsity=0.7, normalise=word)
        other, _ = gsp([c / size(c) for c in groups], sparsity=0.7)
        assert all(np.allclose(a, b * size(c), rtol=0, atol=1e-11 * abs(c).max()) for a, b, c in zip(z, other, groups))
    # The huge group no longer decides.
    uneven = [1e6 * groups[0], *groups[1:]]
    _, plain = gsp(uneven, sparsity=0.9)
    _, even = gsp(uneven, sparsity=0.9, normalise="l2")
    assert plain.one_sparse >= len(groups) - 2 and even.one_sparse < len(groups) - 2


def test_refit_restores_the_values_on_the_support() -> None:
    r = np.random.default_rng(12)
    groups = [*ragged(r), np.ones(4)]
    z, plain = gsp(groups, sparsity=0.8)
    kept, report = gsp(groups, sparsity=0.8, refit=True)
    for c, a, b in zip(groups, z, kept):
        assert np.array_equal(b, np.where(a != 0, c, 0))
    assert report.nonzeros == plain.nonzeros and report.relative_error < plain.relative_error
    assert report.sparsity == pytest.approx(average(kept), abs=1e-13) and report.sparsity < 0.8


# ---------------------------------------------------------------- edge cases


def test_edge_cases() -> None:
    r = np.random.default_rng(13)
    x = r.standard_normal(30)
    # zero groups count as 1, single entries do not count, empty groups do not exist
    z, report = gsp([x, np.zeros(8), np.array([3.0]), np.zeros(0)], sparsity=0.9)
    assert abs((sp(z[0]) + 1) / 2 - 0.9) <= 1e-13
    assert not z[1].any() and z[2].tolist() == [3] and z[3].shape == (0,)
    assert (report.groups, report.excluded, report.zero_groups) == (2, 2, 1)
    assert np.isnan(report.details[2].sparsity) and report.details[2].state == {"excluded"}
    assert report.details[1].state == {"zero"} and report.details[1].sparsity == 1
    # s = 0: identity; s = 1: the first largest entry of each
    assert np.array_equal(gsp([x], sparsity=0.0)[0][0], x)
    z, report = gsp([x, np.array([1.0, 2, 2]), -np.ones(3)], sparsity=1.0)
    assert [np.count_nonzero(a) for a in z] == [1, 1, 1] and report.one_sparse == 3
    assert z[0][np.argmax(abs(x))] == pytest.approx(x[np.argmax(abs(x))], rel=1e-15)
    assert z[1].tolist() == [0, 2, 0] and z[2].tolist() == [-1, 0, 0]
    # met already: bit for bit, also the sign of zero
    y = np.zeros(50)
    y[3], y[7] = 2, -0.0
    z, report = gsp([y], sparsity=0.5)
    assert z[0].tobytes() == y.tobytes() and report.iterations == 0 and report.duality_gap == 0
    # nothing at all
    for nothing in ([], [np.zeros(0)], [np.ones(1)]):
        z, report = gsp(nothing, sparsity=0.5)
        assert [a.tolist() for a in z] == [a.tolist() for a in nothing] and report.sparsity == 1
    assert gsp(np.zeros((4, 0)), sparsity=0.5)[0].shape == (4, 0)
    assert gsp(np.zeros((0, 3)), sparsity=0.5)[0].shape == (0, 3)
    z, report = gsp(np.zeros((4, 3)), sparsity=0.5)
    assert not z.any() and report.zero_groups == 3


@pytest.mark.parametrize("s", [0.2, 0.33, 0.34, 0.5, 0.7, 0.9, 1.0])
def test_the_average_is_met_on_a_jump(s: float) -> None:
    """4 x 3 ones with one entry raised: plain bisection stops at 1/3."""
    c = np.ones((4, 3))
    c[1, 1] = 2
    z, report = gsp(c, sparsity=s)
    assert average(list(z.T)) == pytest.approx(s, abs=1e-14)
    assert report.relative_gap <= 1e-14 and report.iterations <= 12
    assert report.discontinuity == (s > 1 / 3)
    check_kkt(list(c.T), list(z.T), Target(report, s))


def test_ties_go_by_index() -> None:
    z, report = gsp([np.ones(4), np.ones(4), np.ones(4)], sparsity=0.5)
    levels = [sp(v) for v in z]
    assert levels == pytest.approx([1, 0.5, 0], abs=1e-14) and report.discontinuity
    assert [g.state for g in report.details] == [{"one_sparse", "tied"}, {"tied"}, {"tied"}]
    assert z[1][0] > z[1][1] == z[1][2] == z[1][3]


@pytest.mark.parametrize("spread", [1e-6, 1e-9, 1e-11, 1e-13, 1e-15, 0.0])
def test_nearly_tied(spread: float) -> None:
    r = np.random.default_rng(14)
    for s in (0.3, 0.6, 0.9):
        groups = [1 + spread * r.random(9), 2 + spread * r.random(6), r.standard_normal(12)]
        z, report = gsp(groups, sparsity=s)
        assert abs(average(z) - s) <= 1e-12, (spread, s)
        assert report.relative_gap <= 1e-11 and report.iterations <= 40
        z = prox.hoyer(groups[0], s)
        assert abs(sp(z) - s) <= 1e-12


def test_constant_weights_and_flat_sums() -> None:
    """Where nothing but ties is left the average is a staircase."""
    r = np.random.default_rng(15)
    c = r.integers(1, 4, (8, 10)).astype(float)
    for s in np.linspace(0.05, 1, 20):
        z, report = gsp(c, sparsity=float(s))
        assert average(list(z.T)) == pytest.approx(max(s, average(list(c.T))), abs=1e-12)
        assert report.relative_gap <= 1e-13 and report.iterations <= 40


def test_layer_collapse_is_counted() -> None:
    r = np.random.default_rng(16)
    groups = [r.standard_normal(100) * 10.0**-i for i in range(10)]
    z, report = gsp(groups, sparsity=0.995)
    assert report.one_sparse == sum(np.count_nonzero(a) == 1 for a in z) >= 5
    assert all(("one_sparse" in g.state) == (g.nonzeros == 1) for g in report.details)
    assert average(z) == pytest.approx(0.995, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1e150, 1e300])
def test_magnitudes(scale: float) -> None:
    r = np.random.default_rng(17)
    groups = [np.round(8 * r.standard_normal(40)) for _ in range(5)]
    z, _ = gsp(groups, sparsity=0.8)
    scaled, report = gsp([scale * g for g in groups], sparsity=0.8)
    assert average(scaled) == pytest.approx(0.8, abs=1e-12 if scale > 1e-310 else 1e-2)
    limit = 1e-12 if scale > 1e-310 else 1e-2
    assert all(np.allclose(a / scale, b, rtol=0, atol=limit * abs(b).max()) for a, b in zip(scaled, z))
    assert np.abs(prox.hoyer(scale * groups[0], 0.8) / scale - prox.hoyer(groups[0], 0.8)).max() <= limit * 30


def test_groups_of_all_magnitudes() -> None:
    r = np.random.default_rng(18)
    groups = [r.standard_normal(30) * 10.0**e for e in (-200, -100, 0, 100, 200)]
    z, report = gsp(groups, sparsity=0.9)
    assert average(z) == pytest.approx(0.9, abs=1e-12) and all(np.isfinite(a).all() for a in z)
    assert [np.count_nonzero(a) for a in z[:2]] == [1, 1]
    z, report = gsp(groups, sparsity=0.9, normalise="l2")
    assert average(z) == pytest.approx(0.9, abs=1e-12) and report.one_sparse == 0


# ---------------------------------------------------------------- weights


def weighted_best(c: np.ndarray, w: np.ndarray, mu: float) -> tuple[float, float]:
    """max over unit d >= 0 of d'|c| - mu b w'd, and the weighted sparsity of the maximiser."""
    b = 1 / (np.linalg.norm(w) - w.min())
    u = abs(c) - mu * b * w
    d = np.maximum(u, 0)
    if not d.any():
        d[np.argmax(u)] = 1
    d /= np.linalg.norm(d)
    return float((d * u).sum()), sp(d, w)


def test_weighted_conditions() -> None:
    r = np.random.default_rng(19)
    for _ in range(60):
        groups = ragged(r, 5)
        weights = [r.uniform(0.2, 2, len(g)) for g in groups]
        s = float(r.uniform(0.5, 0.97))
        z, report = gsp(groups, sparsity=s, weights=weights)
        reached = average(z, weights)
        assert reached >= min(s, 1) - 1e-12
        assert report.sparsity == pytest.approx(reached, abs=1e-12)
        if average(groups, weights) >= s:
            continue
        b = [1 / (np.linalg.norm(w) - w.min()) for w in weights]
        k = sum(np.linalg.norm(w) * v for w, v in zip(weights, b)) - len(groups) * s
        dual = sum(weighted_best(c, w, report.multiplier)[0] for c, w in zip(groups, weights)) + report.multiplier * k
        objective = sum(np.linalg.norm(a) for a in z)
        assert report.objective == pytest.approx(objective, rel=1e-12)
        assert report.duality_gap == pytest.approx(max(0, dual - objective), abs=1e-9 * objective)
        if not report.discontinuity:
            assert abs(reached - s) <= 1e-12 and report.relative_gap <= 1e-12
            for c, w, a, one in zip(groups, weights, z, report.details):
                u = np.maximum(abs(c) - one.threshold * w / w.max(), 0)
                if one.nonzeros > 1:
                    assert np.abs(abs(a) / np.linalg.norm(a) - u / np.linalg.norm(u)).max() <= 1e-9


def test_weights_of_ones_change_nothing() -> None:
    r = np.random.default_rng(20)
    c = r.standard_normal((40, 6)) * np.exp(r.standard_normal(6))
    z, report = gsp(c, sparsity=0.8)
    for w in (np.ones(40), np.full((40, 6), 7.5)):
        same, other = gsp(c, sparsity=0.8, weights=w)
        assert np.allclose(same, z, rtol=0, atol=1e-12) and other.multiplier == pytest.approx(report.multiplier, rel=1e-12)


def test_weighted_flat_piece_and_jump() -> None:
    """w = (1,2,3,4), c = (.1,.3,.5,2): 0.131 untouched; 0.330 on a flat piece, then a jump to 1."""
    w, c = np.array([1.0, 2, 3, 4]), np.array([0.1, 0.3, 0.5, 2])
    assert unmerge.hoyer_sparsity(c, w) == pytest.approx(0.131, abs=5e-4)
    _, flat = weighted_best(c, w, 1.7)
    assert flat == pytest.approx(0.330, abs=5e-4) and weighted_best(c, w, 3.5)[1] == 1
    z, report = gsp([c], sparsity=0.2, weights=[w])
    assert sp(z[0], w) == pytest.approx(0.2, abs=1e-13) and report.relative_gap <= 1e-14
    z, report = gsp([c], sparsity=flat - 1e-9, weights=[w])
    assert np.count_nonzero(z[0][:3]) <= 1 and sp(z[0], w) == pytest.approx(flat, abs=1e-8)
    for s in (0.4, 0.6, 0.99):
        z, report = gsp([c], sparsity=s, weights=[w])
        assert sp(z[0], w) >= s - 1e-12 and report.discontinuity and report.duality_gap > 0
    z, report = gsp([c], sparsity=1.0, weights=[w])
    assert z[0].tolist() == pytest.approx([0.1, 0, 0, 0], abs=1e-12)


def test_zero_weights_are_never_shrunk() -> None:
    c = np.array([3.0, 1, 2, 0.5])
    w = np.array([0.0, 1, 1, 1])
    for s in (0.7, 0.9, 1.0):
        z, _ = gsp([c], sparsity=s, weights=[w])
        assert sp(z[0], w) >= s - 1e-12
    assert z[0][0] == pytest.approx(3) and abs(z[0][1:]).max() <= 1e-14


# ---------------------------------------------------------------- the squared objective


def test_squared_objective_only_gains() -> None:
    """Ordering of the published kind: separate vectors, one average, and its refinement for the error itself."""
    r = np.random.default_rng(21)
    c = r.standard_normal((256, 64)) * np.exp(2 * r.standard_normal(64))
    for s in (0.5, 0.85):
        alone, one = unmerge.hoyer_projection(c, sparsity=s)
        z, two = gsp(c, sparsity=s)
        y, three = gsp(c, sparsity=s, objective="squared")
        assert average(list(y.T)) == pytest.approx(s, abs=1e-12)
        assert three.relative_error <= 0.95 * two.relative_error <= 0.95 * 0.7 * one.relative_error
        errors = [gsp(c, sparsity=s, objective="squared", max_iter=k)[1].squared_error for k in range(8)]
        assert errors[0] == pytest.approx(two.squared_error, rel=1e-12)
        assert all(b <= a * (1 + 1e-14) for a, b in zip(errors, errors[1:]))
        assert three.steps >= 2 and three.converged
        assert gsp(c, sparsity=s, objective="squared", max_iter=1)[1].outcome == "iteration limit"


def test_squared_objective_of_one_group_is_the_surrogate() -> None:
    r = np.random.default_rng(22)
    x = r.standard_normal(50)
    z, _ = gsp([x], sparsity=0.8, objective="squared")
    assert np.abs(z[0] - prox.hoyer(x, 0.8)).max() <= 1e-12


# ---------------------------------------------------------------- bits, effort, refusals


def test_same_bits_and_few_passes() -> None:
    r = np.random.default_rng(23)
    x = r.standard_normal(999_936)
    for count in (1, 64, 868):
        c = x.reshape(count, -1).T
        for s in (0.5, 0.8, 0.95):
            z, report = gsp(c, sparsity=s)
            assert report.iterations <= 15 and report.passes <= 15
            assert abs(report.sparsity - s) <= 1e-13 and report.relative_gap <= 1e-13
    assert np.array_equal(gsp(c, sparsity=s)[0], z)


def test_in_place() -> None:
    r = np.random.default_rng(24)
    x = r.standard_normal((50, 4))
    expected, _ = gsp(x, sparsity=0.7)
    from unmerge._arrays import output

    options = _ffi.unmerge_group_sparse_options()
    library().unmerge_group_sparse_options_init(ctypes.byref(options), ctypes.sizeof(options))
    options.sparsity = 0.7
    memory = output(x)
    error = _ffi.unmerge_error()
    call = library().unmerge_group_sparse_projection
    status = call(memory.pointer, None, 4, ctypes.byref(options), None, memory.pointer, None, None, ctypes.byref(error))
    assert status == 0 and np.array_equal(x, expected)


def test_out() -> None:
    r = np.random.default_rng(25)
    x = r.standard_normal((50, 4))
    expected, _ = gsp(x, sparsity=0.7)
    for out in (np.empty((50, 4)), np.empty((4, 50)).T, np.empty((50, 8))[:, ::2], x):
        z, _ = gsp(x, sparsity=0.7, out=out)
        assert z is out and np.array_equal(z, expected)
    narrow = np.empty((50, 4), dtype=np.float32)
    fresh = r.standard_normal((50, 4))
    assert np.array_equal(gsp(fresh, out=narrow)[0], gsp(fresh)[0].astype(np.float32))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gsp(np.ones((2, 2)), out=np.ones((2, 3))), "z is 2 x 3, expected 2 x 2"),
        (lambda: gsp(np.ones((2, 2)), sparsity=1.5), r"options->sparsity is 1.5; it must be in \[0, 1\]"),
        (lambda: gsp(np.ones((2, 2)), sparsity=np.nan), "options->sparsity is nan"),
        (lambda: gsp(np.array([[1, np.nan], [0, 1]])), r"x\[0, 1\] is nan; all values must be finite"),
        (lambda: gsp([np.ones(3), np.array([1.0, -np.inf])]), r"x\[4, 0\] is -inf"),
        (lambda: gsp(np.array([[1, np.inf]], dtype=np.float32)), r"x\[0, 1\] is inf"),
        (lambda: gsp(np.ones((2, 2)), objective="best"), "objective is 'best'; it must be one of 'surrogate', 'squared'"),
        (lambda: gsp(np.ones((2, 2)), normalise="max"), "normalise is 'max'"),
        (lambda: gsp(np.ones((2, 2)), weights=[0, 0]), "options->weights of group 0 are all 0"),
        (lambda: gsp(np.ones((2, 2)), weights=[1, -1]), r"options->weights\[1, 0\] is -1.0"),
        (lambda: gsp([np.ones(2)], weights=[np.ones(3)]), "weights must be a list of arrays of the shapes of the groups"),
        (lambda: gsp(np.ones(4)), "groups is 1-D, expected 2-D"),
        (lambda: unmerge.hoyer_projection([1.0, 2], sparsity=-1), "options->sparsity is -1.0"),
    ],
)
def test_refusals(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_worked_example_of_the_authors() -> None:
    """A 4 x 6 matrix (the first 24 numbers of MATLAB's generator) to an average of 0.5, with the entries its authors print."""
    c = np.random.RandomState(5489).rand(24).reshape(6, 4).T
    assert average(list(c.T)) == pytest.approx(0.1968, abs=5e-5)
    printed = [
        [0.6646, 0.6324, 0.9460, 1.0705, 0, 0.1704],
        [0.9495, 0, 0.9657, 0, 0.9337, 0],
        [0, 0, 0, 0.5972, 0.5657, 0.7874],
        [0.9732, 0, 0.9809, 0, 1.0641, 1.0581],
    ]
    # Theirs stopped at an average of 0.5001: at what they print all entries agree in the digits that they print.
    z, _ = gsp(c, sparsity=average(list(np.transpose(printed))))
    assert np.abs(z - printed).max() <= 1e-4 and ((z == 0) == (np.array(printed) == 0)).all()
