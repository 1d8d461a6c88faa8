#!/usr/bin/env python3
"""Penalties of other tools, put to the tools: does `unmerge.convert_penalty` mean what they mean?

    python benchmarks/conversions.py

The same random problems, solved by each tool with its own numbers and by us with the numbers converted; and by us with our
numbers and the tool with those converted back.  Both answers go into one objective, ours, written out here; the gap is
(F(theirs) - F(ours)) / F(0), its size either way.  Tools are tightened as far as they go.  Prints what it could not run and
why; exits 1 where a gap is above 1e-6 or a way back does not lead back.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

for variable in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ.setdefault(f"{variable}_NUM_THREADS", "1")

import numpy as np  # noqa: E402
from ours import package  # noqa: E402

LIMIT = 1e-6
PROBLEMS = 12
# (share of alpha_max, l1_ratio): LASSO, elastic nets, a penalty beyond alpha_max.
SETTINGS = ((0.1, 1.0), (0.01, 1.0), (0.1, 0.7), (0.03, 0.2), (1.2, 1.0))


@dataclass
class Case:
    A: Any
    y: Any
    rows: Any = None  # sample weights
    factors: Any = None  # glmnet's penalty.factor

    @property
    def count(self) -> float:
        return float(len(self.y) if self.rows is None else self.rows.sum())

    @property
    def weighted(self) -> tuple[Any, Any]:
        root = 1 if self.rows is None else np.sqrt(self.rows)
        return (self.A.T * root).T, self.y * root


def case(seed: int, rows: bool = False, factors: bool = False) -> Case:
    rng = np.random.default_rng([seed, 2])
    p, n = int(rng.integers(40, 300)), int(rng.integers(3, 25))
    A = rng.standard_normal((p, n)) + rng.uniform(0, 1) * rng.standard_normal((p, 1))
    A = A * 10 ** rng.uniform(-0.5, 0.5, n)
    w = np.where(rng.random(n) < 0.4, rng.standard_normal(n), 0)
    y = A @ w + rng.uniform(0.1, 2) * np.sqrt(n) * rng.standard_normal(p)
    y = y * 10 ** rng.uniform(-2, 2)  # glmnet's scale of y matters
    return Case(A, y, rng.uniform(0.3, 3, p) if rows else None, rng.uniform(0.2, 2, n) if factors else None)


# ---------------------------------------------------------------- the tools: coefficients for their own two numbers


def sklearn_net(c: Case, alpha: float, ratio: float) -> Any:
    from sklearn.linear_model import ElasticNet

    net = ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    return net.fit(c.A, c.y, sample_weight=c.rows).coef_


def sklearn_ridge(c: Case, alpha: float, _: float) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(c.A, c.y, sample_weight=c.rows).coef_


def celer_net(c: Case, alpha: float, ratio: float) -> Any:
    from celer import ElasticNet, Lasso

    common = {"alpha": alpha, "fit_intercept": False, "tol": 1e-14, "max_iter": 1000}
    net = Lasso(**common) if ratio == 1 else ElasticNet(l1_ratio=ratio, **common)
    return net.fit(np.asfortranarray(c.A), c.y).coef_


def skglm_net(c: Case, alpha: float, ratio: float) -> Any:
    from skglm import ElasticNet

    net = ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-12, max_iter=1000, max_epochs=100_000)
    return net.fit(np.asfortranarray(c.A), c.y).coef_


def adelie_net(c: Case, alpha: float, ratio: float) -> Any:
    import adelie

    state = adelie.grpnet(
        X=np.asfortranarray(c.A), glm=adelie.glm.gaussian(y=c.y), alpha=ratio, lmda_path=np.array([alpha]), tol=1e-16,
        max_iters=10_000_000, intercept=False, early_exit=False, progress_bar=False,
    )  # fmt: skip
    return state.betas.toarray()[-1]


def adelie_cov(c: Case, alpha: float, ratio: float) -> Any:
    import adelie

    state = adelie.gaussian_cov(
        np.asfortranarray(c.A.T @ c.A), c.A.T @ c.y, alpha=ratio, lmda_path=np.array([alpha]), tol=1e-16,
        max_iters=10_000_000, early_exit=False, progress_bar=False,
    )  # fmt: skip
    return state.betas.toarray()[-1]


def spams_lasso(c: Case, first: float, second: float) -> Any:
    import spams

    found = spams.lasso(np.asfortranarray(c.y[:, None]), np.asfortranarray(c.A), lambda1=first, lambda2=second, mode=2)
    return np.asarray(found.todense()).ravel()


def glmnet(c: Case, lam: float, ratio: float) -> Any:
    """elnet, the Fortran below python-glmnet's class, which adds paths and cross-validation.  It is that of glmnet before March
    2017, where s is the deviation of y from its mean even without an intercept: `centred` below."""
    from glmnet import _glmnet

    p, n = c.A.shape
    everything = np.asfortranarray(np.array([[-9.9e35], [9.9e35]]) * np.ones(n))
    _, _, coef, order, count, _, _, _, status = _glmnet.elnet(
        1, ratio, np.array(c.A, order="F"), c.y.copy(), np.ones(p) if c.rows is None else c.rows.copy(), np.zeros(1, np.int32),
        np.ones(n) if c.factors is None else c.factors.copy(), everything, n + 1, 1.0, np.array([lam]), 1e-16, n, isd=0, intr=0,
        maxit=10_000_000,
    )  # fmt: skip
    if status:
        raise RuntimeError(f"elnet gives status {status}")
    found = np.zeros(n)
    found[order[: count[0]] - 1] = coef[: count[0], 0]
    return found


def glmnetpp(c: Case, lam: float, ratio: float) -> Any:
    """The C++ core of R's glmnet since version 4."""
    from glmnetpp import fit_gaussian_ridge

    found = fit_gaussian_ridge(
        np.array(c.A, order="F"), c.y, lam, alpha=ratio, penalty_factor=c.factors, standardize=False, intercept=False, thresh=1e-16,
        maxit=10_000_000,
    )  # fmt: skip
    return found[1] if isinstance(found, tuple) else found


# ---------------------------------------------------------------- the comparison


@dataclass
class Tool:
    label: str
    name: str
    solve: Callable[[Case, float, float], Any]
    rows: bool = False
    factors: bool = False
    centred: bool = False


TOOLS = [
    Tool("scikit-learn ElasticNet", "sklearn", sklearn_net),
    Tool("scikit-learn ElasticNet, weighted", "sklearn", sklearn_net, rows=True),
    Tool("scikit-learn Ridge", "ridge", sklearn_ridge),
    Tool("celer", "celer", celer_net),
    Tool("skglm", "skglm", skglm_net),
    Tool("adelie grpnet", "adelie", adelie_net),
    Tool("adelie gaussian_cov", "adelie_cov", adelie_cov),
    Tool("spams lasso, mode 2", "spams", spams_lasso),
    Tool("python-glmnet", "glmnet", glmnet, centred=True),
    Tool("python-glmnet, weighted", "glmnet", glmnet, rows=True, centred=True),
    Tool("python-glmnet, penalty.factor", "glmnet", glmnet, factors=True, centred=True),
    Tool("glmnetpp", "glmnet", glmnetpp),
    Tool("glmnetpp, penalty.factor", "glmnet", glmnetpp, factors=True),
]


def objective(c: Case, alpha: float, ratio: float, weights: Any, w: Any) -> float:
    A, y = c.weighted
    r = y - A @ w
    return float(r @ r / 2 + alpha * (ratio * (weights * abs(w)).sum() + (1 - ratio) / 2 * (weights * w * w).sum()))


def compare(unmerge: Any, tool: Tool) -> tuple[float, float, float, int]:
    """Largest gap with their numbers, with ours, largest error of the way back, number of comparisons."""
    worst = [0.0, 0.0, 0.0]
    count = 0
    for seed in range(PROBLEMS):
        c = case(seed, tool.rows, tool.factors)
        A, y = c.weighted
        weights = np.ones(A.shape[1]) if c.factors is None else unmerge.glmnet_weights(c.factors)
        root = np.ones(len(y)) if c.rows is None else np.sqrt(c.rows)
        scale = {"rows": c.count, "yy": float(y @ y) - (float(root @ y) ** 2 / c.count if tool.centred else 0)}
        gram = unmerge.Gram(A, y, precision="exact")
        for share, ratio in ((0.1, 0.0),) if tool.name == "ridge" else SETTINGS:
            alpha = share * float(np.max(np.abs(A.T @ y) / weights)) / max(ratio, 0.1)
            theirs = unmerge.convert_penalty(tool.name, alpha, ratio, back=True, **scale)
            again = unmerge.convert_penalty(tool.name, *theirs, **scale)
            # Numbers of the tool's own, not ours converted: rounded to two digits.
            round_ = lambda x: float(f"{x:.1e}") if x else 0.0
            own = (round_(theirs[0]), round_(theirs[1]))
            mine = unmerge.convert_penalty(tool.name, *own, **scale)
            worst[2] = max(worst[2], abs(again[0] / alpha - 1), abs(again[1] - ratio))
            for which, (asked, here) in enumerate(((own, mine), (theirs, (alpha, ratio)))):
                ours, report = unmerge.elastic_net(gram, alpha=here[0], l1_ratio=here[1], weights=weights, tol=1e-13)
                other = tool.solve(c, *asked)
                zero = objective(c, *here, weights, np.zeros(len(ours)))
                gap = (objective(c, *here, weights, other) - objective(c, *here, weights, ours)) / zero
                worst[which] = max(worst[which], abs(gap)) if np.isfinite(gap) else np.inf
                count += 1
    return worst[0], worst[1], worst[2], count


def main() -> int:
    warnings.simplefilter("ignore")
    unmerge = package()
    print(f"{'tool':34} {'their numbers':>14} {'our numbers':>12} {'way back':>9}   problems")
    failed = False
    for tool in TOOLS:
        try:
            first, second, back, count = compare(unmerge, tool)
        except Exception as reason:  # not installed, or unable: said, and no verdict
            print(f"{tool.label:34} not run: {type(reason).__name__}: {(str(reason).splitlines() or [''])[0][:80]}")
            continue
        bad = max(first, second) > LIMIT or back > 1e-13
        failed = failed or bad
        print(f"{tool.label:34} {first:14.1e} {second:12.1e} {back:9.1e}   {count}{'   WRONG' if bad else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
