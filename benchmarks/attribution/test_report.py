"""The report against cases computed by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from report import absent_p, coverage, line, picture, present_weights, proof, replaced, table


def merge(name: str, category: str, truth: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A linear merge over a dictionary of three."""
    plain = {"name": name, "suite": "decoder", "category": category, "atoms": ["x/a", "x/b", "x/c"], "truth": truth}
    plain |= {"components": truth, "method": "linear", "tool": "mergekit", "weights": "absolute", "form": "checkpoint"}
    return plain | changes


def answer(proved: bool, complete: bool, **weights: float) -> dict[str, Any]:
    """The atoms with a weight are named, with intervals of half width .1."""
    atoms: list[dict[str, Any]] = []
    for name in "abc":
        w = weights.get(name, 0.0)
        atoms.append({"name": name, "present": name in weights, "weight": w, "low": w - 0.1, "high": w + 0.1})
        atoms[-1] |= {"p_value": 1e-6 if name in weights else 0.5, "evidence": w}
    return {"atoms": atoms, "method": {"name": "linear"}, "complete": complete, "proof": {"proved": proved}}


MERGES = [
    merge("known", "known", {"a": 0.6, "b": 0.4}),
    merge("mixed", "mixed", {"a": 0.5}),
    merge("unknown", "unknown", {}, components={"z": 1.0}),
    merge("shares", "known", {"a": 0.3, "b": 0.1}, weights="ratio", method="ties"),
]
ANSWERS = {
    "known": answer(True, True, a=0.6, b=0.4),
    "mixed": answer(False, True, a=0.65),
    "unknown": answer(False, False, c=0.2),
    "shares": answer(False, False, a=1.5, b=0.5),
}


def test_what_is_counted() -> None:
    assert absent_p(MERGES, ANSWERS, "mixed") == [0.5, 0.5]
    assert absent_p(MERGES, ANSWERS, "unknown") == [0.5, 0.5, 1e-6]
    found = [row[:2] for row in present_weights(MERGES, ANSWERS, "known")]
    assert [pytest.approx(pair) for pair in found] == [(0.6, 0.6), (0.4, 0.4), (0.75, 0.75), (0.25, 0.25)]


def test_intervals_stretch_as_those_of_a_normal_distribution() -> None:
    rows = [(0.15, 0.0, -0.1, 0.1)]  # off by 1.5 half widths of 90 %: 1.5 · 1.645 = 2.467, the quantile of 98.64 %
    assert coverage(rows, 0.9) == 0
    assert coverage(rows, 0.986) == 0
    assert coverage(rows, 0.987) == 1


def test_blocks_are_replaced_in_place() -> None:
    page = "a\n<!-- attribution:line -->\nold\n<!-- /attribution:line -->\nb\n"
    once = replaced(page, "line", r"new \1")
    assert once == "a\n<!-- attribution:line -->\nnew \\1\n<!-- /attribution:line -->\nb\n"
    assert replaced(once, "line", r"new \1") == once
    assert replaced(page, "table", "x") == page


def test_text_and_picture() -> None:
    rows = table(MERGES, ANSWERS, ANSWERS).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["decoder", "all", "all, by NNLS"]
    assert "| 1.00, 1.00 | 1.00, 1.00 | 1.00 |" in rows[2]
    assert "precision is .833 and recall 1.000" in line(MERGES, ANSWERS)
    assert proof(MERGES, ANSWERS).startswith("Of 1 merges called proved, 1 held exactly")
    assert proof(MERGES, ANSWERS).endswith("Of 1 called complete without proof, 1 held something more.")
    drawing = picture(MERGES, ANSWERS)
    ET.fromstring(drawing)
    assert len(drawing) < 60_000
