"""Recipes and replay: every merge rule restated in NumPy from its definition, compared bit by bit.

R(x) is x rounded to the type the tool computes in; everything else is float32.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import unmerge
from unmerge import _ffi
from unmerge._library import call, library, prepared

F32, F16, BF16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
CODES = {F32: _ffi.UNMERGE_F32, F16: _ffi.UNMERGE_F16, BF16: _ffi.UNMERGE_BF16}
METHODS = {
    name: getattr(_ffi, f"UNMERGE_MERGE_{name.upper()}")
    for name in (
        "linear task_arithmetic ties breadcrumbs breadcrumbs_ties model_stock slerp nuslerp "
        "dare_linear dare_ties della_linear della adapter_cat"
    ).split()
}
TYPES = [(BF16, BF16, BF16), (F16, F16, F16), (F32, F32, F32), (BF16, F32, BF16), (F32, BF16, BF16), (F32, F32, F16)]
WEIGHTS = [0.6, 0.35, -0.2, 0.45]
DENSITIES = [0.3, 0.5, 0.75, 1.0]


# ---------------------------------------------------------------- the library, called through its C interface


class Problem:
    """A base, task models (or factors) and the two operators made of them."""

    def __init__(self, base: np.ndarray, models: Sequence[Any]) -> None:
        self.base, self.models = base, models
        self.atoms = self.operator()
        for j, model in enumerate(models):
            self.atoms.add_column(str(j))
            if isinstance(model, tuple):
                self.atoms.set_lora("m", str(j), *model)
            elif model is not None:
                self.atoms.set_dense("m", str(j), model, base=base)

    def operator(self) -> unmerge.Operator:
        op = unmerge.Operator()
        op.add_module("m", *self.base.shape)
        return op

    def target(self, values: np.ndarray) -> unmerge.Operator:
        op = self.operator()
        op.add_column("target")
        op.set_dense("m", "target", values, base=self.base)
        return op

    def recipe(self, method: str, types: tuple[np.dtype, np.dtype, np.dtype], **options: Any) -> Any:
        """Arrays stay alive as attributes of the struct."""
        options.setdefault("weights", WEIGHTS[: len(self.models)])
        arrays = {k: (ctypes.c_double * len(options[k]))(*options.pop(k)) for k in ("weights", "densities") if k in options}
        r = prepared(
            _ffi.unmerge_recipe, method=METHODS[method], dtype=CODES[types[1]], out_dtype=CODES[types[2]], **options
        )
        for name, array in arrays.items():
            setattr(r, name, array)
        return r

    def merge(self, recipe: Any, threads: int = 1) -> np.ndarray:
        out = np.full(self.base.shape, np.nan, np.float32)
        view = _ffi.unmerge_view(out.ctypes.data, _ffi.UNMERGE_F32, 0, out.shape, out.strides)
        run = prepared(_ffi.unmerge_run, threads=threads)
        base = self.target(self.base)
        call(
            "merge", self.atoms._handle, base._handle, ctypes.byref(recipe), ctypes.byref(run), 0, ctypes.byref(view)
        )
        return out

    def replay(self, recipe: Any, values: np.ndarray, threads: int = 1) -> Any:
        reports = (_ffi.unmerge_replay_report * 2)()
        library().unmerge_replay_report_init(ctypes.byref(reports[0]), ctypes.sizeof(reports[0]))
        run = prepared(_ffi.unmerge_run, threads=threads)
        target = self.target(values)
        call("replay", self.atoms._handle, target._handle, ctypes.byref(recipe), ctypes.byref(run), reports)
        assert all(getattr(reports[0], f) == getattr(reports[1], f) for f, _ in reports[0]._fields_)
        return reports[1]


def make(store: np.dtype, shape: tuple[int, int], k: int = 4, seed: int = 0, step: float = 0.01) -> Problem:
    rng = np.random.default_rng(seed)
    base = (0.03 * rng.standard_normal(shape)).astype(store)
    return Problem(
        base,
        [(base.astype(F32) + np.float32(step * (1 + j)) * rng.standard_normal(shape, F32)).astype(store) for j in range(k)],
    )


# ---------------------------------------------------------------- the definitions


class Arithmetic:
    """Numbers as the tool holds them."""

    def __init__(self, types: tuple[np.dtype, np.dtype, np.dtype], p: Problem) -> None:
        self.store, self.dtype, self.out = types
        self.base = self.R(p.base)
        self.models = [self.R(m) for m in p.models]
        self.vectors = [self.R(m - self.base) for m in self.models]

    def R(self, x: Any) -> np.ndarray:
        return np.asarray(x, F32).astype(self.dtype).astype(F32)

    def stored(self, x: np.ndarray) -> np.ndarray:
        return self.R(x).astype(self.out).astype(F32)

    def weights(self, w: Sequence[float]) -> list[np.float32]:
        return [np.float32(self.R(x)) for x in w]

    def combine(
        self,
        vectors: Sequence[np.ndarray],
        weights: Sequence[float],
        elected: str | None,
        normalize: bool,
        scale: float = 1,
        base: bool = True,
    ) -> np.ndarray:
        """b + lambda * sum of w_j d_j / divisor, over all terms or those with the elected sign."""
        R, w = self.R, self.weights(weights)
        terms = [R(d * c) for d, c in zip(vectors, w)]
        zero = np.zeros_like(self.base)
        if elected is None:
            total, divisor = R(sum(terms, zero)), R(lanes(w))
            divisor = np.float32(1) if abs(divisor) < 1e-8 else divisor
        else:
            votes = R(sum(terms, zero)) if elected == "sum" else sum((np.sign(t) for t in terms), zero)
            agree = [np.where(votes >= 0, t > 0, t < 0) for t in terms]
            total = R(sum((np.where(a, t, np.float32(0)) for a, t in zip(agree, terms)), zero))
            divisor = R(sum((np.where(a, c, np.float32(0)) for a, c in zip(agree, w)), zero))
            divisor = np.where(divisor == 0, np.float32(1), divisor)
        if normalize:
            total = R(total / divisor)
        if scale != 1:
            total = R(total * np.float32(scale))
        return R(self.base + total) if base else total


def lanes(w: Sequence[np.float32]) -> np.float32:
    """Four partial sums, what is left over goes to the first."""
    whole = len(w) // 4 * 4
    part = [np.float32(0)] * 4
    for i in range(whole):
        part[i % 4] = part[i % 4] + w[i]
    for i in range(whole, len(w)):
        part[0] = part[0] + w[i]
    return ((part[0] + part[1]) + part[2]) + part[3]


def keep(x: np.ndarray, first: int, count: int) -> np.ndarray:
    """The magnitudes of rank first .. first + count - 1; among equals at a bound the lower index."""
    a = np.abs(x).reshape(-1)
    if count <= 0:
        return np.zeros_like(x)
    s = np.sort(a)
    low, high = s[first], s[first + count - 1]
    if low == high:
        kept = np.flatnonzero(a == low)[:count]
    else:
        bottom, top = np.flatnonzero(a == low), np.flatnonzero(a == high)
        n_low = int((s[first : first + count] == low).sum())
        n_high = int((s[first : first + count] == high).sum())
        kept = np.concatenate([np.flatnonzero((a > low) & (a < high)), bottom[:n_low], top[:n_high]])
    mask = np.zeros(a.size, bool)
    mask[kept] = True
    return np.where(mask.reshape(x.shape), x, np.float32(0))


def largest(x: np.ndarray, density: float) -> np.ndarray:
    n = x.size
    if density >= 1:
        return x
    k = max(1, int(density * n)) if density > 0 else 0
    return keep(x, n - k, k)


def middle(x: np.ndarray, density: float, gamma: float) -> np.ndarray:
    n = x.size
    if density >= 1:
        return x
    k, top = int(density * n), int(gamma * n)
    return keep(x, max(0, n - k - top), k)


def check(p: Problem, recipe: Any, expected: np.ndarray, types: tuple[np.dtype, np.dtype, np.dtype]) -> None:
    """The merged weights are the expected ones, for any number of threads, and replay says so."""
    merged = p.merge(recipe)
    assert np.array_equal(merged, expected)
    assert np.array_equal(p.merge(recipe, threads=3), merged)
    r = p.replay(recipe, expected.astype(types[2]), threads=2)
    assert (r.entries, r.equal, r.near, r.consistent, r.tied) == (expected.size,) * 4 + (0,)
    assert (r.squared_difference, r.largest) == (0, 0)
    assert r.chance == 0


# ---------------------------------------------------------------- deterministic rules

SHAPES = [(37, 53), (300, 1), (1, 200), (1, 1), (2, 40_000)]


@pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(d.name for d in t))
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_task_vectors(types: tuple[np.dtype, np.dtype, np.dtype], shape: tuple[int, int]) -> None:
    p = make(types[0], shape)
    a = Arithmetic(types, p)
    check(p, p.recipe("task_arithmetic", types), a.stored(a.combine(a.vectors, WEIGHTS, None, False)), types)
    check(
        p,
        p.recipe("task_arithmetic", types, normalize=1, lambda_=0.7),
        a.stored(a.combine(a.vectors, WEIGHTS, None, True, 0.7)),
        types,
    )


@pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(d.name for d in t))
@pytest.mark.parametrize("shape", SHAPES)
def test_selections_by_magnitude(types: tuple[np.dtype, np.dtype, np.dtype], shape: tuple[int, int]) -> None:
    p = make(types[0], shape, seed=3)
    a = Arithmetic(types, p)
    big = [largest(v, d) for v, d in zip(a.vectors, DENSITIES)]
    mid = [middle(v, d, 0.05) for v, d in zip(a.vectors, DENSITIES)]
    options: dict[str, Any] = {"densities": DENSITIES}
    for elected, code in (("sum", _ffi.UNMERGE_CONSENSUS_SUM), ("count", _ffi.UNMERGE_CONSENSUS_COUNT)):
        for normalize in (0, 1):
            r = p.recipe("ties", types, normalize=normalize, consensus=code, **options)
            check(p, r, a.stored(a.combine(big, WEIGHTS, elected, bool(normalize))), types)
    check(p, p.recipe("ties", types, **options), a.stored(a.combine(big, WEIGHTS, "sum", True)), types)
    check(p, p.recipe("breadcrumbs", types, gamma=0.05, **options), a.stored(a.combine(mid, WEIGHTS, None, False)), types)
    check(
        p, p.recipe("breadcrumbs_ties", types, gamma=0.05, **options), a.stored(a.combine(mid, WEIGHTS, "sum", False)), types
    )


@pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(d.name for d in t))
@pytest.mark.parametrize("base_weight", [0.0, 0.25])
def test_linear(types: tuple[np.dtype, np.dtype, np.dtype], base_weight: float) -> None:
    p = make(types[0], (37, 53), seed=5)
    a = Arithmetic(types, p)
    models = ([a.base] if base_weight else []) + a.models
    given = ([base_weight] if base_weight else []) + WEIGHTS
    w = [np.float32(x) for x in given]
    total = np.zeros_like(a.base)
    for m, c in zip(models, w):  # fused: the product is not rounded
        total = (m.astype(np.longdouble) * np.longdouble(c) + total.astype(np.longdouble)).astype(F32)
    check(p, p.recipe("linear", types, base_weight=base_weight, normalize=0), a.stored(total), types)
    check(p, p.recipe("linear", types, base_weight=base_weight), a.stored(total / lanes(w)), types)
    if not base_weight:
        zero = Arithmetic(types, p)
        zero.base = np.zeros_like(a.base)
        stacked = zero.combine(models, given, None, True, base=False)
        check(p, p.recipe("linear", types, stacked=1), a.stored(stacked), types)


@pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(d.name for d in t))
def test_model_stock(types: tuple[np.dtype, np.dtype, np.dtype]) -> None:
    p = make(types[0], (37, 53), k=3, seed=6)
    a, k = Arithmetic(types, p), 3
    R = a.R
    cosines = []
    for u, v in itertools.combinations(a.vectors, 2):
        norms = R(R(np.sqrt(np.sum(u.astype(float) ** 2))) * R(np.sqrt(np.sum(v.astype(float) ** 2))))
        cosines.append(np.float32(R(R(np.sum(R(u * v).astype(float))) / norms)))
    c = R(R(lanes(cosines)) / np.float32(len(cosines)))
    t = R(R(np.float32(k) * c) / R(1 + R(np.float32(k - 1) * c)))
    mean = a.models[0]
    for m in a.models[1:]:
        mean = R(mean + m)
    mean = R(mean / np.float32(k))
    expected = a.stored(R(R(t * mean) + R(R(1 - t) * a.base)))
    check(p, p.recipe("model_stock", types, weights=[1, 1, 1]), expected, types)


@pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(d.name for d in t))
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(types: tuple[np.dtype, np.dtype, np.dtype], k: int, t: float) -> None:
    """A line between models that are close; on the arc, the end points."""
    p = make(types[0], (37, 53), k=k, seed=7, step=1e-4)
    a = Arithmetic(types, p)
    u, v = ([a.base] + a.models)[-2:]
    expected = a.stored((np.float32(1) - np.float32(t)) * u + np.float32(t) * v)
    check(p, p.recipe("slerp", types, weights=[1.0] * k, t=t), expected, types)


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_arcs(method: str) -> None:
    """Far from the line: the textbook's formula in double, to the accuracy of float32."""
    types = (F32, F32, F32)
    p = make(F32, (37, 53), k=2, seed=8, step=0.05)
    u, v = (m.astype(float) - (p.base if method == "nuslerp" else 0) for m in p.models)
    theta = np.arccos(np.sum(u * v) / np.linalg.norm(u) / np.linalg.norm(v))
    expected = (np.sin(0.3 * theta) * u + np.sin(0.7 * theta) * v) / np.sin(theta)
    expected += p.base if method == "nuslerp" else 0
    merged = p.merge(p.recipe(method, types, weights=[0.3, 0.7], t=0.7))
    assert np.allclose(merged, expected, rtol=1e-5, atol=1e-7)


def test_equal_magnitudes_count_either_way() -> None:
    """Other choices among equal magnitudes at a threshold, as an unstable sort makes them, are not held against a recipe."""
    types = (BF16, BF16, BF16)
    p = make(BF16, (60, 70), k=3, seed=9)
    a = Arithmetic(types, p)
    flip = [np.flip(largest(np.flip(v), d)) for v, d in zip(a.vectors, DENSITIES)]  # the higher index stays
    expected = a.stored(a.combine(flip, WEIGHTS[:3], "sum", True))
    recipe = p.recipe("ties", types, densities=DENSITIES[:3])
    assert not np.array_equal(p.merge(recipe), expected)
    r = p.replay(recipe, expected.astype(BF16))
    assert r.equal == r.consistent == r.entries
    assert 0 < r.tied < 0.2 * r.entries
    wrong = p.replay(p.recipe("ties", types, densities=[0.5, 0.5, 0.5]), expected.astype(BF16))
    assert wrong.equal < 0.9 * wrong.entries


def test_what_is_counted() -> None:
    types = (BF16, BF16, BF16)
    p = make(BF16, (8, 16))
    recipe = p.recipe("task_arithmetic", types)
    exact = p.merge(recipe).astype(BF16)
    values = exact.copy()
    bits = values.view(np.uint16)
    bits[0, 0] += 1  # one unit in the last place
    bits[1, 1] += 3
    r = p.replay(recipe, values)
    assert (r.entries, r.equal, r.near, r.largest) == (128, 126, 127, 3)
    assert r.squared_difference == np.sum((values.astype(float) - exact.astype(float)) ** 2)


# ---------------------------------------------------------------- factors: three histories of a task model


@pytest.mark.parametrize("store", [BF16, F16, F32], ids=lambda d: d.name)
@pytest.mark.parametrize("history", [_ffi.UNMERGE_TASK_EXACT, _ffi.UNMERGE_TASK_STORED, _ffi.UNMERGE_TASK_PRODUCT])
def test_histories_of_factors(store: np.dtype, history: int) -> None:
    """Small integers: the product is exact in whatever order it is summed."""
    rng = np.random.default_rng(10)
    base = (0.03 * rng.standard_normal((40, 30))).astype(store)
    factors = [
        (rng.integers(-3, 4, (40, 5)).astype(F32) / 64, rng.integers(-3, 4, (5, 30)).astype(F32) / 64, 0.3) for _ in range(3)
    ]
    p = Problem(base, factors)
    types = (store, F32, store)
    b = base.astype(F32)

    def R(x: np.ndarray) -> np.ndarray:
        return x.astype(store).astype(F32)

    vectors = []
    for B, A, scale in factors:
        delta = (B @ A) * np.float32(scale)
        if history == _ffi.UNMERGE_TASK_PRODUCT:
            delta = R(delta)
        vectors.append(delta if history == _ffi.UNMERGE_TASK_EXACT else R(b + delta) - b)
    a = Arithmetic(types, Problem(base, [base]))
    expected = a.stored(a.combine(vectors, WEIGHTS[:3], None, False))
    check(p, p.recipe("task_arithmetic", types, task_rounding=history), expected, types)


@pytest.mark.parametrize("store", [BF16, F16], ids=lambda d: d.name)
def test_adapters_joined_to_one(store: np.dtype) -> None:
    """Its factors, their product and the sum are rounded.  One term each: no order of summation."""
    rng = np.random.default_rng(16)
    base = (0.03 * rng.standard_normal((40, 30))).astype(store)
    factors = [(rng.standard_normal((40, 1), F32), rng.standard_normal((1, 30), F32), 0.3) for _ in range(2)]
    p = Problem(base, factors)

    def R(x: np.ndarray) -> np.ndarray:
        return x.astype(store).astype(F32)

    delta = sum(
        R(B) * R(A * np.float32(w) * np.float32(scale)) for (B, A, scale), w in zip(factors, WEIGHTS)
    )  # exact products of short numbers
    expected = R(base.astype(F32) + R(np.asarray(delta)))
    check(p, p.recipe("adapter_cat", (store, store, store)), expected, (store, store, store))
    dense = make(BF16, (5, 6))
    with pytest.raises(unmerge.UnmergeError, match="factors only"):
        dense.merge(dense.recipe("adapter_cat", (BF16, BF16, BF16)))


def test_an_atom_without_the_module_is_the_base() -> None:
    types = (BF16, BF16, BF16)
    p = make(BF16, (20, 30), k=3)
    q = Problem(p.base, [p.models[0], None, p.models[2]])
    same = Problem(p.base, [p.models[0], p.base, p.models[2]])
    for method in ("linear", "task_arithmetic", "ties", "model_stock"):
        assert np.array_equal(q.merge(q.recipe(method, types)), same.merge(same.recipe(method, types)))


def test_weights_per_module_and_strides() -> None:
    """weights[m * stride + j]; an atom with weight 0 takes no part."""
    types = (BF16, BF16, BF16)
    p = make(BF16, (20, 30), k=2)
    one = Problem(p.base, p.models[1:])
    wide = p.recipe("linear", types, weights=[0.0, 0.5, 99.0], weights_stride=3)
    assert np.array_equal(p.merge(wide), one.merge(one.recipe("linear", types, weights=[0.5])))


# ---------------------------------------------------------------- random rules


def drawn(a: Arithmetic, densities: Sequence[float], epsilon: float, rescale: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = []
    for v, q in zip(a.vectors, densities):
        rank = np.argsort(np.argsort(np.abs(v), axis=1), axis=1) / (v.shape[1] - 1)
        kept = np.where(rng.random(v.shape) < q + epsilon * (2 * rank - 1), v, np.float32(0))
        if rescale == _ffi.UNMERGE_RESCALE_DENSITY and q < 1:
            kept = a.R(kept / np.float32(q))
        if rescale == _ffi.UNMERGE_RESCALE_L1 and q < 1:
            before, after = (a.R(np.sum(np.abs(x).astype(float))) for x in (v, kept))
            kept = a.R(kept * a.R(before / after))
        vectors.append(kept)
    return vectors


@pytest.mark.parametrize("types", [(BF16, BF16, BF16), (F32, F32, F32), (BF16, F32, BF16)], ids=str)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
@pytest.mark.parametrize("rescale", [_ffi.UNMERGE_RESCALE_NONE, _ffi.UNMERGE_RESCALE_DENSITY, _ffi.UNMERGE_RESCALE_L1])
def test_every_entry_is_consistent_with_some_draw(
    types: tuple[np.dtype, np.dtype, np.dtype], method: str, rescale: int
) -> None:
    p = make(types[0], (120, 150), k=3, seed=11)
    a = Arithmetic(types, p)
    densities = [0.4, 0.6, 0.7]
    normalize = method == "della"
    elected = "sum" if method in ("dare_ties", "della") else None
    epsilon = 0.15 if method.startswith("della") else 0
    expected = a.stored(a.combine(drawn(a, densities, epsilon, rescale, 12), WEIGHTS[:3], elected, normalize))
    r = p.replay(p.recipe(method, types, densities=densities, rescale=rescale), expected.astype(types[2]))
    # The factors of L1 are estimated: in float32 their last bits are not known.
    share = r.consistent / r.entries
    assert share == 1 if rescale != _ffi.UNMERGE_RESCALE_L1 else share > 0.99
    assert r.equal < 0.5 * r.entries
    assert r.chance < 0.5 * r.entries


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_the_mean_over_the_draws(method: str) -> None:
    """All 2^k masks, weighted with their chances."""
    types = (F32, F32, F32)
    p = make(F32, (20, 30), k=3, seed=13)
    a = Arithmetic(types, p)
    densities = [0.4, 0.6, 1.0]
    expected = np.zeros(p.base.shape)
    for bits in itertools.product([0, 1], repeat=2):
        chance = np.prod([q if b else 1 - q for b, q in zip(bits, densities)])
        vectors = [v * np.float32(b / q) for v, b, q in zip(a.vectors, (*bits, 1), densities)]
        expected += chance * a.combine(vectors, WEIGHTS[:3], "sum" if method == "dare_ties" else None, False)
    merged = p.merge(p.recipe(method, types, densities=densities, rescale=_ffi.UNMERGE_RESCALE_DENSITY))
    assert np.allclose(merged, expected, rtol=0, atol=1e-7)


def test_the_mean_of_della_follows_the_ranks() -> None:
    types = (F32, F32, F32)
    p = make(F32, (20, 30), k=1, seed=14)
    delta = p.models[0] - p.base
    rank = np.argsort(np.argsort(np.abs(delta), axis=1), axis=1) / 29
    chance = 0.6 + 0.1 * (2 * rank - 1)
    r = p.recipe("della_linear", types, weights=[1.0], density=0.6, epsilon=0.1, rescale=_ffi.UNMERGE_RESCALE_NONE)
    assert np.allclose(p.merge(r), p.base + chance * delta, rtol=0, atol=1e-7)
    r = p.recipe("della_linear", types, weights=[1.0], density=0.6, epsilon=0.1)
    factor = np.abs(delta).sum() / (chance * np.abs(delta)).sum()
    assert np.allclose(p.merge(r), p.base + factor * chance * delta, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------- limits in which one rule is another


@pytest.mark.parametrize("types", TYPES, ids=lambda t: "-".join(d.name for d in t))
def test_limits(types: tuple[np.dtype, np.dtype, np.dtype]) -> None:
    p = make(types[0], (30, 40), seed=15)
    full = p.merge(p.recipe("task_arithmetic", types))
    for method in ("breadcrumbs", "dare_linear", "della_linear"):  # density 1 keeps everything
        assert np.array_equal(p.merge(p.recipe(method, types, density=1.0)), full)
    assert np.array_equal(p.merge(p.recipe("dare_ties", types)), p.merge(p.recipe("ties", types, normalize=0)))
    nothing = p.base.astype(F32).astype(types[1]).astype(types[2]).astype(F32)
    for method in ("ties", "breadcrumbs", "dare_linear", "dare_ties"):
        assert np.array_equal(p.merge(p.recipe(method, types, density=0.0)), nothing)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "model_stock", "weights": [1, 0, 0, 0]}, "2 at least"),
        ({"method": "slerp"}, "1 or 2"),
        ({"method": "nuslerp"}, "exactly 2"),
        ({"method": "linear", "weights": [1, -1, 0, 0]}, "sum to 0"),
        ({"method": "linear", "weights": [0, 0, 0, 0]}, "no weights"),
        ({"method": "ties", "weights": [np.nan, 0, 0, 0]}, "weights[0]"),
        ({"method": "ties", "densities": [0.5, 1.5, 0, 0]}, "densities[1]"),
        ({"method": "ties", "density": -0.1}, "density"),
        ({"method": "ties", "weights_stride": 3}, "weights_stride"),
        ({"method": "ties", "task_rounding": 3}, "task_rounding"),
        ({"method": "ties", "consensus": 0}, "consensus"),
        ({"method": "ties", "normalize": 2}, "normalize"),
        ({"method": "ties", "rescale": 5}, "rescale"),
        ({"method": "della", "density": 0.1}, "epsilon"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    p = make(BF16, (5, 6))
    with pytest.raises(unmerge.UnmergeError, match=words.replace("[", r"\[").replace("]", r"\]")):
        p.merge(p.recipe(options.pop("method"), (BF16, BF16, BF16), **options))


def test_thirteen_masks_are_too_many_to_try() -> None:
    p = make(BF16, (4, 5), k=13)
    recipe = p.recipe("dare_ties", (BF16, BF16, BF16), weights=[0.1] * 13, density=0.5)
    with pytest.raises(unmerge.UnmergeError, match="12 at most"):
        p.merge(recipe)
    recipe = p.recipe("dare_linear", (BF16, BF16, BF16), weights=[0.1] * 13, density=0.5)
    report = p.replay(recipe, p.base)
    assert report.consistent == report.chance == -1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["base", "model", "target"])
def test_numbers_that_are_none_are_found(bad: float, where: str) -> None:
    p = make(BF16, (30, 40), k=2)
    values = p.base.copy()
    {"base": p.base, "model": p.models[1], "target": values}[where][17, 5] = bad
    for method in ("linear", "ties", "dare_linear"):
        with pytest.raises(unmerge.UnmergeError, match="row 17, column 5"):
            p.replay(p.recipe(method, (BF16, BF16, BF16), density=0.5), values)
