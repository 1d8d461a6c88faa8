"""Samples whose rows are split into modules, for tests of Grams with blocks."""

from __future__ import annotations

import numpy as np
import unmerge

RNG = np.random.default_rng


def data(seed: int = 0, p: int = 400, n: int = 6, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    A = rng.standard_normal((p, n)) * rng.uniform(0.1, 10, n) + 0.5 * rng.standard_normal((p, 1))
    return A, A @ rng.standard_normal(n) + noise * rng.standard_normal(p)


def operator(M: np.ndarray, sizes: list[int]) -> unmerge.Operator:
    """One module per run of rows."""
    op = unmerge.Operator()
    M = M.reshape(len(M), -1)
    starts = np.cumsum([0, *sizes])
    for i, size in enumerate(sizes):
        op.add_module(f"m{i}", size, 1)
    for j in range(M.shape[1]):
        c = op.add_column(str(j))
        for i, s in enumerate(starts[:-1]):
            op.set_dense(i, c, np.ascontiguousarray(M[s : starts[i + 1], j : j + 1]))
    return op


def modules(A: np.ndarray, y: np.ndarray, sizes: list[int]) -> unmerge.Gram:
    return unmerge.Gram(operator(A, sizes), operator(y, sizes))
