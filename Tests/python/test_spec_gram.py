"""The one pass over the data, against extended precision and against the identities ``unmerge.h`` promises."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import unmerge

EXACT = 5e-15  # of ||a_i|| ||a_j||
FAST = 2e-8
FACTORED = 1e-12
FAST_ROWS = 2**19  # with fewer rows, ...
FAST_ATOMS = 24  # ... or few atoms, fast is computed exactly; with this many it is not


def normal(seed: int, *shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=dtype)


def same(a: unmerge.Gram, b: unmerge.Gram) -> bool:
    """Every block, to the last bit."""
    if a.blocks != b.blocks:
        return False
    pairs = [(a.arrays(), b.arrays())] + [(a.arrays(i), b.arrays(i)) for i in range(len(a.blocks))]
    return all(np.array_equal(x, z) for left, right in pairs for x, z in zip(left, right))


def close(a: unmerge.Gram, b: unmerge.Gram, tolerance: float) -> bool:
    return oracles.entry_error(a.arrays(), tuple(oracles.ld(x) for x in b.arrays())) <= tolerance


# ---------------------------------------------------------------- entries


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "p, n, t",
    [(1, 1, 1), (2, 3, 1), (7, 5, 2), (63, 9, 1), (64, 64, 3), (1000, 17, 1), (4097, 33, 2), (30011, 8, 1)],
)
def test_exact_entries(p: int, n: int, t: int, dtype: type) -> None:
    A, Y = normal(p, p, n, dtype=dtype), normal(p + 1, p, t, dtype=dtype)
    g = unmerge.Gram(A, Y, precision="exact")
    assert oracles.entry_error(g.arrays(), oracles.gram(A, Y)) <= EXACT
    assert (g.atoms, g.targets, g.entries, g.passes, g.columns, g.precision) == (n, t, p, 1, n, "exact")
    G = g.arrays().G
    assert np.array_equal(G, G.T)


def test_exact_entries_of_64_atoms() -> None:
    A, y = normal(1, 100_000, 64) + normal(2, 100_000, 1), normal(3, 100_000)
    assert oracles.entry_error(unmerge.Gram(A, y, precision="exact").arrays(), oracles.gram(A, y)) <= EXACT


@pytest.fixture(scope="module")
def full() -> tuple[np.ndarray, np.ndarray]:
    A = oracles.task_vectors(64)
    y = (A[:, :8] @ np.linspace(-1, 1, 8, dtype=np.float32)).astype(np.float32)
    return A, y


@pytest.fixture(scope="module")
def full_reference(full: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    A, y = full
    return oracles.gram(A[:, :8], y)


def test_exact_entries_at_full_size(full, full_reference) -> None:
    A, y = full
    g = unmerge.Gram(A[:, :8], y, precision="exact")
    assert oracles.entry_error(g.arrays(), full_reference) <= EXACT
    assert g.entries == oracles.P_FULL


def test_fast_entries_at_full_size(full, full_reference) -> None:
    A, y = full
    g = unmerge.Gram(A[:, :8], y, precision="fast")
    assert oracles.entry_error(g.arrays(), full_reference) <= FAST
    assert g.passes == 1


def test_fast_entries_of_64_atoms_at_full_size(full) -> None:
    A, y = full
    g = unmerge.Gram(A, y, precision="fast")
    assert g.precision == "fast"
    reference = tuple(oracles.ld(x) for x in oracles.double_gram(A, y))
    assert oracles.entry_error(g.arrays(), reference) <= FAST


def test_fast_with_sums_of_one_sign() -> None:
    # Every product positive: the errors of a long float32 sum do not cancel here.
    A = np.abs(oracles.normal_windows(5, FAST_ROWS + 77, FAST_ATOMS)) + np.float32(1)
    y = np.abs(normal(6, FAST_ROWS + 77))
    g = unmerge.Gram(A, y, precision="fast")
    assert g.precision == "fast"
    assert fast_error(g, A, y) <= FAST


def fast_error(g: unmerge.Gram, A: np.ndarray, y: np.ndarray) -> float:
    """Against double, which is 1e-15: enough to judge 2e-8."""
    reference = oracles.double_gram(A.astype(np.float32), y.astype(np.float32))
    return oracles.entry_error(g.arrays(), tuple(oracles.ld(x) for x in reference))


# A float32 sum of products that lie on a grid, or are all alike, rounds the same way again and again: the errors of its
# additions do not average out, and 1e-6 of the sum can be lost.
FEW_DIGITS = {
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16 held in float32": lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32),
    "float16 held in float32": lambda x: x.astype(np.float16).astype(np.float32),
    "grid of 2^-12": lambda x: (np.round(x * np.float32(2**12)) / np.float32(2**12)).astype(np.float32),
    "grid of 2^-8": lambda x: (np.round(x * np.float32(2**8)) / np.float32(2**8)).astype(np.float32),
    "int8 times a scale": lambda x: np.round(x * 30).astype(np.int8).astype(np.float32) * np.float32(0.0123),
    "signs": lambda x: np.sign(x) * np.float32(0.3),
    "ternary": lambda x: np.sign(x) * (np.abs(x) > 1) * np.float32(0.3),
    "sparse": lambda x: x * (np.abs(x) > 2.5),
    "difference of checkpoints": lambda x: (np.float32(1) + np.float32(1e-3) * x) - np.float32(1),
    "constant": lambda x: np.full(x.shape, np.float32(0.1)),
    "nearly constant": lambda x: np.float32(1) + np.float32(0.01) * x,
    "positive": np.abs,
}


@pytest.mark.parametrize("kind", list(FEW_DIGITS))
def test_fast_on_data_of_few_digits(kind: str) -> None:
    A = np.asfortranarray(FEW_DIGITS[kind](oracles.normal_windows(1, FAST_ROWS + 12_345, FAST_ATOMS)))
    y = np.ascontiguousarray(A[:, 0])
    assert fast_error(unmerge.Gram(A, y, precision="fast"), A, y) <= (3e-8 if kind == "nearly constant" else FAST)


def test_fast_on_two_atoms_whose_products_are_alike() -> None:
    """The documented limit: smooth atoms, and so smooth diagonals, whose product is 0.3 in every row up to rounding."""
    A = oracles.normal_windows(1, FAST_ROWS + 12_345, FAST_ATOMS).copy(order="F")
    A[:, 0] = np.exp(np.float32(0.1) * A[:, 0])
    A[:, 1] = np.float32(0.3) / A[:, 0]
    y = A[:, 2].copy()
    assert fast_error(unmerge.Gram(A, y, precision="fast"), A, y) <= 1e-6


def test_fast_on_nearly_parallel_atoms() -> None:
    """Checkpoints without their base have a cosine close to 1: every sum is of one sign."""
    x = oracles.normal_windows(4, FAST_ROWS + 12_345, 64)
    A = np.asfortranarray(x + np.float32(3) * x[:, :1])
    y = x[:, 2].copy()
    assert fast_error(unmerge.Gram(A, y, precision="fast"), A, y) <= 3e-8


def test_fast_with_one_coarse_atom_among_smooth_ones() -> None:
    A = oracles.normal_windows(5, FAST_ROWS + 12_345, FAST_ATOMS).copy(order="F")
    A[:, 3] = A[:, 3].astype(ml_dtypes.bfloat16)
    A[:, 7] = np.abs(A[:, 3])
    y = A[:, 2].astype(ml_dtypes.bfloat16)
    assert fast_error(unmerge.Gram(A, y, precision="fast"), A, y) <= FAST


def test_fast_on_few_rows_is_exact() -> None:
    A, y = normal(7, FAST_ROWS - 1, 3), normal(8, FAST_ROWS - 1)
    fast = unmerge.Gram(A, y, precision="fast")
    assert oracles.entry_error(fast.arrays(), oracles.gram(A, y)) <= EXACT
    exact = unmerge.Gram(A, y, precision="exact")
    assert all(np.array_equal(a, b) for a, b in zip(fast.arrays(), exact.arrays()))


@pytest.mark.parametrize("atoms", [4, FAST_ATOMS])
@pytest.mark.parametrize("scales", [[1e30] * 4, [1e-30] * 4, [1e30, 1, 1e-30, 1e-38], [3e37, 1e-20, 1e20, 1]])
def test_float32_scales(scales: list[float], atoms: int) -> None:
    """Outside float32's comfortable range the pass is exact whatever was asked for."""
    p = FAST_ROWS + 5
    A = oracles.normal_windows(9, p, atoms) * np.tile(scales, atoms // 4).astype(np.float32)
    assert A.dtype == np.float32 and np.isfinite(A).all()
    y = A[:, 0].copy()
    reference = oracles.gram(A[:, :4], y)
    for precision in ("fast", "exact", "auto"):
        g = unmerge.Gram(A, y, precision=precision).subset(atoms=range(4))
        error = oracles.entry_error(g.arrays(), reference)
        assert error <= EXACT, (precision, error)


@pytest.mark.parametrize("atoms", [3, FAST_ATOMS])
def test_one_huge_value_late_in_the_data(atoms: int) -> None:
    p = FAST_ROWS + 1000
    A, y = oracles.normal_windows(10, p, atoms).copy(), normal(11, p)
    A[p - 3, 1] = 3e38
    A[17, 2] = 1e-44  # subnormal
    reference = oracles.gram(A[:, :3], y)
    for precision in ("fast", "exact"):
        g = unmerge.Gram(A, y, precision=precision).subset(atoms=range(3))
        assert oracles.entry_error(g.arrays(), reference) <= FAST


def test_float64_beyond_float32_in_fast() -> None:
    p = FAST_ROWS + 1
    A = normal(12, p, 3, dtype=np.float64) * np.array([1e100, 1e-100, 1.0])
    y = normal(13, p, dtype=np.float64)
    assert oracles.entry_error(unmerge.Gram(A, y, precision="fast").arrays(), oracles.gram(A, y)) <= EXACT


@pytest.mark.parametrize("magnitude", [1e-38, 1e-40, 1e-44])
def test_subnormal_float32(magnitude: float) -> None:
    A = (normal(14, 5000, 3, dtype=np.float64) * magnitude).astype(np.float32)
    y = normal(15, 5000)
    assert np.count_nonzero(A) > 0
    assert oracles.entry_error(unmerge.Gram(A, y, precision="exact").arrays(), oracles.gram(A, y)) <= EXACT


def test_integers_are_summed_without_error() -> None:
    rng = np.random.default_rng(16)
    A, Y = rng.integers(-9, 10, (FAST_ROWS + 3, 6)), rng.integers(-9, 10, (FAST_ROWS + 3, 2))
    for precision in ("fast", "exact"):
        g = unmerge.Gram(A.astype(np.float32), Y.astype(np.float32), precision=precision).arrays()
        assert np.array_equal(g.G, A.T @ A)
        assert np.array_equal(g.C, A.T @ Y)
        assert np.array_equal(g.yy, (Y * Y).sum(axis=0))


# ---------------------------------------------------------------- precision "auto"


def test_auto_is_exact_for_float64() -> None:
    g = unmerge.Gram(normal(17, FAST_ROWS, 3, dtype=np.float64), normal(18, FAST_ROWS, dtype=np.float64))
    assert (g.precision, g.passes) == ("exact", 1)


def test_auto_reads_ill_conditioned_data_again(full) -> None:
    """256 atoms are dear enough for the fast pass; a near-duplicate pair makes it too inaccurate, and it is done again."""
    full_atoms, _ = full
    p, n = FAST_ROWS + 4096, 256
    A = oracles.normal_windows(19, p, n).copy(order="F")
    weights = np.zeros(n)
    weights[[3, 100, 101, 255]] = [0.5, 1.0, -0.75, 0.25]

    def target() -> np.ndarray:
        return sum(w * A[:, j].astype(np.float64) for j, w in enumerate(weights) if w).astype(np.float32)

    easy = unmerge.Gram(A, target())
    assert (easy.precision, easy.passes) == ("fast", 1)
    coef, report = unmerge.ridge(easy, alpha=0)
    assert np.abs(coef - weights).max() <= 1e-6
    assert report.passes == 1

    A[:, 101] = A[:, 100] + np.float32(4) * full_atoms[:p, 0]  # 3e-3 away
    hard = unmerge.Gram(A, target())
    assert (hard.precision, hard.passes) == ("exact", 2)
    assert hard.condition > 1e5
    coef, report = unmerge.ridge(hard, alpha=0)
    assert np.abs(coef - weights).max() <= 1e-6
    assert report.passes == 2
    content = unmerge.Gram(A, target(), accuracy=0.5)
    assert (content.precision, content.passes) == ("fast", 1)


@pytest.mark.parametrize("n, condition", [(2, 1e3), (8, 1e4), (16, 30.0)])
def test_condition_estimate(n: int, condition: float) -> None:
    A = oracles.with_condition(np.random.default_rng(n), 400, n, condition) * 10.0 ** np.arange(n)
    true = oracles.condition_of(A) ** 2
    estimate = unmerge.Gram(A, A[:, 0]).condition
    assert true / (3 * n) <= estimate <= 1.01 * n * true


def test_condition_of_a_singular_gram_is_infinite() -> None:
    A = normal(20, 50, 3)
    A[:, 2] = A[:, 0]
    assert unmerge.Gram(A, A[:, 1]).condition == math.inf


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_bits_for_any_number_of_threads(full, precision: str) -> None:
    A, y = full
    A, Y = A[:, :24], np.stack([y, y[::-1]], axis=1)
    one = unmerge.Gram(A, Y, precision=precision, threads=1)
    for threads in (2, 3, 4, 7, 0):
        assert same(one, unmerge.Gram(A, Y, precision=precision, threads=threads)), threads


def test_bits_for_any_number_of_threads_with_blocks_and_factors() -> None:
    a, y = mixed_operators(21)[:2]
    one = unmerge.Gram(a, y, folds=3, threads=1)
    for threads in (2, 3, 4, 7):
        assert same(one, unmerge.Gram(a, y, folds=3, threads=threads)), threads


def layouts(A: np.ndarray, tmp_path) -> dict[str, np.ndarray]:
    p, n = A.shape
    found = {"C": np.ascontiguousarray(A), "F": np.asfortranarray(A)}
    found["reversed rows"] = np.ascontiguousarray(A[::-1])[::-1]
    found["reversed columns"] = np.ascontiguousarray(A[:, ::-1])[:, ::-1]
    found["both reversed, F"] = np.asfortranarray(A[::-1, ::-1])[::-1, ::-1]
    wide = np.zeros((2 * p, 3 * n), dtype=A.dtype)
    wide[1::2, 2::3] = A
    found["every other row, every third column"] = wide[1::2, 2::3]
    raw = np.zeros(A.nbytes + 1, dtype=np.uint8)
    unaligned = raw[1:].view(A.dtype).reshape(p, n)
    unaligned[...] = A
    found["unaligned"] = unaligned
    record = np.zeros(p, dtype=[("x", "u1"), ("a", A.dtype, (n,))])
    record["a"] = A
    found["inside records"] = record["a"]
    mapped = np.memmap(tmp_path / "atoms", dtype=A.dtype, mode="w+", shape=A.shape)
    mapped[...] = A
    mapped.flush()
    found["memmap"] = np.memmap(tmp_path / "atoms", dtype=A.dtype, mode="r", shape=A.shape)
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_bits_for_any_layout(tmp_path, dtype) -> None:
    A, y = normal(22, 5003, 7).astype(dtype), normal(23, 5003).astype(dtype)
    expected = unmerge.Gram(A, y, precision="exact")
    for name, B in layouts(A, tmp_path).items():
        assert np.array_equal(B, A)
        assert same(expected, unmerge.Gram(B, y, precision="exact")), name
    z = np.zeros(2 * len(y), dtype=dtype)
    z[::-2] = y
    assert same(expected, unmerge.Gram(A, z[::-2], precision="exact"))


def test_bits_of_the_fast_pass_for_any_layout(tmp_path) -> None:
    A, y = oracles.normal_windows(24, FAST_ROWS + 1001, FAST_ATOMS), normal(25, FAST_ROWS + 1001)
    expected = unmerge.Gram(A, y, precision="fast")
    assert expected.precision == "fast"
    for name, B in layouts(A, tmp_path).items():
        assert same(expected, unmerge.Gram(B, y, precision="fast")), name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_bits_of_narrow_types_are_those_of_the_same_values_in_float64(dtype) -> None:
    A, y = normal(26, 9001, 6).astype(dtype), normal(27, 9001).astype(dtype)
    g = unmerge.Gram(A, y, precision="exact")
    assert same(g, unmerge.Gram(A.astype(np.float64), y.astype(np.float64), precision="exact"))
    assert same(g, unmerge.Gram(A.astype(np.float64), y, precision="exact"))
    assert oracles.entry_error(g.arrays(), oracles.gram(A, y)) <= EXACT


@given(
    p=st.integers(1, 300),
    n=st.integers(1, 9),
    order=st.sampled_from("CF"),
    rows=st.sampled_from([1, -1, 2, -3]),
    columns=st.sampled_from([1, -1, 2, -2]),
    offset=st.integers(0, 7),
    dtype=st.sampled_from([np.float64, np.float32, np.float16]),
    seed=st.integers(0, 2**31),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_any_strides_give_the_bits_of_a_contiguous_copy(p, n, order, rows, columns, offset, dtype, seed) -> None:
    item = np.dtype(dtype).itemsize
    raw = np.zeros(p * abs(rows) * n * abs(columns) * item + offset, dtype=np.uint8)
    whole = raw[offset:].view(dtype).reshape((p * abs(rows), n * abs(columns)), order=order)
    A = whole[::rows, ::columns]
    A[...] = np.random.default_rng(seed).standard_normal(A.shape).astype(dtype)
    y = np.random.default_rng(seed + 1).standard_normal(p)
    assert A.shape == (p, n)
    plain = unmerge.Gram(np.array(A, order="C"), y, precision="exact")
    assert same(plain, unmerge.Gram(A, y, precision="exact"))
    assert same(plain, unmerge.Gram(unmerge.Operator.from_matrix(A), y, precision="exact"))


@given(n=st.integers(1, 8), seed=st.integers(0, 2**31))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_permuting_and_flipping_atoms_permutes_and_flips_the_gram(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, y = rng.standard_normal((97, n)), rng.standard_normal(97)
    order, signs = rng.permutation(n), rng.choice([-1.0, 1.0], n)
    g = unmerge.Gram(A, y).arrays()
    h = unmerge.Gram(A[:, order] * signs, y).arrays()
    d = np.sqrt(np.diag(g.G))[order]
    assert np.abs(h.G - g.G[np.ix_(order, order)] * np.outer(signs, signs)).max() <= EXACT * np.outer(d, d).max()
    assert np.abs(h.C[:, 0] - signs * g.C[order, 0]).max() <= EXACT * d.max() * np.sqrt(g.yy[0])


def test_a_broadcast_column_is_read_in_place() -> None:
    y = normal(28, 400)
    ones = np.broadcast_to(np.float32(2), (400, 3))
    g = unmerge.Gram(ones, y).arrays()
    assert np.array_equal(g.G, np.full((3, 3), 1600.0))
    assert np.array_equal(g.C, np.full((3, 1), g.C[0, 0]))


# ---------------------------------------------------------------- vectors over modules


def test_vectors_cut_into_modules() -> None:
    shapes = {"embed": (300, 40), "layer.0": (64, 64), "norm": (77,), "head": (1, 5000)}
    rng = np.random.default_rng(29)
    vectors = [{m: rng.standard_normal(s).astype(np.float32) for m, s in shapes.items()} for _ in range(5)]
    merged = {m: sum((j + 1) * v[m] for j, v in enumerate(vectors)).astype(np.float32) for m in shapes}
    a = unmerge.Operator.from_vectors({f"model{j}": v for j, v in enumerate(vectors)})
    y = unmerge.Operator.from_vectors({"merged": merged})
    g = unmerge.Gram(a, y, precision="exact")
    assert [tuple(b) for b in g.blocks] == [(m, 0, math.prod(s)) for m, s in shapes.items()]
    for b, m in enumerate(shapes):
        A = np.stack([v[m].reshape(-1) for v in vectors], axis=1)
        assert oracles.entry_error(g.arrays(b), oracles.gram(A, merged[m].reshape(-1))) <= EXACT
    A = np.concatenate([np.stack([v[m].reshape(-1) for v in vectors], axis=1) for m in shapes])
    Y = np.concatenate([merged[m].reshape(-1) for m in shapes])
    reference = oracles.gram(A, Y)
    assert oracles.entry_error(g.arrays(), reference) <= EXACT
    one = unmerge.Gram(a, y, precision="exact", blocks="one")
    assert len(one.blocks) == 1
    assert one.blocks[0].entries == len(Y) == one.entries
    assert oracles.entry_error(one.arrays(), reference) <= EXACT
    assert np.abs(unmerge.nnls(g)[0] - np.arange(1, 6)).max() <= 1e-6


def test_a_column_is_zero_where_it_is_not_set() -> None:
    rng = np.random.default_rng(30)
    u, v, w = (rng.standard_normal(m) for m in (50, 60, 50))
    a = unmerge.Operator.from_vectors({"first": {"m0": u}, "second": {"m1": v}, "third": {"m0": w, "m1": v}})
    y = unmerge.Operator()
    y.add_module("m0", 50, 1)
    y.add_module("m1", 60, 1)
    y.add_column("target")
    y.set_dense("m1", "target", v.reshape(60, 1), scale=2.0)
    A = np.zeros((110, 3))
    A[:50, 0], A[50:, 1], A[:50, 2], A[50:, 2] = u, v, w, v
    Y = np.concatenate([np.zeros(50), 2 * v])
    g = unmerge.Gram(a, y)
    assert oracles.entry_error(g.arrays(), oracles.gram(A, Y)) <= EXACT
    assert g.arrays(0).yy[0] == 0 and not g.arrays(0).C.any()


def test_a_base_is_subtracted_in_double() -> None:
    rng = np.random.default_rng(31)
    base = rng.standard_normal((120, 50)).astype(np.float32)
    models = [(base + 1e-3 * rng.standard_normal((120, 50))).astype(np.float32) for _ in range(4)]
    merged = (base + 1e-3 * rng.standard_normal((120, 50))).astype(np.float32)
    a, y = unmerge.Operator(), unmerge.Operator()
    for op in (a, y):
        op.add_module("m", 120, 50)
    for j, model in enumerate(models):
        a.add_column(str(j))
        a.set_dense("m", j, model, base=base)
    y.add_column("y")
    y.set_dense("m", "y", merged, base=base)
    differences = [m.astype(np.float64) - base for m in models]
    difference = merged.astype(np.float64) - base
    g = unmerge.Gram(a, y, precision="exact")
    explicit = unmerge.Operator.from_vectors({str(j): {"m": d} for j, d in enumerate(differences)})
    assert same(g, unmerge.Gram(explicit, unmerge.Operator.from_vectors({"y": {"m": difference}}), precision="exact"))
    A = np.stack([d.reshape(-1) for d in differences], axis=1)
    assert oracles.entry_error(g.arrays(), oracles.gram(A, difference.reshape(-1))) <= EXACT
    vectors = unmerge.Operator.from_vectors(
        {str(j): {"m": m} for j, m in enumerate(models)}, base={"m": base}
    )
    assert same(g, unmerge.Gram(vectors, y, precision="exact"))


@pytest.mark.parametrize("base_type", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_a_base_of_another_type_and_a_scale(base_type) -> None:
    rng = np.random.default_rng(32)
    base = rng.standard_normal((40, 30)).astype(base_type)
    values = [rng.standard_normal((40, 30)).astype(t) for t in (np.float32, ml_dtypes.bfloat16, np.float64)]
    scales = [0.3, -7.0, 1e-5]
    a = unmerge.Operator()
    a.add_module("m", 40, 30)
    for j, (v, s) in enumerate(zip(values, scales)):
        a.add_column(str(j))
        a.set_dense("m", j, v, base=base, scale=s)
    y = unmerge.Operator.from_vectors({"y": {"m": values[0]}})
    A = np.stack([s * (oracles.ld(v) - oracles.ld(base)).reshape(-1) for v, s in zip(values, scales)], axis=1)
    reference = oracles.gram(A, values[0].reshape(-1))
    assert oracles.entry_error(unmerge.Gram(a, y, precision="exact").arrays(), reference) <= EXACT


def test_the_fast_pass_subtracts_the_base_as_accurately_as_it_sums() -> None:
    rng = np.random.default_rng(33)
    rows, cols = 1024, 600
    base = rng.standard_normal((rows, cols), dtype=np.float32)
    models = [base + np.float32(1e-3) * rng.standard_normal((rows, cols), dtype=np.float32) for _ in range(3)]
    a = unmerge.Operator.from_vectors({str(j): {"m": m} for j, m in enumerate(models)}, base={"m": base})
    y = unmerge.Operator.from_vectors({"y": {"m": models[0]}}, base={"m": base})
    A = np.stack([(m.astype(np.float64) - base).reshape(-1) for m in models], axis=1)
    reference = oracles.gram(A, A[:, 0])
    assert rows * cols >= FAST_ROWS
    assert oracles.entry_error(unmerge.Gram(a, y, precision="fast").arrays(), reference) <= FAST
    assert oracles.entry_error(unmerge.Gram(a, y, precision="exact").arrays(), reference) <= EXACT


# ---------------------------------------------------------------- factors


def mixed_operators(seed: int) -> tuple[unmerge.Operator, unmerge.Operator, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Atoms and targets that are LoRA, dense with and without base, or absent, over three modules; and their dense twins."""
    rng = np.random.default_rng(seed)
    shapes = {"q": (96, 80), "v": (40, 150), "norm": (130, 1)}
    kinds = {
        "q": ["lora", "lora", "dense", "zero", "base", "lora"],
        "v": ["lora", "zero", "lora", "dense", "dense", "zero"],
        "norm": ["dense", "dense", "zero", "base", "zero", "zero"],
    }
    target_kinds = {"q": ["lora", "dense", "zero"], "v": ["zero", "lora", "dense"], "norm": ["dense", "zero", "base"]}

    def build(kinds: dict[str, list[str]]) -> tuple[unmerge.Operator, dict[str, np.ndarray]]:
        op, dense = unmerge.Operator(), {}
        for j in range(len(kinds["q"])):
            op.add_column(f"c{j}")
        for m, (rows, cols) in shapes.items():
            op.add_module(m, rows, cols)
            columns = []
            for j, kind in enumerate(kinds[m]):
                scale = float(rng.choice([1.0, 2.0, -0.7, 16.0]))
                values = rng.standard_normal((rows, cols)).astype(np.float32)
                base = rng.standard_normal((rows, cols)).astype(np.float32)
                rank = int(rng.integers(1, 9))
                B = rng.standard_normal((rows, rank)).astype([np.float32, np.float64, ml_dtypes.bfloat16][j % 3])
                F = rng.standard_normal((rank, cols)).astype([np.float32, np.float16][j % 2])
                if kind == "lora":
                    op.set_lora(m, j, B, F, scale=scale)
                    columns.append(scale * (oracles.ld(B) @ oracles.ld(F)))
                elif kind == "dense":
                    op.set_dense(m, j, values, scale=scale)
                    columns.append(scale * oracles.ld(values))
                elif kind == "base":
                    op.set_dense(m, j, values, base=base, scale=scale)
                    columns.append(scale * (oracles.ld(values) - oracles.ld(base)))
                else:
                    columns.append(np.zeros((rows, cols), dtype=oracles.LD))
            dense[m] = np.stack([c.reshape(-1) for c in columns], axis=1)
        return op, dense

    a, dense_a = build(kinds)
    y, dense_y = build(target_kinds)
    return a, y, {m: (dense_a[m], dense_y[m]) for m in shapes}


@pytest.mark.parametrize("seed", range(4))
def test_factors_give_the_gram_of_their_products(seed: int) -> None:
    a, y, dense = mixed_operators(seed)
    g = unmerge.Gram(a, y, precision="exact")
    assert [b.module for b in g.blocks] == list(dense)
    for b, (A, Y) in enumerate(dense.values()):
        assert oracles.entry_error(g.arrays(b), oracles.gram(A, Y)) <= FACTORED
    A, Y = (np.concatenate([d[k] for d in dense.values()]) for k in (0, 1))
    assert oracles.entry_error(g.arrays(), oracles.gram(A, Y)) <= FACTORED
    coef, reports = unmerge.ridge(g, alpha=0.5)
    for t, report in enumerate(reports):
        problem = oracles.Problem.make(A, Y[:, t], alpha=0.5, l1_ratio=0)
        assert problem.quadratic_bound(coef[:, t]) <= 1e-12 * problem.objective(coef[:, t])
        assert abs(report.objective - problem.objective(coef[:, t])) <= 1e-11 * float(problem.yy)


def test_factors_of_the_fast_pass() -> None:
    a, y, dense = mixed_operators(5)
    A, Y = (np.concatenate([d[k] for d in dense.values()]) for k in (0, 1))
    assert oracles.entry_error(unmerge.Gram(a, y, precision="fast").arrays(), oracles.gram(A, Y)) <= FAST


def test_cancelling_factors() -> None:
    """Two adapters that differ by 1e-6: their difference is small, the Gram entries must still be right."""
    rng = np.random.default_rng(34)
    B, F = rng.standard_normal((200, 8)), rng.standard_normal((8, 150))
    a, y = unmerge.Operator(), unmerge.Operator()
    for op in (a, y):
        op.add_module("m", 200, 150)
    near = B + 1e-6 * rng.standard_normal(B.shape)
    for j, b in enumerate((B, near)):
        a.add_column(str(j))
        a.set_lora("m", j, b, F)
    y.add_column("y")
    y.set_lora("m", "y", B, F, scale=3.0)
    A = np.stack([(oracles.ld(b) @ oracles.ld(F)).reshape(-1) for b in (B, near)], axis=1)
    assert oracles.entry_error(unmerge.Gram(a, y, precision="exact").arrays(), oracles.gram(A, 3 * A[:, 0])) <= FACTORED


def test_transposed_factor_views() -> None:
    """Checkpoints with fan_in_fan_out store the factors transposed; a transposed view is the factor."""
    rng = np.random.default_rng(35)
    B, F = rng.standard_normal((70, 6)).astype(np.float32), rng.standard_normal((6, 90)).astype(np.float32)
    y = unmerge.Operator.from_vectors({"y": {"m": (B @ F)}})

    def made(b: np.ndarray, f: np.ndarray) -> unmerge.Gram:
        op = unmerge.Operator()
        op.add_module("m", 70, 90)
        op.add_column("a")
        op.set_lora("m", "a", b, f, scale=0.5)
        return unmerge.Gram(op, y, precision="exact")

    plain = made(B, F)
    assert same(plain, made(np.ascontiguousarray(B.T).T, np.ascontiguousarray(F.T).T))
    assert same(plain, made(B[::-1].copy()[::-1], np.repeat(F, 2, axis=1)[:, ::2]))
    dense = (oracles.ld(B) @ oracles.ld(F)).reshape(-1, 1) / 2
    assert oracles.entry_error(plain.arrays(), oracles.gram(dense, (B @ F).reshape(-1))) <= FACTORED
    assert abs(unmerge.ridge(plain, alpha=0)[0][0] - 2) <= 1e-6


def test_dense_values_transposed_in_place() -> None:
    W = normal(36, 33, 44)
    first = unmerge.Operator.from_vectors({"a": {"m": W.T}})
    second = unmerge.Operator.from_vectors({"a": {"m": np.ascontiguousarray(W.T)}})
    assert same(unmerge.Gram(first, second), unmerge.Gram(second, first))
    assert oracles.entry_error(
        unmerge.Gram(first, first).arrays(), oracles.gram(W.T.reshape(-1, 1), W.T.reshape(-1))
    ) <= EXACT


# ---------------------------------------------------------------- folds


def folded(p: int, folds: int, seed: int, columns: int = 1, dtype: type = np.float64) -> unmerge.Gram:
    return unmerge.Gram(np.ones((p, columns), dtype=dtype), np.ones(p, dtype=dtype), folds=folds, seed=seed)


def membership(p: int, folds: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """folds x p: whether a row is in a fold, from the dot products of 1 with powers of two on 48 rows at a time."""
    powers = np.zeros((p, -(-p // 48)))
    powers[np.arange(p), np.arange(p) // 48] = 2.0 ** (np.arange(p) % 48)
    g = unmerge.Gram(np.ones((p, 1), dtype=dtype), powers, folds=folds, seed=seed)
    assert [b.fold for b in g.blocks] == list(range(folds))
    sets = np.array([g.arrays(b).C[0].astype(np.int64) for b in range(folds)])
    return (sets[:, np.arange(p) // 48] >> (np.arange(p) % 48)) & 1


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_folds_partition_the_rows(folds: int) -> None:
    inside = membership(6000, folds, 0)
    assert np.array_equal(inside.sum(axis=0), np.ones(6000))  # every row in one fold
    assert (inside.sum(axis=1) > 0).all()
    assert np.array_equal(inside, membership(6000, folds, 0))
    assert np.array_equal(inside, membership(6000, folds, 0, np.float32))
    assert not np.array_equal(inside, membership(6000, folds, 1))


def test_64_rows_of_a_vector_draw_their_fold_together() -> None:
    """The hash is of seed, module and 64 rows: they stay together, and neighbouring lots are independent."""
    lots = membership(64 * 1000, 2, 0)[0].reshape(-1, 64)
    assert (lots == lots[:, :1]).all()
    first = lots[:, 0]
    assert abs(first.mean() - 0.5) <= 0.08  # 5 standard deviations
    assert abs((first[1:] == first[:-1]).mean() - 0.5) <= 0.08


def test_every_row_of_a_matrix_draws_its_fold() -> None:
    """The hash is of seed, module and row: the rows of a matrix stay whole and do not all fall into one fold."""
    rows, cols = 400, 3
    one, numbers = np.ones((rows, cols)), np.repeat(np.arange(rows), cols).reshape(rows, cols).astype(np.float64)
    a = unmerge.Operator.from_vectors({"one": {"m": one}, "numbers": {"m": numbers}})
    g = unmerge.Gram(a, a, folds=2, seed=9)
    entries = [b.entries for b in g.blocks]
    assert sum(entries) == rows * cols and all(n % cols == 0 and abs(n / cols - rows / 2) <= 50 for n in entries)


@pytest.mark.parametrize("folds, seed", [(2, 0), (5, 0), (5, 1), (7, 2**63)])
def test_folds_add_up_and_are_balanced(folds: int, seed: int) -> None:
    p = 10_007
    A, Y = normal(37, p, 6, dtype=np.float64), normal(38, p, 2, dtype=np.float64)
    g, whole = unmerge.Gram(A, Y, folds=folds, seed=seed), unmerge.Gram(A, Y)
    assert [b.fold for b in g.blocks] == list(range(folds))
    assert {b.module for b in g.blocks} == {""}
    assert sum(b.entries for b in g.blocks) == p == g.entries
    for k in range(3):
        total = sum(g.arrays(b)[k] for b in range(folds))
        assert np.abs(total - whole.arrays()[k]).max() <= 1e-14 * p * 2
    assert close(g, whole, 1e-14)
    ones = folded(p, folds, seed)
    for b in range(folds):
        assert ones.arrays(b).G[0, 0] == ones.blocks[b].entries == g.blocks[b].entries
        assert abs(ones.blocks[b].entries - p / folds) <= 0.5 * p / folds


def test_folds_are_deterministic_in_the_seed() -> None:
    A, y = normal(39, 3000, 4), normal(40, 3000)
    g = unmerge.Gram(A, y, folds=4, seed=11)
    assert same(g, unmerge.Gram(A, y, folds=4, seed=11))
    others = [unmerge.Gram(A, y, folds=4, seed=s) for s in (0, 12, 2**64 - 1)]
    assert not any(same(g, h) for h in others)
    assert all(close(g, h, 1e-14) for h in others)
    assert same(unmerge.Gram(A, y), unmerge.Gram(A, y, folds=1, seed=5))


def test_rows_of_two_modules_are_folded_independently() -> None:
    modules = ("layers.0.q", "layers.1.q")
    ones, powers = np.ones(3000), np.arange(3000.0)
    a = unmerge.Operator.from_vectors({"one": {m: ones for m in modules}})
    y = unmerge.Operator.from_vectors({"powers": {m: powers for m in modules}})
    g = unmerge.Gram(a, y, folds=4)
    sums = {m: [g.arrays(i).C[0, 0] for i, b in enumerate(g.blocks) if b.module == m] for m in modules}
    assert all(sum(found) == powers.sum() and len(found) == 4 for found in sums.values())
    assert sums[modules[0]] != sums[modules[1]]


def test_cross_validation_from_folds_is_exact() -> None:
    """The Gram without a fold answers as the data without the rows of that fold."""
    A, y = normal(41, 1000, 3, dtype=np.float64), normal(42, 1000, dtype=np.float64)
    inside = membership(1000, 4, 3)
    g = unmerge.Gram(A, y, folds=4, seed=3)
    for fold in range(4):
        keep = inside[fold] == 0
        rest = g.subset(blocks=[b for b in range(4) if b != fold])
        assert oracles.entry_error(rest.arrays(), oracles.gram(A[keep], y[keep])) <= EXACT
        assert rest.entries == keep.sum()


@pytest.mark.parametrize("folds, seed", [(2, 0), (3, 9)])
def test_folds_of_factors(folds: int, seed: int) -> None:
    """A LoRA column falls into the same folds as its dense product."""
    a, y, dense = mixed_operators(43)
    b, z = unmerge.Operator(), unmerge.Operator()
    shapes = {"q": (96, 80), "v": (40, 150), "norm": (130, 1)}
    for op, which in ((b, 0), (z, 1)):
        for j in range(dense["q"][which].shape[1]):
            op.add_column(f"c{j}")
        for m, shape in shapes.items():
            op.add_module(m, *shape)
            for j in range(dense[m][which].shape[1]):
                op.set_dense(m, j, dense[m][which][:, j].astype(np.float64).reshape(shape))
    g = unmerge.Gram(a, y, folds=folds, seed=seed, precision="exact")
    h = unmerge.Gram(b, z, folds=folds, seed=seed, precision="exact")
    assert g.blocks == h.blocks
    assert [(k.module, k.fold) for k in g.blocks] == [(m, f) for m in shapes for f in range(folds)]
    assert sum(k.entries for k in g.blocks) == sum(r * c for r, c in shapes.values())
    for i in range(len(g.blocks)):
        reference = tuple(oracles.ld(x) for x in h.arrays(i))
        assert oracles.entry_error(g.arrays(i), reference) <= FACTORED
    assert close(g, unmerge.Gram(a, y, precision="exact"), FACTORED)


# ---------------------------------------------------------------- accumulator


def cuts(rng: np.random.Generator, p: int, pieces: int) -> list[slice]:
    ends = [0, *sorted(int(e) for e in rng.integers(0, p + 1, pieces - 1)), p]
    return [slice(a, b) for a, b in zip(ends, ends[1:])]


@pytest.mark.parametrize("p, n, t, pieces", [(1, 1, 1, 1), (500, 3, 1, 500), (20_011, 9, 2, 37), (70_001, 16, 1, 5)])
def test_accumulator_does_not_depend_on_the_cuts(p: int, n: int, t: int, pieces: int) -> None:
    A, Y = normal(44, p, n), normal(45, p, t)
    whole = unmerge.Gram(A, Y, precision="exact")
    rng = np.random.default_rng(46)
    for dtype, order in ((np.float32, "C"), (np.float64, "F")):
        acc = unmerge.Accumulator(n, t, precision="exact")
        for piece in cuts(rng, p, pieces):
            acc.add(np.array(A[piece], dtype=dtype, order=order), Y[piece], threads=int(rng.integers(1, 4)))
        g = acc.gram()
        assert same(whole, g)
        assert (g.entries, g.precision) == (p, "exact")


def test_accumulator_row_by_row_and_auto_is_exact() -> None:
    A, y = normal(47, 300, 4, dtype=np.float64), normal(48, 300, dtype=np.float64)
    acc = unmerge.Accumulator(4, precision="auto")
    for i in range(300):
        acc.add(A[i : i + 1], y[i : i + 1])
    assert same(acc.gram(), unmerge.Gram(A, y, precision="exact"))


@pytest.mark.parametrize("atoms", [6, FAST_ATOMS])
def test_fast_accumulator_does_not_depend_on_the_cuts(atoms: int) -> None:
    p = FAST_ROWS + 12_345
    A, y = oracles.normal_windows(51, p, atoms).copy(), normal(50, p)
    whole = unmerge.Gram(A, y, precision="fast")
    assert whole.precision == ("fast" if atoms == FAST_ATOMS else "exact")  # it had no reason to fall back
    for seed, pieces in ((51, 2), (52, 41)):
        acc = unmerge.Accumulator(atoms, precision="fast")
        for piece in cuts(np.random.default_rng(seed), p, pieces):
            acc.add(A[piece], y[piece])
        assert same(whole, acc.gram())


def test_accumulator_stays_usable() -> None:
    A, y = normal(53, 9000, 5), normal(54, 9000)
    acc = unmerge.Accumulator(5)
    acc.add(A[:4000], y[:4000])
    assert same(acc.gram(), unmerge.Gram(A[:4000], y[:4000], precision="exact"))
    with pytest.raises(ValueError):
        acc.add(A[:10, :4], y[:10])
    with pytest.raises(ValueError):
        acc.add(A[:10], y[:9])
    assert same(acc.gram(), unmerge.Gram(A[:4000], y[:4000], precision="exact"))
    acc.add(A[4000:4000], y[4000:4000])
    acc.add(A[4000:], y[4000:])
    assert same(acc.gram(), unmerge.Gram(A, y, precision="exact"))


def test_empty_accumulator() -> None:
    g = unmerge.Accumulator(3, 2).gram()
    assert (g.atoms, g.targets, g.entries) == (3, 2, 0)
    assert not any(x.any() for x in g.arrays())


# ---------------------------------------------------------------- sums, subsets, bytes


@pytest.fixture(scope="module")
def modular() -> tuple[unmerge.Operator, unmerge.Operator]:
    rng = np.random.default_rng(55)
    shapes = {"a": (50, 20), "b": (333,), "c": (7, 130), "d": (64, 64)}
    vectors = {
        f"v{j}": {m: rng.standard_normal(s).astype(np.float32) for m, s in shapes.items()} for j in range(6)
    }
    merged = {m: sum(v[m] for v in vectors.values()) + rng.standard_normal(s) for m, s in shapes.items()}
    return unmerge.Operator.from_vectors(vectors), unmerge.Operator.from_vectors({"y": merged})


@pytest.fixture(scope="module")
def modular_gram(modular) -> unmerge.Gram:
    return unmerge.Gram(*modular, precision="exact")


def test_blocks_of_one_name_and_fold_add() -> None:
    A, y = normal(56, 4000, 5, dtype=np.float64), normal(57, 4000, dtype=np.float64)
    first, second = unmerge.Gram(A[:1500], y[:1500]), unmerge.Gram(A[1500:], y[1500:])
    total = first + second
    assert [tuple(b) for b in total.blocks] == [("", 0, 4000)]
    for k in range(3):
        assert np.array_equal(total.arrays()[k], first.arrays()[k] + second.arrays()[k])
    assert same(total, second + first)
    assert close(total, unmerge.Gram(A, y), 1e-14)
    assert total.entries == 4000
    third = unmerge.Gram(A[:7], y[:7])
    assert close((first + second) + third, first + (second + third), 1e-14)


def test_other_blocks_are_kept() -> None:
    """Two shards of a model, read apart, are the whole model."""
    rng = np.random.default_rng(58)
    parts = {m: (rng.standard_normal((70, 3)), rng.standard_normal(70)) for m in ("m0", "m1", "m2")}

    def gram_of(*names: str) -> unmerge.Gram:
        a = unmerge.Operator.from_vectors({str(j): {m: parts[m][0][:, j] for m in names} for j in range(3)})
        return unmerge.Gram(a, unmerge.Operator.from_vectors({"y": {m: parts[m][1] for m in names}}))

    shards = gram_of("m0") + gram_of("m1", "m2")
    assert same(shards, gram_of("m0", "m1", "m2"))
    assert same(sum([gram_of("m0"), gram_of("m1"), gram_of("m2")]), gram_of("m0", "m1", "m2"))


def test_shards_fall_into_the_folds_of_the_whole() -> None:
    """The fold of a row depends on the module it is in, not on the modules that are read with it."""
    rng = np.random.default_rng(158)
    parts = {m: rng.standard_normal(700) for m in ("m0", "m1", "m2")}

    def gram_of(*names: str) -> unmerge.Gram:
        op = unmerge.Operator.from_vectors({"a": {m: parts[m] for m in names}})
        return unmerge.Gram(op, op, folds=3)

    assert same(gram_of("m0") + gram_of("m1", "m2"), gram_of("m0", "m1", "m2"))


def test_unlike_grams_do_not_add() -> None:
    A, y = normal(59, 20, 3), normal(60, 20)
    with pytest.raises(ValueError):
        unmerge.Gram(A, y) + unmerge.Gram(A[:, :2], y)
    with pytest.raises(ValueError):
        unmerge.Gram(A, y) + unmerge.Gram(A, np.stack([y, y], axis=1))


def test_subset_of_atoms(modular_gram) -> None:
    for chosen in ([0], [5, 0, 3], [4, 2, 1, 0, 3, 5]):
        part = modular_gram.subset(atoms=chosen)
        assert (part.atoms, part.entries, part.blocks) == (len(chosen), modular_gram.entries, modular_gram.blocks)
        for b in [None, *range(4)]:
            whole, found = modular_gram.arrays(b), part.arrays(b)
            assert np.array_equal(found.G, whole.G[np.ix_(chosen, chosen)])
            assert np.array_equal(found.C, whole.C[chosen])
            assert np.array_equal(found.yy, whole.yy)
    assert same(modular_gram.subset(), modular_gram)
    assert same(modular_gram.subset(atoms=range(6), blocks=range(4)), modular_gram)


def test_leave_one_block_out(modular, modular_gram) -> None:
    for left in range(4):
        chosen = [b for b in range(4) if b != left]
        rest = modular_gram.subset(blocks=chosen)
        assert rest.blocks == [modular_gram.blocks[b] for b in chosen]
        assert rest.entries == sum(b.entries for b in rest.blocks)
        for i, b in enumerate(chosen):
            assert all(np.array_equal(x, z) for x, z in zip(rest.arrays(i), modular_gram.arrays(b)))
        direct = [sum(oracles.ld(modular_gram.arrays(b)[k]) for b in chosen) for k in range(3)]
        assert oracles.entry_error(rest.arrays(), tuple(direct)) <= 1e-14
    alone = modular_gram.subset(blocks=[2])
    assert all(np.array_equal(x, z) for x, z in zip(alone.arrays(), modular_gram.arrays(2)))
    merged = sum([modular_gram.subset(blocks=[b]) for b in range(4)])
    assert same(merged, modular_gram)


@pytest.mark.parametrize("atoms, blocks", [([6], None), ([-1], None), (None, [4]), (None, [-1]), ([2**40], None)])
def test_subset_checks_its_indices(modular_gram, atoms, blocks) -> None:
    with pytest.raises(ValueError):
        modular_gram.subset(atoms=atoms, blocks=blocks)


@pytest.mark.parametrize("folds, targets, precision", [(1, 1, "exact"), (3, 2, "exact"), (1, 1, "fast")])
def test_saved_and_loaded_to_the_bit(tmp_path, folds: int, targets: int, precision: str) -> None:
    p = FAST_ROWS + 3 if precision == "fast" else 4001
    A, Y = normal(61, p, 5), normal(62, p, targets)
    g = unmerge.Gram(A, Y, folds=folds, precision=precision)
    path = tmp_path / "a.gram"
    g.save(path)
    for h in (unmerge.Gram.load(path), unmerge.Gram.from_bytes(g.to_bytes())):
        assert same(g, h)
        assert (h.atoms, h.targets, h.entries, h.precision) == (g.atoms, g.targets, g.entries, g.precision)
        assert same(unmerge.Gram.from_bytes(h.to_bytes()), g)
        for method in (unmerge.nnls, unmerge.ridge, unmerge.omp):
            left, right = method(g)[0], method(h)[0]
            assert np.array_equal(left.reshape(5, targets), right.reshape(5, targets))


def test_a_loaded_gram_has_needed_no_pass() -> None:
    A, y = normal(70, 50, 3), normal(71, 50)
    g = unmerge.Gram(A, y)
    assert g.passes == 1 == unmerge.nnls(g)[1].passes
    assert unmerge.nnls(unmerge.Gram.from_bytes(g.to_bytes()))[1].passes == 0
    assert unmerge.nnls(unmerge.Gram.from_arrays(*g.arrays(), 50))[1][0].passes == 0


def test_a_saved_shard_is_the_whole(modular_gram) -> None:
    shards = [modular_gram.subset(blocks=[b]).to_bytes() for b in range(4)]
    assert same(sum(unmerge.Gram.from_bytes(s) for s in shards), modular_gram)


def test_every_damage_is_noticed(modular_gram) -> None:
    data = modular_gram.to_bytes()
    for length in [0, 1, 7, 8, 63, len(data) // 2, len(data) - 1]:
        with pytest.raises(ValueError):
            unmerge.Gram.from_bytes(data[:length])
    with pytest.raises(ValueError):
        unmerge.Gram.from_bytes(data + b"\0")
    places = sorted({*range(128), *range(0, len(data), max(1, len(data) // 300)), len(data) - 1})
    for place in places:
        for flip in (1, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(ValueError):
                unmerge.Gram.from_bytes(bytes(damaged))
    assert same(unmerge.Gram.from_bytes(data), modular_gram)


def test_from_arrays() -> None:
    A, Y = normal(63, 300, 4, dtype=np.float64), normal(64, 300, 2, dtype=np.float64)
    g = unmerge.Gram(A, Y).arrays()
    h = unmerge.Gram.from_arrays(g.G, g.C, g.yy, 300)
    assert all(np.array_equal(x, z) for x, z in zip(g, h.arrays()))
    assert (h.entries, h.passes, h.atoms, h.targets) == (300, 0, 4, 2)
    lower_is_not_read = np.triu(g.G) + np.tril(np.full((4, 4), 1e9), -1)
    upper = unmerge.Gram.from_arrays(lower_is_not_read, g.C, g.yy, 300)
    assert np.array_equal(upper.arrays().G, g.G)
    wide = np.zeros((8, 8))
    wide[::2, ::2] = g.G
    assert np.array_equal(unmerge.Gram.from_arrays(wide[::2, ::2], g.C, g.yy, 300).arrays().G, g.G)
    narrow = unmerge.Gram.from_arrays(g.G.astype(np.float32), g.C.astype(np.float32), g.yy, 0)
    assert np.array_equal(narrow.arrays().G, g.G.astype(np.float32))
    assert narrow.entries == 0
    vector = unmerge.Gram.from_arrays(g.G, g.C[:, 0], g.yy[0], 300)
    assert unmerge.nnls(vector)[0].shape == (4,)
    for bad in ((g.G[:3], g.C, g.yy, 3), (g.G, g.C[:3], g.yy, 3), (g.G, g.C, g.yy[:1], 3), (g.G, g.C, g.yy, -1)):
        with pytest.raises(ValueError):
            unmerge.Gram.from_arrays(*bad)


# ---------------------------------------------------------------- columns on demand


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray]:
    A = normal(65, 6000, 500) + np.float32(0.3) * normal(66, 6000, 1)
    weights = np.zeros(500)
    weights[[3, 77, 200, 431]] = [1.0, 0.7, 0.4, 2.0]
    y = A.astype(np.float64) @ weights + 0.01 * normal(67, 6000)
    return A, y.astype(np.float32)


def test_columns_on_demand_know_what_was_asked_for(many) -> None:
    A, y = many
    g = unmerge.Gram(A, y, columns="on_demand", precision="exact")
    assert g.columns < 500
    assert math.isnan(g.condition)
    coef, report = unmerge.omp(g, k=4)
    assert sorted(report.order) == [3, 77, 200, 431]
    assert 4 <= g.columns < 500
    assert g.passes >= 2
    assert report.passes >= 2


@pytest.mark.parametrize(
    "method, options",
    [
        ("lasso", {"alpha": 0.3, "relative": True}),
        ("lasso", {"alpha": 0.02, "relative": True, "positive": True}),
        ("elastic_net", {"alpha": 0.1, "relative": True, "l1_ratio": 0.7}),
        ("nnls", {}),
        ("omp", {"k": 7}),
        ("omp", {"k": 5, "positive": True}),
        ("dot", {"variant": "cosine"}),
        ("dot", {"variant": "projection"}),
    ],
)
def test_columns_on_demand_give_the_same_answers(many, method: str, options: dict) -> None:
    A, y = many
    call = getattr(unmerge, method)
    known, report = call(unmerge.Gram(A, y, precision="exact"), **options)
    asked, demanded = call(unmerge.Gram(A, y, columns="on_demand", precision="exact"), **options)
    assert np.abs(known - asked).max() <= 1e-9 * np.abs(known).max()
    if method != "dot":
        assert np.array_equal(known != 0, asked != 0)
        assert demanded.outcome == report.outcome == "converged"
        assert abs(demanded.objective - report.objective) <= 1e-12 * report.yy
        assert demanded.order == report.order
    paired, _ = call((A, y), **options)
    assert np.abs(known - paired).max() <= 1e-6 * np.abs(known).max()


def test_columns_on_demand_are_ignored_for_factors() -> None:
    a, y, _ = mixed_operators(68)
    g = unmerge.Gram(a, y, columns="on_demand")
    assert g.columns == g.atoms
    assert close(g, unmerge.Gram(a, y), FACTORED)
