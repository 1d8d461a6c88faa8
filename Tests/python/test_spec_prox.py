"""Proximal operators and projections against their definition.  A new function is a new row of ROWS; the laws run over it.

Functions are written out here a second time, in extended precision, from the table in ``unmerge.h``."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import unmerge
from sklearn.isotonic import isotonic_regression
from unmerge import _ffi, prox
from unmerge._library import library

from oracles import LD, U, ld

INF = LD(np.inf)


# ---------------------------------------------------------------- the functions, once more


def weighted(o: dict[str, Any], z: np.ndarray) -> np.ndarray:
    return ld(np.ones(len(z)) if o.get("weights") is None else o["weights"]) * LD(o.get("alpha", 1.0))


def f_l1(z: np.ndarray, o: dict[str, Any]) -> Any:
    return (weighted(o, z) * abs(z)).sum()


def f_nonnegative_l1(z: np.ndarray, o: dict[str, Any]) -> Any:
    return INF if (z < 0).any() else f_l1(z, o)


def f_l2_squared(z: np.ndarray, o: dict[str, Any]) -> Any:
    return (weighted(o, z) * z * z).sum() / 2


def f_elastic_net(z: np.ndarray, o: dict[str, Any]) -> Any:
    r = LD(o["l1_ratio"])
    return (weighted(o, z) * (r * abs(z) + (1 - r) / 2 * z * z)).sum()


def f_huber(z: np.ndarray, o: dict[str, Any]) -> Any:
    g = LD(o["gamma"])
    return (weighted(o, z) * np.where(abs(z) <= g, z * z / (2 * g), abs(z) - g / 2)).sum()


def f_l2(z: np.ndarray, o: dict[str, Any]) -> Any:
    return LD(o["alpha"]) * np.sqrt((z * z).sum())


def f_sparse_group(z: np.ndarray, o: dict[str, Any]) -> Any:
    r = LD(o["l1_ratio"])
    return r * f_l1(z, o) + (1 - r) * f_l2(z, o)


def f_linf(z: np.ndarray, o: dict[str, Any]) -> Any:
    return LD(o["alpha"]) * abs(z).max(initial=LD(0))


def f_slope(z: np.ndarray, o: dict[str, Any]) -> Any:
    return (weighted(o, z) * -np.sort(-abs(z))).sum()


def f_total_variation(z: np.ndarray, o: dict[str, Any]) -> Any:
    return LD(o["alpha"]) * abs(np.diff(z)).sum()


def f_fused(z: np.ndarray, o: dict[str, Any]) -> Any:
    r = LD(o["l1_ratio"])
    return LD(o["alpha"]) * (r * abs(z).sum() + (1 - r) * abs(np.diff(z)).sum())


def f_l0(z: np.ndarray, o: dict[str, Any]) -> Any:
    return weighted(o, z)[z != 0].sum()


def f_mcp(z: np.ndarray, o: dict[str, Any]) -> Any:
    lam, g, a = weighted(o, z), LD(o["gamma"]), abs(z)
    return np.where(a <= g * lam, lam * a - a * a / (2 * g), g * lam * lam / 2).sum()


def f_scad(z: np.ndarray, o: dict[str, Any]) -> Any:
    lam, g, a = weighted(o, z), LD(o["gamma"]), abs(z)
    middle = (2 * g * lam * a - a * a - lam * lam) / (2 * (g - 1))
    return np.where(a <= lam, lam * a, np.where(a <= g * lam, middle, lam * lam * (g + 1) / 2)).sum()


def f_lq(z: np.ndarray, o: dict[str, Any]) -> Any:
    return (weighted(o, z) * abs(z) ** LD(o["q"])).sum()


def f_cel0(z: np.ndarray, o: dict[str, Any]) -> Any:
    lam, d = weighted(o, z), LD(o["norm"])
    short = np.minimum(abs(z) - np.sqrt(2 * lam) / d, 0)
    return (lam - d * d / 2 * short**2).sum()


def within(holds: Callable[[np.ndarray, dict[str, Any]], Any]) -> Callable[[np.ndarray, dict[str, Any]], Any]:
    return lambda z, o: LD(0) if holds(z, o) else INF


def slack(z: np.ndarray) -> Any:
    return 16 * U * (1 + abs(z).sum())


def normal(z: np.ndarray, o: dict[str, Any]) -> np.ndarray:
    return ld(np.ones(len(z)) if o.get("normal") is None else o["normal"])


def plane_slack(z: np.ndarray, o: dict[str, Any]) -> Any:
    return 16 * U * (abs(normal(z, o) * z).sum() + abs(o["offset"]) + abs(normal(z, o)).sum())


def hoyer(z: np.ndarray) -> Any:
    """1 for zeros and for single entries."""
    if len(z) < 2 or not z.any():
        return LD(1)
    root = np.sqrt(LD(len(z)))
    return (root - abs(z).sum() / np.sqrt((z * z).sum())) / (root - 1)


SETS: dict[str, Callable[[np.ndarray, dict[str, Any]], Any]] = {
    "hoyer": lambda z, o: hoyer(z) >= o["sparsity"] - 64 * U,
    "nonnegative_hoyer": lambda z, o: (z >= 0).all() and hoyer(z) >= o["sparsity"] - 64 * U,
    "k_sparse": lambda z, o: np.count_nonzero(z) <= o["k"],
    "l1_ball": lambda z, o: abs(z).sum() <= o["radius"] + slack(z),
    "l2_ball": lambda z, o: np.sqrt((z * z).sum()) <= o["radius"] + slack(z),
    "simplex": lambda z, o: (z >= 0).all() and abs(z.sum() - LD(o["radius"])) <= slack(z),
    "capped_simplex": lambda z, o: (z >= 0).all()
    and (z <= o["upper"]).all()
    and abs(z.sum() - LD(o["radius"])) <= slack(z),
    "box": lambda z, o: (z >= o["lower"]).all() and (z <= o["upper"]).all(),
    "nonnegative": lambda z, o: (z >= 0).all(),
    "plane": lambda z, o: abs((normal(z, o) * z).sum() - LD(o["offset"])) <= plane_slack(z, o),
    "halfspace": lambda z, o: (normal(z, o) * z).sum() - LD(o["offset"]) <= plane_slack(z, o),
    "cone": lambda z, o: len(z) == 0 or np.sqrt((z[1:] ** 2).sum()) <= z[0] + slack(z),
    "monotone": lambda z, o: (np.diff(z) >= 0).all(),
}


@dataclass(frozen=True)
class Row:
    name: str
    f: Callable[[np.ndarray, dict[str, Any]], Any]
    options: Callable[[np.random.Generator, int], dict[str, Any]]
    convex: bool = True
    is_set: bool = False
    permutes: bool = True  # with its weights, except where they belong to ranks
    flips: bool = True
    ranks: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __call__(self, x: Any, o: dict[str, Any]) -> np.ndarray:
        return getattr(prox, self.name)(x, **o)

    def objective(self, z: np.ndarray, x: np.ndarray, o: dict[str, Any]) -> Any:
        z, x = ld(z), ld(x)
        d = ld(np.ones(len(x)) if self.name != "monotone" or o.get("weights") is None else o["weights"])
        return LD(o.get("step", 1.0)) * self.f(z, o) + (d * (z - x) ** 2).sum() / 2


def penalty(r: np.random.Generator, n: int, **more: Any) -> dict[str, Any]:
    return {"alpha": float(r.uniform(0.05, 1.5)), "step": float(r.uniform(0.2, 2)), **more}


def with_weights(r: np.random.Generator, n: int, **more: Any) -> dict[str, Any]:
    weights = None if r.random() < 0.3 else r.uniform(0, 2, n) * (r.random(n) < 0.9)
    return penalty(r, n, weights=weights, **more)


def ratio(r: np.random.Generator) -> float:
    return float(r.choice([0.0, 1.0, r.uniform(0, 1)]))


def a_set(name: str, options: Callable[..., dict[str, Any]], **kind: Any) -> Row:
    return Row(name, within(SETS[name]), options, is_set=True, **kind)


ROWS = [
    Row("l1", f_l1, with_weights),
    Row("nonnegative_l1", f_nonnegative_l1, with_weights, flips=False),
    Row("l2_squared", f_l2_squared, with_weights),
    Row("elastic_net", f_elastic_net, lambda r, n: with_weights(r, n, l1_ratio=ratio(r))),
    Row("huber", f_huber, lambda r, n: with_weights(r, n, gamma=float(r.uniform(0.1, 2)))),
    Row("l2", f_l2, penalty),
    Row("sparse_group", f_sparse_group, lambda r, n: with_weights(r, n, l1_ratio=ratio(r))),
    Row("linf", f_linf, penalty),
    Row("slope", f_slope, lambda r, n: penalty(r, n, weights=-np.sort(-r.uniform(0, 2, n))), ranks=True),
    Row("total_variation", f_total_variation, penalty, permutes=False, flips=False),
    Row("fused", f_fused, lambda r, n: penalty(r, n, l1_ratio=ratio(r)), permutes=False, flips=False),
    Row("l0", f_l0, with_weights, convex=False),
    Row("mcp", f_mcp, lambda r, n: with_weights(r, n, gamma=float(r.uniform(0.2, 5))), convex=False),
    Row("scad", f_scad, lambda r, n: with_weights(r, n, gamma=float(r.uniform(1.1, 5))), convex=False),
    Row("lq", f_lq, lambda r, n: with_weights(r, n, q=float(r.choice([0.5, 2 / 3, 0.1, 0.95]))), convex=False),
    Row("cel0", f_cel0, lambda r, n: with_weights(r, n, norm=float(r.uniform(0.3, 2))), convex=False),
    a_set("hoyer", lambda r, n: {"sparsity": float(r.uniform(0, 1))}, convex=False),
    a_set("nonnegative_hoyer", lambda r, n: {"sparsity": float(r.uniform(0, 1))}, convex=False, flips=False),
    a_set("k_sparse", lambda r, n: {"k": int(r.integers(0, n + 2))}, convex=False),
    a_set("l1_ball", lambda r, n: {"radius": float(r.uniform(0, 2))}),
    a_set("l2_ball", lambda r, n: {"radius": float(r.uniform(0, 2))}),
    a_set("simplex", lambda r, n: {"radius": float(r.uniform(0, 2)) if n else 0.0}, flips=False),
    a_set(
        "capped_simplex",
        lambda r, n: {"radius": float(r.uniform(0, 0.999)) * 0.7 * n, "upper": 0.7},
        flips=False,
    ),
    a_set("box", lambda r, n: {"lower": float(r.uniform(-1, 0)), "upper": float(r.uniform(0, 1))}, flips=False),
    a_set("nonnegative", lambda r, n: {}, flips=False),
    a_set(
        "plane",
        lambda r, n: {"normal": None if r.random() < 0.5 else r.standard_normal(n), "offset": float(r.normal())},
        flips=False,
    ),
    a_set(
        "halfspace",
        lambda r, n: {"normal": None if r.random() < 0.5 else r.standard_normal(n), "offset": float(r.normal())},
        flips=False,
    ),
    a_set("cone", lambda r, n: {}, permutes=False, flips=False),
    a_set(
        "monotone",
        lambda r, n: {"weights": None if r.random() < 0.5 else r.uniform(0.1, 2, n)},
        permutes=False,
        flips=False,
    ),
]
IDS = [row.name for row in ROWS]
every = pytest.mark.parametrize("row", ROWS, ids=IDS)
CONVEX = [row for row in ROWS if row.convex]
SET_ROWS = [row for row in ROWS if row.is_set]


def points(r: np.random.Generator, n: int) -> np.ndarray:
    """Normal, with ties and zeros now and then."""
    x = r.standard_normal(n) * r.choice([0.3, 1, 4])
    return np.round(x * 2) / 2 if r.random() < 0.3 else x


def sizes(r: np.random.Generator) -> int:
    return int(r.choice([1, 2, 3, 5, 17, 60]))


def rounding(x: np.ndarray, best: Any) -> Any:
    return 64 * U * len(x) * (abs(best) + float((x * x).sum()) + 1)


def test_every_function_has_a_row() -> None:
    functions = {name for name, value in vars(prox).items() if callable(value) and getattr(value, "__module__", "") == prox.__name__}
    functions = {name for name in functions if not name.startswith("_")}
    assert functions == {row.name for row in ROWS} | {"nuclear", "rank"}
    kinds = [value for name, value in vars(_ffi).items() if name.startswith("UNMERGE_PROX_")]
    assert sorted(kinds) == list(range(1, len(functions) + 1))


# ---------------------------------------------------------------- the definition


@every
@pytest.mark.parametrize("n", [1, 2])
def test_no_point_of_a_grid_is_better(row: Row, n: int) -> None:
    r = np.random.default_rng([n, 1])
    for _ in range(5 if n == 2 else 15):
        o, x = row.options(r, n), points(r, n)
        z = row(x, o)
        best = row.objective(z, x, o)
        assert np.isfinite(best)
        reach = abs(x).max() + 2
        axis = np.unique(np.concatenate([np.linspace(-reach, reach, 25 if n == 2 else 201), z, x, [0]]))
        for candidate in itertools.product(axis, repeat=n):
            other = row.objective(np.array(candidate), x, o)
            assert best <= other + rounding(x, best), (o, x, z, candidate)


@every
def test_no_neighbour_is_better(row: Row) -> None:
    r = np.random.default_rng(2)
    for _ in range(25):
        n = sizes(r)
        o, x = row.options(r, n), points(r, n)
        z = row(x, o)
        best = row.objective(z, x, o)
        assert np.isfinite(best) and z.shape == x.shape
        others = [x, np.zeros(n), row(x + r.standard_normal(n), o), row(points(r, n), o), row(z + 1e-3 * r.standard_normal(n), o)]
        for size in (1e-1, 1e-4, 1e-7):
            direction = r.standard_normal(n)
            sparse = direction * (r.random(n) < 2 / n)
            others += [z + size * direction, z + size * sparse, z - size * sparse * (z != 0), z * (1 - size)]
        for other in others:
            assert best <= row.objective(other, x, o) + rounding(x, best)


@pytest.mark.parametrize("row", CONVEX, ids=[row.name for row in CONVEX])
def test_convex_ones_are_firmly_non_expansive(row: Row) -> None:
    r = np.random.default_rng(3)
    for _ in range(60):
        n = sizes(r)
        o, x, y = row.options(r, n), points(r, n), points(r, n)
        d = ld(np.ones(n) if row.name != "monotone" or o["weights"] is None else o["weights"])
        p, q = ld(row(x, o)), ld(row(y, o))
        assert (d * (p - q) ** 2).sum() <= (d * (p - q) * (ld(x) - ld(y))).sum() + 1e-12 * (1 + (x * x).sum() + (y * y).sum())


@pytest.mark.parametrize("row", SET_ROWS, ids=[row.name for row in SET_ROWS])
def test_projections_are_feasible_and_idempotent(row: Row) -> None:
    r = np.random.default_rng(4)
    for _ in range(60):
        n = sizes(r)
        o, x = row.options(r, n), points(r, n)
        z = row(x, o)
        assert SETS[row.name](ld(z), o)
        assert np.abs(row(z, o) - z).max() <= 16 * U * (1 + abs(z).max() + abs(x).max())


# ---------------------------------------------------------------- norms: z = prox(x) if and only if x - z is in t df(z)


def dual_norm_slope(u: np.ndarray, o: dict[str, Any]) -> Any:
    sums, bounds = np.cumsum(-np.sort(-abs(u))), np.cumsum(weighted(o, u))
    return max([s / b if b > 0 else (LD(0) if s <= 1e-15 else INF) for s, b in zip(sums, bounds)], default=LD(0))


def dual_norm_fused(u: np.ndarray, o: dict[str, Any]) -> Any:
    """Over all intervals."""
    n, worst, l1 = len(u), LD(0), LD(o.get("l1_ratio", 0.0))
    alpha = LD(o["alpha"])
    for a in range(n):
        total = LD(0)
        for b in range(a, n):
            total += u[b]
            bound = alpha * (l1 * (b - a + 1) + (1 - l1) * (int(a > 0) + int(b < n - 1)))
            worst = max(worst, abs(total) / bound if bound > 0 else (LD(0) if abs(total) < 1e-13 * (1 + abs(u).sum()) else INF))
    return worst


DUAL = {
    "l1": lambda u, o: max([abs(a) / b if b > 0 else (LD(0) if abs(a) < 1e-15 else INF) for a, b in zip(u, weighted(o, u))]),
    "l2": lambda u, o: np.sqrt((u * u).sum()) / LD(o["alpha"]),
    "linf": lambda u, o: abs(u).sum() / LD(o["alpha"]),
    "slope": dual_norm_slope,
    "total_variation": dual_norm_fused,
    "fused": dual_norm_fused,
}


@pytest.mark.parametrize("name", DUAL)
def test_the_residual_is_a_subgradient(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    r = np.random.default_rng(5)
    for _ in range(120):
        n = sizes(r)
        o, x = row.options(r, n), points(r, n)
        z = ld(row(x, o))
        u = (ld(x) - z) / LD(o["step"])
        noise = 1e-13 * (1 + abs(x).sum()) / o["step"]
        assert DUAL[name](u, o) <= 1 + noise / o["alpha"] * (1 if name != "slope" else 1e3)
        assert abs((u * z).sum() - row.f(z, o)) <= noise * (1 + abs(x).max())


def test_moreau() -> None:
    """x = prox_{t f}(x) + projection on t times the dual ball; the cone is its own dual."""
    r = np.random.default_rng(6)
    for _ in range(100):
        n = sizes(r)
        x, t = points(r, n), float(r.uniform(0.1, 2))
        scale = 1e-14 * (1 + abs(x).sum())
        for z, dual in (
            (prox.l1(x, t), prox.box(x, -t, t)),
            (prox.l2(x, t), prox.l2_ball(x, t)),
            (prox.linf(x, t), prox.l1_ball(x, t)),
            (prox.cone(x), -prox.cone(-x)),
            (prox.nonnegative(x), -prox.nonnegative(-x)),
        ):
            assert np.abs(z + dual - x).max() <= scale


# ---------------------------------------------------------------- twins


def bisected(mass: Callable[[Any], Any], goal: Any, low: Any, high: Any) -> Any:
    """The t with mass(t) = goal, mass falling."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) > goal else (low, middle)
    return (low + high) / 2


def test_simplices_and_ball_against_bisection() -> None:
    r = np.random.default_rng(7)
    for _ in range(100):
        n = sizes(r)
        x = points(r, n)
        X, total, upper = ld(x), LD(float(r.uniform(0.1, 2))), LD(0.7)
        t = bisected(lambda t: np.maximum(X - t, 0).sum(), total, X.min() - total, X.max())
        assert np.abs(prox.simplex(x, float(total)) - np.maximum(X - t, 0)).max() <= 1e-14 * (1 + abs(x).max())
        mass = LD(float(r.uniform(0.05, 0.95))) * n * upper
        t = bisected(lambda t: np.clip(X - t, 0, upper).sum(), mass, X.min() - 1, X.max())
        assert np.abs(prox.capped_simplex(x, float(mass), upper=0.7) - np.clip(X - t, 0, upper)).max() <= 1e-14 * (1 + abs(x).max())
        if abs(X).sum() > total:
            t = bisected(lambda t: np.maximum(abs(X) - t, 0).sum(), total, LD(0), abs(X).max())
            assert np.abs(prox.l1_ball(x, float(total)) - np.sign(X) * np.maximum(abs(X) - t, 0)).max() <= 1e-14 * (1 + abs(x).max())


def test_monotone_against_scikit_learn() -> None:
    r = np.random.default_rng(8)
    for _ in range(100):
        n = sizes(r)
        x, weights = points(r, n), r.uniform(0.1, 2, n)
        assert np.abs(prox.monotone(x) - isotonic_regression(x)).max() <= 1e-13
        assert np.abs(prox.monotone(x, weights=weights) - isotonic_regression(x, sample_weight=weights)).max() <= 1e-13


def test_smooth_scalars_against_a_root_finder() -> None:
    """l_q beyond its jump is a root; Huber everywhere."""
    r = np.random.default_rng(9)
    for _ in range(300):
        x, t = float(r.uniform(0.1, 6)), float(r.uniform(0.01, 2))
        q = float(r.choice([0.1, 0.5, 2 / 3, 0.95]))
        h = (2 * t * (1 - q)) ** (1 / (2 - q))
        jump = h + t * q * h ** (q - 1)
        z = float(prox.lq([x], t, q=q)[0])
        if abs(x - jump) > 1e-9:
            assert (z > 0) == (x > jump)
        if z > 0:
            root = scipy.optimize.brentq(lambda v: v + t * q * v ** (q - 1) - x, h, x, xtol=1e-15, rtol=1e-14)
            assert z == pytest.approx(root, rel=1e-12)
        z = float(prox.huber([x], t, gamma=0.5)[0])
        assert z == pytest.approx(scipy.optimize.brentq(lambda v: v + t * np.clip(v / 0.5, -1, 1) - x, -1, x + 1, xtol=1e-15), abs=1e-13)


def test_half_and_two_thirds_have_closed_forms() -> None:
    r = np.random.default_rng(10)
    for _ in range(200):
        t, x = float(r.uniform(0.05, 1)), float(r.uniform(0, 5))
        if x > 1.5 * t ** (2 / 3) * (1 + 1e-9):
            phi = np.arccos(t / 4 * (x / 3) ** -1.5)
            assert prox.lq([x], t, q=0.5)[0] == pytest.approx(2 * x / 3 * (1 + np.cos(2 * np.pi / 3 - 2 * phi / 3)), rel=1e-10)
        if x > 2 * (2 * t / 3) ** 0.75 * (1 + 1e-9):
            a = 2 / np.sqrt(3) * np.sqrt(2 * t) ** 0.5 * np.sqrt(np.cosh(np.arccosh(27 * x * x / 16 * (2 * t) ** -1.5) / 3))
            expected = ((a + np.sqrt(2 * x / a - a * a)) / 2) ** 3
            assert prox.lq([x], t, q=2 / 3)[0] == pytest.approx(expected, rel=1e-9)


def test_matrices() -> None:
    r = np.random.default_rng(11)
    for m, n in ((1, 1), (3, 5), (6, 2), (20, 20), (0, 4), (4, 0)):
        x, t = r.standard_normal((m, n)), 0.7
        u, s, vt = np.linalg.svd(x, full_matrices=False) if min(m, n) else (np.zeros((m, 0)), np.zeros(0), np.zeros((0, n)))
        assert np.allclose(prox.nuclear(x, t), u * np.maximum(s - t, 0) @ vt, atol=1e-13)
        for k in (0, 1, 2, 50):
            assert np.allclose(prox.rank(x, k), u[:, :k] * s[:k] @ vt[:k], atol=1e-13)
        assert np.allclose(prox.rank(prox.rank(x, 1), 1), prox.rank(x, 1), atol=1e-13)
    assert np.array_equal(prox.rank(x, 9), x)


# ---------------------------------------------------------------- equivariances and limits


@every
def test_permutations_and_signs(row: Row) -> None:
    r = np.random.default_rng(12)
    for _ in range(30):
        n = sizes(r)
        o, x = row.options(r, n), r.standard_normal(n)
        z = row(x, o)
        if row.permutes:
            order = r.permutation(n)
            moved = {k: v[order] if isinstance(v, np.ndarray) and not row.ranks else v for k, v in o.items()}
            assert np.abs(row(x[order], moved) - z[order]).max() <= 1e-13 * (1 + abs(x).max())
        if row.flips:
            signs = r.choice([-1.0, 1.0], n)
            assert np.array_equal(row(signs * x, o), signs * z)
        if row.name in ("total_variation", "fused"):
            assert np.abs(row(x[::-1], o)[::-1] - z).max() <= 1e-13 * (1 + abs(x).max())
            assert np.array_equal(row(-x, o), -z)


@every
def test_strength_zero_and_huge(row: Row) -> None:
    r = np.random.default_rng(13)
    if row.is_set:
        return
    x = r.standard_normal(12)
    o = row.options(r, 12) | {"alpha": 0.0}
    assert np.array_equal(row(x, o), np.maximum(x, 0) if row.name == "nonnegative_l1" else x)
    o |= {"alpha": 1e12}
    if "weights" in o:
        o["weights"] = np.ones(12)
    z = row(x, o)
    if row.name == "total_variation" or o.get("l1_ratio") == 0 and row.name == "fused":
        assert np.abs(z - x.mean()).max() <= 1e-4
    else:
        assert np.abs(z).max() <= 1e-11


@every
def test_empty_one_columns_and_float32(row: Row) -> None:
    r = np.random.default_rng(14)
    if row.name not in ("capped_simplex",):
        assert row(np.zeros(0), row.options(r, 0)).shape == (0,)
    o, x = row.options(r, 9), r.standard_normal((9, 4))
    z = row(x, o)
    assert z.shape == (9, 4)
    for j in range(4):
        assert np.array_equal(z[:, j], row(x[:, j].copy(), o))
    assert np.array_equal(row(np.asfortranarray(x)[::-1][::-1], o), z)
    single = row(x.astype(np.float32), o)
    assert single.dtype == np.float32
    assert np.array_equal(single, row(x.astype(np.float32).astype(np.float64), o).astype(np.float32))


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(row: Row, bad: float) -> None:
    r = np.random.default_rng(15)
    x = r.standard_normal((5, 2))
    x[3, 1] = bad
    with pytest.raises(ValueError, match=r"x\[3, 1\] is (nan|-?inf); all values must be finite"):
        row(x, row.options(r, 5))


def test_ties() -> None:
    assert prox.k_sparse([1.0, -1, 1], 1).tolist() == [1, 0, 0]
    assert prox.l0([np.sqrt(2.0)], 1.0).tolist() == [0]
    assert prox.l1([1.0, -1]).tolist() == [0, 0]
    assert prox.slope([3.0, -3, 1], 1, weights=[2, 1, 0]).tolist() == [1.5, -1.5, 1]
    assert prox.monotone([2.0, 2, 1]).tolist() == pytest.approx([5 / 3] * 3)
    assert prox.total_variation([1.0, 1, 1], 5).tolist() == [1, 1, 1]


def test_magnitudes() -> None:
    """Scaling x and the strength scales z, up to the ends of the range."""
    r = np.random.default_rng(16)
    x = r.standard_normal(30)
    for s in (1e-300, 1e-150, 1e150, 1e290):
        for f in (prox.l1, prox.l2, prox.linf, prox.slope, prox.total_variation):
            assert np.allclose(f(s * x, s * 0.3) / s, f(x, 0.3), rtol=1e-10, atol=1e-12)
        for f in (prox.l1_ball, prox.l2_ball, prox.simplex):
            assert np.allclose(f(s * x, s * 2.0) / s, f(x, 2.0), rtol=1e-10, atol=1e-12)


def test_long_chains() -> None:
    """100 000 entries: linear time, and the sums of a run do not lose digits."""
    r = np.random.default_rng(17)
    x = np.repeat(r.standard_normal(100), 1000) * 10 + r.standard_normal(100_000) + 1e6
    z = prox.total_variation(x, 20.0)
    u = np.cumsum(ld(x) - ld(z))
    assert np.abs(u).max() <= 20 + 1e-6 and abs(u[-1]) <= 1e-6
    jumps = np.flatnonzero(np.diff(z))
    assert 50 < len(jumps) < 2000
    # x - z = t (sign of the jump before - sign of the jump behind): the running sum is -t times the sign of the jump
    assert np.abs(u[jumps] + 20 * np.sign(np.diff(z)[jumps])).max() <= 1e-6


# ---------------------------------------------------------------- refusals, in place


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: prox.l1([1.0], -1), "options->alpha is -1.0; it must be finite and >= 0"),
        (lambda: prox.l1([1.0], step=0), "options->step is 0.0; it must be finite and > 0"),
        (lambda: prox.fused([1.0], l1_ratio=2), r"options->l1_ratio is 2.0; it must be in \[0, 1\]"),
        (lambda: prox.lq([1.0], q=1), r"options->q is 1.0; it must be in \[0.1, 0.95\]"),
        (lambda: prox.scad([1.0], gamma=1), "options->gamma is 1.0; it must be > 1"),
        (lambda: prox.mcp([1.0], gamma=0), "gamma is 0.0; it must be finite and > 0"),
        (lambda: prox.simplex([1.0], -1), "options->radius is -1.0; it must be finite and >= 0"),
        (lambda: prox.capped_simplex([1.0], 2, upper=1), "options->radius is 2.0; it must be at most 1 x upper"),
        (lambda: prox.simplex(np.zeros(0)), "options->radius is 1.0 and x has no rows"),
        (lambda: prox.box([1.0], 2, 1), "options->lower is 2.0 and upper 1.0; they must bound an interval"),
        (lambda: prox.hoyer([1.0], 1.1), r"options->sparsity is 1.1; it must be in \[0, 1\]"),
        (lambda: prox.k_sparse([1.0], -1), "options->k is -1; it must be >= 0"),
        (lambda: prox.slope([1.0, 2], weights=[1, 2]), r"options->weights\[1\] is 2.0 after 1.0; they must not increase"),
        (lambda: prox.l1([1.0], weights=[-1]), r"options->weights\[0\] is -1.0"),
        (lambda: prox.plane([1.0], normal=[np.nan]), r"options->normal\[0\] is nan"),
    ],
)
def test_refusals(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        call()


def test_in_place_and_unknown_kind() -> None:
    r = np.random.default_rng(18)
    x = r.standard_normal((6, 3))
    expected = prox.slope(x, 0.5)
    from unmerge._arrays import output

    options = _ffi.unmerge_prox_options()
    library().unmerge_prox_options_init(ctypes.byref(options), ctypes.sizeof(options))
    options.alpha = 0.5
    memory = output(x)
    error = _ffi.unmerge_error()
    assert library().unmerge_prox(_ffi.UNMERGE_PROX_SLOPE, ctypes.byref(options), memory.pointer, memory.pointer, ctypes.byref(error)) == 0
    assert np.array_equal(x, expected)
    for kind in (0, 32, -1):
        status = library().unmerge_prox(kind, None, memory.pointer, memory.pointer, ctypes.byref(error))
        assert status == _ffi.UNMERGE_E_RANGE and f"kind is {kind};" in error.message.decode()
    assert issubclass(unmerge.InvalidValue, ValueError)
