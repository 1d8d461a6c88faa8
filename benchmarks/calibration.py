"""Calibration of inclusion probabilities: problems drawn from the prior of spike and slab, answered by three methods.

    python benchmarks/calibration.py --svg docs/calibration.svg

Of the atoms that a method gives a probability of 0.3, three in ten should be inside.  The enumeration is exact under the prior
the problems are drawn from and must be on the diagonal; the variational Garrote, with a prior of the same share, fits its
weights instead of integrating over them; sparse Bayesian learning only says in or out, and is shown as two points.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import unmerge

P, N, PRIOR, SLAB = 60, 10, 0.25, 0.15
BINS = np.linspace(0, 1, 11)
COLORS = {"enumeration": "#1a7f37", "variational Garrote": "#0969da", "sparse Bayes": "#bc4c00"}


def draw(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated atoms; w_j ~ N(0, sigma2 SLAB) with probability PRIOR; sigma2 ~ Inverse-Gamma(3, 3)."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((P, N)) + 0.7 * rng.standard_normal((P, 1))
    sigma2 = 1 / rng.gamma(3, 1 / 3)
    s = rng.random(N) < PRIOR
    w = np.where(s, rng.standard_normal(N) * math.sqrt(SLAB * sigma2), 0)
    return A, A @ w + math.sqrt(sigma2) * rng.standard_normal(P), s


def answers(problems: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Probabilities by method, and the truth."""
    said: dict[str, list[np.ndarray]] = {name: [] for name in COLORS}
    truth = []
    for seed in range(problems):
        A, y, s = draw(seed)
        gram = unmerge.Gram(A, y)
        said["enumeration"].append(unmerge.spike_slab(gram, prior=PRIOR, slab=SLAB, shape=3, scale=3).inclusion)
        gamma = math.log(PRIOR / (1 - PRIOR))
        said["variational Garrote"].append(unmerge.variational_garrote(gram, gamma=gamma).inclusion)
        said["sparse Bayes"].append(np.isfinite(unmerge.sparse_bayes(gram).alphas).astype(float))
        truth.append(s)
    return {name: np.concatenate(parts) for name, parts in said.items()}, np.concatenate(truth)


def curve(said: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, float, int]]:
    """Per bin: mean of what was said, share that is inside, its standard error, how many."""
    rows = []
    at = np.clip(np.digitize(said, BINS) - 1, 0, len(BINS) - 2)
    for i in range(len(BINS) - 1):
        inside = truth[at == i]
        if len(inside) >= 30:
            share = float(inside.mean())
            rows.append((float(said[at == i].mean()), share, math.sqrt(share * (1 - share) / len(inside)), len(inside)))
    return rows


def svg(curves: dict[str, list[tuple[float, float, float, int]]], problems: int) -> str:
    size, left, top = 320, 60, 30

    def x(v: float) -> float:
        return left + size * v

    def y(v: float) -> float:
        return top + size * (1 - v)

    font = 'font-family="sans-serif" font-size="12" fill="#57606a"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="560" height="410" viewBox="0 0 560 410">',
        '<rect width="560" height="410" fill="#ffffff"/>',
        f'<text x="{left}" y="18" {font}>{problems} problems from the prior, {N} atoms each</text>',
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}" stroke="#d0d7de" stroke-dasharray="4 4"/>',
        f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="none" stroke="#d0d7de"/>',
    ]
    for v in (0, 0.5, 1):
        parts.append(f'<text x="{x(v)}" y="{y(0) + 16}" text-anchor="middle" {font}>{v:g}</text>')
        parts.append(f'<text x="{x(0) - 8}" y="{y(v) + 4}" text-anchor="end" {font}>{v:g}</text>')
    parts.append(f'<text x="{x(0.5)}" y="{y(0) + 36}" text-anchor="middle" {font}>probability said</text>')
    parts.append(f'<text x="16" y="{y(0.5)}" text-anchor="middle" {font} transform="rotate(-90 16 {y(0.5)})">share inside</text>')
    for row, (name, points) in enumerate(curves.items()):
        color = COLORS[name]
        if len(points) > 2:
            line = " ".join(f"{x(p[0]):.1f},{y(p[1]):.1f}" for p in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for said, share, error, _ in points:
            low, high = y(max(0, share - 2 * error)), y(min(1, share + 2 * error))
            parts.append(f'<line x1="{x(said):.1f}" y1="{low:.1f}" x2="{x(said):.1f}" y2="{high:.1f}" stroke="{color}"/>')
            parts.append(f'<circle cx="{x(said):.1f}" cy="{y(share):.1f}" r="3" fill="{color}"/>')
        parts.append(f'<circle cx="{x(1) + 18}" cy="{top + 14 + 20 * row}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{x(1) + 28}" y="{top + 18 + 20 * row}" {font}>{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    said, truth = answers(options.problems)
    curves = {name: curve(values, truth) for name, values in said.items()}
    for name, points in curves.items():
        brier = float(np.mean((said[name] - truth) ** 2))
        print(f"{name}: Brier score {brier:.4f}")
        for at, share, error, count in points:
            print(f"  said {at:.3f}   inside {share:.3f} ± {error:.3f}   of {count}")
    if options.svg:
        options.svg.write_text(svg(curves, options.problems), encoding="utf-8")


if __name__ == "__main__":
    main()
