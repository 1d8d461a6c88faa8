"""The benchmark's figures in the documentation: tables between marker comments, replaced in place, and a picture.

    python benchmarks/attribution/report.py --manifest DIR/manifest.json --results RESULTS [--baseline NNLS_RESULTS]
        --page Attribution.md [--page README.md] --svg docs/attribution.svg

A page says where its text goes::

    <!-- attribution:table -->   ...   <!-- /attribution:table -->
    <!-- attribution:line -->    ...   <!-- /attribution:line -->
    <!-- attribution:proof -->   ...   <!-- /attribution:proof -->

Picture: p-values of absent atoms in merges that hold something unknown; weights found against true ones; how often the
intervals hold the truth. Needs NumPy only.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from score import Record, accepted, canonical, evaluate, kolmogorov, mean, read_answers

Points = list[tuple[float, float]]

NORMAL = NormalDist()
CONFIDENCE = 0.9  # of the intervals in the answers
SUITES = ("paper-shared", "paper-common", "harder", "full", "wide", "decoder")
HEADINGS = (
    "suite",
    "merges",
    "precision known, mixed",
    "recall known, mixed",
    "false names per unknown merge",
    "weight error known, mixed",
    "90 % intervals that hold the truth",
    "method right",
    "family right",
    "complete right",
)


# --- what is counted -----------------------------------------------------------------------------------------------


def absent_p(merges: Sequence[Record], answers: dict[str, Record], category: str) -> list[float]:
    """P-values of the atoms that are not inside."""
    found = []
    for merge in merges:
        if merge["category"] == category and merge["name"] in answers:
            for atom in answers[merge["name"]]["atoms"]:
                if atom["name"] not in merge["truth"] and atom.get("p_value") is not None:
                    found.append(float(atom["p_value"]))
    return found


def present_weights(merges: Sequence[Record], answers: dict[str, Record], category: str) -> list[tuple[float, ...]]:
    """(true, found, low, high) of every atom that is inside and was named; shares where the common scale is lost."""
    rows = []
    for merge in merges:
        if merge["category"] != category or merge["name"] not in answers:
            continue
        truth: dict[str, float] = merge["truth"]
        atoms = {a["name"]: a for a in answers[merge["name"]]["atoms"] if a["name"] in truth and a["present"]}
        ours = theirs = 1.0
        if merge["weights"] == "ratio":
            if len(truth) < 2 or len(atoms) < len(truth):
                continue  # a share of what was not found whole says nothing
            ours, theirs = sum(a["weight"] for a in atoms.values()), sum(truth.values())
        for name, atom in atoms.items():
            if ours:
                low, high = sorted((atom["low"] / ours, atom["high"] / ours))
                rows.append((truth[name] / theirs, atom["weight"] / ours, low, high))
    return rows


def coverage(rows: Sequence[tuple[float, ...]], nominal: float) -> float:
    """Share of intervals that hold the truth, were they made for another confidence: widths are normal quantiles."""
    stretch = NORMAL.inv_cdf(0.5 + nominal / 2) / NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
    inside = [abs(true - (low + high) / 2) <= stretch * (high - low) / 2 + 1e-12 for true, _, low, high in rows]
    return float(np.mean(inside))


# --- tables --------------------------------------------------------------------------------------------------------


def number(value: float | None, digits: int) -> str:
    """As the documentation writes it: .97, 1.00."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def by_category(merges: Sequence[Record], answers: dict[str, Record]) -> Callable[[str, str], Any]:
    """A figure by name and category, over all the merges of a category together."""
    rows = {}
    for category in ("known", "mixed", "unknown"):
        rows[category] = evaluate([m for m in merges if m["category"] == category], answers)["all"]
    return lambda name, category: rows[category][0][name] if rows[category] else None


def table(merges: Sequence[Record], answers: dict[str, Record], baseline: dict[str, Record] | None) -> str:
    """One row per suite, one for all; the last is the baseline."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    listed = [(suite, [m for m in merges if m["suite"] == suite], answers) for suite in SUITES]
    listed.append(("all", list(merges), answers))
    if baseline:
        listed.append(("all, by NNLS", list(merges), baseline))
    for title, own, given in listed:
        own = [m for m in own if m["name"] in given]
        if not own:
            continue
        (row,) = evaluate(own, given)["all"]
        figure = by_category(own, given)

        def pair(name: str, digits: int, figure: Callable[[str, str], Any] = figure) -> str:
            return ", ".join(number(figure(name, c), digits) for c in ("known", "mixed"))

        cells = [title, str(row["merges"]), pair("precision", 2), pair("recall", 2)]
        cells += [number(figure("false_per_merge", "unknown"), 2), pair("weight_error", 4), pair("coverage", 2)]
        cells += [number(row[name], 2) for name in ("method_right", "family_right", "complete_right")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def line(merges: Sequence[Record], answers: dict[str, Record]) -> str:
    """The benchmark in a sentence."""
    found = evaluate(merges, answers)
    (row,) = found["all"]
    figure = by_category(merges, answers)
    return (
        f"On {found['scored']} merges by mergekit and PEFT, drawn after the thresholds were fixed, precision is "
        f"{number(row['precision'], 3)} and recall {number(row['recall'], 3)}; merges of unknown fine-tunes alone get "
        f"{number(figure('false_per_merge', 'unknown'), 2)} false names each; the method is right for "
        f"{number(row['method_right'], 2)} of the merges, whether something is missing for {number(row['complete_right'], 2)}."
    )


def proof(merges: Sequence[Record], answers: dict[str, Record]) -> str:
    """What `proved` and `complete` were worth."""
    proved = exact = method = complete = wrong = 0
    for merge in merges:
        answer = answers.get(merge["name"])
        if answer is None:
            continue
        holds_all = merge["category"] == "known"
        if (answer.get("proof") or {}).get("proved"):
            proved += 1
            exact += holds_all and {a["name"] for a in answer["atoms"] if a["present"]} == set(merge["truth"])
            method += canonical((answer.get("method") or {}).get("name") or "") in accepted(merge)
        elif answer.get("complete"):
            complete += 1
            wrong += not holds_all
    return (
        f"Of {proved} merges called proved, {exact} held exactly the atoms named and nothing else; the method was right in "
        f"{method}. Of {complete} called complete without proof, {wrong} held something more."
    )


def replaced(page: str, block: str, text: str) -> str:
    """The page with another text in a block; as it is where it has no such block. Sentences are wrapped, tables are not."""
    text = text if text.startswith("|") else textwrap.fill(text, 125)
    pattern = re.compile(rf"(<!-- attribution:{block} -->\n).*?(<!-- /attribution:{block} -->)", re.S)
    return pattern.sub(lambda m: f"{m[1]}{text}\n{m[2]}", page)


# --- picture -------------------------------------------------------------------------------------------------------

SIDE, GAP, LEFT, TOP = 200, 72, 52, 34
COLOURS = {"known": "#1b6ca8", "mixed": "#c2571a", "unknown": "#5b3a8e"}


class Panel:
    """A square with axes; x and y are given in [0, 1] of it."""

    def __init__(self, index: int, title: str, x: str, y: str) -> None:
        self.left = LEFT + index * (SIDE + GAP)
        self.parts = [
            f'<rect x="{self.left}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#999"/>',
            self.text(0.5, 1.06, title, "middle", 'font-weight="bold"'),
            self.text(0.5, -0.16, x, "middle"),
            f'<text transform="translate({self.left - 36} {TOP + SIDE // 2}) rotate(-90)" text-anchor="middle">{y}</text>',
            self.path([(0, 0), (1, 1)], "#999", 'stroke-dasharray="3 3"'),
        ]

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + SIDE * min(max(x, 0), 1.2), TOP + SIDE * (1 - y)

    def text(self, x: float, y: float, words: str, anchor: str, more: str = "") -> str:
        px, py = self.left + SIDE * x, TOP + SIDE * (1 - y)
        return f'<text x="{px:.0f}" y="{py:.0f}" text-anchor="{anchor}" {more}>{words}</text>'

    def path(self, points: Points, colour: str, more: str = "") -> str:
        corners = " ".join("{:.1f} {:.1f}".format(*self.at(*p)) for p in points)
        return f'<path d="M{corners}" fill="none" stroke="{colour}" {more}/>'

    def dots(self, points: Points, colour: str) -> str:
        """All in one path of strokes without length, whose round caps are the dots."""
        corners = "".join("M{:.1f} {:.1f}h0".format(*self.at(*p)) for p in points)
        style = f'stroke="{colour}" stroke-width="3" stroke-linecap="round" stroke-opacity=".55" fill="none"'
        return f'<path d="{corners}" {style}/>'

    def ticks(self, marks: Sequence[tuple[float, str]]) -> None:
        """The same on both axes."""
        for at, word in marks:
            self.parts += [self.text(at, -0.07, word, "middle"), self.text(-0.03, at - 0.02, word, "end")]

    def legend(self, names: Sequence[tuple[str, str]], at: tuple[float, float]) -> None:
        for i, (word, colour) in enumerate(names):
            self.parts.append(self.text(at[0], at[1] - 0.075 * i, word, "start", f'fill="{colour}"'))


def quantiles(p: Sequence[float], floor: float) -> Points:
    """Expected against observed on logarithmic axes, a point per step of a twentieth of a decade."""
    ordered, points, last = np.sort(np.asarray(p)), [], -1.0
    for i, value in enumerate(ordered):
        expected = 1 + math.log10((i + 0.5) / len(ordered)) / -math.log10(floor)
        if expected >= 0 and expected - last > 0.012:
            points.append((expected, max(0.0, 1 + math.log10(max(value, floor)) / -math.log10(floor))))
            last = expected
    return points


def picture(merges: Sequence[Record], answers: dict[str, Record]) -> str:
    """Three panels."""
    floor = 1e-4
    one = Panel(0, "p-values of absent atoms", "expected (uniform)", "observed")
    one.ticks([(k / 4, f"1e-{4 - k}" if k < 4 else "1") for k in range(5)])
    names = []
    for category in ("mixed", "unknown"):
        p = absent_p(merges, answers, category)
        if p:
            one.parts.append(one.path(quantiles(p, floor), COLOURS[category], 'stroke-width="1.6"'))
            ks = kolmogorov(p)
            names.append((f"{category}: {len(p)}, KS {ks[0] if ks else 0:.2f}", COLOURS[category]))
    one.legend(names, (0.04, 0.92))

    two = Panel(1, "weights, or shares", "true", "found")
    low, high = -0.4, 1.2
    two.ticks([((v - low) / (high - low), f"{v:g}") for v in (-0.4, 0, 0.4, 0.8, 1.2)])
    names = []
    for category in ("known", "mixed"):
        rows = present_weights(merges, answers, category)
        if rows:
            clipped = [tuple(min(max((v - low) / (high - low), 0), 1) for v in row[:2]) for row in rows]
            two.parts.append(two.dots([(x, y) for x, y in clipped], COLOURS[category]))
            error = mean([abs(row[0] - row[1]) for row in rows]) or 0
            names.append((f"{category}: {len(rows)}, mean error {error:.4f}", COLOURS[category]))
    two.legend(names, (0.04, 0.92))

    three = Panel(2, "intervals that hold the truth", "confidence", "share")
    low, high = 0.4, 1.0
    three.ticks([((v - low) / (high - low), f"{v:g}") for v in (0.4, 0.6, 0.8, 0.9, 1.0)])
    names = []
    for category in ("known", "mixed"):
        rows = present_weights(merges, answers, category)
        if rows:
            levels = [(v, coverage(rows, v)) for v in np.linspace(0.4, 0.995, 40)]
            points = [((x - low) / (high - low), max(0.0, (y - low) / (high - low))) for x, y in levels]
            three.parts.append(three.path(points, COLOURS[category], 'stroke-width="1.6"'))
            names.append((f"{category}: {number(coverage(rows, CONFIDENCE), 2)} at .90", COLOURS[category]))
    three.legend(names, (0.4, 0.16))

    width, height = LEFT + 3 * SIDE + 2 * GAP + 16, TOP + SIDE + 44
    body = "\n".join(part for panel in (one, two, three) for part in panel.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="#333">\n'
        f'<title>Calibration of unmerge attribute on {len(answers)} real merges</title>\n'
        f'<rect width="100%" height="100%" rx="8" fill="#fff"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Parse the command line, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True, help="directory of <merge name>.json")
    parser.add_argument("--baseline", type=Path, help="the same of `run.py --tool nnls`")
    parser.add_argument("--split", choices=("dev", "test", "final"), default="final")
    parser.add_argument("--page", type=Path, action="append", default=[], help="may be repeated")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    merges = [m for m in json.loads(args.manifest.read_text())["merges"] if m["split"] == args.split]
    answers = read_answers(args.results, merges)
    if not answers:
        parser.error(f"{args.results} has no answer to a merge of the part {args.split}")
    baseline = read_answers(args.baseline, merges) if args.baseline else None
    blocks = {"table": table(merges, answers, baseline), "line": line(merges, answers), "proof": proof(merges, answers)}
    for path in args.page:
        page = path.read_text(encoding="utf-8")
        for block, text in blocks.items():
            page = replaced(page, block, text)
        path.write_text(page, encoding="utf-8")
    if args.svg:
        args.svg.parent.mkdir(parents=True, exist_ok=True)
        args.svg.write_text(picture(merges, answers), encoding="utf-8")
    print(*blocks.values(), f"{len(answers)} of {len(merges)} merges have an answer", sep="\n\n")


if __name__ == "__main__":
    main()
