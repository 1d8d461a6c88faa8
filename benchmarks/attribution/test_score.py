"""The scorer against cases computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from score import Tally, accepted, auc, deciles, evaluate, kolmogorov


def merge(**changes: Any) -> dict[str, Any]:
    """A known linear merge of two of three atoms."""
    plain = {
        "name": "m",
        "split": "test",
        "suite": "s",
        "category": "known",
        "atoms": ["x/a", "x/b", "x/c"],
        "truth": {"a": 0.6, "b": 0.4},
        "components": {"a": 0.6, "b": 0.4},
        "method": "linear",
        "tool": "mergekit",
        "weights": "absolute",
        "density": None,
        "normalize": True,
        "lambda": 1.0,
        "form": "checkpoint",
    }
    return plain | changes


def atom(name: str, present: bool, **more: Any) -> dict[str, Any]:
    """One atom of an answer."""
    return {"name": name, "present": present} | more


def tally(m: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The figures of one merge."""
    counted = Tally()
    counted.add(m, answer)
    return counted.figures()


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert auc([3, 2], [1, 0]) == 1.0
    assert auc([1, 3], [2, 0]) == 0.75  # 1 > 0, 3 > 2, 3 > 0 of four pairs
    assert auc([1, 2], [1, 0]) == 0.875  # one tie
    assert auc([0.5] * 4, [0.5] * 3) == 0.5
    assert auc([], [1.0]) is None


def test_kolmogorov_distance_and_p() -> None:
    distance, p = kolmogorov([0.25, 0.5, 0.75]) or (0, 0)
    assert distance == pytest.approx(0.25)  # at 0.25, before the first step, and after the last
    assert p > 0.9
    distance, p = kolmogorov([0.01] * 50) or (0, 0)
    assert distance == pytest.approx(0.99)
    assert p < 1e-10
    # Of 100 values the 5 % point of the distance is 1.358 / (10 + 0.12 + 0.011) = 0.134.
    values = [(i + 0.5) / 100 * (1 - 0.134) for i in range(100)]
    assert (kolmogorov(values) or (0, 0))[1] == pytest.approx(0.05, abs=0.015)
    assert kolmogorov([]) is None


def test_deciles() -> None:
    assert deciles([0.0, 0.05, 0.1, 0.95, 1.0]) == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]


def test_names_and_weights() -> None:
    atoms = [atom("a", True, weight=0.5, low=0.4, high=0.55), atom("b", True, weight=0.4, low=0.3, high=0.5)]
    found = tally(merge(), {"atoms": [*atoms, atom("c", True, weight=0.1)]})
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == 1
    assert found["false_per_merge"] == 1
    assert found["exact"] == 0
    assert found["weight_error"] == pytest.approx(0.05)
    assert found["coverage"] == 0.5
    assert found["interval_width"] == pytest.approx((0.15 + 0.2) / 2)


def test_an_atom_without_an_answer_has_weight_zero() -> None:
    found = tally(merge(), {"atoms": [atom("a", True, weight=0.6)]})
    assert found["recall"] == 0.5
    assert found["weight_error"] == pytest.approx(0.2)
    assert tally(merge(), {"atoms": [atom("a", True)]})["weight_error"] is None


def test_ratios_are_compared_as_shares() -> None:
    m = merge(weights="ratio", method="ties")
    right = {"atoms": [atom("a", True, weight=1.2, low=1.0, high=1.3), atom("b", True, weight=0.8, low=0.7, high=0.75)]}
    found = tally(m, right)
    assert found["weight_error"] == pytest.approx(0)
    assert found["coverage"] == 0.5  # [.5, .65] holds .6, [.35, .375] does not hold .4
    nothing = tally(m, {"atoms": [atom("a", False, weight=0.0), atom("b", False, weight=0.0)]})
    assert nothing["weight_error"] == pytest.approx(0.5)
    alone = merge(weights="ratio", truth={"a": 0.6}, components={"a": 0.6, "z": 0.4})
    assert tally(alone, {"atoms": [atom("a", True, weight=9.0)]})["weight_error"] is None


def test_equivalent_methods() -> None:
    assert accepted(merge()) == {"linear", "task_arithmetic"}
    assert accepted(merge(method="task_arithmetic")) == {"linear", "task_arithmetic"}
    assert accepted(merge(method="task_arithmetic", components={"a": 0.9, "b": 0.4})) == {"task_arithmetic"}
    assert accepted(merge(method="task_arithmetic", components={"a": 1.0, "tuning:t": 1.0})) == {
        "task_arithmetic",
        "linear",
    }
    assert accepted(merge(method="dare_linear")) == {"dare_linear"}
    assert accepted(merge(method="linear", tool="peft")) == {"peft_linear"}
    assert accepted(merge(method="cat", tool="peft", form="adapter")) == {"cat"}


def test_the_names_of_what_peft_does() -> None:
    def right(answer: str, **truth: Any) -> float | None:
        return tally(merge(tool="peft", **truth), {"atoms": [], "method": {"name": answer}})["method_right"]

    assert right("adapter_cat", method="cat") == 1
    assert right("adapter_linear", method="linear") == 1
    assert right("adapter_cat", method="linear") == 0
    assert right("linear", method="linear") == 0  # a sum of products is not a product of sums


def test_no_name_is_a_wrong_name_and_no_answer_is_none() -> None:
    for method in ({"name": None}, None):
        found = tally(merge(), {"atoms": [], "method": method})
        assert found["method_right"] == 0
        assert found["family_right"] == 0
    assert tally(merge(), {"atoms": []})["method_right"] is None


def test_method_density_and_lambda() -> None:
    m = merge(method="ties", weights="ratio", density=0.5)
    answer: dict[str, Any] = {"atoms": [], "method": {"name": "ties"}}
    answer["method"]["parameters"] = {"density": 0.45, "normalize": True, "lambda": 1.2}
    found = tally(m, answer)
    assert found["method_right"] == 1
    assert found["density_error"] == pytest.approx(0.05)
    assert found["normalize_right"] == 1
    assert found["lambda_error"] == pytest.approx(0.2)
    dare = tally(merge(method="dare_linear", density=0.5), {"atoms": [], "method": {"name": "dare"}})
    assert dare["method_right"] == 1
    della = tally(merge(method="dare_linear"), {"atoms": [], "method": {"name": "della_linear"}})
    assert della["method_right"] == 0
    assert della["family_right"] == 1


def test_pooled_scores_and_missing_answers() -> None:
    merges = [merge(name="k"), merge(name="x", category="mixed", truth={"a": 0.6}), merge(name="lost")]
    answers = {
        "k": {"atoms": [atom("a", True, evidence=9, p_value=0.001), atom("c", False, evidence=1, p_value=0.3)],
              "complete": True, "unexplained": {"score": 0.1}},
        "x": {"atoms": [atom("a", True, evidence=8), atom("b", False, evidence=8)], "complete": True,
              "unexplained": {"score": 0.9}},
    }  # fmt: skip
    found = evaluate(merges, answers)
    assert found["missing"] == ["lost"]
    (everything,) = found["all"]
    assert everything["auc_unexplained"] == 1
    assert everything["auc_evidence"] == pytest.approx((2 + 1 + 0.5) / 4)  # 9 beats 1 and 8; 8 beats 1 and ties with 8
    assert everything["complete_right"] == 0.5
    assert everything["p_absent"]["count"] == 1
    assert math.isclose(everything["p_absent"]["ks"], 0.7)
    assert len(found["categories"]) == 2
