"""compare: every method on one target from one Gram, in Python and on the command line."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import unmerge
from unmerge import cli, comparison, decomposition
from unmerge.comparison import METHODS


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((1000, 8)) + 0.5 * rng.standard_normal((1000, 1))
    w = np.array([0.8, 0, 0, 0.5, 0, 0, 0, 0.3])
    return A, A @ w + 0.5 * rng.standard_normal(1000), w


GROUPS = [0, 0, 1, 1, 2, 2, 3, 3]
# Functions of (data, ...) that are not a method with one answer, and why.
NOT_ROWS = {
    "alpha_max": "a number", "group_alpha_max": "a number", "identifiability": "about the dictionary",
    "lasso_path": "the path of lasso", "lasso_knots": "the path of lasso", "group_lasso_path": "the path of group_lasso",
    "best_subset_path": "the path of best_subset", "group_lasso_modules": "coefficients per module",
    "fused_lasso_modules": "coefficients per module", "least_squares_inference": "intervals of least_squares",
    "cross_validate": "chooses options", "lasso_cv": "chooses options", "elastic_net_cv": "chooses options",
    "ridge_cv": "chooses options", "information_criteria": "chooses options", "stability_selection": "frequencies, no weights",
    "attribute": "from files", "gram_nmf": "factors", "model_from_bytes": "no method",
    "minimise": "the caller's penalty", "refit": "of another method's answer", "compare": "itself",
    "verify": "of another method's answer", "refine": "of another method's answer", "mask": "no coefficients",
    "variational_garrote": "garrote, at one gamma", "garrote_path": "garrote", "pursuit": "omp with its variants",
}  # fmt: skip


def test_every_method_of_the_library_has_a_row() -> None:
    functions = {name: getattr(unmerge, name) for name in unmerge.__all__ if name[0].islower()}
    takes = {name for name, f in functions.items() if callable(f) and next(iter(inspect.signature(f).parameters), "") == "data"}
    assert {"lasso", "htp", "simplex", "spike_slab"} <= takes
    assert takes - set(NOT_ROWS) <= set(METHODS)
    assert set(METHODS) - takes == {"least_squares", "garrote"} and not set(METHODS) & set(NOT_ROWS)
    assert set(decomposition.METHODS) - set(NOT_ROWS) <= set(METHODS)
    assert [m.replace("-", "_") for m in cli.METHODS] == list(decomposition.METHODS)


@pytest.fixture(scope="module")
def found(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> unmerge.Comparison:
    return unmerge.compare(problem[:2], methods=list(METHODS), groups=GROUPS)


def test_every_method_answers_and_the_order_is_that_of_the_criterion(
    found: unmerge.Comparison, problem: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    A, y, w = problem
    assert sorted(r.method for r in found.rows) == sorted(METHODS) and not found.left_out
    assert found.criterion == "cv" and found.folds == 5 and found.entries == 1000
    errors = [r.cv for r in found.rows]
    assert errors == sorted(errors) and found.best is found.rows[0]
    for row in found.rows:
        r = y - A @ row.coef
        assert row.residual == pytest.approx(np.linalg.norm(r) / np.linalg.norm(y), rel=1e-9)
        assert row.bic == pytest.approx(1000 * math.log(r @ r / 1000) + math.log(1000) * row.df, rel=1e-9)
        if row.df == int(row.df):
            assert row.ebic - row.bic == pytest.approx(math.log(math.comb(8, int(row.df))), abs=1e-9)
        assert set(np.flatnonzero(w)) <= set(row.support), row.method
        assert row.seconds >= 0 and row.certificate and row.failure is None
    greedy = ("omp", "ols_pursuit", "matching_pursuit", "iht", "htp", "cosamp", "subspace_pursuit", "best_subset")
    for sparse in (*greedy, "garrote", "spike_slab", "mcp", "scad", "cel0", "lq"):
        assert found[sparse].support == list(np.flatnonzero(w)), sparse


def test_answers_are_those_of_the_method_at_the_options_of_the_row(
    found: unmerge.Comparison, problem: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    A, y, _ = problem
    gram = unmerge.Gram(A, y)
    for row in found.rows:
        if row.method in ("garrote", "sparse_bayes", "spike_slab", "slope"):
            continue
        method = getattr(unmerge, {"least_squares": "ridge"}.get(row.method, row.method))
        np.testing.assert_allclose(method(gram, **row.options)[0], row.coef, atol=1e-7, err_msg=row.method)
    X = A[:, found["omp"].support]
    assert found["bpdn"].options["sigma"] == pytest.approx(np.sqrt(1000 * np.linalg.lstsq(A, y, rcond=None)[1][0] / 992))
    np.testing.assert_allclose(found["omp"].coef[found["omp"].support], np.linalg.lstsq(X, y, rcond=None)[0])


def test_the_number_of_atoms_and_the_penalty_minimise_the_criterion(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    A, y, _ = problem
    gram = unmerge.Gram(A, y)

    def score(rule: str, rss: float, df: float) -> float:
        return 50 * math.log(rss / 1000) + math.log(50) * df + (math.log(math.comb(8, round(df))) if rule == "ebic" else 0)

    sizes = {}
    for rule in ("bic", "ebic"):
        row = unmerge.compare(gram, methods=["htp"], choose=rule, effective=50)["htp"]
        scores = [score(rule, unmerge.htp(gram, k=k)[1].rss, k) for k in range(1, 9)]
        assert row.options["k"] == int(np.argmin(scores)) + 1
        sizes[rule] = unmerge.compare(gram, methods=["omp"], choose=rule, effective=50)["omp"].options["k"]
        pursued = [score(rule, unmerge.omp(gram, k=k)[1].rss, k) for k in range(1, 9)]
        assert sizes[rule] == int(np.argmin(pursued)) + 1
        lasso = unmerge.compare(gram, methods=["lasso"], choose=rule, effective=50)["lasso"]
        at = getattr(lasso, rule)
        for factor in (0.3, 0.5, 2.0, 3.0):
            _, report = unmerge.lasso(gram, alpha=factor * lasso.options["alpha"])
            assert at <= score(rule, report.rss, report.df) + 1e-9


def test_a_method_that_fails_is_a_row(problem: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(p: object) -> None:
        raise unmerge.Infeasible("the sets have no point in common")

    monkeypatch.setitem(comparison.METHODS, "simplex", fails)
    found = unmerge.compare(problem[:2], methods=["simplex", "omp", "nnls"])
    assert [r.method for r in found.rows][-1] == "simplex" and len(found.rows) == 3
    row = found["simplex"]
    assert row.failure == "the sets have no point in common" and math.isnan(row.residual) and not row.support
    assert "FAILED: the sets have no point in common" in str(found)
    assert json.loads(found.to_json())["rows"][-1]["failure"] == row.failure
    with pytest.raises(unmerge.Infeasible):
        unmerge.compare(problem[:2], methods=["simplex"])

    calls = []

    def fails_on_a_fold(p: comparison._Problem) -> comparison._Answer:
        calls.append(p.gram.entries)
        if p.gram.entries < 1000:
            raise unmerge.OutOfMemory("no room")
        return METHODS["nnls"](p)

    monkeypatch.setitem(comparison.METHODS, "simplex", fails_on_a_fold)
    found = unmerge.compare(problem[:2], methods=["simplex", "omp"])
    assert found["simplex"].failure == "no cross-validation: no room" and math.isnan(found["simplex"].cv)
    assert found.rows[-1].method == "simplex" and found["simplex"].residual > 0 and len(calls) == 2


def test_after_the_deadline_methods_fail_but_answers_stay(
    problem: tuple[np.ndarray, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = [0.0]

    def slow(p: comparison._Problem) -> comparison._Answer:
        offset[0] = 2000.0
        return METHODS["nnls"](p)

    monkeypatch.setattr(comparison, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + offset[0]))
    monkeypatch.setitem(comparison.METHODS, "bvls", slow)
    found = unmerge.compare(unmerge.Gram(*problem[:2]), methods=["nnls", "bvls", "omp"], deadline=1000)
    assert found["nnls"].failure is None and "deadline" in str(found["omp"].failure)


def test_methods_can_be_left_out_and_grouped(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    found = unmerge.compare(problem[:2], without=["spike_slab", "dantzig"])
    names = {r.method for r in found.rows}
    assert set(found.left_out) == {"group_lasso", "sparse_group_lasso", "fused_lasso"}
    assert names == set(METHODS) - {"spike_slab", "dantzig"} - set(found.left_out)
    with pytest.raises(ValueError, match="no method"):
        unmerge.compare(problem[:2], methods=["omp"], without=["omp"])


def test_one_target_of_several(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    A, y, _ = problem
    Y = np.stack([A[:, 1] + y, y], axis=1)
    gram, single = unmerge.Gram(A, Y, folds=4), unmerge.Gram(A, y, folds=4)
    with pytest.raises(ValueError, match="2 targets"):
        unmerge.compare(gram)
    names = ["lasso", "omp", "nnls"]
    tables = [unmerge.compare(gram, target=t, methods=names) for t in range(gram.targets)]
    alone = unmerge.compare(single, methods=names)
    assert 1 in tables[0].best.support and [r.method for r in tables[1].rows] == [r.method for r in alone.rows]
    for row, other in zip(tables[1].rows, alone.rows):
        assert row.cv == pytest.approx(other.cv) and row.cv_error == pytest.approx(other.cv_error)
        np.testing.assert_allclose(row.coef, other.coef, atol=1e-9)


def test_cross_validation_leaves_the_fold_out_of_everything(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    gram = unmerge.Gram(*problem[:2], folds=4)
    row = unmerge.compare(gram, methods=["nnls"]).best
    errors = []
    for k, block in enumerate(gram.blocks):
        coef, _ = unmerge.nnls(gram.subset(blocks=[b for b in range(4) if b != k]))
        G, c, yy = gram.arrays(k)
        errors.append((yy[0] - 2 * c[:, 0] @ coef + coef @ G @ coef) / block.entries)
    assert row.cv == pytest.approx(np.mean(errors)) and row.cv_error == pytest.approx(np.std(errors, ddof=1) / 2)


def test_bic_with_effective_entries_sorts_without_folds(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    A, y, _ = problem
    gram = unmerge.Gram(A, y)
    found = unmerge.compare(gram, effective=100, choose="bic")
    assert found.criterion == "bic" and found.folds == 0 and found.effective == 100
    scores = [r.bic for r in found.rows]
    assert scores == sorted(scores) and all(math.isnan(r.cv) for r in found.rows)
    row = found["least_squares"]
    rss = np.sum((y - A @ row.coef) ** 2)
    assert row.bic == pytest.approx(100 * math.log(rss / 1000) + math.log(100) * 8)
    assert unmerge.compare(gram, methods=["omp", "nnls"]).criterion == "ebic"


def test_methods_that_do_not_apply_say_why() -> None:
    rng = np.random.default_rng(1)
    A = rng.standard_normal((640, 25))
    found = unmerge.compare((A, A[:, 0] + rng.standard_normal(640)), methods=["omp", "spike_slab"])
    assert [r.method for r in found.rows] == ["omp"] and "25 atoms" in found.left_out["spike_slab"]
    assert "left out: spike_slab" in str(found)


def test_table_dict_and_json(found: unmerge.Comparison, tmp_path: Path) -> None:
    lines = str(found).splitlines()
    assert "smallest cross-validation error first" in lines[0] and len(lines) == len(found.rows) + 2
    assert [line.split()[0] for line in lines[2:]] == [r.method for r in found.rows]
    values = json.loads(found.to_json(tmp_path / "c.json"))
    assert values == json.loads((tmp_path / "c.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    assert values["rows"][0]["method"] == found.best.method
    assert list(values["rows"][0]["weights"]) == values["rows"][0]["support"] == [str(j) for j in found.best.support]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"methods": ["magic"]}, "methods"),
        ({"without": ["magic"]}, "methods"),
        ({"choose": "luck"}, "choose"),
        ({"criterion": "luck"}, "criterion"),
        ({"effective": 0.0}, "effective"),
        ({"target": 1}, "target"),
    ],
)
def test_wrong_options_are_named(problem: tuple[np.ndarray, np.ndarray, np.ndarray], options: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        unmerge.compare(problem[:2], **options)


def test_paths_and_the_command_line(root: Path, tmp_path: Path) -> None:
    st = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(2)
    base = {f"layer.{i}.weight": rng.standard_normal((32, 32)).astype(np.float32) for i in range(4)}
    tasks = {name: {k: 0.1 * rng.standard_normal(v.shape).astype(np.float32) for k, v in base.items()} for name in ("law", "code", "art")}
    files = {"base": base, "merged": {k: v + 0.7 * tasks["law"][k] + 0.2 * tasks["art"][k] for k, v in base.items()}}
    files |= {name: {k: v + task[k] for k, v in base.items()} for name, task in tasks.items()}
    for name, tensors in files.items():
        (tmp_path / name).mkdir()
        st.save_file(tensors, tmp_path / name / "model.safetensors")
    paths = [str(tmp_path / name) for name in tasks]
    found = unmerge.compare(base=tmp_path / "base", atoms=paths, target=tmp_path / "merged")
    assert found.names == list(tasks) and found.folds == 5
    np.testing.assert_allclose(found["least_squares"].coef, [0.7, 0, 0.2], atol=1e-5)
    command = [sys.executable, "-m", "unmerge", "compare", "--base", str(tmp_path / "base"), "--target", str(tmp_path / "merged")]
    out = subprocess.run([*command, "--atoms", *paths, "--methods", "nnls", "omp", "--json"], capture_output=True, text=True, check=True)
    assert sorted(row["method"] for row in json.loads(out.stdout)["rows"]) == ["nnls", "omp"]
    table = subprocess.run([*command, "--atoms", *paths, "-o", str(tmp_path / "c.json")], capture_output=True, text=True, check=True)
    assert "law 0.7" in table.stdout and json.loads((tmp_path / "c.json").read_text())["names"] == list(tasks)
    without = [*command, "--atoms", *paths, "--without", *(m.replace("_", "-") for m in METHODS if m != "omp"), "--json"]
    out = subprocess.run(without, capture_output=True, text=True, check=True)
    assert [row["method"] for row in json.loads(out.stdout)["rows"]] == ["omp"]
    wrong = subprocess.run([*command, "--atoms", *paths, "--methods", "magic"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "magic" in wrong.stderr
