"""Penalties of other tools as ``alpha`` and ``l1_ratio`` here, and back.

Here 1/2 ||Aw-y||^2 + alpha (l1_ratio |w|_1 + (1-l1_ratio)/2 |w|^2).  ``tool`` and its two numbers:

    "sklearn"      alpha, l1_ratio     Lasso, ElasticNet: 1/(2 rows) ||r||^2; also "celer", "skglm", "adelie" (grpnet: lmda, alpha)
    "ridge"        alpha, 0            scikit-learn's Ridge: ||r||^2 + alpha |w|^2
    "glmnet"       lambda, alpha       gaussian, intercept = FALSE, standardize = FALSE; fits y / s with s = ||y|| / sqrt(rows)
                                       (before 2017, python-glmnet too, s is the deviation from the mean: yy = ||y - mean(y)||^2)
    "spams"        lambda1, lambda2    lasso, mode 2
    "adelie_cov"   lmda, alpha         gaussian_cov(A'A, A'y)

SPGL1's sigma and tau are those of ``bpdn`` and ``lasso_tau``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _ffi
from ._arrays import doubles, numbers
from ._library import call
from ._options import choice, real
from .methods import Coef

TOOLS = {
    "sklearn": _ffi.UNMERGE_TOOL_SKLEARN,
    "celer": _ffi.UNMERGE_TOOL_SKLEARN,
    "skglm": _ffi.UNMERGE_TOOL_SKLEARN,
    "adelie": _ffi.UNMERGE_TOOL_SKLEARN,
    "ridge": _ffi.UNMERGE_TOOL_RIDGE,
    "glmnet": _ffi.UNMERGE_TOOL_GLMNET,
    "spams": _ffi.UNMERGE_TOOL_SPAMS,
    "adelie_cov": _ffi.UNMERGE_TOOL_ADELIE_COV,
}


def convert_penalty(
    tool: str, first: float, second: float = 1.0, *, rows: float = 0.0, yy: float = 0.0, back: bool = False
) -> tuple[float, float]:
    """(alpha, l1_ratio) of the elastic net here, from the two numbers of ``tool``; with ``back`` the other way round.

    rows: p, or the sum of the sample weights (sklearn and its like, glmnet); yy: ||y||^2 (glmnet).  See the module's table.
    """
    values, result = np.array([real(first, "first"), real(second, "second")]), np.zeros(2)
    number = choice(tool, "tool", TOOLS)
    call("convert_penalty", number, int(bool(back)), real(rows, "rows"), real(yy, "yy"), doubles(values), doubles(result))
    return float(result[0]), float(result[1])


def glmnet_weights(penalty_factor: Any) -> Coef:
    """``weights`` here for glmnet's penalty.factor, which it rescales to sum to the number of atoms."""
    factors = numbers(penalty_factor, "penalty_factor")
    return np.asarray(factors * (factors.size / factors.sum()))
