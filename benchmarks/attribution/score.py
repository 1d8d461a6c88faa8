"""Score any tool's answers on the attribution benchmark.

    python benchmarks/attribution/score.py --manifest DIR/manifest.json --results RESULTS [--split test] [--json FILE]

RESULTS holds one ``<merge name>.json`` per merge::

    {"atoms": [{"name", "present", "weight", "low", "high", "p_value", "evidence"}],
     "method": {"name", "parameters": {"density", "normalize", "lambda"}},
     "complete": bool, "unexplained": {"score": number, larger = more is missing}}

Only an atom's name and ``present`` are required. A ``method`` that is there but null, or whose name is, says "none of those
I know" and counts as wrong; without the key the tool is not asked. PEFT's ``linear`` adds the adapters' factors apart, so
that products of one's B with another's A come in; it is called ``peft_linear`` here. Needs NumPy; tables are drawn with rich
where it is installed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]

# Other spellings of a method. `adapter_cat` and `adapter_linear` are the library's names for PEFT's two, merged into a base.
ALIASES = {"dare": "dare_linear", "sum": "task_arithmetic", "weighted_sum": "task_arithmetic"}
ALIASES |= {"adapter_cat": "cat", "adapter_linear": "peft_linear"}
# Methods that a merge may be called without being wrong, because the files agree up to rounding. A weighted sum whose
# weights sum to one is called both linear and task_arithmetic; fine-tunes of one base are so nearly parallel that SLERP
# and the Karcher mean of whole models are weighted sums to within rounding.
SUMS = frozenset({"linear", "task_arithmetic"})
EQUIVALENT = {"slerp": SUMS, "karcher": SUMS}
# Coarser: what is done to the task vectors before they are added.
FAMILIES = {
    "sum": ("linear", "task_arithmetic", "cat", "slerp", "karcher", "nuslerp", "model_stock"),
    "truncated sum": ("svd",),
    "sum of factors": ("peft_linear",),
    "random drops": ("dare_linear", "della_linear"),
    "random drops, elected signs": ("dare_ties", "della"),
    "trimmed": ("breadcrumbs",),
    "trimmed, elected signs": ("ties", "breadcrumbs_ties"),
}
FAMILY = {method: family for family, methods in FAMILIES.items() for method in methods}


# --- statistics ----------------------------------------------------------------------------------------------------


def auc(positive: Iterable[float], negative: Iterable[float]) -> float | None:
    """Chance that a positive scores higher than a negative, ties counting one half; None without one of each."""
    a, b = np.asarray(list(positive), float), np.asarray(list(negative), float)
    if not len(a) or not len(b):
        return None
    ordered = np.sort(b)
    below, upto = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    return float((below + upto).sum() / (2 * len(a) * len(b)))


def kolmogorov(values: Iterable[float]) -> tuple[float, float] | None:
    """Distance from the uniform distribution on [0, 1] and its p-value (asymptotic, with Stephens' correction)."""
    x = np.sort(np.asarray(list(values), float))
    n = len(x)
    if not n:
        return None
    grid = np.arange(1, n + 1) / n
    distance = float(max((grid - x).max(), (x - grid + 1 / n).max()))
    scaled = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance
    if scaled < 0.2:  # the series below does not converge there, and the value is 1 to nine digits
        return distance, 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return distance, float(min(1.0, max(0.0, sum(terms))))


def deciles(values: Iterable[float]) -> list[int]:
    """How many values fall in each tenth of [0, 1]."""
    counts, _ = np.histogram(np.asarray(list(values), float), bins=10, range=(0.0, 1.0))
    return [int(c) for c in counts]


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return float(np.mean(values)) if len(values) else None


# --- one merge -----------------------------------------------------------------------------------------------------


def canonical(method: str, tool: str = "mergekit") -> str:
    """One spelling per method; PEFT's `linear` adds factors, which is another thing."""
    name = method.lower().replace("-", "_")
    name = ALIASES.get(name, name)
    return "peft_linear" if tool == "peft" and name == "linear" else name


def accepted(merge: Record) -> frozenset[str]:
    """The names under which a merge may be reported."""
    method = canonical(merge["method"], merge.get("tool", "mergekit"))
    total = sum(w for name, w in merge["components"].items() if not name.startswith("tuning:"))
    names = {method} | EQUIVALENT.get(method, frozenset())
    if method in ("linear", "task_arithmetic") or (method == "cat" and merge.get("form") == "checkpoint"):
        names |= {"task_arithmetic"} | ({"linear"} if abs(total - 1) < 1e-6 else set())
    if method == "peft_linear" and len(merge["components"]) == 1:
        names |= {"task_arithmetic"}
    return frozenset(names)


@dataclass
class Tally:
    """Sums over merges, from which every figure is computed."""

    merges: int = 0
    right: int = 0
    wrong: int = 0
    missed: int = 0
    exact: int = 0
    errors: list[float] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    methods: list[float] = field(default_factory=list)
    families: list[float] = field(default_factory=list)
    normalised: list[float] = field(default_factory=list)
    densities: list[float] = field(default_factory=list)
    lambdas: list[float] = field(default_factory=list)
    complete: list[float] = field(default_factory=list)
    score_known: list[float] = field(default_factory=list)
    score_rest: list[float] = field(default_factory=list)
    evidence_present: list[float] = field(default_factory=list)
    evidence_absent: list[float] = field(default_factory=list)
    p_absent: list[float] = field(default_factory=list)
    p_present: list[float] = field(default_factory=list)

    def add(self, merge: Record, answer: Record) -> None:
        """Count one merge."""
        truth: dict[str, float] = merge["truth"]
        names = {Path(path).name for path in merge["atoms"]}
        found = {a["name"]: a for a in answer["atoms"] if a["name"] in names}
        named = {a["name"] for a in answer["atoms"] if a["present"]}
        self.merges += 1
        self.right += len(named & truth.keys())
        self.wrong += len(named - truth.keys())
        self.missed += len(truth.keys() - named)
        self.exact += named == set(truth)
        self._weights(merge, found)
        self._method(merge, answer)
        for name in names:
            atom, inside = found.get(name, {}), name in truth
            if (value := atom.get("evidence")) is not None:
                (self.evidence_present if inside else self.evidence_absent).append(value)
            if (value := atom.get("p_value")) is not None:
                (self.p_present if inside else self.p_absent).append(value)
        if answer.get("complete") is not None:
            self.complete.append(answer["complete"] == (merge["category"] == "known"))
        score = (answer.get("unexplained") or {}).get("score")
        if score is not None:
            (self.score_known if merge["category"] == "known" else self.score_rest).append(score)

    def _weights(self, merge: Record, found: dict[str, Record]) -> None:
        """Errors and intervals over the atoms truly inside; where the scale is lost, of shares that sum to one."""
        truth: dict[str, float] = merge["truth"]
        weights = {n: (found.get(n) or {}).get("weight") for n in truth}
        if all(w is None for w in weights.values()):
            return
        estimate = {n: 0.0 if w is None else w for n, w in weights.items()}
        ours = theirs = 1.0
        if merge["weights"] == "ratio":
            if len(truth) < 2:
                return  # one share is one, whatever is estimated
            ours, theirs = sum(estimate.values()), sum(truth.values())
            if abs(ours) < 1e-12:  # nothing was found: every share is missing altogether
                self.errors += [abs(w / theirs) for w in truth.values()]
                return
        for name, true in truth.items():
            self.errors.append(abs(estimate[name] / ours - true / theirs))
            atom = found.get(name) or {}
            if atom.get("low") is not None and atom.get("high") is not None:
                low, high = sorted((atom["low"] / ours, atom["high"] / ours))
                self.covered.append(low <= true / theirs <= high)
                self.widths.append(high - low)

    def _method(self, merge: Record, answer: Record) -> None:
        if "method" not in answer or merge.get("method") is None:
            return
        method = answer["method"] or {}
        if method.get("name") is None:  # "none of those known": every merge here has one
            self.methods.append(False)
            self.families.append(False)
            return
        name = canonical(method["name"])
        self.methods.append(name in accepted(merge))
        true = canonical(merge["method"], merge.get("tool", "mergekit"))
        self.families.append(FAMILY.get(name) in {FAMILY.get(n) for n in accepted(merge) | {true}})
        given = method.get("parameters") or {}
        if merge.get("density") is not None and given.get("density") is not None:
            self.densities.append(abs(given["density"] - merge["density"]))
        if FAMILY.get(true, "").endswith("elected signs"):
            if merge.get("normalize") is not None and given.get("normalize") is not None:
                self.normalised.append(bool(given["normalize"]) == bool(merge["normalize"]))
            # Elsewhere lambda is a factor on every weight and is part of the truth already.
            if merge["weights"] == "ratio" and given.get("lambda") is not None:
                self.lambdas.append(abs(given["lambda"] - merge["lambda"]))

    def figures(self) -> Record:
        """Everything that can be said about these merges."""
        named, inside = self.right + self.wrong, self.right + self.missed
        ks = kolmogorov(self.p_absent)
        return {
            "merges": self.merges,
            "precision": self.right / named if named else None,
            "recall": self.right / inside if inside else None,
            "false_per_merge": self.wrong / self.merges if self.merges else None,
            "exact": self.exact / self.merges if self.merges else None,
            "weight_error": mean(self.errors),
            "coverage": mean(self.covered),
            "interval_width": mean(self.widths),
            "method_right": mean(self.methods),
            "family_right": mean(self.families),
            "density_error": mean(self.densities),
            "normalize_right": mean(self.normalised),
            "lambda_error": mean(self.lambdas),
            "complete_right": mean(self.complete),
            "auc_unexplained": auc(self.score_rest, self.score_known),
            "auc_evidence": auc(self.evidence_present, self.evidence_absent),
            "evidence_smallest_present": min(self.evidence_present, default=None),
            "evidence_largest_absent": max(self.evidence_absent, default=None),
            "p_absent": {
                "count": len(self.p_absent),
                "ks": ks[0] if ks else None,
                "ks_p": ks[1] if ks else None,
                "deciles": deciles(self.p_absent),
                "below_0.05": mean([float(p <= 0.05) for p in self.p_absent]),
                "below_0.01": mean([float(p <= 0.01) for p in self.p_absent]),
            },
            "p_present_below_0.01": mean([float(p <= 0.01) for p in self.p_present]),
        }


# --- all merges ----------------------------------------------------------------------------------------------------


def label(merge: Record) -> str:
    """The method of a merge as the tables name it."""
    return f"peft {merge['method']}" if merge.get("tool") == "peft" else str(merge["method"])


def evaluate(merges: Sequence[Record], answers: dict[str, Record]) -> Record:
    """Figures per suite x category x method, per suite x category, per method, per suite, per kind and over all."""
    views = {
        "cells": lambda m: (m["suite"], m["category"], label(m)),
        "categories": lambda m: (m["suite"], m["category"]),
        "suites": lambda m: (m["suite"],),
        "methods": lambda m: (label(m),),
        "all": lambda m: ("all",),
    }
    tallies: dict[str, dict[tuple[str, ...], Tally]] = {view: defaultdict(Tally) for view in views}
    missing = []
    for merge in merges:
        if merge["name"] not in answers:
            missing.append(merge["name"])
            continue
        for view, key in views.items():
            tallies[view][key(merge)].add(merge, answers[merge["name"]])
    found: Record = {"scored": len(merges) - len(missing), "missing": missing}
    for view, rows in tallies.items():
        found[view] = [{"key": list(key)} | tally.figures() for key, tally in rows.items()]
    return found


def read_answers(folder: Path, merges: Sequence[Record]) -> dict[str, Record]:
    """The answers that are there."""
    paths = {m["name"]: folder / f"{m['name']}.json" for m in merges}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


# --- tables --------------------------------------------------------------------------------------------------------

COLUMNS = (  # heading, key, digits
    ("merges", "merges", 0), ("prec.", "precision", 3), ("recall", "recall", 3), ("false/merge", "false_per_merge", 2),
    ("exact", "exact", 2), ("|Δw|", "weight_error", 4), ("cover 90", "coverage", 2), ("method", "method_right", 2),
    ("family", "family_right", 2), ("|Δdens|", "density_error", 3), ("complete", "complete_right", 2),
    ("AUC unexpl.", "auc_unexplained", 3), ("AUC evid.", "auc_evidence", 4),
)  # fmt: skip


def cell(value: Any, digits: int) -> str:
    """A number as the tables show it."""
    return "–" if value is None else f"{value:.{digits}f}"


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], keys: int) -> None:
    """One table: with rich where it is installed, else as aligned text."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(r[i]) for r in (headings, *rows)) for i in range(len(headings))]
        print(f"\n{title}")
        for row in (headings, *rows):
            parts = (c.ljust(w) if i < keys else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            print("  ".join(parts).rstrip())
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i < keys else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # A pipe has no width of its own; cut columns would be worse than long lines.
    Console(width=None if console.is_terminal else 200).print(table)


def print_tables(found: Record) -> None:
    """All tables."""
    views = (
        ("categories", "By suite and category", ("suite", "category")),
        ("methods", "By merge method", ("method",)),
        ("cells", "By suite, category and method", ("suite", "category", "method")),
        ("suites", "By suite", ("suite",)),
        ("all", "All", ("",)),
    )
    for view, title, keys in views:
        rows = [[*row["key"], *(cell(row[key], digits) for _, key, digits in COLUMNS)] for row in found[view]]
        show(title, [*keys, *(heading for heading, _, _ in COLUMNS)], rows, len(keys))
    rows = []
    for row in [*found["categories"], *found["all"]]:
        p = row["p_absent"]
        if p["count"]:
            rows.append([" ".join(row["key"]), str(p["count"]), cell(p["ks"], 3), cell(p["ks_p"], 4),
                         cell(p["below_0.05"], 3), cell(p["below_0.01"], 3), " ".join(map(str, p["deciles"])),
                         cell(row["p_present_below_0.01"], 3)])  # fmt: skip
    if rows:
        headings = ["", "absent atoms", "KS", "its p", "p ≤ .05", "p ≤ .01", "count by tenth", "present p ≤ .01"]
        show("P-values of absent atoms (uniform when calibrated)", headings, rows, 1)
    margins = []
    for row in [*found["suites"], *found["all"]]:
        if row["auc_evidence"] is not None:
            margins.append([row["key"][0], cell(row["auc_evidence"], 5), cell(row["evidence_smallest_present"], 3),
                            cell(row["evidence_largest_absent"], 3)])  # fmt: skip
    if margins:
        show("Evidence, present against absent", ["suite", "AUC", "smallest present", "largest absent"], margins, 1)
    shown = ", ".join(found["missing"][:5]) + (", …" if len(found["missing"]) > 5 else "")
    print(
        f"{found['scored']} merges scored, {len(found['missing'])} without an answer" + (f": {shown}" if shown else "")
    )


def main() -> None:
    """Parse the command line, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="directory of <merge name>.json")
    parser.add_argument("--split", choices=("dev", "test", "final"), help="score one part only")
    parser.add_argument("--suite", action="append", help="score these suites only (may be repeated)")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    merges = json.loads(args.manifest.read_text())["merges"]
    merges = [m for m in merges if args.split in (None, m["split"]) and (not args.suite or m["suite"] in args.suite)]
    found = evaluate(merges, read_answers(args.results, merges))
    print_tables(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
