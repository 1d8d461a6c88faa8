"""The problem every contestant is given, and the reference that judges the answers.

n atoms of p = 999,936 entries, unit norm, sharing a base direction (pairwise correlation 0.5); y = 8 atoms with positive
weights + noise of norm 0.5.  Dictionary D is n x p, one row per atom, C order; A = D.T (p x n, Fortran order) is a view.

The reference is made from a float64 Gram of the same float32 entries, G = A'A, c = A'y, and solved to machine accuracy:
each solution is refined on its support and its optimality conditions are checked here, wherever its support came from.

    f(w) = 1/2 ||A w - y||^2 + l1 ||w||_1 + l2/2 ||w||^2          error(w) = (f(w) - f*) / f(0)

The group methods have f(w) = 1/2 ||A w - y||^2 + l1 ||w||_1 + k sum_g 2 ||w_g|| over groups of 4 atoms in their order; 2 is
the root of their size.  Methods that end in _gram begin where G, c and ||y||^2 in float64 are there already:
iht, htp, cosamp, subspace_pursuit, best_subset and garrote look for 8 atoms with the smallest residual, the first four
without a promise to find them (their theorems ask for less correlation): their error is reported, not limited; lasso_composite, box
(0 <= w <= 1) and simplex (w >= 0, sum w = 1) are the terms of a composite problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

P = 999_936
TRUE_ATOMS = 8
NOISE = 0.5
CORRELATION = 0.5

ALPHA_FRACTION = 0.05  # of alpha_max
# At 0.5 the l2 part spreads the weights over the correlated atoms and the answer is dense; at 0.95 it stays sparse.
L1_RATIOS = {"lasso": 1.0, "elastic_net": 0.5, "elastic_net_95": 0.95}
RIDGE_ALPHA = 0.1
PATH_LENGTH, PATH_RATIO = 100, 1e-3
K = 8
SIGMA = 1.1 * NOISE  # of basis pursuit denoising

ERROR_LIMIT = 1e-6  # on f
CV_LIMIT = 1e-4  # on the errors of the folds, relative
ENTRY_LIMIT = 1e-5  # on entries of G (relative to ||a_i|| ||a_j||) and on c (relative to ||c||): about float32

CV_FOLDS, CV_ATOMS = 5, 64  # cross-validation is played with so many atoms only: peers take half a minute
GROUP = 4  # atoms per group
GROUP_RATIOS = {"group_lasso": 0.0, "sparse_group_lasso": 0.5, "group_lasso_gram": 0.0}
SUBSETS = ("iht_gram", "htp_gram", "cosamp_gram", "subspace_pursuit_gram", "best_subset_gram", "garrote_gram")
PROMISELESS = SUBSETS[:4]
# Upper bound of a coefficient, and what they sum to.
SETS: dict[str, tuple[float, float | None]] = {"box_gram": (1.0, None), "simplex_gram": (np.inf, 1.0)}
FEASIBLE = 1e-6  # how far outside a set a peer may be

METHODS = (
    "gram", "dot", "ridge", "lasso", "lasso_path", "elastic_net", "elastic_net_95", "nnls", "omp", "bpdn",
    "lasso_cv", "group_lasso", "sparse_group_lasso", "group_lasso_gram",
    *SUBSETS, "lasso_composite_gram", *SETS,
)  # fmt: skip
SIX = ("dot", "ridge", "lasso", "elastic_net", "nnls", "omp")


@dataclass
class Data:
    """The arrays and the numbers a contestant needs."""

    D: Any  # n x p
    y: Any  # p
    alphas: Any  # of the path, decreasing; the first is alpha_max
    group_alpha: float = 0.0  # of the group LASSO: a fraction of the largest ||c_g|| / 2
    ridge_alpha: float = RIDGE_ALPHA
    k: int = K

    @property
    def A(self) -> Any:
        return self.D.T

    @property
    def n(self) -> int:
        return int(self.D.shape[0])

    @property
    def p(self) -> int:
        return int(self.D.shape[1])

    @classmethod
    def of(cls, D: Any, y: Any, c: Any) -> Data:
        top = float(np.abs(c).max())
        group_top = max(float(np.linalg.norm(c[g : g + GROUP])) for g in range(0, len(c), GROUP)) / GROUP**0.5
        path = top * PATH_RATIO ** (np.arange(PATH_LENGTH) / (PATH_LENGTH - 1))
        return cls(D, y, path, ALPHA_FRACTION * group_top)

    def elastic_net(self, method: str) -> tuple[float, float]:
        """alpha and l1_ratio of the LASSO and the elastic nets."""
        ratio = L1_RATIOS[method]
        return ALPHA_FRACTION * float(self.alphas[0]) / ratio, ratio

    @property
    def starts(self) -> Any:
        """The first atom of every group."""
        return np.arange(0, self.n, GROUP)

    def penalties(self, method: str) -> tuple[float, float]:
        """l1 and l2 of a method."""
        if method == "lasso_composite_gram":
            return self.penalties("lasso")
        if method in L1_RATIOS:
            alpha, ratio = self.elastic_net(method)
            return alpha * ratio, alpha * (1 - ratio)
        return 0.0, self.ridge_alpha if method == "ridge" else 0.0


def folds(p: int) -> list[slice]:
    """The rows of each fold of the cross-validation, in runs, as scikit-learn's KFold cuts them."""
    ends = np.cumsum([0] + [p // CV_FOLDS + (k < p % CV_FOLDS) for k in range(CV_FOLDS)])
    return [slice(int(s), int(e)) for s, e in zip(ends, ends[1:], strict=False)]


# ---------------------------------------------------------------- making the arrays


def make(folder: Path, n: int, bfloat16: bool = False, seed: int = 1) -> None:
    """Write dictionary.npy, target.npy and reference.npz, one atom at a time: one copy of D exists, in the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "reference.npz").exists():
        return
    dtype = np.uint16 if bfloat16 else np.float32  # bfloat16 is stored as its bits: .npy has no name for it
    D = np.lib.format.open_memmap(folder / "dictionary.npy", mode="w+", dtype=dtype, shape=(n, P))
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(P, dtype=np.float32)
    chosen = dict(zip(rng.permutation(n)[:TRUE_ATOMS].tolist(), rng.uniform(0.5, 1.5, TRUE_ATOMS), strict=True))
    y = rng.standard_normal(P)
    y *= NOISE / np.linalg.norm(y)
    for j in range(n):
        row = np.random.default_rng([seed, j]).standard_normal(P, dtype=np.float32)
        row *= np.float32(np.sqrt(1 - CORRELATION))
        row += np.float32(np.sqrt(CORRELATION)) * base
        row /= np.float32(np.linalg.norm(row))
        if j in chosen:
            y += chosen[j] * row
        D[j] = _bits(row) if bfloat16 else row
    y = y.astype(np.float32)
    np.save(folder / "target.npy", _bits(y) if bfloat16 else y)
    D.flush()
    del D
    reference = solve(*normal_equations(*load_arrays(folder)))
    if n == CV_ATOMS and not bfloat16:
        reference["lasso_cv"] = _fold_errors(*load_arrays(folder), Data.of(None, None, reference["dot"]).alphas)
    np.savez(folder / "unfinished.npz", **reference)
    (folder / "unfinished.npz").rename(folder / "reference.npz")


def _bits(x: Any) -> Any:
    import ml_dtypes

    return x.astype(ml_dtypes.bfloat16).view(np.uint16)


def load_arrays(folder: Path) -> tuple[Any, Any]:
    """D and y, shared with every other process that maps the same files; copy-on-write, for peers that want to write."""
    D, y = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in ("dictionary", "target"))
    if D.dtype == np.uint16:
        import ml_dtypes

        D, y = D.view(ml_dtypes.bfloat16), y.view(ml_dtypes.bfloat16)
    return D, y


def normal_equations(D: Any, y: Any, rows: int = 32_768) -> tuple[Any, Any, float]:
    """G, c and ||y||^2 in float64, a panel at a time."""
    n, p = D.shape
    G, c = np.zeros((n, n)), np.zeros(n)
    for start in range(0, p, rows):
        panel = D[:, start : start + rows].astype(np.float64)
        G += panel @ panel.T
        c += panel @ y[start : start + rows].astype(np.float64)
    return G, c, float(np.square(y.astype(np.float64)).sum())


# ---------------------------------------------------------------- the reference answers


def solve(G: Any, c: Any, yy: float) -> dict[str, Any]:
    data, eye = Data.of(None, None, c), np.eye(len(c))
    *path, lasso = _sparse(G, c, [*data.alphas, data.penalties("lasso")[0]])
    nets = {method: data.penalties(method) for method in ("elastic_net", "elastic_net_95")}
    return {
        "gram": G,
        "dot": c,
        "yy": yy,
        "ridge": np.linalg.solve(G + RIDGE_ALPHA * eye, c),
        "lasso": lasso,
        "lasso_path": np.stack(path),
        **{method: _sparse(G + l2 * eye, c, [l1])[0] for method, (l1, l2) in nets.items()},
        "nnls": _nonnegative(G, c),
        "omp": _pursuit(G, c),
        **{method: _grouped(G, c, yy, data.group_alpha, ratio) for method, ratio in GROUP_RATIOS.items()},
        "bpdn": _denoised(G, c, yy),
        **dict.fromkeys(SUBSETS, _subset(G, c)),
        "lasso_composite_gram": lasso,
        **{method: _inside(G, c, *limits) for method, limits in SETS.items()},
    }


def _fold_errors(D: Any, y: Any, alphas: Any) -> Any:
    """Mean squared error of every fold at every alpha, alphas x folds; a fold trains at alpha times its share of the rows."""
    parts = [normal_equations(D[:, rows], y[rows]) for rows in folds(D.shape[1])]
    sizes = [rows.stop - rows.start for rows in folds(D.shape[1])]
    errors = np.zeros((len(alphas), CV_FOLDS))
    for k, (Gk, ck, yyk) in enumerate(parts):
        rest = [part for i, part in enumerate(parts) if i != k]
        G, c = sum(part[0] for part in rest), sum(part[1] for part in rest)
        for i, w in enumerate(_sparse(G, c, [a * (1 - sizes[k] / sum(sizes)) for a in alphas])):
            errors[i, k] = (yyk - 2 * ck @ w + w @ (Gk @ w)) / sizes[k]
    return errors


def _refined(G: Any, c: Any, l1: float, w: Any, positive: bool) -> Any:
    """w solved exactly on its support; None unless it then satisfies the optimality conditions of the whole problem."""
    S, signs = np.flatnonzero(w), np.sign(w[w != 0])
    exact = np.zeros_like(w)
    if len(S):
        exact[S] = np.linalg.solve(G[np.ix_(S, S)], c[S] - l1 * signs)
    slack = c - G @ exact
    outside = (slack if positive else np.abs(slack)).max()
    kept = bool((np.sign(exact[S]) == signs).all())
    return exact if kept and outside <= l1 + 1e-12 * np.abs(c).max() else None


def _sparse(G: Any, c: Any, penalties: list[float]) -> list[Any]:
    from sklearn.linear_model import lars_path_gram

    # The path is piecewise linear between LARS's knots, exact up to rounding; _refined takes the rounding away.
    knots, _, path = lars_path_gram(
        c, G, n_samples=1, alpha_min=min(penalties), method="lasso", max_iter=100 * len(c), copy_Gram=True
    )
    answers = []
    for l1 in penalties:
        w = np.array([np.interp(-l1, -knots, row) for row in path])
        exact = _refined(G, c, l1, w, positive=False)
        for _ in range(2000):  # the rare support that rounding got wrong: coordinate descent
            if exact is not None:
                break
            for j in range(len(c)):
                r = c[j] - G[j] @ w + G[j, j] * w[j]
                w[j] = np.sign(r) * max(abs(r) - l1, 0) / G[j, j]
            exact = _refined(G, c, l1, w, positive=False)
        assert exact is not None, "the reference LASSO did not reach its optimality conditions"
        answers.append(exact)
    return answers


def _nonnegative(G: Any, c: Any) -> Any:
    from scipy.optimize import nnls

    L = np.linalg.cholesky(G)
    w = nnls(L.T, np.linalg.solve(L, c))[0]
    exact = _refined(G, c, 0.0, w, positive=True)
    assert exact is not None, "the reference NNLS did not reach its optimality conditions"
    return exact


def group_objective(G: Any, c: Any, yy: float, alpha: float, ratio: float, w: Any) -> float:
    norms = sum(GROUP**0.5 * float(np.linalg.norm(w[g : g + GROUP])) for g in range(0, len(c), GROUP))
    fit = 0.5 * yy - c @ w + 0.5 * w @ (G @ w)
    return float(fit + alpha * (ratio * np.abs(w).sum() + (1 - ratio) * norms))


def _grouped(G: Any, c: Any, yy: float, alpha: float, ratio: float) -> Any:
    """Proximal gradient, group by group, until the duality gap is 1e-12 of f(0)."""
    l1, k = alpha * ratio, alpha * (1 - ratio) * GROUP**0.5
    groups = [slice(g, g + GROUP) for g in range(0, len(c), GROUP)]
    steps = [1 / np.linalg.eigvalsh(G[g, g])[-1] for g in groups]
    w, h = np.zeros_like(c), c.copy()

    def shrunk(x: Any, l: float) -> Any:
        return np.sign(x) * np.maximum(np.abs(x) - l, 0)

    for sweep in range(100_000):
        for g, step in zip(groups, steps, strict=True):
            x = shrunk(w[g] + step * h[g], step * l1)
            size = np.linalg.norm(x)
            x = x * max(0.0, 1 - step * k / size) if size > 0 else x
            if (x != w[g]).any():
                h -= G[:, g] @ (x - w[g])
                w[g] = x
        if sweep % 50 == 49:
            h = c - G @ w
            s = 1.0
            for g in groups:
                while np.linalg.norm(shrunk(s * h[g], l1)) > k:
                    s *= 1 - max(1e-13, (np.linalg.norm(shrunk(s * h[g], l1)) - k) / np.linalg.norm(h[g]) / s / 2)
            rss = yy - w @ (c + h)
            gap = group_objective(G, c, yy, alpha, ratio, w) - (s * (rss + w @ h) - s * s * rss / 2)
            if gap <= 1e-12 * yy:
                return w
    raise AssertionError("the reference group LASSO did not reach its duality gap")
def _denoised(G: Any, c: Any, yy: float) -> Any:
    """The smallest l1 norm with ||A w - y|| = SIGMA: on the face of the LASSO, ||r||^2 = rest + alpha^2 s'G_SS^-1 s."""
    alphas = np.abs(c).max() * np.logspace(0, -4, 60)
    for w in _sparse(G, c, list(alphas)):
        S = np.flatnonzero(w)
        if not len(S):
            continue
        s, inverse = np.sign(w[S]), np.linalg.inv(G[np.ix_(S, S)])
        rest = yy - c[S] @ inverse @ c[S]
        alpha = np.sqrt(max(SIGMA**2 - rest, 0) / (s @ inverse @ s))
        exact = _refined(G, c, alpha, w, positive=False) if rest < SIGMA**2 else None
        if exact is not None:
            return exact
    raise AssertionError("the reference for SIGMA was not found on the grid")


def _pursuit(G: Any, c: Any, k: int = K) -> Any:
    chosen: list[int] = []
    w = np.zeros_like(c)
    for _ in range(min(k, len(c))):
        score = np.abs(c - G @ w) / np.sqrt(np.diag(G))
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        w[chosen] = np.linalg.solve(G[np.ix_(chosen, chosen)], c[chosen])
    return w


def _subset(G: Any, c: Any) -> Any:
    """From the answer of OMP, exchanges of one atom for another while the best of them lowers the residual."""
    chosen = np.flatnonzero(_pursuit(G, c)).tolist()

    def explained(S: list[int]) -> float:
        return float(c[S] @ np.linalg.solve(G[np.ix_(S, S)], c[S]))

    while len(chosen) < len(c):
        best, gain = chosen, explained(chosen) * (1 + 1e-13)
        for i in chosen:
            rest = [j for j in chosen if j != i]
            inverse = np.linalg.inv(G[np.ix_(rest, rest)])
            left = c - G[:, rest] @ (inverse @ c[rest])
            size = np.diag(G) - np.einsum("ij,ij->i", G[:, rest] @ inverse, G[:, rest])
            value = np.where(size > 1e-10, left**2 / np.maximum(size, 1e-10), 0) + explained(rest)
            if value.max() > gain:
                best, gain = [*rest, int(value.argmax())], float(value.max())
        if best is chosen:
            break
        chosen = best
    w = np.zeros_like(c)
    w[chosen] = np.linalg.solve(G[np.ix_(chosen, chosen)], c[chosen])
    return w


def _projected(v: Any, upper: float, total: float | None) -> Any:
    if total is None:
        return np.clip(v, 0, upper)
    u = np.sort(v)[::-1]
    excess = np.cumsum(u) - total
    k = int(np.flatnonzero(u * np.arange(1, len(u) + 1) > excess)[-1])
    return np.maximum(v - excess[k] / (k + 1), 0)


def _inside(G: Any, c: Any, upper: float, total: float | None) -> Any:
    """Projected gradient, accelerated and restarted, finds the face; the equations of the face and its multipliers are exact."""
    step = 1 / np.linalg.eigvalsh(G)[-1]
    w = point = _projected(np.zeros_like(c), upper, total)
    t = 1.0
    for sweep in range(100_000):
        new = _projected(point + step * (c - G @ point), upper, total)
        t, before = (1.0, 1.0) if (point - new) @ (new - w) > 0 else (0.5 + 0.5 * np.sqrt(1 + 4 * t * t), t)
        point, w = new + (before - 1) / t * (new - w), new
        if sweep % 100 != 99:
            continue
        free = np.flatnonzero((w > 0) & (w < upper))
        exact = np.where(w >= upper, upper, 0.0)
        K = np.block([[G[np.ix_(free, free)], np.ones((len(free), 1))], [np.ones((1, len(free))), np.zeros((1, 1))]])
        rhs = np.append((c - G @ exact)[free], 0.0 if total is None else total)
        if total is None:
            K, rhs = K[:-1, :-1], rhs[:-1]
        solved = np.linalg.solve(K, rhs)
        exact[free] = solved[: len(free)]
        slope = c - G @ exact - (0.0 if total is None else solved[-1])
        right = (slope[w == 0] <= 1e-12).all() and (slope[w >= upper] >= -1e-12).all()
        if right and (exact[free] > 0).all() and (exact[free] < upper).all():
            return exact
    raise AssertionError("the reference for the set did not reach its optimality conditions")


# ---------------------------------------------------------------- the judge


class Judge:
    def __init__(self, folder: Path) -> None:
        self.reference = dict(np.load(folder / "reference.npz"))
        self.G, self.c, self.yy = self.reference["gram"], self.reference["dot"], float(self.reference["yy"])
        self.data = Data.of(None, None, self.c)

    def objective(self, method: str, w: Any, alpha: float = 0.0) -> float:
        if method in GROUP_RATIOS:
            return group_objective(self.G, self.c, self.yy, self.data.group_alpha, GROUP_RATIOS[method], w)
        l1, l2 = (alpha, 0.0) if method == "lasso_path" else self.data.penalties(method)
        fit = 0.5 * self.yy - self.c @ w + 0.5 * w @ (self.G @ w)
        return float(fit + l1 * np.abs(w).sum() + 0.5 * l2 * w @ w)

    def __call__(self, method: str, answer: Any) -> tuple[float, bool]:
        """The error of an answer, and whether it qualifies."""
        answer = np.asarray(answer, dtype=np.float64)
        if method == "six":
            errors = [self(name, row) for name, row in zip(SIX, answer, strict=True)]
            return max(e for e, _ in errors), all(ok for _, ok in errors)
        best = self.reference[method]
        if not np.isfinite(answer).all() or answer.shape != best.shape:
            return float("nan"), False
        if method == "gram":
            d = np.sqrt(np.diag(best))
            answer = np.triu(answer) + np.triu(answer, 1).T  # BLAS fills one triangle
            error = float((np.abs(answer - best) / np.outer(d, d)).max())
            return error, error <= ENTRY_LIMIT
        if method == "dot":
            error = float(np.linalg.norm(answer - best) / np.linalg.norm(best))
            return error, error <= ENTRY_LIMIT
        if method == "lasso_cv":
            error = float((np.abs(answer - best) / best).max())
            return error, error <= CV_LIMIT
        if method == "bpdn":  # the norm against the smallest, and the residual against SIGMA
            size = np.sqrt(max(self.yy - 2 * self.c @ answer + answer @ (self.G @ answer), 0))
            excess = np.abs(answer).sum() / np.abs(best).sum() - 1
            error = float(max(abs(excess), size / SIGMA - 1))
            return error, error <= ERROR_LIMIT
        if method == "lasso_path":
            rows = zip(answer, best, self.data.alphas, strict=True)
            gaps = [self.objective(method, w, a) - self.objective(method, b, a) for w, b, a in rows]
            error = max(gaps) / (0.5 * self.yy)
        else:
            error = (self.objective(method, answer) - self.objective(method, best)) / (0.5 * self.yy)
        ok = error <= ERROR_LIMIT
        if method == "nnls":
            ok = ok and bool((answer >= 0).all())
        if method in SUBSETS:
            S = np.flatnonzero(np.abs(answer) > 1e-6)
            if method in PROMISELESS:  # no optimum is promised: least squares on 8 atoms, and the error is told
                ok = bool(np.abs((self.c - self.G @ answer)[S]).max() <= 1e-5)
            ok = bool(ok and len(S) <= K)
        if method in SETS:
            upper, total = SETS[method]
            excess = 0.0 if total is None else abs(answer.sum() - total)
            ok = ok and bool(max(-answer.min(), (answer - upper).max(), excess) <= FEASIBLE)
            error = abs(error)  # a little outside, f may be lower
            ok = bool(ok and error <= ERROR_LIMIT)
        if method == "omp":
            ok = ok and set(np.flatnonzero(answer)) == set(np.flatnonzero(best))
        return error, ok
