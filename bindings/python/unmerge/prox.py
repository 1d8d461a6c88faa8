"""Proximal operators and projections: z = argmin_z  step f(z) + 1/2 ||z - x||^2.

    unmerge.prox.l1(x, alpha=0.1)            # soft thresholding
    unmerge.prox.simplex(x)                  # projection on {z >= 0, sum z = 1}

``x`` is a vector, or a matrix whose columns are taken one by one (``nuclear`` and ``rank`` take the matrix as a whole).
float64, float32, float16 or bfloat16; z is a new array, float32 for float32 and float64 else; computed in double.  All are
exact: closed forms, one sort, or one pass.  Where two minimisers tie the one nearer to 0 is taken, among equal entries the
lower index.  ``alpha`` >= 0, ``step`` > 0; ``weights``: n numbers >= 0, None = ones.

Parikh & Boyd 2014; Beck 2017, ch. 6.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, numbers, output, view
from ._library import call, prepared
from ._options import INT64, integer, real
from .errors import bad_range

Array = npt.NDArray[Any]


def _prox(kind: int, x: Any, *, weights: Any = None, normal: Any = None, **fields: float | int) -> Array:
    source = view(np.asarray(x, dtype=np.float64) if isinstance(x, (list, tuple)) else x, "x")
    rows, columns = source.shape
    z: Array = np.empty((rows, columns), dtype=np.float32 if source.dtype == "float32" else np.float64)
    options = prepared(_ffi.unmerge_prox_options, **fields)
    penalty = None if weights is None else numbers(weights, "weights", (rows,))
    direction = None if normal is None else numbers(normal, "normal", (rows,))
    options.weights = doubles(penalty)
    options.normal = doubles(direction)
    call("prox", kind, ctypes.byref(options), source.pointer, output(z).pointer)
    return z[:, 0] if source.ndim == 1 else z


def _scale(alpha: float, step: float) -> dict[str, float]:
    return {"alpha": real(alpha, "alpha"), "step": real(step, "step")}


# ---------------------------------------------------------------- convex functions


def l1(x: Any, alpha: float = 1.0, *, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha sum weights_j |z_j|: soft thresholding."""
    return _prox(_ffi.UNMERGE_PROX_L1, x, weights=weights, **_scale(alpha, step))


def nonnegative_l1(x: Any, alpha: float = 1.0, *, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha sum weights_j z_j with z >= 0."""
    return _prox(_ffi.UNMERGE_PROX_NONNEGATIVE_L1, x, weights=weights, **_scale(alpha, step))


def l2_squared(x: Any, alpha: float = 1.0, *, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha/2 sum weights_j z_j^2: shrinking."""
    return _prox(_ffi.UNMERGE_PROX_L2_SQUARED, x, weights=weights, **_scale(alpha, step))


def elastic_net(
    x: Any, alpha: float = 1.0, *, l1_ratio: float = 0.5, step: float = 1.0, weights: Any = None
) -> Array:
    """f = alpha [l1_ratio sum weights_j |z_j| + (1-l1_ratio)/2 sum weights_j z_j^2]."""
    ratio = real(l1_ratio, "l1_ratio")
    return _prox(_ffi.UNMERGE_PROX_ELASTIC_NET, x, weights=weights, l1_ratio=ratio, **_scale(alpha, step))


def huber(x: Any, alpha: float = 1.0, *, gamma: float = 1.0, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha sum weights_j h(z_j), h(z) = z^2 / (2 gamma) up to |z| = gamma, |z| - gamma/2 beyond.  Huber 1964."""
    return _prox(_ffi.UNMERGE_PROX_HUBER, x, weights=weights, gamma=_shape(gamma), **_scale(alpha, step))


def l2(x: Any, alpha: float = 1.0, *, step: float = 1.0) -> Array:
    """f = alpha ||z||_2: the block soft threshold of the group LASSO."""
    return _prox(_ffi.UNMERGE_PROX_L2, x, **_scale(alpha, step))


def sparse_group(
    x: Any, alpha: float = 1.0, *, l1_ratio: float = 0.5, step: float = 1.0, weights: Any = None
) -> Array:
    """f = alpha [l1_ratio sum weights_j |z_j| + (1-l1_ratio) ||z||_2]."""
    ratio = real(l1_ratio, "l1_ratio")
    return _prox(_ffi.UNMERGE_PROX_SPARSE_GROUP, x, weights=weights, l1_ratio=ratio, **_scale(alpha, step))


def linf(x: Any, alpha: float = 1.0, *, step: float = 1.0) -> Array:
    """f = alpha max |z_j|."""
    return _prox(_ffi.UNMERGE_PROX_LINF, x, **_scale(alpha, step))


def slope(x: Any, alpha: float = 1.0, *, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha sum weights_i |z|_(i), |z|_(1) >= |z|_(2) >= ...; weights must not increase.  Bogdan et al. 2015."""
    return _prox(_ffi.UNMERGE_PROX_SLOPE, x, weights=weights, **_scale(alpha, step))


def total_variation(x: Any, alpha: float = 1.0, *, step: float = 1.0) -> Array:
    """f = alpha sum |z_{j+1} - z_j|, in linear time.  Johnson 2013."""
    return _prox(_ffi.UNMERGE_PROX_TOTAL_VARIATION, x, **_scale(alpha, step))


def fused(x: Any, alpha: float = 1.0, *, l1_ratio: float = 0.5, step: float = 1.0) -> Array:
    """f = alpha [l1_ratio sum |z_j| + (1-l1_ratio) sum |z_{j+1} - z_j|].  Friedman et al. 2007."""
    return _prox(_ffi.UNMERGE_PROX_FUSED, x, l1_ratio=real(l1_ratio, "l1_ratio"), **_scale(alpha, step))


def nuclear(x: Any, alpha: float = 1.0, *, step: float = 1.0) -> Array:
    """f = alpha sum of the singular values of the matrix Z.  Cai, Candès & Shen 2010."""
    return _prox(_ffi.UNMERGE_PROX_NUCLEAR, x, **_scale(alpha, step))


# ---------------------------------------------------------------- functions that are not convex


def l0(x: Any, alpha: float = 1.0, *, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha sum over z_j != 0 of weights_j: hard thresholding at sqrt(2 step alpha weights_j)."""
    return _prox(_ffi.UNMERGE_PROX_L0, x, weights=weights, **_scale(alpha, step))


def mcp(x: Any, alpha: float = 1.0, *, gamma: float = 3.0, step: float = 1.0, weights: Any = None) -> Array:
    """f = sum of l|z| - z^2/(2 gamma) up to |z| = gamma l, then gamma l^2/2; l = alpha weights_j, gamma > 0.  Zhang 2010."""
    return _prox(_ffi.UNMERGE_PROX_MCP, x, weights=weights, gamma=_shape(gamma), **_scale(alpha, step))


def scad(x: Any, alpha: float = 1.0, *, gamma: float = 3.7, step: float = 1.0, weights: Any = None) -> Array:
    """f' = l up to l, (gamma l - z)/(gamma - 1) up to gamma l, then 0, for z > 0; l = alpha weights_j, gamma > 1.

    Fan & Li 2001.
    """
    return _prox(_ffi.UNMERGE_PROX_SCAD, x, weights=weights, gamma=_shape(gamma), **_scale(alpha, step))


def lq(x: Any, alpha: float = 1.0, *, q: float = 0.5, step: float = 1.0, weights: Any = None) -> Array:
    """f = alpha sum weights_j |z_j|^q, q in [0.1, 0.95]; 1/2 and 2/3 are the usual ones.  Xu et al. 2012."""
    return _prox(_ffi.UNMERGE_PROX_LQ, x, weights=weights, q=real(q, "q"), **_scale(alpha, step))


def cel0(x: Any, alpha: float = 1.0, *, norm: float = 1.0, step: float = 1.0, weights: Any = None) -> Array:
    """f = sum of l - (norm^2/2) (|z| - sqrt(2l)/norm)^2 up to |z| = sqrt(2l)/norm, then l = alpha weights_j.

    norm > 0 is that of the atoms in the least-squares term beside f.  Soubies, Blanc-Féraud & Aubert 2015.
    """
    return _prox(_ffi.UNMERGE_PROX_CEL0, x, weights=weights, gamma=_shape(norm, "norm"), **_scale(alpha, step))


def k_sparse(x: Any, k: int) -> Array:
    """At most k non-zeros: the k largest |x_j|."""
    return _prox(_ffi.UNMERGE_PROX_K_SPARSE, x, k=integer(k, "k", INT64))


def hoyer(x: Any, sparsity: float = 0.5) -> Array:
    """Hoyer's sparsity (sqrt n - ||z||_1 / ||z||_2) / (sqrt n - 1) >= sparsity, in [0, 1].  Hoyer 2004; Thom & Palm 2013."""
    return _prox(_ffi.UNMERGE_PROX_HOYER, x, sparsity=real(sparsity, "sparsity"))


def nonnegative_hoyer(x: Any, sparsity: float = 0.5) -> Array:
    """The same and z >= 0."""
    return _prox(_ffi.UNMERGE_PROX_NONNEGATIVE_HOYER, x, sparsity=real(sparsity, "sparsity"))


def rank(x: Any, k: int) -> Array:
    """The nearest matrix of rank at most k.  Eckart & Young 1936."""
    return _prox(_ffi.UNMERGE_PROX_RANK, x, k=integer(k, "k", INT64))


# ---------------------------------------------------------------- projections on convex sets


def l1_ball(x: Any, radius: float = 1.0) -> Array:
    """sum |z_j| <= radius.  Duchi et al. 2008."""
    return _prox(_ffi.UNMERGE_PROX_L1_BALL, x, radius=real(radius, "radius"))


def l2_ball(x: Any, radius: float = 1.0) -> Array:
    """||z||_2 <= radius."""
    return _prox(_ffi.UNMERGE_PROX_L2_BALL, x, radius=real(radius, "radius"))


def simplex(x: Any, radius: float = 1.0) -> Array:
    """z >= 0, sum z_j = radius.  Held, Wolfe & Crowder 1974."""
    return _prox(_ffi.UNMERGE_PROX_SIMPLEX, x, radius=real(radius, "radius"))


def capped_simplex(x: Any, radius: float = 1.0, *, upper: float = 1.0) -> Array:
    """0 <= z <= upper, sum z_j = radius <= n upper."""
    return _prox(_ffi.UNMERGE_PROX_CAPPED_SIMPLEX, x, radius=real(radius, "radius"), upper=real(upper, "upper"))


def box(x: Any, lower: float = -np.inf, upper: float = np.inf) -> Array:
    """lower <= z_j <= upper."""
    return _prox(_ffi.UNMERGE_PROX_BOX, x, lower=real(lower, "lower"), upper=real(upper, "upper"))


def nonnegative(x: Any) -> Array:
    """z >= 0."""
    return _prox(_ffi.UNMERGE_PROX_NONNEGATIVE, x)


def plane(x: Any, normal: Any = None, offset: float = 0.0) -> Array:
    """sum normal_j z_j = offset; normal None: ones."""
    return _prox(_ffi.UNMERGE_PROX_PLANE, x, normal=normal, offset=real(offset, "offset"))


def halfspace(x: Any, normal: Any = None, offset: float = 0.0) -> Array:
    """sum normal_j z_j <= offset; normal None: ones."""
    return _prox(_ffi.UNMERGE_PROX_HALFSPACE, x, normal=normal, offset=real(offset, "offset"))


def cone(x: Any) -> Array:
    """||(z_1, ..., z_{n-1})||_2 <= z_0: the second-order cone."""
    return _prox(_ffi.UNMERGE_PROX_CONE, x)


def monotone(x: Any, *, weights: Any = None) -> Array:
    """z_0 <= z_1 <= ...: isotonic regression, nearest in sum weights_j (z_j - x_j)^2.  Ayer et al. 1955."""
    return _prox(_ffi.UNMERGE_PROX_MONOTONE, x, weights=weights)


def _shape(value: float, name: str = "gamma") -> float:
    """0 means the default in C; here it is a mistake."""
    value = real(value, name)
    if not value > 0:
        raise bad_range(f"{name} is {value}; it must be finite and > 0")
    return value
