"""The tables of UNMERGE on this benchmark: six regressions, the paper's grids and thresholds, beside its own figures.

    python benchmarks/attribution/paper_tables.py --manifest DIR/manifest.json [--split test] [--json out.json]

For every merge of the suites paper-shared and paper-common: precision, recall, reconstruction error
1 - max(0, cos)^2, non-zeros and seconds, once through UNMERGE's mask (per module the positions with the largest
max-over-dictionary |entry|, 999,936 in all) and once over all entries. Needs the Python package `unmerge`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import unmerge
from score import cell, show
from unmerge._assemble import assemble
from unmerge.files import read

METHODS = ("nnls", "omp", "ridge", "elastic_net", "lasso", "dot")
MERGES = ("dare_linear", "ties", "linear", "task_arithmetic")
CATEGORIES = ("known", "mixed", "unknown")
SUITES = ("paper-shared", "paper-common")
MASKED = 999_936
THRESHOLD = 0.01
EXACT_ZERO = 1e-8  # where the paper states no threshold a coefficient counts when it is not zero; our zeros are exact

# "UNMERGE: Verifiable Model Capability Attribution via Sparse Coding" (Agents4Science 2025), best setting per method:
# reconstruction error on known, mixed and unknown merges, and seconds.
PUBLISHED_ERROR = {
    "nnls": (0.2426, 0.4304, 0.6769, 0.507),
    "omp": (0.2416, 0.4299, 0.6768, 0.035),
    "ridge": (0.2415, 0.4297, 0.6768, 0.030),
    "elastic_net": (0.2485, 0.4349, 0.6801, 0.153),
    "dot": (0.2973, 0.4853, 0.6903, 0.027),
    "lasso": (0.5188, 0.7109, 0.9933, 0.111),
}
# The same paper, precision / recall, merges in the order of MERGES. A pair of numbers is the range the paper gives,
# None where it gives no figure for that merge.
PUBLISHED_NAMES: dict[str, dict[str, tuple[str | None, ...]]] = {
    "known": {
        "nnls": ("1.00/1.00", "1.00/1.00", "1.00/1.00", "1.00/1.00"),
        "omp": ("1.00/1.00", ".56/1.00", "1.00/1.00", "1.00/1.00"),
        "lasso": ("1.00/.40", "1.00/.67", ".83/.36", ".83/.36"),
        "elastic_net": (".62–.87/1.00",) * 4,
        "ridge": (".54/1.00",) * 4,
        "dot": (".54–.55/1.00",) * 4,
    },
    "mixed": {
        "nnls": (".31/1.00", ".41/1.00", ".30/1.00", ".30/1.00"),
        "omp": (".26–.29/1.00",) * 4,
        "lasso": (None, "1.00/.92", ".50/.25", None),
    },
}
PUBLISHED_KNOWN_ERROR = {"dare_linear": 0.43, "ties": 0.28, "linear": 0.17, "task_arithmetic": 0.09}  # NNLS

Setting = tuple[str, Callable[[Any, int], Any], float]


def settings(method: str) -> Iterator[Setting]:
    """(name, solve, threshold) over the paper's grid; its alphas are scikit-learn's, ours are p times as large.

    Ridge is the exception: scikit-learn's ridge has no 1/(2n), so its alpha is ours.
    """
    if method == "nnls":
        yield "", lambda g, p: unmerge.nnls(g), THRESHOLD
    elif method == "dot":
        yield "", lambda g, p: unmerge.dot(g, variant="cosine"), THRESHOLD
    elif method == "omp":
        for k in range(1, 9):
            yield f"k={k}", lambda g, p, k=k: unmerge.omp(g, k=k), EXACT_ZERO
    elif method == "ridge":
        for e in range(-8, -1):
            yield f"alpha=1e{e}", lambda g, p, e=e: unmerge.ridge(g, alpha=10.0**e), THRESHOLD
    elif method == "lasso":
        for alpha in (1e-8, 1e-7, 1e-6):
            yield f"alpha={alpha:.0e}", lambda g, p, a=alpha: unmerge.lasso(g, alpha=a * p), EXACT_ZERO
    else:
        for e in range(-8, -3):
            for ratio in (0.1, 0.5, 0.9):
                yield (
                    f"alpha=1e{e}, l1_ratio={ratio}",
                    lambda g, p, e=e, r=ratio: unmerge.elastic_net(g, alpha=10.0**e * p, l1_ratio=r),
                    EXACT_ZERO,
                )


def rebuilt(gram: Any, coef: Any) -> float:
    """1 - max(0, cos(A w, y))^2, from the Gram alone."""
    G, C, yy = gram.arrays()
    size = float(coef @ G @ coef)
    if size <= 0 or yy[0] <= 0:
        return 1.0
    cosine = float(coef @ C[:, 0]) / np.sqrt(size * float(yy[0]))
    return 1.0 - max(0.0, cosine) ** 2


def measure(merge: dict[str, Any], root: Path, mask: bool) -> Iterator[dict[str, Any]]:
    """Every method and setting on one merge; the seconds include the pass over the data."""
    base = read(root / merge["base"])
    atoms = {Path(a).name: read(root / a) for a in merge["atoms"]}
    problem = assemble(base, atoms, read(root / merge["target"]))
    names = problem.atoms.columns
    kept = unmerge.mask(problem.atoms, total=MASKED) if mask else None
    began = time.perf_counter()
    gram = unmerge.Gram(problem.atoms, problem.target, mask=kept, blocks="one")
    reading = time.perf_counter() - began
    for method in METHODS:
        for setting, solve, threshold in settings(method):
            began = time.perf_counter()
            coef, _ = solve(gram, gram.entries)
            spent = time.perf_counter() - began
            named = {n for n, w in zip(names, coef, strict=True) if abs(w) > threshold}
            right = len(named & merge["truth"].keys())
            yield {
                "suite": merge["suite"],
                "category": merge["category"],
                "merge": merge["method"],
                "method": method,
                "setting": setting,
                "masked": mask,
                "entries": gram.entries,
                "precision": right / len(named) if named else 0.0,
                "recall": right / len(merge["truth"]) if merge["truth"] else None,
                "false": len(named - merge["truth"].keys()),
                "error": rebuilt(gram, coef),
                "nonzeros": int(np.count_nonzero(np.abs(coef) > EXACT_ZERO)),
                "named": len(named),
                "exact": named == set(merge["truth"]),
                "seconds": reading + spent,
            }


def average(rows: list[dict[str, Any]], key: str) -> float | None:
    """Mean over the rows that have the figure."""
    values = [r[key] for r in rows if r[key] is not None]
    return float(np.mean(values)) if values else None


def f1(rows: list[dict[str, Any]]) -> float:
    """Of mean precision and mean recall."""
    p, r = average(rows, "precision") or 0.0, average(rows, "recall") or 0.0
    return 2 * p * r / (p + r) if p + r else 0.0


def best(rows: list[dict[str, Any]], by_names: bool) -> dict[str, list[dict[str, Any]]]:
    """The rows of each method's best setting: least error as in the paper, or the best names."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["method"]][row["setting"]].append(row)
    chosen = {}
    for method, by_setting in groups.items():
        score = f1 if by_names else (lambda group: -(average(group, "error") or 0.0))
        chosen[method] = max(by_setting.values(), key=score)
    return chosen


def tables(rows: list[dict[str, Any]]) -> None:
    """Print the paper's tables for each suite, masked and not."""
    for suite in SUITES:
        for masked in (True, False):
            mine = [r for r in rows if r["suite"] == suite and r["masked"] == masked]
            if not mine:
                continue
            where = f"{suite}, {'masked' if masked else 'all entries'}, p = {mine[0]['entries']:,}"
            lines = []
            per = {c: best([r for r in mine if r["category"] == c], by_names=False) for c in CATEGORIES}
            for method in METHODS:
                line = [method]
                for i, category in enumerate(CATEGORIES):
                    line += [
                        cell(average(per[category].get(method, []), "error"), 4),
                        cell(PUBLISHED_ERROR[method][i], 4),
                    ]
                spent = average([r for group in per.values() for r in group.get(method, [])], "seconds")
                line += [cell(spent, 3), cell(PUBLISHED_ERROR[method][3], 3)]
                lines.append(line)
            heads = [h for c in (*CATEGORIES, "seconds") for h in (c, "paper")]
            show(f"Reconstruction error, setting with the least error ({where})", ["method", *heads], lines, 1)

            by_merge = {}
            for merge in MERGES:
                rows_of = [
                    r for r in mine if r["category"] == "known" and r["merge"] == merge and r["method"] == "nnls"
                ]
                by_merge[merge] = [merge, cell(average(rows_of, "error"), 3), cell(PUBLISHED_KNOWN_ERROR[merge], 2)]
            show(f"NNLS error on known merges ({where})", ["merge", "here", "paper"], list(by_merge.values()), 1)

            # One setting per method for all of the suite: choosing it for each cell would flatter every method.
            names = best([r for r in mine if r["category"] != "unknown"], by_names=True)
            for category in ("known", "mixed"):
                lines = []
                for method in METHODS:
                    published = PUBLISHED_NAMES[category].get(method, (None,) * len(MERGES))
                    line = [method, next(r["setting"] for r in names[method])]
                    for merge, paper in zip(MERGES, published, strict=True):
                        group = [r for r in names[method] if (r["category"], r["merge"]) == (category, merge)]
                        figures = (cell(average(group, key), 2) for key in ("precision", "recall"))
                        line += ["/".join(figures), paper or "–"]
                    lines.append(line)
                heads = ["method", "setting", *(h for m in MERGES for h in (m, "paper"))]
                show(f"Precision / recall, {category}, setting with the best names ({where})", heads, lines, 2)

            lines = []
            for method in METHODS:
                line = [method]
                for category in CATEGORIES:
                    group = per[category].get(method, [])
                    line += [cell(average(group, "false"), 2), cell(average(group, "nonzeros"), 1),
                             cell(average(group, "exact"), 2)]  # fmt: skip
                lines.append(line)
            heads = [f"{c} {h}" for c in CATEGORIES for h in ("false", "non-zeros", "exact")]
            show(f"False names, non-zeros, exact support, setting with the least error ({where})",
                 ["method", *heads], lines, 1)  # fmt: skip


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--split", choices=("dev", "test", "final"), default="test")
    parser.add_argument("--limit", type=int, help="at most this many merges per suite: a rehearsal")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    args = parser.parse_args()
    merges = json.loads(args.manifest.read_text())["merges"]
    rows: list[dict[str, Any]] = []
    for suite in SUITES:
        chosen = [m for m in merges if m["suite"] == suite and m["split"] == args.split]
        for merge in chosen[:: max(1, len(chosen) // args.limit)] if args.limit else chosen:
            for masked in (True, False):
                rows += measure(merge, args.manifest.resolve().parent, masked)
    tables(rows)
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
