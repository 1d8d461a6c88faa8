"""What most peers begin with.

"Gram + solver" is NumPy's D @ D.T (OpenBLAS syrk) and the best small solver for the problem, in float64 from there on:
what a careful user writes by hand, and for most methods the one to beat.

scikit-learn, celer, skglm and adelie divide the fit by p: their alpha is ours over p.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from problems import Data

Call = Callable[[], Any]


def summary(data: Data) -> tuple[Any, Any, float]:
    """G, c and ||y||^2, computed in the precision of the arrays, then as float64."""
    G = (data.D @ data.D.T).astype(np.float64)
    return G, (data.D @ data.y).astype(np.float64), float(data.y @ data.y)


def dense(sparse: Any) -> Any:
    return sparse.toarray().ravel()
