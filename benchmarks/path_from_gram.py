#!/usr/bin/env python3
"""A path of 100 LASSOs from a Gram that is given: us and the peers that take one.

    python benchmarks/path_from_gram.py                    # n = 2048, one thread
    python benchmarks/path_from_gram.py --n 512 --repeats 5

Atoms share a direction (pairwise correlation 0.5), 1 % of them make the target; alpha_max to 1e-3 alpha_max.  Each is
tightened until its worst objective is within 1e-6 ||y||^2/2 of ours, whose gaps are certified, and then timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

for variable in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ[f"{variable}_NUM_THREADS"] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)

import numpy as np  # noqa: E402
from ours import package  # noqa: E402

LIMIT = 1e-6


def problem(n: int) -> tuple[Any, Any, float, int]:
    rng = np.random.default_rng(1)
    p = 4 * n
    A = np.sqrt(0.5) * rng.standard_normal((p, n)) + np.sqrt(0.5) * rng.standard_normal((p, 1))
    A /= np.linalg.norm(A, axis=0)
    w = np.where(rng.random(n) < 0.01, rng.uniform(0.5, 1.5, n), 0)
    noise = rng.standard_normal(p)
    y = A @ w + 0.5 * noise / np.linalg.norm(noise)
    return A.T @ A, A.T @ y, float(y @ y), p


def contestants(G: Any, c: Any, yy: float, p: int, alphas: Any) -> dict[str, tuple[tuple[float, ...], Callable[[float], Any]]]:
    """Tolerances, and the call: coefficients row by row."""
    unmerge = package()
    gram = unmerge.Gram.from_arrays(G, c, yy, p)
    found: dict[str, tuple[tuple[float, ...], Callable[[float], Any]]] = {
        "unmerge.lasso_path(gram)": ((1e-10,), lambda tol: unmerge.lasso_path(gram, alphas=alphas, tol=tol, threads=1)[1].T)
    }

    def sklearn(tol: float) -> Any:
        from sklearn.linear_model import _cd_fast

        w, rows, size = np.zeros(len(c)), [], np.array([np.sqrt(yy)])
        for alpha in alphas:  # lasso_path(precompute=G) without its checks of A, which the Gram replaces
            w = _cd_fast.enet_coordinate_descent_gram(w, alpha, 0.0, G, c, size, 100_000, tol, np.random.RandomState(0), False, False)[0]
            rows.append(w.copy())
        return np.array(rows)

    def skglm(tol: float) -> Any:
        from skglm.datafits import QuadraticHessian
        from skglm.penalties import L1
        from skglm.solvers import AndersonCD
        from skglm.utils.jit_compilation import compiled_clone

        datafit, penalty = compiled_clone(QuadraticHessian()), compiled_clone(L1(1.0))
        solver, w, rows = AndersonCD(tol=tol, fit_intercept=False, max_iter=100, max_epochs=100_000), np.zeros(len(c)), []
        for alpha in alphas:
            penalty.alpha = alpha
            w = solver.solve(np.asfortranarray(G), -c, datafit, penalty, w_init=w, Xw_init=G @ w)[0]
            rows.append(w.copy())
        return np.array(rows)

    def adelie(tol: float) -> Any:
        import adelie as ad

        state = ad.gaussian_cov(A=ad.matrix.dense(G, method="cov"), v=c, lmda_path=alphas, tol=tol, early_exit=False, progress_bar=False)
        return state.betas.toarray()

    found["sklearn cd_gram, warm"] = ((1e-4, 1e-6, 1e-8), sklearn)
    found["skglm, QuadraticHessian"] = ((1e-3, 1e-4, 1e-5, 1e-6, 1e-8), skglm)
    found["adelie gaussian_cov"] = ((1e-5, 1e-7, 1e-9), adelie)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    G, c, yy, p = problem(arguments.n)
    alphas = np.abs(c).max() * 1e-3 ** (np.arange(100) / 99)

    def objectives(rows: Any) -> Any:
        return np.array([0.5 * yy - c @ w + 0.5 * w @ (G @ w) + a * np.abs(w).sum() for w, a in zip(rows, alphas, strict=True)])

    best: Any = None
    ours = 0.0
    for name, (ladder, call) in contestants(G, c, yy, p, alphas).items():
        try:
            call(ladder[0])  # imports and compilation
            for tol in ladder:
                began = time.perf_counter()
                rows = call(tol)
                seconds = [time.perf_counter() - began]
                values = objectives(rows)
                best = values if best is None else best
                error = float(np.max(values - best) / (0.5 * yy))
                if error <= LIMIT:
                    break
            else:
                print(f"{name:28} error {error:.1e} at its tightest")
                continue
            for _ in range(arguments.repeats - 1):
                began = time.perf_counter()
                call(tol)
                seconds.append(time.perf_counter() - began)
        except Exception as reason:
            print(f"{name:28} {type(reason).__name__}: {str(reason).splitlines()[0][:90] if str(reason) else ''}")
            continue
        fastest = min(seconds)
        ours = ours or fastest
        print(f"{name:28} {fastest * 1e3:9.1f} ms   ours / theirs {ours / fastest:5.2f}   tol {tol:g}   error {error:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
