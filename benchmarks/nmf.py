#!/usr/bin/env python3
"""Time to the same objective from the same start: us, scikit-learn and nimfa, one thread each.

    python benchmarks/nmf.py                      # every row
    python benchmarks/nmf.py --only faces kl      # some

scikit-learn runs its iterations (cd: the squared error; mu: the divergence); then we run as many of ours as it takes to be no
worse, creation of the model included.  nimfa's SNMF/R is Kim & Park's objective with its defaults, ours algorithm="anls" with
group_h = beta and l2_w = eta^2.  CPU seconds, medians, the contestants in turn within each repeat.  nimfa 1.4.0 needs
numpy<2 and scipy<1.12; where it does not run, its row says why.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

for variable in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ[f"{variable}_NUM_THREADS"] = "1"
os.environ.pop("OPENBLAS_CORETYPE", None)

import nmf_data  # noqa: E402
import numpy as np  # noqa: E402
from ours import package  # noqa: E402

Array = nmf_data.Array
Timed = Callable[[], tuple[float, float]]  # seconds, objective


def squared(X: Array, W: Array, H: Array) -> float:
    return float(0.5 * np.sum((X - W @ H) ** 2))


def divergence(X: Array, W: Array, H: Array) -> float:
    Y = W @ H
    inside = X > 0
    return float(np.sum(X[inside] * np.log(X[inside] / Y[inside])) - X.sum() + Y.sum())


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def ours(X: Array, W0: Array, H0: Array, target: float, objective: Callable[..., float], most: int, **options: Any) -> tuple[int, Timed]:
    """The fewest iterations whose objective is no worse than `target`, and the call that runs so many."""
    unmerge = package()

    def model() -> Any:
        return unmerge.NMFModel(X, k=W0.shape[1], W=W0, H=H0, threads=1, **options)

    looking, done = model(), 0
    while done < most:
        done += looking.step(X, max_iter=1, tol=1e-300, threads=1).iterations
        if objective(X, looking.components, looking.codes) <= target:
            break
    else:
        return 0, lambda: (0.0, 0.0)

    def timed() -> tuple[float, float]:
        def run() -> Any:
            made = model()
            made.step(X, max_iter=done, tol=1e-300, threads=1)
            return made

        took, made = seconds(run)
        return took, objective(X, made.components, made.codes)

    return done, timed


def against_sklearn(X: Array, k: int, iterations: int, repeats: int, kl: bool = False) -> str:
    from sklearn.decomposition import NMF

    W0, H0 = nmf_data.start(X, k)
    objective = divergence if kl else squared
    kind = {"solver": "mu", "beta_loss": "kullback-leibler"} if kl else {"solver": "cd"}

    def theirs() -> tuple[float, float]:
        # tol = 0 also skips the objective that mu computes every ten iterations.
        estimator = NMF(k, init="custom", tol=0, max_iter=iterations, **kind)
        took, W = seconds(lambda: estimator.fit_transform(X, W=W0.copy(), H=H0.copy()))
        return took, objective(X, W, estimator.components_)

    name = f"scikit-learn {'mu, KL' if kl else 'cd'}, {iterations} iterations"
    options = {"algorithm": "mu", "loss": "kl"} if kl else {}
    return race(name, theirs, X, W0, H0, objective, 3 * iterations, repeats, options)


def race(
    name: str, theirs: Timed, X: Array, W0: Array, H0: Array, objective: Callable[..., float], most: int, repeats: int,
    options: dict[str, Any],
) -> str:  # fmt: skip
    took, target = theirs()
    count, timed = ours(X, W0, H0, target, objective, most, **options)
    if not count:
        return f"| {name} | {took:.2f} | not reached in {most} iterations | |"
    mine, peers = [], [took]
    for repeat in range(repeats):
        mine.append(timed()[0])
        if repeat + 1 < repeats:
            peers.append(theirs()[0])
    a, b = statistics.median(mine), statistics.median(peers)
    return f"| {name} | {b:.3g} | {a:.3g} ({count} iterations) | {a / b:.3f} |"


def against_nimfa(X: Array, k: int, iterations: int, repeats: int) -> str:
    name = f"nimfa SNMF/R, {iterations} iterations"
    try:
        import nimfa

        W0, H0 = nmf_data.start(X, k)
        W0 /= np.linalg.norm(W0, axis=0)  # as nimfa does
        eta, beta = float(X.max()), 1e-4

        def objective(X: Array, W: Array, H: Array) -> float:
            return squared(X, W, H) + 0.5 * eta**2 * float(np.sum(W**2)) + 0.5 * beta * float(np.sum(H.sum(axis=0) ** 2))

        def theirs() -> tuple[float, float]:
            method = nimfa.Snmf(X, seed="fixed", W=W0.copy(), H=H0.copy(), rank=k, max_iter=iterations, eta=eta, beta=beta, i_conv=10**6)
            took, fit = seconds(method)
            return took, objective(X, np.asarray(fit.basis()), np.asarray(fit.coef()))

        return race(name, theirs, X, W0, H0, objective, 10 * iterations, repeats, {"algorithm": "anls", "group_h": beta, "l2_w": eta**2})
    except Exception as reason:  # not installed, or not for this NumPy
        return f"| {name} | {type(reason).__name__}: {str(reason).splitlines()[0][:80]}; needs numpy<2, scipy<1.12 | | |"


ROWS: dict[str, tuple[str, Callable[[], Array], int, Callable[..., str], tuple[int, ...], dict[str, Any]]] = {
    "faces": ("361 x 2429, rank 49 (parts)", nmf_data.parts, 49, against_sklearn, (100, 200), {}),
    "large": ("5000 x 2000, rank 50", lambda: nmf_data.low_rank(5000, 2000, 50), 50, against_sklearn, (100, 200), {}),
    "kl": ("361 x 2429, rank 49 (parts)", nmf_data.parts, 49, against_sklearn, (50, 100), {"kl": True}),
    "digits-kl": ("64 x 1797, rank 16 (digits)", nmf_data.digits, 16, against_sklearn, (100, 200), {"kl": True}),
    "snmf": ("361 x 400, rank 15 (parts)", lambda: nmf_data.parts(400), 15, against_nimfa, (10, 30), {}),
}
AIM = {"faces": 0.7, "large": 0.7, "snmf": 0.05}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| peer | its seconds | ours to the same objective | ours / peer |\n|---|---|---|---|")
    for key in arguments.only:
        title, make, k, contest, budgets, options = ROWS[key]
        X = make()
        print(f"| **{title}**" + (f", aim {AIM[key]}" if key in AIM else "") + " | | | |")
        for iterations in budgets:
            print(contest(X, k, iterations, arguments.repeats, **options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
