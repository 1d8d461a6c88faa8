"""Composite problems: against an interior-point solver, against the methods they contain, and against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import unmerge
from scipy import sparse
from unmerge import terms as t

clarabel = pytest.importorskip("clarabel")


# ---------------------------------------------------------------- the oracle: the same problem in cone form


class Model:
    """min 1/2 x'Px + q'x + constant subject to b - Ax in cones; x = w and what the terms add.  y has norm 1 (scale it)."""

    def __init__(self, A: np.ndarray, y: np.ndarray, linear: np.ndarray | None) -> None:
        self.n = self.size = A.shape[1]
        self.G = A.T @ A
        self.cost = [-(A.T @ y) + (0 if linear is None else linear)]
        self.curvature: list[np.ndarray] = []
        self.rows: list[tuple[list[tuple[int, np.ndarray]], np.ndarray, Any]] = []

    def new(self, k: int, cost: Any, curvature: Any = 0.0) -> int:
        at = self.size
        self.size += k
        self.cost.append(np.broadcast_to(np.asarray(cost, float), (k,)))
        self.curvature.append(np.broadcast_to(np.asarray(curvature, float), (k,)))
        return at

    def add(self, parts: list[tuple[int, np.ndarray]], b: np.ndarray, cone: Any) -> None:
        self.rows.append((parts, b, cone))

    def below(self, parts: list[tuple[int, np.ndarray]], b: np.ndarray) -> None:
        if len(b):
            self.add(parts, b, clarabel.NonnegativeConeT(len(b)))

    def solve(self) -> np.ndarray:
        P = sparse.block_diag(
            [sparse.csc_matrix(np.triu(self.G)), *[sparse.diags(c) for c in self.curvature]], format="csc"
        )
        blocks, bs, cones = [], [], []
        for parts, b, cone in self.rows:
            block = np.zeros((len(b), self.size))
            for at, K in parts:
                block[:, at : at + K.shape[1]] += K
            blocks.append(block)
            bs.append(b)
            cones.append(cone)
        s = clarabel.DefaultSettings()
        s.verbose = False
        s.tol_gap_abs = s.tol_gap_rel = s.tol_feas = 1e-13
        s.max_iter = 200
        A = sparse.csc_matrix(np.vstack(blocks)) if blocks else sparse.csc_matrix((0, self.size))
        b = np.concatenate(bs) if bs else np.zeros(0)
        return np.array(clarabel.DefaultSolver(P, np.concatenate(self.cost), A, b, cones, s).solve().x)[: self.n]


Spec = dict[str, Any]


def matrix_of(s: Spec, n: int) -> np.ndarray:
    if "matrix" in s:
        return np.asarray(s["matrix"])
    return np.eye(n)[s["atoms"]] if "atoms" in s else np.eye(n)


def express(m: Model, s: Spec) -> None:
    K = matrix_of(s, m.n)
    k, kind = len(K), s["kind"]
    I, o, one = np.eye(k), np.zeros(k), np.ones(k)
    if kind == "l1":
        a = m.new(k, s["alpha"])
        m.below([(0, K), (a, -I)], o)
        m.below([(0, -K), (a, -I)], o)
    elif kind == "linf":
        a = m.new(1, s["alpha"])
        m.below([(0, K), (a, -np.ones((k, 1)))], o)
        m.below([(0, -K), (a, -np.ones((k, 1)))], o)
    elif kind == "l2squared":
        a = m.new(k, 0, s["alpha"])
        m.add([(0, K), (a, -I)], o, clarabel.ZeroConeT(k))
    elif kind == "huber":  # min over r: alpha (|z - r| + r^2 / (2 gamma))
        r, a = m.new(k, 0, s["alpha"] / s["gamma"]), m.new(k, s["alpha"])
        m.below([(0, K), (r, -I), (a, -I)], o)
        m.below([(0, -K), (r, I), (a, -I)], o)
    elif kind in ("group", "l2ball"):
        if kind == "group":
            a = m.new(1, s["alpha"])
            parts, b = [(a, np.vstack([[[-1.0]], np.zeros((k, 1))]))], np.zeros(k + 1)
        else:
            parts, b = [], np.concatenate([[s["radius"]], o])
        m.add([(0, np.vstack([np.zeros((1, m.n)), -K])), *parts], b, clarabel.SecondOrderConeT(k + 1))
    elif kind == "cone":
        m.add([(0, -K)], o, clarabel.SecondOrderConeT(k))
    elif kind == "box":
        m.below([(0, K)], s["upper"] * one)
        m.below([(0, -K)], -s["lower"] * one)
    elif kind == "nonnegative":
        m.below([(0, -K)], o)
    elif kind == "simplex":
        m.below([(0, -K)], o)
        m.add([(0, one[None] @ K)], np.array([s["total"]]), clarabel.ZeroConeT(1))
    elif kind == "l1ball":
        a = m.new(k, 0)
        m.below([(0, K), (a, -I)], o)
        m.below([(0, -K), (a, -I)], o)
        m.below([(a, one[None])], np.array([s["radius"]]))
    elif kind == "plane":
        m.add([(0, one[None] @ K)], np.array([s["offset"]]), clarabel.ZeroConeT(1))
    elif kind == "halfspace":
        m.below([(0, s["normal"][None] @ K)], np.array([s["offset"]]))
    elif kind == "monotone":
        m.below([(0, -np.diff(I, axis=0) @ K)], np.zeros(k - 1))
    elif kind == "tv":
        D = np.diff(I, axis=0) @ K
        express(m, {"kind": "l1", "alpha": s["alpha"], "matrix": D})
    else:
        raise AssertionError(kind)


CLASSES = {
    "l1": t.L1,
    "linf": t.LInf,
    "l2squared": t.L2Squared,
    "huber": t.Huber,
    "group": t.Group,
    "l2ball": t.L2Ball,
    "cone": t.Cone,
    "box": t.Box,
    "nonnegative": t.Nonnegative,
    "simplex": t.Simplex,
    "l1ball": t.L1Ball,
    "plane": t.Plane,
    "halfspace": t.Halfspace,
    "monotone": t.Monotone,
    "tv": t.TotalVariation,
}


def term_of(s: Spec) -> t.Term:
    return CLASSES[s["kind"]](**{k: v for k, v in s.items() if k != "kind"})


def value(s: Spec, w: np.ndarray) -> tuple[Any, Any]:
    """g(K w) in extended precision, and how far K w is outside where g is a set (relative to its size, at least 1)."""
    z = matrix_of(s, len(w)).astype(np.longdouble) @ w.astype(np.longdouble)
    kind, size = s["kind"], max(1, np.abs(z).max(initial=0))
    norm = lambda v: np.sqrt((v * v).sum())
    if kind == "l1":
        return s["alpha"] * np.abs(z).sum(), 0
    if kind == "linf":
        return s["alpha"] * np.abs(z).max(), 0
    if kind == "l2squared":
        return s["alpha"] / 2 * (z * z).sum(), 0
    if kind == "huber":
        a, c = np.abs(z), s["gamma"]
        return s["alpha"] * np.where(a <= c, a * a / (2 * c), a - c / 2).sum(), 0
    if kind == "group":
        return s["alpha"] * norm(z), 0
    if kind == "tv":
        return s["alpha"] * np.abs(np.diff(z)).sum(), 0
    outside = {
        "l2ball": lambda: norm(z) - s["radius"],
        "cone": lambda: norm(z[1:]) - z[0],
        "box": lambda: max((z - s["upper"]).max(), (s["lower"] - z).max()),
        "nonnegative": lambda: -z.min(),
        "simplex": lambda: max(-z.min(), abs(z.sum() - s["total"])),
        "l1ball": lambda: np.abs(z).sum() - s["radius"],
        "plane": lambda: abs(z.sum() - s["offset"]),
        "halfspace": lambda: (s["normal"] * z).sum() - s["offset"],
        "monotone": lambda: -np.diff(z).min(),
    }[kind]()
    return 0, max(0, outside) / size


def objective(A: np.ndarray, y: np.ndarray, linear: Any, specs: list[Spec], w: np.ndarray) -> tuple[float, float]:
    r = A.astype(np.longdouble) @ w.astype(np.longdouble) - y
    total = (r * r).sum() / 2 + (0 if linear is None else linear @ w.astype(np.longdouble))
    worst = 0.0
    for s in specs:
        g, outside = value(s, w)
        total += g
        worst = max(worst, float(outside))
    return float(total), worst


# ---------------------------------------------------------------- random problems


def sample(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    p = int(rng.integers(n + 5, 4 * n))
    A = rng.standard_normal((p, n)) + rng.choice([0, 1.0]) * rng.standard_normal((p, 1))
    A *= rng.choice([1.0, 1e-2]) ** (rng.random(n))
    w = np.where(rng.random(n) < 0.4, rng.standard_normal(n), 0)
    w[0] = 1
    y = A @ w + 0.3 * np.linalg.norm(A @ w) / np.sqrt(p) * rng.standard_normal(p)
    return A, y / np.linalg.norm(y)


def specs_of(family: str, rng: np.random.Generator, A: np.ndarray, y: np.ndarray) -> list[Spec]:
    n = A.shape[1]
    a = float(np.abs(A.T @ y).max() * 10 ** rng.uniform(-2.5, -0.3))
    D = np.diff(np.eye(n), axis=0)
    ls = np.linalg.lstsq(A, y, rcond=None)[0]
    size = float(np.abs(ls).mean())
    half = rng.permutation(n)[: n // 2].tolist()
    families: dict[str, list[Spec]] = {
        "l1+box": [{"kind": "l1", "alpha": a}, {"kind": "box", "lower": -0.5 * size, "upper": 0.8 * size}],
        "simplex+l2": [{"kind": "simplex", "total": size * 2}, {"kind": "l2squared", "alpha": a}],
        "group+nonnegative": [
            {"kind": "nonnegative"},
            *[{"kind": "group", "alpha": a, "atoms": list(range(i, min(i + 3, n)))} for i in range(0, n, 3)],
        ],
        "l1 with K": [{"kind": "l1", "alpha": a, "matrix": rng.standard_normal((n // 2, n))}, {"kind": "l1", "alpha": a / 3}],
        "tv by K": [{"kind": "l1", "alpha": a, "matrix": D}, {"kind": "nonnegative"}],
        "linf": [{"kind": "linf", "alpha": 3 * a}, {"kind": "l1", "alpha": a / 5, "atoms": half}],
        "cone": [{"kind": "cone", "atoms": half}, {"kind": "l1", "alpha": a}],
        "cone by K": [{"kind": "cone", "matrix": rng.standard_normal((4, n))}],
        "balls": [{"kind": "l2ball", "radius": size}, {"kind": "l1ball", "radius": 2 * size}],
        "affine": [
            {"kind": "plane", "offset": size},
            {"kind": "halfspace", "offset": 0.1 * size, "normal": rng.standard_normal(n)},
            {"kind": "huber", "alpha": a, "gamma": 0.3 * size},
        ],
        "monotone+tv": [{"kind": "monotone", "atoms": sorted(half)}, {"kind": "tv", "alpha": a}],
        "group by K": [
            {"kind": "group", "alpha": a, "matrix": rng.standard_normal((5, n))},
            {"kind": "box", "lower": 0.0, "upper": size},
        ],
    }
    return families[family]


FAMILIES = [
    "l1+box",
    "simplex+l2",
    "group+nonnegative",
    "l1 with K",
    "tv by K",
    "linf",
    "cone",
    "cone by K",
    "balls",
    "affine",
    "monotone+tv",
    "group by K",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_interior_point_finds_nothing_better(family: str) -> None:
    for seed in range(18):  # 216 problems
        rng = np.random.default_rng([seed, FAMILIES.index(family)])
        A, y = sample(rng, int(rng.integers(6, 25)))
        specs = specs_of(family, rng, A, y)
        linear = 0.1 * (A.T @ y) * rng.standard_normal(A.shape[1]) if seed % 3 == 0 else None
        unit = 10.0 ** rng.integers(-3, 4)  # of y and the target sets: nothing may depend on it
        gram = unmerge.Gram(A, y)
        w, report = unmerge.minimise(gram, terms=[term_of(s) for s in specs], linear=linear)
        assert report.converged, (family, seed, report)
        assert max(report.primal, report.dual) == report.violation <= 1e-10
        model = Model(A, y, linear)
        for s in specs:
            express(model, s)
        oracle = model.solve()
        ours, outside = objective(A, y, linear, specs, w)
        theirs, _ = objective(A, y, linear, specs, oracle)
        assert outside <= 1e-9, (family, seed, outside)
        assert ours <= theirs + 1e-9 * max(abs(theirs), 1e-2), (family, seed, ours - theirs)
        # The oracle itself stops a few 1e-9 above its optimum in some problems.
        assert ours >= theirs - 1e-8 * max(abs(theirs), 1e-2), (family, seed, ours - theirs)
        assert abs(report.objective - ours) <= 1e-9 * max(abs(ours), 1e-2), (family, seed)
        # The same problem in other units.
        scaled = [{k: v * unit if k in LENGTHS else v * unit if k == "alpha" and s["kind"] not in SQUARES else v
                   for k, v in s.items()} for s in specs]
        again, _ = unmerge.minimise((A, y * unit), terms=[term_of(s) for s in scaled],
                                    linear=None if linear is None else linear * unit)
        assert np.abs(again / unit - w).max() <= 1e-7 * max(np.abs(w).max(), 1e-3), (family, seed, unit)


LENGTHS = ("lower", "upper", "total", "radius", "offset", "gamma")
SQUARES = ("l2squared",)


# ---------------------------------------------------------------- limits: what has a method of its own


def problem(seed: int, n: int = 30, p: int = 90) -> tuple[unmerge.Gram, float]:
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((p, n)) * 10 ** rng.uniform(-1, 1, n)
    y = A @ np.where(rng.random(n) < 0.3, rng.standard_normal(n), 0) + rng.standard_normal(p)
    return unmerge.Gram(A, y), float(np.abs(A.T @ y).max())


@pytest.mark.parametrize("engine", ["admm", "fista"])
def test_limits(engine: str) -> None:
    for seed in range(10):
        gram, top = problem(seed)
        n, alpha = gram.atoms, 0.05 * top
        pairs = {
            "lasso": (t.L1(alpha), unmerge.lasso(gram, alpha=alpha)),
            "positive": (t.NonnegativeL1(alpha), unmerge.lasso(gram, alpha=alpha, positive=True)),
            "elastic net": (t.ElasticNet(alpha, l1_ratio=0.4), unmerge.elastic_net(gram, alpha=alpha, l1_ratio=0.4)),
            "bvls": (t.Box(-0.1, np.linspace(0.1, 1, n)), unmerge.bvls(gram, lower=np.full(n, -0.1), upper=np.linspace(0.1, 1, n))),
            "nnls": (t.Nonnegative(), unmerge.nnls(gram)),
            "simplex": (t.Simplex(0.5), unmerge.simplex(gram, total=0.5)),
            "capped": (t.Simplex(0.5, upper=0.1), unmerge.simplex(gram, total=0.5, upper=np.full(n, 0.1))),
            "tau": (t.L1Ball(0.7), unmerge.lasso_tau(gram, tau=0.7)),
            "ridge": (t.L2Squared(alpha), unmerge.ridge(gram, alpha=alpha)),
            "slope": (t.Slope(alpha, weights=np.linspace(2, 1, n)), unmerge.slope(gram, alpha=alpha, weights=np.linspace(2, 1, n))),
            "fused": (t.Fused(alpha, l1_ratio=0.3), unmerge.fused_lasso(gram, alpha=alpha, l1_ratio=0.3)),
            "least squares": ([], unmerge.ridge(gram, alpha=0)),
        }
        for name, (term, (expected, reference)) in pairs.items():
            w, report = unmerge.minimise(gram, terms=term, engine=engine, max_iter=50000)
            assert report.converged, (name, seed, report)
            assert np.abs(w - expected).max() <= 1e-9 * max(1, np.abs(expected).max()), (name, seed)
            assert report.objective == pytest.approx(reference.objective, rel=1e-9)
            assert np.count_nonzero(w) == np.count_nonzero(expected), (name, seed)


def test_without_polish_the_iteration_gets_there_too() -> None:
    gram, top = problem(3)
    expected, _ = unmerge.lasso(gram, alpha=0.1 * top)
    for engine in ("admm", "fista"):
        w, report = unmerge.minimise(gram, terms=t.L1(0.1 * top), engine=engine, polish=False, max_iter=200000)
        assert report.converged
        assert np.abs(w - expected).max() <= 1e-6 * np.abs(expected).max()


def test_gap_bounds_the_distance_from_the_optimum() -> None:
    gram, top = problem(5)
    best = unmerge.lasso(gram, alpha=0.1 * top)[1].objective
    for steps in (5, 10, 20):
        _, report = unmerge.minimise(gram, terms=t.L1(0.1 * top), polish=False, max_iter=steps)
        assert report.outcome == "iteration limit" and report.duality_gap > 0
        assert -1e-12 * best <= report.objective - best <= report.duality_gap + 1e-12 * best


def test_dependent_atoms_have_the_gap_of_norms_or_none() -> None:
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((20, 40)), rng.standard_normal(20)
    _, report = unmerge.minimise((A, y), terms=t.L1(0.5))
    _, reference = unmerge.lasso((A, y), alpha=0.5)
    assert report.converged
    assert report.objective == pytest.approx(reference.objective, rel=1e-9)
    assert report.duality_gap == pytest.approx(reference.duality_gap, abs=1e-12 * reference.objective)
    _, report = unmerge.minimise((A, y), terms=[t.L1(0.5), t.Box(-1, 1)])
    assert report.converged and np.isnan(report.duality_gap) and np.isnan(report.df)


def test_nearly_dependent_atoms() -> None:
    """Newton on a wrong face leads far away here, where relative residuals look small; it must not be believed."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(5, 40))
        U, _, V = np.linalg.svd(rng.standard_normal((3 * n, n)), full_matrices=False)
        A = U @ np.diag(np.logspace(1, 1 - rng.uniform(2, 4), n)) @ V
        y = A @ np.where(rng.random(n) < 0.3, rng.standard_normal(n), 0) + 0.1 * rng.standard_normal(3 * n)
        alpha = float(np.abs(A.T @ y).max()) * 10 ** rng.uniform(-3, -0.3)
        _, reference = unmerge.lasso((A, y), alpha=alpha)
        _, report = unmerge.minimise((A, y), terms=t.L1(alpha))
        assert report.converged, (seed, report)
        assert report.objective == pytest.approx(reference.objective, rel=1e-9), seed


def test_a_penalty_that_wins_leaves_the_null_space() -> None:
    """alpha beyond every multiplier: K w = 0, and w is least squares on the null space of K, whatever K is scaled by."""
    rng = np.random.default_rng(5)
    A, y = rng.standard_normal((40, 12)), rng.standard_normal(40)
    for scale in (1e-6, 1, 1e6):
        K = scale * rng.standard_normal((5, 12))
        null = np.linalg.svd(K)[2][5:].T
        expected = null @ np.linalg.lstsq(A @ null, y, rcond=None)[0]
        for term in (t.L1(1e3 / scale, matrix=K), t.Group(1e3 / scale, matrix=K), t.LInf(1e4 / scale, matrix=K)):
            w, report = unmerge.minimise((A, y), terms=term)
            assert report.converged, (scale, report)
            assert np.abs(w - expected).max() <= 1e-9, scale
    w, report = unmerge.minimise((A, y), terms=t.L1(1e3, matrix=rng.standard_normal((30, 12))))
    assert report.converged and np.abs(w).max() <= 1e-10


# ---------------------------------------------------------------- edges


def test_sets_without_a_common_point_are_refused() -> None:
    rng = np.random.default_rng(1)
    gram = unmerge.Gram(rng.standard_normal((30, 6)), rng.standard_normal(30))
    empty = [
        [t.Box(0, 1), t.Plane(7)],
        [t.Nonnegative(), t.Halfspace(-1)],
        [t.L2Ball(1), t.Box(2, 3)],
        [t.Simplex(1), t.Box(0.5, 1, atoms=[0, 1, 2])],
        [t.L1(0.1), t.Plane(1), t.Plane(2)],
        [t.Cone(), t.Box(-2, -1, atoms=[0])],
        [t.Nonnegative(), t.Box(-np.inf, -1, matrix=np.ones((1, 6)))],
    ]
    for sets in empty:
        with pytest.raises(unmerge.Infeasible, match="no point in common"):
            unmerge.minimise(gram, terms=sets)


def test_callback_is_a_term() -> None:
    gram, top = problem(7)
    alpha = 0.1 * top
    expected, _ = unmerge.lasso(gram, alpha=alpha)
    soft = t.Prox(lambda v, step: np.sign(v) * np.maximum(np.abs(v) - step * alpha, 0))
    for engine in ("admm", "fista"):
        w, report = unmerge.minimise(gram, terms=soft, engine=engine, max_iter=200000, tol=1e-9)
        assert report.converged and np.isnan(report.objective)
        assert np.abs(w - expected).max() <= 1e-5 * np.abs(expected).max()

    def broken(v: np.ndarray, step: float) -> np.ndarray:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        unmerge.minimise(gram, terms=t.Prox(broken))
    with pytest.raises(unmerge.InvalidValue, match="shape"):
        unmerge.minimise(gram, terms=t.Prox(lambda v, step: v[:-1]))
    with pytest.raises(unmerge.UnmergeError, match="finite"):
        unmerge.minimise(gram, terms=t.Prox(lambda v, step: v * np.nan))


def test_degenerate_data() -> None:
    rng = np.random.default_rng(2)
    A = rng.standard_normal((20, 5))
    A[:, 2] = 0
    y = rng.standard_normal(20)
    w, report = unmerge.minimise((A, y), terms=t.L1(0.1))
    assert w[2] == 0 and "zero_atom" in report.flags
    w, report = unmerge.minimise((A, y))  # nothing pulls the zero atom anywhere
    assert w[2] == 0 and report.converged
    w, report = unmerge.minimise((A, 0 * y), terms=t.L1(0.1))
    assert not w.any() and report.converged and report.objective == 0
    w, report = unmerge.minimise((A, 0 * y), terms=t.Simplex(1))
    assert report.converged and w.sum() == pytest.approx(1, abs=1e-12)
    w, _ = unmerge.minimise((np.zeros((4, 3)), np.zeros(4)), terms=t.Box(1, 2))
    assert (w >= 1).all() and (w <= 2).all()
    Y = rng.standard_normal((20, 3))
    w, _ = unmerge.minimise((A, Y), terms=t.L1(0.1))
    for k in range(3):
        one, _ = unmerge.minimise((A, Y[:, k]), terms=t.L1(0.1))
        assert np.allclose(w[:, k], one, rtol=0, atol=1e-14)
    again, _ = unmerge.minimise((A, Y), terms=t.L1(0.1), threads=2)
    assert np.array_equal(w, again)
    restarted, report = unmerge.minimise((A, Y), terms=t.L1(0.1), start=w, max_iter=0)
    assert np.allclose(restarted, w, atol=1e-12)


def test_refusals_are_readable() -> None:
    gram, _ = problem(0)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (t.L1(-1), {}, r"terms\[0\].*alpha is -1.0"),
        ([t.L1(1), t.Box(2, 1)], {}, r"terms\[1\].*lower is 2.0"),
        (t.L1(1, atoms=[0, 99]), {}, r"terms\[0\]\.atoms\[1\] is 99"),
        (t.L1(1, atoms=[3, 3]), {}, "3 again"),
        (t.L1(1, matrix=np.ones((2, 3))), {}, "matrix is 2 x 3, expected 30 columns"),
        (t.L1(1, weights=[1.0]), {}, r"weights is 1, expected 30"),
        (t.Box(np.zeros(30), -np.ones(30)), {}, r"lower\[0\]"),
        ([t.L1(1), t.L1(1)], {"engine": "fista"}, "disjoint atoms"),
        (t.L1(1, matrix=np.eye(30)), {"engine": "fista"}, "matrix"),
        (t.L1(1), {"engine": "newton"}, "engine is 'newton'"),
        (t.L1(1), {"rho": -1}, "rho is -1.0"),
        (t.L1(1), {"relaxation": 2}, "relaxation is 2.0"),
        (t.L1(1), {"linear": np.ones(3)}, "linear is 3, expected 30"),
        ("l1", {}, r"terms\[0\] is a str"),
        (3, {}, "terms is a int"),
    ]
    for term, options, text in cases:
        with pytest.raises(unmerge.UnmergeError, match=text):
            unmerge.minimise(gram, terms=term, **options)
    with pytest.raises(unmerge.InvalidValue, match="give one of them"):
        t.L1(1, atoms=[0], matrix=np.eye(3))


# ---------------------------------------------------------------- machines that agree


@pytest.mark.parametrize("targets", [1, 2])
def test_consensus_equals_the_single_gram(targets: int) -> None:
    rng = np.random.default_rng(4)
    A = rng.standard_normal((120, 12))
    Y = A @ rng.standard_normal((12, targets)) + rng.standard_normal((120, targets))
    y = Y[:, 0] if targets == 1 else Y
    terms = [t.L1(8.0), t.Box(-0.4, 0.4)]
    expected, _ = unmerge.minimise((A, y), terms=terms)
    parts = [unmerge.Gram(A[i::3], y[i::3]) for i in range(3)]
    w, rounds = unmerge.Consensus(3, rho=40.0, terms=terms).solve(parts, tol=1e-11, max_iter=2000)
    assert rounds < 2000
    assert np.abs(w - expected).max() <= 1e-9
    # One local step is what it says.
    z, u = rng.standard_normal(expected.shape), rng.standard_normal(expected.shape)
    x = unmerge.Consensus(3, rho=2.0).local(parts[0], z, u)
    B = A[0::3]
    assert np.allclose(B.T @ (B @ x - y[0::3]) + 2.0 * (x - z + u), 0, atol=1e-10)
    with pytest.raises(unmerge.InvalidValue, match="rho is 0"):
        unmerge.Consensus(3, rho=0)


# ---------------------------------------------------------------- degrees of freedom


def test_df_is_the_divergence_of_the_fit() -> None:
    """Central differences of A w(y) in every entry of y, at problems whose face stays."""
    rng = np.random.default_rng(20)
    p, n, h = 30, 8, 1e-5
    A = rng.standard_normal((p, n))
    y = A @ rng.standard_normal(n) + 0.5 * rng.standard_normal(p)
    y /= np.linalg.norm(y)
    a = float(np.abs(A.T @ y).max())
    cases: dict[str, Any] = {
        "l1": t.L1(0.2 * a),
        "box": t.Box(-0.02, 0.03),
        "simplex": t.Simplex(0.3),
        "l1 ball": t.L1Ball(0.1),
        "l2 ball": t.L2Ball(0.05),
        "plane + nonnegative": [t.Plane(0.2), t.Nonnegative()],
        "tv": t.TotalVariation(0.1 * a),
        "l1 of Kw": t.L1(0.1 * a, matrix=np.diff(np.eye(n), axis=0)),
        "linf": t.LInf(0.5 * a),
        "ridge": t.L2Squared(3.0),
        "groups": [t.Group(0.3 * a, atoms=range(0, 4)), t.Group(0.3 * a, atoms=range(4, 8))],
        "sparse group": t.SparseGroup(0.3 * a, l1_ratio=0.5),
        "elastic net + plane": [t.ElasticNet(0.2 * a, l1_ratio=0.5), t.Plane(0.1)],
        "huber": t.Huber(0.3 * a, gamma=0.02),
        "nothing": (),
    }
    for name, terms in cases.items():
        fit = lambda target: A @ unmerge.minimise((A, target), terms=terms, tol=1e-13)[0]
        _, report = unmerge.minimise((A, y), terms=terms, tol=1e-12)
        steps = h * np.eye(p)
        divergence = sum((fit(y + e)[i] - fit(y - e)[i]) / (2 * h) for i, e in enumerate(steps))
        assert report.df == pytest.approx(divergence, abs=1e-4), name
    gram = unmerge.Gram(A, y)
    assert unmerge.minimise(gram, terms=t.L1(0.2 * a))[1].df == unmerge.lasso(gram, alpha=0.2 * a)[1].df
    ridge = unmerge.ridge(gram, alpha=3.0)[1].df
    assert unmerge.minimise(gram, terms=t.L2Squared(3.0))[1].df == pytest.approx(ridge, rel=1e-9)
    soft = t.Prox(lambda v, step: np.sign(v) * np.maximum(np.abs(v) - step, 0))
    assert np.isnan(unmerge.minimise(gram, terms=soft, tol=1e-6)[1].df)
