"""Grams with changes, from the specification: added and removed atoms, mixtures, weighted blocks, shifted targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import unmerge
from modular import RNG, data, modules, operator
from oracles import ld


def entries(gram: unmerge.Gram) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = gram.arrays()
    return ld(a.G), ld(a.C), ld(a.yy)


def agree(gram: unmerge.Gram, A: np.ndarray, Y: np.ndarray, tol: float = 5e-15) -> bool:
    """Entry errors of gram against extended precision, block sums included."""
    X, T = ld(A), ld(Y.reshape(len(A), -1))
    G, C, yy = entries(gram)
    d, e = np.sqrt((X * X).sum(axis=0)), np.sqrt((T * T).sum(axis=0))
    return bool(
        np.all(np.abs(G - X.T @ X) <= tol * np.outer(d, d))
        and np.all(np.abs(C - X.T @ T) <= tol * np.outer(d, e))
        and np.all(np.abs(yy - e * e) <= tol * e * e)
    )


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("blocks", ["module", "one"])
def test_added_atoms_make_the_gram_of_all(folds: int, blocks: Any) -> None:
    rng = RNG(folds)
    A, Y = rng.standard_normal((1500, 9)), rng.standard_normal((1500, 2))
    sizes = [500, 300, 700]
    old, new, y = operator(A[:, :6], sizes), operator(A[:, 6:], sizes), operator(Y, sizes)
    options = {"folds": folds, "blocks": blocks, "seed": 4}
    before = unmerge.Gram(old, y, **options)
    after = before.add_atoms(old, new, y, **options)
    whole = unmerge.Gram(operator(A, sizes), y, **options)
    assert after.blocks == whole.blocks and after.atoms == 9
    assert agree(after, A, Y)
    for b in range(len(whole.blocks)):
        for mine, theirs in zip(after.arrays(b), whole.arrays(b)):
            assert np.allclose(mine, theirs, rtol=0, atol=5e-15 * 1500)
    # Removing what was added leaves the bits of never having had it.
    assert after.subset(atoms=range(6)).to_bytes() == before.to_bytes()
    assert after.passes == before.passes + 1


def test_added_lora_atoms() -> None:
    rng = RNG(5)
    shapes = [(40, 30), (20, 50)]
    factors = [[(rng.standard_normal((r, 3)), rng.standard_normal((3, c))) for r, c in shapes] for _ in range(5)]
    dense = np.column_stack([np.concatenate([(B @ A).ravel() for B, A in f]) for f in factors])
    y = dense @ rng.standard_normal(5) + rng.standard_normal(len(dense))

    def lora(which: range) -> unmerge.Operator:
        op = unmerge.Operator()
        for i, (r, c) in enumerate(shapes):
            op.add_module(f"w{i}", r, c)
        for j in which:
            op.add_column(str(j))
            for i in range(2):
                op.set_lora(i, str(j), *factors[j][i])
        return op

    target = unmerge.Operator()
    for i, (r, c) in enumerate(shapes):
        target.add_module(f"w{i}", r, c)
    target.add_column("y")
    target.set_dense(0, 0, y[:1200].reshape(40, 30))
    target.set_dense(1, 0, y[1200:].reshape(20, 50))
    grown = unmerge.Gram(lora(range(3)), target).add_atoms(lora(range(3)), lora(range(3, 5)), target)
    assert agree(grown, dense, y, 1e-13)


def test_added_atoms_under_a_mask() -> None:
    rng = RNG(6)
    A, y = rng.standard_normal((900, 5)), rng.standard_normal(900)
    old, new, target = operator(A[:, :3], [400, 500]), operator(A[:, 3:], [400, 500]), operator(y, [400, 500])
    mask = unmerge.mask(old, per_module=100)
    before = unmerge.Gram(old, target, mask=mask)
    after = before.add_atoms(old, new, target, mask=mask)
    whole = unmerge.Gram(operator(A, [400, 500]), target, mask=mask)
    assert np.allclose(after.arrays().G, whole.arrays().G, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match="options"):
        before.add_atoms(old, new, target)


def test_other_data_is_refused() -> None:
    rng = RNG(7)
    A, y = rng.standard_normal((640, 4)), rng.standard_normal(640)
    gram = unmerge.Gram(A[:, :3], y, folds=4, seed=1)
    assert gram.add_atoms(A[:, :3], A[:, 3:], y, folds=4, seed=1).atoms == 4
    with pytest.raises(ValueError, match="seed|folds|options"):
        gram.add_atoms(A[:, :3], A[:, 3:], y, folds=4, seed=2)
    with pytest.raises(ValueError, match="options"):
        gram.add_atoms(A[:, :3], A[:, 3:], y)
    with pytest.raises(ValueError, match="a_old"):
        gram.add_atoms(2 * A[:, :3], A[:, 3:], y, folds=4, seed=1)
    with pytest.raises(ValueError, match="a_old|atoms"):
        gram.add_atoms(A[:, :2], A[:, 2:], y, folds=4, seed=1)
    broken = A[:, 3:].copy()
    broken[17] = np.nan
    with pytest.raises(ValueError, match="row 17"):
        gram.add_atoms(A[:, :3], broken, y, folds=4, seed=1)


def test_removed_atoms_leave_what_would_have_been_without_them() -> None:
    """To the bit where the library's own kernel sums (up to 16 atoms); BLAS may sum the edges of a matrix in another order."""
    rng = RNG(8)
    for n in (5, 16, 64):
        A, y = rng.standard_normal((3000, n)), rng.standard_normal(3000)
        keep = sorted(rng.choice(n, n - 2, replace=False))
        left = unmerge.Gram(A, y, precision="exact").subset(atoms=keep).arrays()
        never = unmerge.Gram(np.ascontiguousarray(A[:, keep]), y, precision="exact").arrays()
        for a, b in zip(left, never):
            assert np.array_equal(a, b) or n > 16, n
        d, norm = np.sqrt(np.diag(never.G)), float(np.sqrt(never.yy[0]))
        assert np.all(np.abs(left.G - never.G) <= 5e-15 * np.outer(d, d)), n
        assert np.all(np.abs(left.C[:, 0] - never.C[:, 0]) <= 5e-15 * d * norm) and np.array_equal(left.yy, never.yy), n


def test_transformed_atoms() -> None:
    A, y = data(9, p=300, n=5)
    gram = modules(A, y, [100, 150, 50])
    M = RNG(1).standard_normal((5, 3))
    mixed = gram.transform(M)
    assert mixed.blocks == gram.blocks and agree(mixed, A @ M, y, 1e-13)
    scale = np.diag([1, 2, 4, 0.5, 1024.0])
    assert agree(gram.transform(scale), A @ scale, y)
    order = [4, 0, 3, 1, 2]
    exchanged = gram.transform(np.eye(5)[:, order])
    assert np.array_equal(exchanged.arrays().G, gram.subset(atoms=order).arrays().G)
    w, _ = unmerge.ridge(mixed, alpha=0)
    assert np.allclose(w, np.linalg.lstsq(A @ M, y, rcond=None)[0], rtol=1e-9)
    for bad in (np.ones((4, 2)), np.full((5, 2), np.nan), np.full((5, 1), 1e300)):
        with pytest.raises(ValueError, match="m "):
            gram.transform(bad)


def test_weighted_blocks() -> None:
    A, y = data(10, p=300, n=4)
    sizes, weights = [100, 150, 50], np.array([0.5, 0.0, 3.0])
    s = np.repeat(weights, sizes)
    gram = modules(A, y, sizes).weighted(weights)
    assert agree(gram, A * np.sqrt(s)[:, None], y * np.sqrt(s), 2e-15)
    assert gram.entries == 300
    whole = modules(A, y, sizes)
    assert whole.weighted([1, 1, 1]).to_bytes() == whole.to_bytes()
    assert np.array_equal(whole.weighted([1, 0, 1]).arrays().G, whole.subset(blocks=[0, 2]).arrays().G)
    for bad in ([1, 1], [1, -1, 1], [1, math.inf, 1]):
        with pytest.raises(ValueError, match="weights"):
            whole.weighted(bad)


def test_shifted_targets() -> None:
    A, y = data(11, p=400, n=5, noise=0)
    w = np.linalg.lstsq(A, y, rcond=None)[0]
    gram = modules(A, y, [150, 250])
    shift = RNG(2).standard_normal(5)
    assert agree(gram.shift_target(shift), A, y + A @ shift, 1e-13)
    back = gram.shift_target(shift).shift_target(-shift)
    assert np.allclose(back.arrays().C, gram.arrays().C, rtol=1e-12)
    # y - A w: what is left of yy is the rounding of G, not of the sum.
    left = gram.shift_target(-w)
    for b in range(2):
        G, C, yy = (ld(x) for x in gram.arrays(b))
        exact = yy[0] - 2 * C[:, 0] @ ld(w) + ld(w) @ G @ ld(w)
        assert abs(ld(left.arrays(b).yy[0]) - max(exact, 0)) <= 1e-18 * float(yy[0])
    two = unmerge.Gram(A, np.column_stack([y, y]))
    M = np.column_stack([shift, np.zeros(5)])
    assert agree(two.shift_target(M), A, np.column_stack([y, y]) + A @ M, 1e-13)
    for bad in (np.ones(4), np.full(5, math.inf)):
        with pytest.raises(ValueError, match="M|m "):
            gram.shift_target(bad)


def test_changes_need_all_columns() -> None:
    A, y = RNG(3).standard_normal((2000, 70)), RNG(4).standard_normal(2000)
    lazy = unmerge.Gram(A, y, columns="on_demand", blocks="one")
    for change in (
        lambda: lazy.transform(np.eye(70)),
        lambda: lazy.weighted([1.0]),
        lambda: lazy.shift_target(np.ones(70)),
        lambda: lazy.add_atoms(A, A[:, :1], y, blocks="one"),
    ):
        with pytest.raises(ValueError, match="on demand"):
            change()
