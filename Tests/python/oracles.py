"""Independent checkers, in NumPy's extended precision, for what the library promises in ``unmerge.h``.

Nothing here calls the library.  Every quantity a report holds (objective, gap, violation, rss) has a function of its own
that computes it from A, y and the coefficients by the textbook formula, and ``minimiser`` solves the convex problems by an
active-set method whose answer is then certified by the same textbook gap.

Problems are written as in the header:  1/2 ||A w - y||^2 + sum_j l1_j |w_j| + 1/2 sum_j l2_j w_j^2, with w >= 0 if positive,
where l1_j = alpha l1_ratio weights_j and l2_j = alpha (1 - l1_ratio) weights_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

LD = np.longdouble
U = 2.0**-53  # unit roundoff of double
if not np.finfo(LD).eps < 2e-19:  # the expectations need more digits than the library has
    raise ImportError("these tests need a long double with a 64-bit significand or more")

P_FULL = 999_936  # 112 modules of 8,928 entries


def ld(x: Any) -> np.ndarray:
    """Any of the four element types, exactly, in extended precision."""
    x = np.asarray(x)
    if x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    return x.astype(LD)


# ---------------------------------------------------------------- Gram


def gram(A: Any, Y: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A'A, A'Y, diag Y'Y) in extended precision; rows are converted a few thousand at a time, sums are pairwise."""
    A = np.asarray(A)
    Y = np.zeros((A.shape[0], 0)) if Y is None else np.asarray(Y)
    Y = Y.reshape(A.shape[0], 1 if Y.ndim == 1 else Y.shape[1])
    n, t = A.shape[1], Y.shape[1]
    parts = []
    for start in range(0, max(A.shape[0], 1), 16384):
        X = np.concatenate([ld(A[start : start + 16384]).T, ld(Y[start : start + 16384]).T])  # columns contiguous
        S = np.zeros((n, n + t), dtype=LD)
        for i in range(n):
            S[i, i:] = (X[i] * X[i:]).sum(axis=-1)
        parts.append((S, (X[n:] ** 2).sum(axis=-1)))
    S, yy = sum(s for s, _ in parts), sum(q for _, q in parts)
    G = np.triu(S[:, :n])
    return G + np.triu(G, 1).T, S[:, n:], yy


def entry_error(arrays: Any, reference: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Largest error of (G, C, yy), each entry relative to the norms of its two vectors."""
    G, C, yy = (ld(x) for x in arrays)
    rG, rC, ryy = reference
    d, e = np.sqrt(np.diag(rG)), np.sqrt(ryy)
    worst = [0.0]
    for mine, truth, scale in ((G, rG, np.outer(d, d)), (C, rC, np.outer(d, e)), (yy, ryy, e * e)):
        if mine.size:
            assert np.isfinite(mine).all()
            assert not np.any(mine[scale == 0])
            worst.append(float(np.max(np.abs(mine - truth) / np.where(scale > 0, scale, 1), initial=0.0)))
    return max(worst)


# ---------------------------------------------------------------- small dense algebra in extended precision


def cholesky(M: np.ndarray) -> np.ndarray:
    """Lower L with L L' = M; a non-positive pivot is a LinAlgError."""
    L = np.zeros_like(M, dtype=LD)
    for j in range(len(M)):
        column = M[j:, j] - L[j:, :j] @ L[j, :j]
        if not column[0] > 0:
            raise np.linalg.LinAlgError(f"pivot {j} is {column[0]}")
        L[j:, j] = column / np.sqrt(column[0])
    return L


def solve(M: np.ndarray, b: np.ndarray) -> np.ndarray:
    """M^-1 b for positive definite M, equilibrated, with one step of refinement."""
    s = 1 / np.sqrt(np.diag(M))
    E = M * np.outer(s, s)
    L = cholesky(E)

    def once(v: np.ndarray) -> np.ndarray:
        z = v.copy()
        for i in range(len(z)):
            z[i] = (z[i] - L[i, :i] @ z[:i]) / L[i, i]
        for i in reversed(range(len(z))):
            z[i] = (z[i] - L[i + 1 :, i] @ z[i + 1 :]) / L[i, i]
        return z

    x = once(b * s)
    x += once(b * s - E @ x)
    return x * s


# ---------------------------------------------------------------- the problem and its certificates


@dataclass
class Problem:
    """A, y and the penalty, with everything in extended precision."""

    A: np.ndarray
    y: np.ndarray
    l1: np.ndarray
    l2: np.ndarray
    positive: bool = False

    @classmethod
    def make(
        cls,
        A: Any,
        y: Any,
        alpha: float = 0.0,
        l1_ratio: float = 1.0,
        weights: Any = None,
        positive: bool = False,
    ) -> Problem:
        A, y = ld(A), ld(y)
        pi = np.ones(A.shape[1], dtype=LD) if weights is None else ld(weights)
        a, r = LD(alpha), LD(l1_ratio)
        return cls(A, y, a * r * pi, a * (1 - r) * pi, positive)

    @property
    def yy(self) -> Any:
        return self.y @ self.y

    @property
    def norms(self) -> np.ndarray:
        return np.sqrt((self.A * self.A).sum(axis=0))

    def residual(self, w: Any) -> np.ndarray:
        return self.y - self.A @ ld(w)

    def rss(self, w: Any) -> Any:
        r = self.residual(w)
        return r @ r

    def objective(self, w: Any) -> Any:
        w = ld(w)
        return self.rss(w) / 2 + (self.l1 * np.abs(w)).sum() + (self.l2 * w * w).sum() / 2

    def gradient(self, w: Any) -> np.ndarray:
        """Of the smooth part, negated: A'r - l2 w."""
        return self.A.T @ self.residual(w) - self.l2 * ld(w)

    def gap(self, w: Any) -> Any:
        """Primal minus dual at the residual scaled into the dual feasible set.

        The l2 part is written as rows: [A; diag(sqrt(l2))] w against [y; 0] is a LASSO with the same value, whose dual is
        max y't - ||t||^2 / 2 over |A_j't| <= l1_j (without the absolute value when w >= 0).
        """
        w = ld(w)
        A = np.concatenate([self.A, np.diag(np.sqrt(self.l2))])
        y = np.concatenate([self.y, np.zeros(len(w), dtype=LD)])
        r = y - A @ w
        correlation = A.T @ r
        reach = correlation if self.positive else np.abs(correlation)
        beyond = reach > self.l1
        s = min(LD(1), np.min(self.l1[beyond] / reach[beyond], initial=LD(1)))
        theta = s * r
        dual = y @ theta - theta @ theta / 2
        return self.objective(w) - dual

    def projected_gradient(self, w: Any) -> np.ndarray:
        """Distance of the gradient from the subdifferential of the rest, per atom, with its sign."""
        w, g = ld(w), self.gradient(w)
        free = g - self.l1 * np.sign(w)
        at_zero = np.maximum(g - self.l1, 0) if self.positive else np.sign(g) * np.maximum(np.abs(g) - self.l1, 0)
        return np.where(w == 0, at_zero, free)

    def violation(self, w: Any) -> float:
        scale = self.norms * np.sqrt(self.yy)
        v = np.abs(self.projected_gradient(w))
        return float(np.max(v / np.where(scale > 0, scale, 1), initial=LD(0)))

    def quadratic_bound(self, w: Any) -> Any:
        """1/2 v'(G + l2)^-1 v of the projected gradient v: bounds objective - optimum where there is no l1 part."""
        v = self.projected_gradient(w)
        G = self.A.T @ self.A + np.diag(self.l2)
        return v @ solve(G, v) / 2

    def rounding(self, w: Any) -> float:
        """What double arithmetic in terms of G, c and yy can lose of an objective, an rss or a gap: 8 n u times the squares
        that cancel."""
        n = max(len(self.l1), 1)
        return float(8 * n * U * (np.sqrt(self.yy) + (self.norms * np.abs(ld(w))).sum()) ** 2)

    def floor(self) -> float:
        """The rounding floor of ||y||^2, 8 n u ||y||^2: a relative gap is relative to the objective, but not to less."""
        return float(8 * max(len(self.l1), 1) * U * self.yy)


def support_violation(A: Any, y: Any, w: Any) -> float:
    """Largest correlation of the residual with an atom in use (least squares on a support)."""
    p = Problem.make(A, y)
    g = np.abs(p.A.T @ p.residual(w)) / np.where(p.norms > 0, p.norms, 1) / np.sqrt(p.yy)
    return float(np.max(g[ld(w) != 0], initial=LD(0)))


# ---------------------------------------------------------------- reference answers


def minimiser(problem: Problem, start: Any) -> np.ndarray:
    """The minimiser, by the active-set method in extended precision, from any approximate one, refined from the data so
    that the condition number is not squared.

    Invariant: signs of w on the set S agree with ``signs``; each round solves the equations on S, stops at the first sign
    change (that atom leaves), and otherwise admits the atom with the largest violation.
    """
    A, l1, l2 = problem.A, problem.l1, problem.l2
    G, c, norms = A.T @ A, A.T @ problem.y, problem.norms
    n = len(l1)
    if n == 0:
        return np.zeros(0, dtype=LD)
    free = (l1 == 0) & (not problem.positive)
    w = ld(start).copy()
    if problem.positive:
        w = np.maximum(w, 0)
    signs = np.sign(w)
    S = [j for j in range(n) if norms[j] > 0 and (signs[j] != 0 or free[j])]
    scale = norms * np.sqrt(problem.yy)
    banned: set[int] = set()
    for _ in range(50 * n + 50):
        try:
            target = solve(G[np.ix_(S, S)] + np.diag(l2[S]), c[S] - l1[S] * signs[S]) if S else np.zeros(0, dtype=LD)
        except np.linalg.LinAlgError:
            banned.add(S[-1])
            w[S.pop()] = 0
            continue
        now = w[S]
        bad = [k for k, j in enumerate(S) if not free[j] and target[k] * signs[j] <= 0]
        if bad:
            step = {k: now[k] / (now[k] - target[k]) if now[k] != target[k] else LD(0) for k in bad}
            first = min(step, key=lambda k: step[k])
            w[S] = now + max(LD(0), step[first]) * (target - now)
            if step[first] <= 0:
                banned.add(S[first])
            w[S[first]] = 0
            del S[first]
            continue
        w[S] = target
        g = c - G @ w - l2 * w
        over = (g if problem.positive else np.abs(g)) - l1
        over = np.where(scale > 0, over / np.where(scale > 0, scale, 1), 0)
        over[S] = 0
        over[list(banned)] = 0
        worst = int(np.argmax(over))
        if over[worst] <= 1e-17:
            for _ in range(2 if S else 0):
                gradient = problem.gradient(w)[S] - l1[S] * signs[S]
                w[S] += solve(G[np.ix_(S, S)] + np.diag(l2[S]), gradient)
            return w
        S.append(worst)
        signs[worst] = np.sign(g[worst])
    raise AssertionError("the reference did not finish")


def omp(A: Any, y: Any, k: int, positive: bool = False) -> tuple[list[int], np.ndarray, float]:
    """Orthogonal matching pursuit by a Gram-Schmidt basis of the data (no Gram): order, coefficients, and the smallest
    relative distance between the best and the second best score (a small one makes the order a matter of rounding)."""
    A, y = ld(A), ld(y)
    norms = np.sqrt((A * A).sum(axis=0))
    order: list[int] = []
    margin = np.inf
    Q: list[np.ndarray] = []
    r = y.copy()
    for _ in range(k):
        score = A.T @ r / np.where(norms > 0, norms, 1)
        score = score if positive else np.abs(score)
        score[order] = -np.inf
        ranked = np.sort(score)[::-1]
        if len(ranked) > 1 and np.isfinite(ranked[1]):
            margin = min(margin, float((ranked[0] - ranked[1]) / ranked[0]))
        best = int(np.argmax(score))
        q = A[:, best].copy()
        for _ in range(2):
            for old in Q:
                q -= old * (old @ q)
        Q.append(q / np.sqrt(q @ q))
        order.append(best)
        for old in Q:
            r -= old * (old @ r)
    S = A[:, order]
    w = np.zeros(A.shape[1], dtype=LD)
    w[order] = solve(S.T @ S, S.T @ y)
    return order, w, margin


# ---------------------------------------------------------------- data


def with_condition(rng: np.random.Generator, p: int, n: int, condition: float) -> np.ndarray:
    """p x n, p >= n, unit columns, singular values log-spaced before the columns are normalised."""
    U_, _ = np.linalg.qr(rng.standard_normal((p, n)))
    V, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (U_ * np.logspace(0, -np.log10(condition), n)) @ V.T
    return A / np.sqrt((A * A).sum(axis=0))


def condition_of(A: Any) -> float:
    """cond of A with unit columns (1 for no columns)."""
    if np.shape(A)[1] == 0:
        return 1.0
    A = np.asarray(A, dtype=np.float64)
    s = np.linalg.svd(A / np.sqrt((A * A).sum(axis=0)), compute_uv=False)
    return float(s[0] / s[-1])


@dataclass
class Sample:
    A: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    condition: float


def sample(
    seed: int, *, top: float = 6.0, wide: bool = False, positive: bool = False, scaled: bool = True, rows: float = 3000
) -> Sample:
    """A random problem: p from 30 to `rows`, n from 1 to 60, cond from 1 to 10^top, correlated or graded atoms of different
    lengths, a sparse truth and noise from 1e-3 to 3 times its length; a third of them in float32."""
    rng = np.random.default_rng([seed, 20260])
    if wide:
        p = int(rng.integers(30, 45))
        n = int(rng.integers(p + 1, 61))
        A = rng.standard_normal((p, n)) + rng.choice([0.0, 1.0]) * rng.standard_normal((p, 1))
    else:
        p = int(30 * (rows / 30) ** rng.random())
        n = int(rng.integers(1, min(60, p - 5) + 1))
        condition = 10 ** (top * rng.random())
        if rng.random() < 0.3:  # one common factor, as fine-tunes of one model have
            A = rng.standard_normal((p, n)) + 10 ** rng.uniform(-1, 1.5) * rng.standard_normal((p, 1))
        else:
            A = with_condition(rng, p, n, condition**0.97)
    A = A / np.sqrt((A * A).sum(axis=0))
    if scaled:
        A = A * 10 ** rng.uniform(-2, 2, n)
    truth = np.where(rng.random(n) < rng.choice([0.1, 0.4, 1.0]), rng.standard_normal(n), 0.0)
    if positive:
        truth = np.abs(truth) * rng.choice([1.0, 1.0, -1.0], n)
    truth = truth / np.sqrt((A * A).sum(axis=0))
    noise = rng.standard_normal(p)
    signal = A @ truth
    size = np.linalg.norm(signal) or 1.0
    y = signal + 10 ** rng.uniform(-3, 0.5) * size * noise / np.linalg.norm(noise)
    if seed % 3 == 2:
        A, y = A.astype(np.float32), y.astype(np.float32)
    if seed % 2:
        A = np.asfortranarray(A)
    return Sample(A, y, truth, np.inf if wide else condition_of(A))


@lru_cache(maxsize=None)
def task_vectors(n: int, p: int = P_FULL) -> np.ndarray:
    """p x n float32 in Fortran order: task vectors with a common part (0.3 to 0.7), of size 1e-3.  Read-only."""
    A = np.empty((n, p), dtype=np.float32)
    common = np.float32(0.3e-3) * np.random.default_rng([7, p]).standard_normal(p, dtype=np.float32)
    own = normal_windows([8, p], p, n)
    for j in range(n):
        np.multiply(own[:, j], np.float32(0.7e-3), out=A[j])
        A[j] += common
    A.setflags(write=False)
    return A.T


def normal_windows(seed: Any, p: int, n: int) -> np.ndarray:
    """p x n normal float32, the columns windows of one long vector, 1009 entries apart: as uncorrelated as n vectors drawn one
    by one, and as quick to draw as two of them.  A read-only view."""
    x = np.random.default_rng(seed).standard_normal(p + 1009 * n, dtype=np.float32)
    return np.lib.stride_tricks.as_strided(x, (p, n), (4, 4 * 1009), writeable=False)


def double_gram(A: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(G, C, yy) in double over row panels: about 1e-15, for judging what is allowed 1e-8 at full size."""
    Y = Y.reshape(len(Y), -1)
    n = A.shape[1]
    S = np.zeros((n + Y.shape[1],) * 2)
    for start in range(0, len(A), 65536):
        X = np.concatenate([A[start : start + 65536], Y[start : start + 65536]], axis=1).astype(np.float64)
        S += X.T @ X
    return S[:n, :n], S[:n, n:], np.diag(S)[n:].copy()
