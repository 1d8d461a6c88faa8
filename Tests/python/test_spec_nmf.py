"""Non-negative matrix factorisation: the header's formulas in extended precision, limits in which it equals a method that is
known (SVD, NNLS, least squares, scikit-learn from the same start), and what a model promises about its state."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import unmerge
from numpy.lib.stride_tricks import as_strided
from oracles import LD, ld
from scipy.optimize import nnls
from unmerge import NMFModel, OnlineNMFModel, nmf

TINY = 1e-15  # a tolerance nothing reaches by accident: what ends is the number of iterations
NAN = float("nan")

Options = dict[str, Any]
Factors = tuple[np.ndarray, np.ndarray]

# ---------------------------------------------------------------- the problem, from the header


def units(o: Options) -> str:
    """The factor whose vectors have norm at most 1."""
    if o.get("unit", "auto") != "auto":
        return o["unit"]
    if o.get("algorithm", "hals") != "hals" or not o.get("nonnegative_w", True):
        return "none"
    w, h = (any(o.get(f"{kind}_{factor}", 0) > 0 for kind in ("l1", "l2", "group")) for factor in "wh")
    return "w" if h and not w else "h" if w and not h else "none"


class Spec:
    """The objective of the header and its gradients at (W, H)."""

    def __init__(self, X: Any, W: Any, H: Any, o: Options) -> None:
        X, self.W, self.H, self.o = ld(X), ld(W), ld(H), o
        there = ~np.isnan(X) if o.get("missing") else np.ones(X.shape, dtype=bool)
        X = np.where(there, X, 0)
        self.kl = o.get("loss") == "kl"
        self.yy, self.total = (X**2).sum(), X.sum()
        fit = self.W @ self.H
        residual = np.where(there, fit - X, 0)
        self.rss = (residual**2).sum()
        if self.kl:
            with np.errstate(divide="ignore", invalid="ignore"):
                self.D = (np.where(X > 0, X * np.log(X / fit), 0) - X + fit)[there].sum()
                residual = np.where(there, 1 - np.where(X > 0, X / fit, 0), 0)
        else:
            self.D = self.rss / 2
        self.gW = residual @ self.H.T + self._slope("w", self.W)
        self.gH = self.W.T @ residual + self._slope("h", self.H.T).T
        self.objective = self.D + self._penalty("w", self.W) + self._penalty("h", self.H.T)

    def _numbers(self, factor: str) -> list[LD]:
        return [LD(self.o.get(f"{kind}_{factor}", 0)) for kind in ("l1", "l2", "group")]

    def _penalty(self, factor: str, W: np.ndarray) -> Any:
        l1, l2, group = self._numbers(factor)
        return l1 * W.sum() + l2 / 2 * (W**2).sum() + group / 2 * (W.sum(1) ** 2).sum()

    def _slope(self, factor: str, W: np.ndarray) -> Any:
        l1, l2, group = self._numbers(factor)
        return l1 + l2 * W + group * W.sum(1, keepdims=True)

    @property
    def violation(self) -> Any:
        """How far one projected step would still move, in units of X; for the divergence what multiplication stops at."""
        if self.kl:
            return ((self.W * abs(self.gW)).sum() + (self.H * abs(self.gH)).sum()) / self.total
        signed = not self.o.get("nonnegative_w", True)
        w = self._move("w", self.W, self.gW, self.H.T, signed)
        h = self._move("h", self.H.T, self.gH.T, self.W, False)
        return np.sqrt(w + h) / np.sqrt(self.yy)

    def _move(self, factor: str, V: np.ndarray, g: np.ndarray, other: np.ndarray, signed: bool) -> Any:
        """Sum over l of d_l ||v_l - P(v_l - g_l/d_l)||^2."""
        _, l2, group = self._numbers(factor)
        d = (other**2).sum(0) + l2 + group
        moved = d > 0
        V, g, d = V[:, moved], g[:, moved], d[moved]
        nearest = V - g / d if signed else np.maximum(V - g / d, 0)
        if units(self.o) == factor:
            nearest = nearest / np.maximum(np.sqrt((nearest**2).sum(0)), 1)
        return (d * ((V - nearest) ** 2).sum(0)).sum()

    def kkt(self) -> float:
        """Largest |min(w, the step of coordinate descent)|, relative to the largest entry of the factor."""
        signed = not self.o.get("nonnegative_w", True)
        worst = 0.0
        for V, g, other, free in ((self.W, self.gW, self.H.T, signed), (self.H.T, self.gH.T, self.W, False)):
            step = g / np.maximum((other**2).sum(0), np.finfo(LD).tiny)
            worst = max(worst, float(abs(step if free else np.minimum(V, step)).max() / abs(V).max()))
        return worst


def hoyer(V: np.ndarray) -> np.ndarray:
    """Of the columns."""
    n = V.shape[0]
    return (np.sqrt(n) - abs(V).sum(0) / np.sqrt((V**2).sum(0))) / (np.sqrt(n) - 1)


# ---------------------------------------------------------------- data, and every kind of factorisation as one table


def data(p: int = 30, T: int = 24, k: int = 4, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """Sparse factors and positive noise."""
    rng = np.random.default_rng(seed)
    W = rng.random((p, k)) * (rng.random((p, k)) < 0.7)
    H = rng.random((k, T)) * (rng.random((k, T)) < 0.7)
    return W @ H + noise * rng.random((p, T))


def start(X: np.ndarray, k: int, seed: int = 1) -> Factors:
    rng = np.random.default_rng(seed)
    scale = np.sqrt(np.nanmean(abs(X)) / k)
    return scale * (0.1 + rng.random((X.shape[0], k))), scale * (0.1 + rng.random((k, X.shape[1])))


def holes(X: np.ndarray, share: float = 0.2, seed: int = 2) -> np.ndarray:
    X = np.array(X)
    X[np.random.default_rng(seed).random(X.shape) < share] = NAN
    return X


def data_for(o: Options, X: np.ndarray) -> np.ndarray:
    """Signed for semi-NMF, with entries that are not there for `missing`."""
    X = X if o.get("nonnegative_w", True) else X * np.where(np.arange(X.shape[0]) % 3, 1, -1)[:, None]
    return holes(X) if o.get("missing") else X


PENALTIES: dict[str, Options] = {
    "": {},
    "l1": {"l1_w": 0.02, "l1_h": 0.03},
    "l2": {"l2_w": 0.1, "l2_h": 0.05},
    "group": {"group_w": 0.05, "group_h": 0.1},
    "all": {"l1_w": 0.01, "l2_w": 0.02, "group_w": 0.03, "l1_h": 0.03, "l2_h": 0.02, "group_h": 0.01},
}
CASES: dict[str, Options] = {
    **{f"hals {name}".strip(): o for name, o in PENALTIES.items()},
    "hals plain": {"extrapolation": False},
    "hals plain all": dict(extrapolation=False, **PENALTIES["all"]),
    "hals l1_h": {"l1_h": 0.05},
    "hals l1_w": {"l1_w": 0.05},
    "hals l2_h plain": {"l2_h": 0.3, "extrapolation": False},
    "hals unit w": {"unit": "w"},
    "hals unit h": {"unit": "h"},
    "hals unit w all": dict(unit="w", **PENALTIES["all"]),
    "hals missing": {"missing": True},
    "hals missing all": dict(missing=True, **PENALTIES["all"]),
    "hals semi": {"nonnegative_w": False},
    "hals semi l2": {"nonnegative_w": False, "l2_w": 0.1, "l1_h": 0.05},
    "anls": {"algorithm": "anls"},
    "anls l2": dict(algorithm="anls", **PENALTIES["l2"]),
    "anls SNMF/R": {"algorithm": "anls", "group_h": 0.1, "l2_w": 0.2},
    "anls SNMF/L": {"algorithm": "anls", "group_w": 0.1, "l2_h": 0.2},
    "anls missing": {"algorithm": "anls", "missing": True},
    "anls semi": {"algorithm": "anls", "nonnegative_w": False},
    "mu": {"algorithm": "mu"},
    "mu all": dict(algorithm="mu", **PENALTIES["all"]),
    "mu missing": {"algorithm": "mu", "missing": True},
    "kl": {"algorithm": "mu", "loss": "kl"},
    "kl l1": dict(algorithm="mu", loss="kl", **PENALTIES["l1"]),
    "kl missing": {"algorithm": "mu", "loss": "kl", "missing": True},
    "projected": {"algorithm": "projected"},
    "projected w": {"algorithm": "projected", "sparsity_w": 0.6},
    "projected h": {"algorithm": "projected", "sparsity_h": 0.5, "sparsity_mode": "each"},
}
ALGORITHMS: dict[str, Options] = {name: CASES[name] for name in ("hals", "anls", "mu", "kl", "projected")}


def named(table: dict[str, Options], *without: str) -> Any:
    rows = [(name, o) for name, o in table.items() if not any(w in name for w in without)]
    return pytest.mark.parametrize("o", [o for _, o in rows], ids=[name.replace(" ", "-") for name, _ in rows])


def fresh(X: np.ndarray, o: Options, k: int = 4, **more: Any) -> NMFModel:
    W, H = start(X, k)
    return NMFModel(X, k=k, W=W, H=H, **(o | more))


def state(model: unmerge.Model) -> tuple[bytes, bytes, int]:
    return model.components.tobytes(), model.codes.tobytes(), model.iterations


# ---------------------------------------------------------------- the objective, and what a report says of it


@named(CASES)
def test_no_iteration_raises_the_objective(o: Options) -> None:
    X = data_for(o, data())
    model = fresh(X, o)
    spec = Spec(X, model.components, model.codes, o)
    # What rounding may do to ||X - WH||^2: every term of it is a product that was rounded.
    slack = 1e-14 * float(spec.yy + spec.total if spec.kl else spec.yy)
    last = spec.objective
    if o.get("algorithm") == "projected" and ("sparsity_w" in o or "sparsity_h" in o):
        model.step(X, tol=TINY)  # the start does not have the sparsity
        last = Spec(X, model.components, model.codes, o).objective
    first = last
    for i in range(60):
        model.step(X, tol=TINY)
        now = Spec(X, model.components, model.codes, o).objective
        assert now <= last + slack, (i, float(now - last))
        last = now
    assert last < 0.9 * first


@named(CASES)
def test_report_is_what_the_formulas_give(o: Options) -> None:
    X = data_for(o, data())
    model = fresh(X, o)
    for n in (0, 1, 5, 200):
        r = model.step(X, max_iter=n, tol=TINY)
        W, H = model.components, model.codes
        spec = Spec(X, W, H, o)
        assert r.iterations <= n and (r.outcome == "iteration limit" or r.outcome in ("stalled", "converged"))
        size = float(spec.objective + (spec.total if spec.kl else spec.yy))
        assert abs(r.objective - spec.objective) <= 1e-13 * size
        assert r.nonzeros == np.count_nonzero(W) + np.count_nonzero(H)
        if spec.kl:
            assert np.isnan(r.rss) and np.isnan(r.yy)
        else:
            assert abs(r.rss - spec.rss) <= 1e-13 * spec.yy
            assert abs(r.yy - spec.yy) <= 1e-13 * spec.yy
            assert abs(r.r2 - (1 - spec.rss / spec.yy)) <= 1e-12
        if "sparsity_w" in o or "sparsity_h" in o:
            assert np.isnan(r.violation)
        else:
            assert abs(r.violation - spec.violation) <= 1e-12 + 1e-10 * spec.violation


@named(CASES)
def test_factors_are_in_their_sets(o: Options) -> None:
    X = data_for(o, data())
    model = fresh(X, o)
    for n in (1, 30):
        model.step(X, max_iter=n, tol=TINY)
        W, H = model.components, model.codes
        assert np.isfinite(W).all() and np.isfinite(H).all() and H.min() >= 0
        assert W.min() >= 0 or not o.get("nonnegative_w", True)
        for V in {"w": [W], "h": [H.T], "none": []}[units(o)]:
            assert np.sqrt((V**2).sum(0)).max() <= 1 + 1e-14
    if not o.get("nonnegative_w", True):
        assert W.min() < 0


@named(CASES, "mu", "kl", "projected", "plain")
def test_small_violation_is_a_kkt_point(o: Options) -> None:
    X = data_for(o, data())
    model = fresh(X, o)
    r = model.step(X, max_iter=20000, tol=1e-8)
    assert r.outcome == "converged" and r.violation <= 1e-8
    spec = Spec(X, model.components, model.codes, o)
    assert spec.violation <= 1.001e-8
    if units(o) == "none":
        assert spec.kkt() <= 1e-6


@named({name: CASES[name] for name in ("hals l1", "hals all", "hals missing all", "hals semi", "anls l2")})
def test_what_rounding_stops_says_so(o: Options) -> None:
    X = data_for(o, data())
    model = fresh(X, o)
    r = model.step(X, max_iter=100_000, tol=1e-300)
    assert r.outcome == "stalled" or r.violation == 0
    assert r.violation <= 1e-12 and r.iterations < 100_000


@named({f"{a} {h}": dict(algorithm=a, l1_h=1e4, **{h: 0.1}) for a in ("hals", "anls") for h in ("l1_w", "l2_w", "group_w")})
def test_a_component_that_fits_nothing_costs_nothing(o: Options) -> None:
    """Where the codes cost more than all of X they are 0, and then so is a dictionary that costs anything."""
    X = data()
    model = fresh(X, o)
    r = model.step(X, max_iter=1000, tol=1e-10)
    assert r.outcome == "converged" and r.nonzeros == 0
    assert r.objective == pytest.approx((X**2).sum() / 2, rel=1e-12)


@named({name: CASES[name] for name in ("mu", "kl", "projected")})
def test_slower_algorithms_reach_a_kkt_point_too(o: Options) -> None:
    X = data(12, 10, 2, noise=0.5)
    model = fresh(X, o, k=2)
    r = model.step(X, max_iter=100_000, tol=1e-9)
    assert r.outcome == "converged"
    spec = Spec(X, model.components, model.codes, o)
    # Multiplication nears a zero without reaching it: the product is what vanishes first.
    for V, g in ((spec.W, spec.gW), (spec.H, spec.gH)):
        assert abs(V * g).max() <= 1e-6 * (spec.total if spec.kl else spec.yy)
        assert g.min() >= -1e-6 * np.sqrt(spec.yy)


# ---------------------------------------------------------------- limits in which it is a method that is known


@pytest.mark.parametrize("algorithm", ["hals", "anls", "mu", "projected"])
def test_one_component_is_the_perron_pair(algorithm: Any) -> None:
    X = np.random.default_rng(3).random((40, 25)) + 0.01
    W, H, r = nmf(X, k=1, algorithm=algorithm, tol=1e-13, max_iter=10000)
    u, s, v = np.linalg.svd(X)
    assert abs(W @ H - s[0] * np.outer(u[:, 0], v[0])).max() <= 1e-10 * X.max()
    assert r.rss == pytest.approx((s[1:] ** 2).sum(), rel=1e-12)


def test_one_component_of_the_divergence_is_independence() -> None:
    X = np.random.default_rng(3).random((40, 25)) * (np.random.default_rng(4).random((40, 25)) < 0.6)
    W, H, r = nmf(X, k=1, algorithm="mu", loss="kl", init="random", tol=1e-13, max_iter=100)
    expected = np.outer(X.sum(1), X.sum(0)) / X.sum()
    assert abs(W @ H - expected).max() <= 1e-12 * expected.max()
    assert r.violation <= 1e-13 and r.outcome == "converged"


@pytest.mark.parametrize("seed", range(4))
def test_separable_factorisation_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, T = 5, 60
    H = np.hstack([np.eye(k), rng.dirichlet(np.full(k, 0.5), T - k).T])[:, rng.permutation(T)]
    X = rng.random((40, k)) @ H
    best = min(nmf(X, k=k, init="random", seed=s, tol=1e-13, max_iter=20000)[2].rss for s in range(5))
    assert np.sqrt(best / (X**2).sum()) <= 1e-8


@named({name: CASES[name] for name in ("anls", "anls l2", "anls SNMF/R", "anls SNMF/L")})
def test_anls_iteration_is_two_nnls(o: Options) -> None:
    X = data()
    W, H = start(X, 4)
    model = NMFModel(X, k=4, W=W, H=H, **o)
    model.step(X, tol=TINY)
    found = model.components, model.codes
    l2 = {factor: o.get(f"l2_{factor}", 0) for factor in "wh"}
    group = {factor: o.get(f"group_{factor}", 0) for factor in "wh"}

    def codes(W: np.ndarray, X: np.ndarray, factor: str) -> np.ndarray:
        return penalised_nnls(W, X, 0, l2[factor], group[factor])

    # The header does not say which half comes first.
    last = abs(found[1] - codes(found[0], X, "h")).max(), abs(found[0].T - codes(found[1].T, X.T, "w")).max()
    assert min(last) <= 1e-10
    if all(l2.values()):  # the factors may be balanced between the halves: it lowers l2/2 (||W||^2 + ||H||^2)
        return
    W1 = codes(H.T, X.T, "w").T
    H1 = codes(W, X, "h")
    w_first, h_first = W1 @ codes(W1, X, "h"), codes(H1.T, X.T, "w").T @ H1
    assert min(abs(found[0] @ found[1] - fit).max() for fit in (w_first, h_first)) <= 1e-10


def penalised_nnls(W: np.ndarray, X: np.ndarray, l1: float = 0, l2: float = 0, group: float = 0) -> np.ndarray:
    """Columns h >= 0 minimising 1/2 ||x - Wh||^2 + l1 sum h + l2/2 ||h||^2 + group/2 (sum h)^2, as NNLS of a square root."""
    k = W.shape[1]
    L = np.linalg.cholesky(W.T @ W + l2 * np.eye(k) + group)
    B = np.linalg.solve(L, W.T @ X - l1)
    return np.array([nnls(L.T, b)[0] for b in B.T]).T


@pytest.mark.parametrize("algorithm", ["hals", "anls"])
@pytest.mark.parametrize("l2", [0, 0.3])
def test_signed_w_is_least_squares_of_the_codes(algorithm: Any, l2: float) -> None:
    X = data_for({"nonnegative_w": False}, data())
    W, H, r = nmf(X, k=4, algorithm=algorithm, nonnegative_w=False, l2_w=l2, l2_h=l2, tol=3e-8, max_iter=20000)
    A = np.vstack([H.T, np.sqrt(l2) * np.eye(4)])
    expected = np.linalg.lstsq(A, np.vstack([X.T, np.zeros((4, X.shape[0]))]), rcond=None)[0].T
    assert r.outcome == "converged"
    # What is left of the violation, over the smallest singular value that each half divides by.
    assert abs((W - expected) @ H).max() <= 1e-6 * abs(X).max()
    assert abs(W @ (H - penalised_nnls(W, X, 0, l2))).max() <= 1e-6 * abs(X).max()


def test_signed_w_with_as_many_components_as_targets_fits_exactly() -> None:
    X = np.random.default_rng(0).standard_normal((20, 5))
    _, _, r = nmf(X, k=5, nonnegative_w=False, init="random", tol=1e-12, max_iter=5000)
    assert r.rss <= 1e-16 * r.yy


def test_multiplicative_update_is_lee_and_seung() -> None:
    X = data()
    W, H = start(X, 4)
    model = fresh(X, CASES["mu"])
    model.step(X, tol=TINY)
    W1 = W * (X @ H.T) / (W @ H @ H.T)
    H1 = H * (W.T @ X) / (W.T @ W @ H)
    w_first = W1 @ (H * (W1.T @ X) / (W1.T @ W1 @ H))
    h_first = W * (X @ H1.T) / (W @ H1 @ H1.T) @ H1
    found = model.components @ model.codes
    assert min(abs(found - w_first).max(), abs(found - h_first).max()) <= 1e-12 * X.max()


def test_multiplicative_update_keeps_zeros() -> None:
    X = data()
    for loss in ("frobenius", "kl"):
        model = NMFModel(X, k=4, algorithm="mu", loss=loss, init="nndsvd")
        W, H = model.components, model.codes
        assert (W == 0).any()
        model.step(X, max_iter=20, tol=TINY)
        assert (model.components[W == 0] == 0).all() and (model.codes[H == 0] == 0).all()


# ---------------------------------------------------------------- scikit-learn, from the same start, after as many iterations

SHAPES = [(60, 40, 6), (30, 90, 8), (200, 20, 5)]


def sklearn_factors(X: np.ndarray, W: np.ndarray, H: np.ndarray, n: int, **more: Any) -> Factors:
    from sklearn.decomposition import non_negative_factorization

    w, h, _ = non_negative_factorization(
        X, W=W.copy(), H=H.copy(), n_components=W.shape[1], init="custom", tol=0, max_iter=n, **more
    )
    return w, h


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("alphas", [(0, 0), (0.002, 0.004)], ids=["plain", "penalised"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_worse_than_coordinate_descent(shape: tuple[int, int, int], alphas: tuple[float, float]) -> None:
    p, T, k = shape
    X = data(p, T, k)
    W, H = start(X, k)
    ratio = 0.4
    mapped = {
        "l1_w": alphas[0] * ratio * T, "l1_h": alphas[1] * ratio * p,
        "l2_w": alphas[0] * (1 - ratio) * T, "l2_h": alphas[1] * (1 - ratio) * p,
    }  # fmt: skip
    for n in (10, 50, 200):
        w, h, r = nmf(X, k=k, W=W, H=H, max_iter=n, tol=TINY, unit="none", **mapped)
        theirs = sklearn_factors(X, W, H, n, solver="cd", alpha_W=alphas[0], alpha_H=alphas[1], l1_ratio=ratio)
        ours, peer = (Spec(X, *f, mapped).objective for f in ((w, h), theirs))
        assert r.iterations <= n
        assert ours <= 1.001 * peer, (n, float(ours / peer))


@pytest.mark.filterwarnings("ignore")
def test_penalties_are_scikit_learns_by_the_mapping() -> None:
    X = data(30, 20, 3)
    W, H = start(X, 3)
    aw, ah, ratio = 0.003, 0.005, 0.5
    theirs = sklearn_factors(X, W, H, 5000, solver="cd", alpha_W=aw, alpha_H=ah, l1_ratio=ratio)
    p, T = X.shape
    mapped = {"l1_w": aw * ratio * T, "l2_w": aw * (1 - ratio) * T, "l1_h": ah * ratio * p, "l2_h": ah * (1 - ratio) * p}
    model = NMFModel(X, k=3, W=theirs[0], H=theirs[1], **mapped)
    r = model.step(X, max_iter=0)
    assert r.violation <= 1e-8  # a stationary point of theirs is one of ours


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss,beta", [("kl", "kullback-leibler"), ("frobenius", "frobenius")])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_worse_than_multiplicative_updates(shape: tuple[int, int, int], loss: Any, beta: str) -> None:
    p, T, k = shape
    X = data(p, T, k)
    W, H = start(X, k)
    for n in (10, 50, 200):
        w, h, _ = nmf(X, k=k, W=W, H=H, algorithm="mu", loss=loss, max_iter=n, tol=TINY)
        theirs = sklearn_factors(X, W, H, n, solver="mu", beta_loss=beta)
        ours, peer = (Spec(X, *f, {"loss": loss}).objective for f in ((w, h), theirs))
        assert ours <= 1.001 * peer, (n, float(ours / peer))


# ---------------------------------------------------------------- entries that are not there


def weighted_updates(X: np.ndarray, W: np.ndarray, H: np.ndarray, n: int, kl: bool) -> Factors:
    """Multiplicative updates of the problem with weights 1 and 0."""
    M = (~np.isnan(X)).astype(float)
    X = np.where(M > 0, X, 0)
    W, H = W.copy(), H.copy()
    for _ in range(n):
        if kl:
            W *= (M * X / (W @ H) @ H.T) / (M @ H.T)
            H *= (W.T @ (M * X / (W @ H))) / (W.T @ M)
        else:
            W *= (X @ H.T) / ((M * (W @ H)) @ H.T)
            H *= (W.T @ X) / (W.T @ (M * (W @ H)))
    return W, H


@named({name: o for name, o in CASES.items() if name in ("hals missing", "anls missing", "mu missing", "kl missing")})
def test_missing_entries_have_weight_zero(o: Options) -> None:
    X = holes(data(40, 30, 4), 0.3)
    W, H = start(X, 4)
    for n in (10, 100):
        w, h, _ = nmf(X, k=4, W=W, H=H, max_iter=n, tol=TINY, **o)
        theirs = weighted_updates(X, W, H, n, o.get("loss") == "kl")
        ours, peer = (Spec(X, *f, o).objective for f in ((w, h), theirs))
        assert ours <= peer * (1 + 1e-3)


@named({name: o for name, o in CASES.items() if "missing" in name})
def test_nothing_missing_is_the_plain_problem(o: Options) -> None:
    X = data()
    model, plain = fresh(X, o), fresh(X, o, missing=False)
    for _ in range(3):
        model.step(X, max_iter=300, tol=1e-10), plain.step(X, max_iter=300, tol=1e-10)
    a, b = (Spec(X, m.components, m.codes, o | {"missing": False}).objective for m in (model, plain))
    assert a == pytest.approx(b, rel=1e-3)


@named({name: o for name, o in CASES.items() if "missing" in name})
def test_which_nan_does_not_matter(o: Options) -> None:
    X = holes(data())
    other = X.copy()
    bits = other.view(np.uint64)
    bits[np.isnan(X)] = 0xFFF8_0000_DEAD_BEEF  # negative, with a payload
    a, b = (NMFModel(x, k=3, init="random", **o) for x in (X, other))
    a.step(X, max_iter=10, tol=TINY), b.step(other, max_iter=10, tol=TINY)
    assert state(a) == state(b)


@named({name: CASES[name] for name in ("hals missing", "anls missing", "mu missing", "kl missing")})
def test_a_planted_factorisation_is_completed(o: Options) -> None:
    rng = np.random.default_rng(5)
    full = (rng.random((40, 2)) + 0.1) @ (rng.random((2, 30)) + 0.1)
    X = holes(full, 0.3)
    W, H, _ = nmf(X, k=2, init="random", max_iter=20000, tol=1e-11, **o)
    assert abs(W @ H - full).max() <= 1e-3 * full.max()


@named({name: CASES[name] for name in ("hals missing", "anls missing", "mu missing", "kl missing")})
def test_rows_and_columns_of_which_nothing_is_there(o: Options) -> None:
    X = holes(data())
    X[3], X[:, 5] = NAN, NAN
    for init in ("random", "auto"):
        W, H, r = nmf(X, k=3, init=init, max_iter=30, tol=TINY, **o)
        assert np.isfinite(W).all() and np.isfinite(H).all()
        assert r.objective == pytest.approx(float(Spec(X, W, H, o).objective), rel=1e-10)
        assert r.objective <= Spec(X, *start(X, 3), o).objective


# ---------------------------------------------------------------- element types, layouts, threads, resuming


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@named({**ALGORITHMS, "hals missing": CASES["hals missing"]})
def test_element_types_are_read_as_their_values(o: Options, dtype: Any) -> None:
    X = data_for(o, data()).astype(dtype)
    a, b = nmf(X, k=4, max_iter=15, tol=TINY, **o), nmf(X.astype(np.float64), k=4, max_iter=15, tol=TINY, **o)
    for x, y in zip(a[:2], b[:2]):
        assert abs(x - y).max() <= 1e-10 * abs(y).max()


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fortran": np.asfortranarray,
    "transposed": lambda X: np.ascontiguousarray(X.T).T,
    "reversed": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "every second": lambda X: np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3],
    "unaligned": lambda X: _unaligned(X),
}


def _unaligned(X: np.ndarray) -> np.ndarray:
    bytes_ = np.zeros(X.nbytes + 1, dtype=np.uint8)
    found = np.ndarray(X.shape, X.dtype, buffer=bytes_.data, offset=1)
    found[...] = X
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda s: s.replace(" ", "-"))
@named({**ALGORITHMS, "hals missing": CASES["hals missing"]})
def test_layouts_are_read_in_place(o: Options, layout: str) -> None:
    for dtype in (np.float64, np.float32):
        X = data_for(o, data()).astype(dtype)
        a, b = nmf(LAYOUTS[layout](X), k=4, max_iter=15, tol=TINY, **o), nmf(X, k=4, max_iter=15, tol=TINY, **o)
        for x, y in zip(a[:2], b[:2]):
            assert abs(x - y).max() <= 1e-10 * abs(y).max()


def test_broadcast_data() -> None:
    column = np.linspace(1, 2, 20)
    X = as_strided(column, (20, 7), (8, 0))
    _, _, r = nmf(X, k=1, tol=1e-12)
    assert r.rss <= 1e-24 * r.yy


@named(CASES)
def test_same_bits_for_any_number_of_threads(o: Options) -> None:
    X = data_for(o, data(300, 210, 6))
    found = []
    for threads in (1, 2, 3, 7, 1):
        model = NMFModel(X, k=6, init="random", seed=4, threads=threads, **o)
        model.step(X, max_iter=6, tol=TINY, threads=threads)
        found.append((*state(model), model.to_bytes(), model.transform(X[:, :40], threads=threads)[0].tobytes()))
    assert all(f == found[0] for f in found[1:])


def test_same_bits_for_any_number_of_threads_of_svd_starts() -> None:
    X = data(300, 210, 6)
    for init in ("nndsvd", "nndsvda"):
        a, b = (NMFModel(X, k=6, init=init, threads=threads) for threads in (1, 3))
        assert state(a) == state(b)


@named(CASES)
def test_resuming_leaves_the_same_bits(o: Options, tmp_path: Path) -> None:
    X = data_for(o, data())
    whole, parts, single = fresh(X, o), fresh(X, o), fresh(X, o)
    last = whole.step(X, max_iter=20, tol=TINY)
    assert parts.step(X, max_iter=7, tol=TINY).iterations == 7
    parts.save(tmp_path / "model")
    loaded = unmerge.load_model(tmp_path / "model")
    assert type(loaded) is NMFModel and loaded.iterations == 7
    assert state(loaded) == state(parts) and loaded.to_bytes() == parts.to_bytes()
    again = pickle.loads(pickle.dumps(parts))
    for model in (loaded, again, parts):
        r = model.step(X, max_iter=13, tol=TINY)
        assert r.iterations == last.iterations - 7 and model.iterations == last.iterations  # 20, or where rounding ends it
        assert state(model) == state(whole)
        assert (r.objective, r.nonzeros) == (last.objective, last.nonzeros)
    for _ in range(20):
        single.step(X, tol=TINY)
        single.transform(X)  # does not change the model
    assert state(single) == state(whole)
    assert single.to_bytes() == whole.to_bytes() == loaded.to_bytes()


def test_step_of_no_iterations_changes_nothing() -> None:
    X = data()
    for o in ALGORITHMS.values():
        model = fresh(X, o)
        model.step(X, max_iter=3, tol=TINY)
        before = model.to_bytes()
        r = model.step(X, max_iter=0)
        assert r.iterations == 0 and model.to_bytes() == before and model.iterations == 3


@named(CASES, "kl", "sparsity", "projected")
def test_converged_model_does_not_move(o: Options) -> None:
    X = data_for(o, data())
    model = NMFModel(X, k=3, **o)
    assert model.step(X, max_iter=5000, tol=1e-3).converged
    before = model.to_bytes()
    r = model.step(X, max_iter=100, tol=1e-3)
    assert r.converged and r.iterations == 0 and model.to_bytes() == before


LONG = [(40_000, 7, 3), (7, 40_000, 3), (3000, 260, 4)]


@pytest.mark.parametrize("shape", LONG, ids=str)
@named({name: CASES[name] for name in ("hals all", "hals missing", "anls", "mu", "kl", "projected h")})
def test_long_data_has_the_same_formulas_and_bits(o: Options, shape: tuple[int, int, int]) -> None:
    p, T, k = shape
    rng = np.random.default_rng(0)
    X = (rng.random((p, k)) @ rng.random((k, T)) + 0.1 * rng.random((p, T))).astype(np.float32)
    X = holes(X) if o.get("missing") else X
    found = []
    for threads in (1, 2, 3, 7):
        model = NMFModel(X, k=k, init="random", threads=threads, **o)
        r = model.step(X, max_iter=3, tol=TINY, threads=threads)
        found.append((*state(model), r.objective, r.rss if "loss" not in o else 0))
    assert all(f == found[0] for f in found[1:])
    spec = Spec(X, model.components, model.codes, o)
    size = float(spec.objective + (spec.total if spec.kl else spec.yy))
    assert abs(r.objective - spec.objective) <= 1e-12 * size
    if "loss" not in o:
        assert abs(r.rss - spec.rss) <= 1e-12 * spec.yy and abs(r.yy - spec.yy) <= 1e-13 * spec.yy
    if "sparsity_h" not in o:
        assert abs(r.violation - spec.violation) <= 1e-11 + 1e-9 * spec.violation
    copy = np.asfortranarray(X.astype(np.float64))
    again = NMFModel(copy, k=k, init="random", **o)
    again.step(copy, max_iter=3, tol=TINY)
    assert abs(again.components @ again.codes[:, :50] - model.components @ model.codes[:, :50]).max() <= 1e-10 * np.nanmax(X)


# ---------------------------------------------------------------- transform


@pytest.mark.parametrize("algorithm", ["hals", "anls"])
@named({**PENALTIES, "l1_h": {"l1_w": 0.01, "l1_h": 0.2}, "l2_h": {"l2_w": 0.01, "l2_h": 1.0}})
def test_transform_is_nnls(o: Options, algorithm: Any) -> None:
    if algorithm == "anls" and any(key.startswith("l1") for key in o):
        o = {key: value for key, value in o.items() if not key.startswith("l1")}
    X, new = data(), data(T=50, seed=9)
    model = fresh(X, o, algorithm=algorithm)
    model.step(X, max_iter=30, tol=TINY)
    before = model.to_bytes()
    H, r = model.transform(new, tol=1e-12)
    assert model.to_bytes() == before
    expected = penalised_nnls(model.components, new, o.get("l1_h", 0), o.get("l2_h", 0), o.get("group_h", 0))
    assert H.shape == (4, 50)
    assert abs(H - expected).max() <= 1e-8 * abs(expected).max()
    if "l1_w" not in o and "l2_w" not in o and "group_w" not in o:
        assert r.rss == pytest.approx(float(Spec(new, model.components, H, o).rss), rel=1e-10)


def test_transform_by_default_is_nnls_to_eight_digits() -> None:
    X, new = data(), data(T=50, seed=9)
    model = fresh(X, {})
    model.step(X, max_iter=100, tol=TINY)
    H, _ = model.transform(new)
    expected = penalised_nnls(model.components, new)
    assert abs(H - expected).max() <= 1e-8 * abs(expected).max()


def test_transform_with_a_signed_dictionary() -> None:
    o = {"nonnegative_w": False}
    X, new = data_for(o, data()), data_for(o, data(T=15, seed=9))
    model = fresh(X, o)
    model.step(X, max_iter=30, tol=TINY)
    H, _ = model.transform(new, tol=1e-12)
    expected = penalised_nnls(model.components, new)
    assert abs(H - expected).max() <= 1e-8 * abs(expected).max()


@pytest.mark.parametrize("algorithm", ["hals", "anls", "mu"])
def test_transform_of_what_is_there(algorithm: Any) -> None:
    X, new = holes(data()), holes(data(T=15, seed=9), seed=10)
    model = NMFModel(X, k=4, missing=True, algorithm=algorithm)
    model.step(X, max_iter=30, tol=TINY)
    H, _ = model.transform(new, tol=1e-12, max_iter=200_000)
    W = model.components
    for t in range(15):
        there = ~np.isnan(new[:, t])
        expected, _ = nnls(W[there], new[there, t])
        assert abs(H[:, t] - expected).max() <= 1e-6 * abs(expected).max()


def test_transform_for_the_divergence() -> None:
    X, new = data(), data(T=15, seed=9)
    model = fresh(X, CASES["kl"])
    model.step(X, max_iter=30, tol=TINY)
    H, _ = model.transform(new, tol=1e-10, max_iter=100_000)
    W = model.components
    peer = np.ones((4, 15))
    for _ in range(20000):  # convex in H: multiplicative updates find the minimum
        peer *= (W.T @ (new / (W @ peer))) / W.sum(0)[:, None]
    ours, theirs = (Spec(new, W, h, CASES["kl"]).objective for h in (H, peer))
    assert ours <= theirs * (1 + 1e-8)


@pytest.mark.parametrize("algorithm", ["mu", "projected"])
def test_transform_of_other_algorithms_is_nnls_too(algorithm: Any) -> None:
    X, new = data(), data(T=15, seed=9)
    model = fresh(X, {"algorithm": algorithm})
    model.step(X, max_iter=100, tol=TINY)
    H, _ = model.transform(new, tol=1e-12, max_iter=100_000)
    expected = penalised_nnls(model.components, new)
    ours, theirs = (Spec(new, model.components, h, {}).objective for h in (H, expected))
    assert ours <= theirs * (1 + 1e-8)


# ---------------------------------------------------------------- starts


def nndsvd(X: np.ndarray, k: int) -> list[np.ndarray]:
    """The rank-one terms of Boutsidis & Gallopoulos 2008: they do not depend on the signs of the singular vectors."""
    u, s, v = np.linalg.svd(X, full_matrices=False)
    terms = [s[0] * np.outer(abs(u[:, 0]), abs(v[0]))]
    for j in range(1, k):
        parts = [(np.maximum(sign * u[:, j], 0), np.maximum(sign * v[j], 0)) for sign in (1, -1)]
        a, b = max(parts, key=lambda ab: float(np.linalg.norm(ab[0]) * np.linalg.norm(ab[1])))
        terms.append(s[j] * np.outer(a, b))
    return terms


@pytest.mark.parametrize("shape", [(30, 24, 5), (12, 40, 12), (50, 9, 9)], ids=str)
def test_nndsvd_is_its_definition(shape: tuple[int, int, int]) -> None:
    p, T, k = shape
    u, _, v = np.linalg.svd(data(p, T, 4, noise=0.3), full_matrices=False)
    s = 10 * 0.5 ** np.arange(min(p, T))  # apart, for the singular vectors to be well defined
    X = u * s @ v
    X += 0 if X.min() >= 0 else -X.min()
    model = NMFModel(X, k=k, init="nndsvd")
    W, H = model.components, model.codes
    for l, term in enumerate(nndsvd(X, k)):
        assert abs(np.outer(W[:, l], H[l]) - term).max() <= 1e-3 * abs(term).max(), l
    filled = NMFModel(X, k=k, init="nndsvda")
    for V, F in ((W, filled.components), (H, filled.codes)):
        assert (V == 0).any()
        assert abs(F[V == 0] / X.mean() - 1).max() <= 1e-12
        assert abs(F - V)[V > 0].max() <= 1e-12 * V.max()
    auto = NMFModel(X, k=k)
    assert state(auto) == state(filled)


def test_nndsvd_against_scikit_learn() -> None:
    from sklearn.decomposition._nmf import _initialize_nmf

    X = data(40, 30, 4, noise=0.1)
    W, H = _initialize_nmf(X, 3, init="nndsvd", random_state=0)
    model = NMFModel(X, k=3, init="nndsvd")
    for l in range(3):
        term = np.outer(W[:, l], H[l])
        assert abs(np.outer(model.components[:, l], model.codes[l]) - term).max() <= 1e-4 * abs(term).max()


def test_random_starts_are_drawn_by_their_seed() -> None:
    X = data()
    a, b, c = (NMFModel(X, k=4, init="random", seed=s) for s in (0, 0, 1))
    assert state(a) == state(b)
    assert (a.components != c.components).all() and (a.codes != c.codes).all()
    assert len(np.unique(c.components)) == c.components.size
    for model in (a, b, c):
        model.step(X, max_iter=10, tol=TINY)
    assert state(a) == state(b) and state(a)[0] != state(c)[0]


def test_random_starts_are_uniform_and_scaled_to_the_data() -> None:
    X = data(300, 200, 4)
    model = NMFModel(X, k=5, init="random", seed=3)
    for V in (model.components, model.codes):
        x = np.sort(V.ravel())
        assert x[0] >= 0
        # Kolmogorov-Smirnov against the uniform distribution on [0, max]: 1e-6 at 2.7 / sqrt(n)
        grid = (np.arange(x.size) + 0.5) / x.size
        assert abs(x / x[-1] - grid).max() <= 2.7 / np.sqrt(x.size)
    ratio = (model.components @ model.codes).mean() / X.mean()
    assert 0.2 <= ratio <= 5
    larger = NMFModel(1024 * X, k=5, init="random", seed=3)
    assert (larger.components @ larger.codes).mean() / (1024 * X.mean()) == pytest.approx(ratio, rel=1e-10)


def test_auto_is_random_where_there_is_no_svd_of_that_size() -> None:
    X = data(6, 20, 3)
    assert state(NMFModel(X, k=7, seed=5)) == state(NMFModel(X, k=7, init="random", seed=5))


def test_given_start_is_taken() -> None:
    X = data()
    W, H = start(X, 4)
    kept = W.copy(), H.copy()
    for o in ALGORITHMS.values():
        model = NMFModel(X, k=4, W=W, H=H, **o)
        assert abs(model.components @ model.codes - W @ H).max() <= 1e-14 * (W @ H).max()
    assert (W == kept[0]).all() and (H == kept[1]).all()
    single = NMFModel(X, k=4, W=W.astype(np.float32), H=np.asfortranarray(H.astype(np.float32)))
    assert abs(single.components @ single.codes - W @ H).max() <= 1e-6 * (W @ H).max()


@named({name: CASES[name] for name in ("hals", "anls", "projected")})
def test_a_start_of_zeros(o: Options) -> None:
    """A stationary point, but nobody's answer: either it is said to be one, or left."""
    X = data()
    model = NMFModel(X, k=4, W=np.zeros((30, 4)), H=np.zeros((4, 24)), **o)
    r = model.step(X, max_iter=30, tol=1e-9)
    spec = Spec(X, model.components, model.codes, o)
    assert (r.outcome, r.iterations) == ("iteration limit", 30) or (r.outcome == "converged" and r.violation <= 1e-9)
    assert spec.objective <= spec.yy / 2


# ---------------------------------------------------------------- degenerate data


@named(CASES)
def test_zero_rows_and_columns_stay_zero(o: Options) -> None:
    X = data_for(o, data())
    X[4], X[:, 7] = 0, 0
    W, H, r = nmf(X, k=3, init="random", max_iter=200, tol=TINY, **o)
    fit = W @ H
    assert np.isfinite(fit).all()
    spec = Spec(X, W, H, o)
    assert abs(r.objective - spec.objective) <= 1e-12 * float(spec.objective + spec.yy)
    if not o.get("missing") and "sparsity_w" not in o and "sparsity_h" not in o:
        assert fit[4].max() <= 1e-6 * fit.max() and fit[:, 7].max() <= 1e-6 * fit.max()


@named(CASES)
def test_zero_data(o: Options) -> None:
    X = np.zeros((8, 6))
    W, H, r = nmf(X, k=2, max_iter=50, **o)
    assert np.isfinite(W).all() and np.isfinite(H).all()
    assert abs(W @ H).max() <= 1e-12
    assert r.objective == pytest.approx(0, abs=1e-12)
    if "sparsity_w" not in o and "sparsity_h" not in o:
        assert r.violation == 0 and r.outcome == "converged"


@named(CASES)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1), (2, 7), (7, 2)], ids=str)
def test_more_components_than_rows_or_columns(o: Options, shape: tuple[int, int]) -> None:
    X = data_for(o | {"missing": False}, 0.5 + np.random.default_rng(1).random(shape))
    model = fresh(X, o, k=3)
    first = Spec(X, model.components, model.codes, o).objective
    r = model.step(X, max_iter=300, tol=1e-12)
    spec = Spec(X, model.components, model.codes, o)
    assert np.isfinite(model.components).all() and np.isfinite(model.codes).all()
    assert r.objective == pytest.approx(float(spec.objective), rel=1e-9, abs=1e-12 * float(spec.yy))
    if "sparsity_w" not in o and "sparsity_h" not in o:
        assert spec.objective <= first * (1 + 1e-12)
        if o.keys() <= {"algorithm", "loss", "missing", "extrapolation"}:
            assert spec.D <= 1e-3 * first  # the data has no more rank than there are components


@named(ALGORITHMS)
def test_constant_data_has_rank_one(o: Options) -> None:
    X = np.full((12, 9), 3.0)
    W, H, _ = nmf(X, k=1, max_iter=100, tol=1e-13, **o)
    assert abs(W @ H - 3).max() <= 1e-10
    W, H, _ = nmf(X, k=3, max_iter=3000, tol=1e-10, **o)
    assert abs(W @ H - 3).max() <= 1e-3


@named({**ALGORITHMS, "hals plain": CASES["hals plain"], "hals missing": CASES["hals missing"]})
@pytest.mark.parametrize("c", [2.0**60, 2.0**-60, 1e6, 1e90, 1e-90])
def test_scale_of_the_data_is_the_scale_of_the_fit(o: Options, c: float) -> None:
    X = data_for(o, data())
    W, H, a = nmf(X, k=4, init="random", seed=2, max_iter=10, tol=TINY, **o)
    V, G, b = nmf(c * X, k=4, init="random", seed=2, max_iter=10, tol=TINY, **o)
    assert abs((V @ G) / c - W @ H).max() <= 1e-9 * (W @ H).max()
    assert a.iterations == b.iterations
    if "loss" not in o:
        assert b.violation == pytest.approx(a.violation, rel=1e-6)
        assert b.r2 == pytest.approx(a.r2, rel=1e-9)


def test_transposing_the_data_exchanges_the_factors() -> None:
    X = data(25, 40)
    _, _, a = nmf(X, k=3, tol=1e-7, max_iter=20000)
    _, _, b = nmf(X.T, k=3, tol=1e-7, max_iter=20000)
    assert a.converged and b.converged and a.rss == pytest.approx(b.rss, rel=0.02)


# ---------------------------------------------------------------- held sparsity


@pytest.mark.parametrize("mode", ["average", "each"])
@pytest.mark.parametrize("factor", ["w", "h", "both"])
def test_sparsity_is_held(factor: str, mode: Any) -> None:
    X = data(60, 50, 4)
    held = {f"sparsity_{f}": s for f, s in (("w", 0.7), ("h", 0.6)) if factor in (f, "both")}
    model = NMFModel(X, k=4, algorithm="projected", sparsity_mode=mode, **held)
    r = model.step(X, max_iter=300, tol=1e-6)
    for name, s in held.items():
        found = hoyer(model.components if name.endswith("w") else model.codes.T)
        if mode == "each":
            assert abs(found - s).max() <= 1e-6
        else:
            assert abs(found.mean() - s) <= 1e-6
    assert r.r2 > 0.5 and np.isnan(r.violation)


def sparsest_direction(x: np.ndarray, s: float) -> np.ndarray:
    """The non-negative vector nearest to x among those of sparsity s: soft thresholding, by bisection."""
    x = np.maximum(x, 0)
    low, high = 0.0, x.max()
    for _ in range(100):
        t = (low + high) / 2
        y = np.maximum(x - t, 0)
        low, high = (low, t) if not y.any() or hoyer(y[:, None])[0] > s else (t, high)
    d = np.maximum(x - low, 0)
    return d * (d @ x) / (d @ d)


def test_projected_ends_where_projected_gradient_stands_still() -> None:
    X = data(60, 50, 4)
    for seed in (1, 2, 3):
        W, H = start(X, 4, seed)
        W, H, r = nmf(X, k=4, W=W, H=H, algorithm="projected", sparsity_w=0.6, sparsity_h=0.5, sparsity_mode="each",
                      tol=1e-9, max_iter=20000)  # fmt: skip
        assert r.outcome == "converged" and r.violation != r.violation
        residual = W @ H - X
        for V, step in ((W, residual @ H.T / np.linalg.norm(H @ H.T, 2)), (H.T, residual.T @ W / np.linalg.norm(W.T @ W, 2))):
            s = hoyer(V)[0]
            moved = np.array([sparsest_direction(v, s) for v in (V - step).T]).T
            assert np.linalg.norm(moved - V) <= 1e-7 * np.linalg.norm(V)


def test_sparsity_on_average_is_no_harder_than_each() -> None:
    X = data(60, 50, 4)
    rss = {}
    for mode in ("average", "each"):
        rss[mode] = min(
            nmf(X, k=4, algorithm="projected", sparsity_w=0.6, sparsity_h=0.5, sparsity_mode=mode, init="random", seed=s,
                max_iter=500, tol=1e-7)[2].rss for s in range(3)
        )  # fmt: skip
    assert rss["average"] <= rss["each"]


def test_holding_less_sparsity_fits_better() -> None:
    X = data(60, 50, 4)
    rss = [nmf(X, k=4, algorithm="projected", sparsity_h=s, max_iter=500, tol=1e-7)[2].rss for s in (0.3, 0.6, 0.9)]
    assert rss[0] < rss[1] < rss[2]


# ---------------------------------------------------------------- early ends


@named(ALGORITHMS)
def test_deadline_leaves_the_state_of_a_whole_iteration(o: Options) -> None:
    X = data(300, 200, 6)
    model = fresh(X, o, k=6)
    r = model.step(X, max_iter=10**9, tol=TINY, deadline=0.15)
    if r.outcome in ("converged", "stalled"):
        pytest.skip("rounding ended it before the deadline")
    assert r.outcome == "time limit" and 0 < r.iterations == model.iterations
    again = fresh(X, o, k=6)
    again.step(X, max_iter=r.iterations, tol=TINY)
    assert state(again) == state(model)
    assert model.step(X, max_iter=1, tol=TINY).iterations == 1


@named({name: ALGORITHMS[name] for name in ("hals", "kl")})
def test_cancel_leaves_the_state_of_a_whole_iteration(o: Options) -> None:
    X = np.random.default_rng(0).random((400, 300))
    model = fresh(X, o, k=8)
    seen = []

    def progress(p: Any) -> bool:
        seen.append(p)
        return True

    r = model.step(X, max_iter=10**9, tol=TINY, progress=progress)
    assert r.outcome == "cancelled" and len(seen) == 1 and r.iterations == model.iterations
    again = fresh(X, o, k=8)
    again.step(X, max_iter=r.iterations, tol=TINY)
    assert state(again) == state(model)
    assert r.objective == pytest.approx(float(Spec(X, model.components, model.codes, o).objective), rel=1e-10)


def test_callback_of_fit_sees_the_model_and_ends_it() -> None:
    X = data()
    model, seen = NMFModel(X, k=3), []

    def callback(m: Any, r: unmerge.Report) -> bool:
        seen.append((m.iterations, r.objective))
        return len(seen) == 3

    model.fit(X, max_iter=100, tol=TINY, callback=callback, every=4)
    assert [n for n, _ in seen] == [4, 8, 12] and model.iterations == 12
    assert seen[0][1] >= seen[1][1] >= seen[2][1]


# ---------------------------------------------------------------- a stream

STREAMS: dict[str, Options] = {"": {}, "l1": {"l1_h": 0.05}, "l2": {"l2_h": 0.1}, "all past": {"decay": 0}}


@named(STREAMS)
def test_stream_reports_exact_codes_for_the_dictionary_of_before(o: Options) -> None:
    X = data(20, 60)
    model = OnlineNMFModel(X[:, :30], k=3, batch=8, **o)
    l1, l2 = o.get("l1_h", 0), o.get("l2_h", 0)
    for i in range(6):
        W, x = model.components, X[:, 8 * i : 8 * i + 8]
        r = model.step(x, tol=TINY)
        H = penalised_nnls(W, x, l1, l2)
        spec = Spec(x, W, H, {"l1_h": l1, "l2_h": l2})
        assert r.iterations == 1 and model.iterations == i + 1
        assert r.objective == pytest.approx(float(spec.objective), rel=1e-9)
        assert r.rss == pytest.approx(float(spec.rss), rel=1e-7) and r.yy == pytest.approx(float(spec.yy), rel=1e-12)
        W = model.components
        assert W.min() >= 0 and np.isfinite(W).all()
        if l1 or l2:
            assert np.sqrt((W**2).sum(0)).max() <= 1 + 1e-14


@named(STREAMS)
def test_stream_goes_through_its_batches_in_order_and_round(o: Options, tmp_path: Path) -> None:
    X = data(20, 24)
    whole, parts, single = (OnlineNMFModel(X, k=3, batch=8, threads=t, **o) for t in (1, 2, 3))
    whole.step(X, max_iter=7, tol=TINY)
    parts.step(X, max_iter=2, tol=TINY)
    parts.save(tmp_path / "stream")
    parts = unmerge.load_model(tmp_path / "stream")
    assert type(parts) is OnlineNMFModel
    parts.step(X, max_iter=5, tol=TINY, threads=7)
    for i in range(7):
        single.step(X[:, 8 * (i % 3) : 8 * (i % 3) + 8], tol=TINY)
    assert whole.components.tobytes() == parts.components.tobytes() and whole.to_bytes() == parts.to_bytes()
    assert abs(whole.components - single.components).max() <= 1e-12 * whole.components.max()


def test_stream_lowers_the_objective_on_what_it_remembers() -> None:
    X = data(20, 40)
    model = OnlineNMFModel(X, k=3, batch=40, decay=0)
    A, B = np.zeros((3, 3)), np.zeros((20, 3))

    def surrogate(W: np.ndarray) -> float:
        return float(np.trace(W.T @ W @ A) / 2 - np.trace(W.T @ B))

    for _ in range(10):
        W = model.components
        H = penalised_nnls(W, X)
        A, B = A + H @ H.T, B + X @ H.T
        model.step(X, tol=TINY)
        assert surrogate(model.components) <= surrogate(W) + 1e-12 * abs(surrogate(W))


@pytest.mark.filterwarnings("ignore")
def test_stream_learns_no_less_than_scikit_learns() -> None:
    from sklearn.decomposition import MiniBatchNMF

    X = data(30, 4000, noise=0.05)
    model, rss = OnlineNMFModel(X[:, :200], k=4, batch=100), []
    for _ in range(3):  # times through all
        model.step(X, max_iter=40, tol=TINY)
        rss.append(model.transform(X)[1].rss)
    assert rss[2] < rss[1] < rss[0]
    peer = MiniBatchNMF(4, batch_size=100, init="nndsvda", max_iter=3, tol=0, max_no_improvement=None, random_state=0).fit(X.T)
    theirs = peer.components_.T
    assert rss[2] <= ((X - theirs @ penalised_nnls(theirs, X)) ** 2).sum()


def test_stream_keeps_no_codes() -> None:
    model = OnlineNMFModel(data(), k=3)
    assert model.columns == 0
    with pytest.raises(unmerge.InvalidValue):
        _ = model.codes


# ---------------------------------------------------------------- refusals: one sentence that names the argument

X0 = data(8, 6, 2)
W0, H0 = start(X0, 2)


def with_(A: np.ndarray, value: float) -> np.ndarray:
    A = A.copy()
    A[1, 1] = value
    return A


BAD: list[tuple[str, Options]] = [
    ("components|k ", {"k": 0}),
    ("components|k ", {"k": -3}),
    ("k ", {"k": 2.5}),
    ("k ", {"k": "two"}),
    ("k ", {"k": 2**70}),
    ("algorithm", {"algorithm": "als"}),
    ("loss", {"loss": "itakura"}),
    ("loss", {"loss": "kl", "algorithm": "hals"}),
    ("loss", {"loss": "kl", "algorithm": "anls"}),
    ("loss|algorithm", {"loss": "kl", "algorithm": "projected"}),
    ("init", {"init": "svd"}),
    ("init", {"init": "nndsvd", "k": 7}),
    ("init", {"init": "nndsvd", "missing": True}),
    ("init", {"init": "nndsvda", "nonnegative_w": False}),
    ("unit", {"unit": "x"}),
    ("unit", {"unit": "w", "algorithm": "anls"}),
    ("unit", {"unit": "h", "algorithm": "mu"}),
    ("unit", {"unit": "w", "algorithm": "projected"}),
    *((name, {name: value}) for name in PENALTIES["all"] for value in (-1, NAN, np.inf, "1")),
    *((name, {name: value, "algorithm": "projected"}) for name in ("sparsity_w", "sparsity_h") for value in (-0.1, 1.0, 2, NAN)),
    ("sparsity_w", {"sparsity_w": 0.5}),
    ("sparsity_h", {"sparsity_h": 0.5, "algorithm": "anls"}),
    ("sparsity_mode", {"sparsity_mode": "all", "algorithm": "projected", "sparsity_w": 0.5}),
    ("nonnegative_w", {"nonnegative_w": False, "algorithm": "mu"}),
    ("nonnegative_w|algorithm", {"nonnegative_w": False, "algorithm": "projected"}),
    ("nonnegative_w", {"nonnegative_w": "no"}),
    ("l1_w", {"nonnegative_w": False, "l1_w": 0.1}),
    ("group_w", {"nonnegative_w": False, "group_w": 0.1}),
    ("missing", {"missing": "yes"}),
    ("extrapolation", {"extrapolation": 2.0}),
    ("W|H", {"W": W0}),
    ("W|H", {"H": H0}),
    ("W ", {"W": W0[:, :1], "H": H0}),
    ("H ", {"W": W0, "H": H0.T}),
    ("W", {"W": W0[:-1], "H": H0}),
    ("W|w", {"W": W0[:, 0], "H": H0}),
    ("w", {"W": with_(W0, -1), "H": H0}),
    ("h", {"W": W0, "H": with_(H0, -1)}),
    ("w", {"W": with_(W0, NAN), "H": H0}),
    ("h", {"W": W0, "H": with_(H0, np.inf)}),
    ("h", {"W": W0, "H": with_(H0, -1), "nonnegative_w": False}),
    ("W", {"W": W0.astype(int), "H": H0}),
    ("x", {"X": with_(X0, -1)}),
    ("x", {"X": with_(X0, NAN)}),
    ("x", {"X": with_(X0, np.inf)}),
    ("x", {"X": with_(X0, np.inf), "missing": True}),
    ("x", {"X": with_(X0, -np.inf), "nonnegative_w": False}),
    ("x", {"X": with_(X0, NAN), "nonnegative_w": False}),
    ("x", {"X": 1e160 * X0}),
    ("x", {"X": X0[0]}),
    ("x", {"X": X0.astype(int)}),
    ("x", {"X": X0 * 1j}),
    ("x", {"X": X0.tolist()}),
    ("x", {"X": X0[:0]}),
    ("x", {"X": X0[:, :0]}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**64}),
    ("threads", {"threads": -1}),
    ("tol", {"tol": 0}),
    ("tol", {"tol": 1}),
    ("tol", {"tol": NAN}),
    ("max_iter", {"max_iter": -1}),
    ("max_iter", {"max_iter": 1.5}),
    ("deadline", {"deadline": -1}),
    ("deadline", {"deadline": NAN}),
    ("progress", {"progress": "loud"}),
]


def sentence(error: pytest.ExceptionInfo[unmerge.UnmergeError], names: str) -> None:
    message = str(error.value)
    assert any(_word(name.strip(), message) for name in names.split("|")), message
    assert "\n" not in message and 8 < len(message) < 504 and ". " not in message, message


def _word(name: str, message: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", message) is not None


@pytest.mark.parametrize("names,o", BAD, ids=[f"{i}-" + "-".join(o) for i, (_, o) in enumerate(BAD)])
def test_bad_arguments_are_named_in_one_sentence(names: str, o: Options) -> None:
    with pytest.raises((unmerge.InvalidValue, unmerge.InvalidType)) as error:
        nmf(**({"X": X0, "k": 2} | o))
    sentence(error, names)


STEPS: list[tuple[str, Options]] = [
    ("x", {}),
    ("x", {"X": X0[:-1]}),
    ("x", {"X": X0[:, :-1]}),
    ("x", {"X": X0.T}),
    ("x", {"X": with_(X0, NAN)}),
    ("x", {"X": with_(X0, np.inf)}),
    ("x", {"X": with_(X0, -1)}),
    ("x", {"X": X0.astype(int)}),
    ("max_iter", {"X": X0, "max_iter": -1}),
    ("tol", {"X": X0, "tol": 0}),
    ("tol", {"X": X0, "tol": 1}),
    ("deadline", {"X": X0, "deadline": -1}),
    ("threads", {"X": X0, "threads": -1}),
]


@pytest.mark.parametrize("names,o", STEPS, ids=[f"{i}-" + "-".join(o) for i, (_, o) in enumerate(STEPS)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_refused_step_leaves_the_model_as_it_was(names: str, o: Options, algorithm: str) -> None:
    model = NMFModel(X0, k=2, **ALGORITHMS[algorithm])
    model.step(X0, max_iter=2, tol=TINY)
    before = model.to_bytes()
    with pytest.raises((unmerge.InvalidValue, unmerge.InvalidType)) as error:
        model.step(**o)
    sentence(error, names)
    assert model.to_bytes() == before
    if "X" in o and o["X"].shape != X0[:, :-1].shape and "tol" not in o:  # any number of columns can be coded
        with pytest.raises((unmerge.InvalidValue, unmerge.InvalidType)) as error:
            model.transform(**o)
        sentence(error, names)
        assert model.to_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "flipped", "text"])
def test_damaged_bytes_are_refused(damage: str) -> None:
    model = NMFModel(X0, k=2)
    good = model.to_bytes()
    bad = {
        "cut": good[:-1], "longer": good + b"\0", "empty": b"", "text": b"not a model at all" * 20,
        "flipped": good[:-9] + bytes([good[-9] ^ 1]) + good[-8:],
    }[damage]  # fmt: skip
    with pytest.raises(unmerge.InvalidValue) as error:
        unmerge.models.model_from_bytes(bad)
    assert error.value.name in ("UNMERGE_E_FORMAT", "UNMERGE_E_SHAPE", "UNMERGE_E_RANGE")


def test_closed_model_is_refused() -> None:
    model = NMFModel(X0, k=2)
    model.close()
    for use in (lambda: model.components, lambda: model.step(X0), lambda: model.to_bytes()):
        with pytest.raises((unmerge.UnmergeError, ValueError)):
            use()
    assert "closed" in repr(model)


# ---------------------------------------------------------------- promises between calls


def test_the_same_numbers_in_other_places_are_other_data() -> None:
    """Sums of whole numbers are exact, so that neither ||X||^2 nor sum X tells a permutation."""
    rng = np.random.default_rng(5)
    X = rng.poisson(4.0, (30, 24)).astype(np.float64)
    P = X[:, rng.permutation(24)]
    for steps in (20, 5000):
        model = NMFModel(X, k=4)
        model.step(X, max_iter=steps, tol=1e-6)
        r = model.step(P, max_iter=5000, tol=1e-6)
        assert r.outcome == "converged" and r.iterations > 1 and r.violation <= 1e-6
    F, S = np.asfortranarray(X), np.zeros((60, 48))[::2, ::2]
    S[:] = X
    model = NMFModel(X, k=4)
    model.step(X, max_iter=5000, tol=1e-6)
    for same in (F, S, X.astype(np.float32)):  # however the data lies
        assert model.step(same, max_iter=10, tol=1e-6).iterations == 0


def test_a_stream_of_ragged_batches_loses_nothing() -> None:
    X = np.random.default_rng(3).random((20, 356))
    model = unmerge.OnlineNMFModel(X[:, :100], k=3)
    for part in (X[:, :100], X[:, 100:]):
        r = model.step(part, max_iter=1, tol=1e-300)
        assert r.yy == pytest.approx((part**2).sum(), rel=1e-12)
    assert r.passes == 2


def test_a_callback_that_calls_its_own_model_is_refused() -> None:
    X = np.random.default_rng(0).random((300, 300))
    seen: list[str] = []

    def ask(model: NMFModel) -> None:
        def progress(_: Any) -> bool:
            try:
                model.components  # noqa: B018
            except unmerge.UnmergeError as refusal:
                seen.append(str(refusal))
            return True

        model.step(X, max_iter=10**6, tol=1e-300, deadline=20, progress=progress)

    model = NMFModel(X, k=5, init="random")
    thread = threading.Thread(target=ask, args=(model,), daemon=True)  # there the callback runs on the thread that steps
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and len(seen) == 1 and "callback" in seen[0]
    assert model.components.shape == (300, 5)


def test_an_error_in_the_middle_leaves_the_stream_as_it_was() -> None:
    X = np.random.default_rng(1).random((20, 20))
    model = unmerge.OnlineNMFModel(X, k=3, batch=10)
    before = model.to_bytes()
    X[:, 10:] *= 1e-110
    assert model.step(X, max_iter=2, tol=1e-300).iterations == 2  # small batches are no error
    X[3, 15] = np.nan
    model = unmerge.OnlineNMFModel(np.random.default_rng(1).random((20, 20)), k=3, batch=10)
    with pytest.raises(ValueError, match=r"x\[3\]\[15\]"):
        model.step(X, max_iter=2)
    assert model.to_bytes() == before


@pytest.mark.parametrize("scale", [1.0, 1e7, 1e12])
def test_divergence_where_the_model_is_zero(scale: float) -> None:
    X = scale * np.array([[1.0, 2, 3], [1, 1, 1], [2, 1, 1]])
    W, H = np.array([[1.0, 0], [0, 0], [0, 1]]), np.array([[1.0, 1, 1], [1, 1, 0]])
    W, H, r = nmf(X, k=2, algorithm="mu", loss="kl", W=W, H=H, max_iter=200, tol=1e-8)
    assert r.outcome == "converged" and np.isfinite(W).all() and np.isfinite(H).all()
    # Row 1 has no component, column 2 of row 2 none: the rest is what its components can do.
    assert (W @ H / scale)[[0, 2]].sum() == pytest.approx(6 + 3, rel=1e-6)


def test_saved_bytes_of_an_endless_life_are_refused() -> None:
    X = np.random.default_rng(0).random((6, 5))
    for model in (NMFModel(X, k=2), unmerge.OnlineNMFModel(X, k=2)):
        model.step(X, max_iter=3, tol=1e-300)
        data = model.to_bytes()
        words = np.frombuffer(data, dtype="<u8").copy()
        for at in range(1, len(words) - 1):
            if words[at] == 3:
                changed = words.copy()
                changed[at] = 2**63 - 1
                h = 0xCBF29CE484222325
                for byte in changed[:-1].tobytes():
                    h = (h ^ byte) * 0x100000001B3 % 2**64
                changed[-1] = h
                with pytest.raises(ValueError):
                    unmerge.model_from_bytes(changed.tobytes())
                break
        else:
            pytest.fail("no word holds the number of iterations")


def test_the_deadline_of_a_fit_with_a_callback_is_for_all_of_it() -> None:
    X = np.random.default_rng(0).random((300, 300))
    model = NMFModel(X, k=20, init="random")
    r = model.fit(X, max_iter=10**7, tol=1e-300, deadline=0.3, callback=lambda m, r: False, every=5)
    assert r.outcome == "time limit"
    with pytest.raises(ValueError, match="every"):
        model.fit(X, callback=lambda m, r: False, every=0)
