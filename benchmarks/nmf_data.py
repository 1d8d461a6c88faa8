"""Data of the factorisation benchmarks: seeds and sizes in, p x T arrays out; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def parts(columns: int = 2429, side: int = 19, how_many: int = 49, share: float = 0.3, noise: float = 0.02, seed: int = 0) -> Array:
    """In place of the CBCL faces (whose licence is unclear), in their size: images of a side x side grid in the columns, each a
    non-negative sum of some of `how_many` random rectangles, plus uniform noise; scaled to the maximum 1."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((how_many, side, side))
    for shape in shapes:
        top, left = rng.integers(0, side - 3, 2)
        height, width = rng.integers(3, 8, 2)
        shape[top : top + height, left : left + width] = 1
    codes = rng.gamma(1, 1, (how_many, columns)) * (rng.random((how_many, columns)) < share)
    X = shapes.reshape(how_many, -1).T @ codes
    X += noise * X.max() * rng.random(X.shape)
    return X / X.max()


def low_rank(p: int, columns: int, rank: int, noise: float = 0.1, seed: int = 0) -> Array:
    """Uniform factors and uniform noise in units of the mean."""
    rng = np.random.default_rng(seed)
    X = rng.random((p, rank)) @ rng.random((rank, columns))
    X += noise * X.mean() * rng.random(X.shape)
    return X


def digits() -> Array:
    """64 x 1797: scikit-learn's 8 x 8 digits in the columns, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    found: Array = np.ascontiguousarray(load_digits().data.T) / 16
    return found


def start(X: Array, k: int, seed: int = 0) -> tuple[Array, Array]:
    """Half-normal factors, scaled so that WH has about the mean of X: scikit-learn's random start."""
    rng, scale = np.random.default_rng(seed), np.sqrt(X.mean() / k)
    return scale * np.abs(rng.standard_normal((len(X), k))), scale * np.abs(rng.standard_normal((k, X.shape[1])))
