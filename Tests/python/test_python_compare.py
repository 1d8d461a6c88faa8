"""compare: every method on one target from one Gram, in Python and on the command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import unmerge
from unmerge.comparison import METHODS


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((1000, 8)) + 0.5 * rng.standard_normal((1000, 1))
    w = np.array([0.8, 0, 0, 0.5, 0, 0, 0, 0.3])
    return A, A @ w + 0.5 * rng.standard_normal(1000), w


@pytest.fixture(scope="module")
def found(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> unmerge.Comparison:
    return unmerge.compare(problem[:2])


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
        assert set(np.flatnonzero(w)) <= set(row.support), row.method
        assert row.seconds >= 0 and row.certificate
    for sparse in ("omp", "garrote", "spike_slab", "mcp"):
        assert found[sparse].support == list(np.flatnonzero(w))


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
    found = unmerge.compare(gram, effective=100)
    assert found.criterion == "bic" and found.folds == 0 and found.effective == 100
    scores = [r.bic for r in found.rows]
    assert scores == sorted(scores) and all(math.isnan(r.cv) for r in found.rows)
    row = found["least_squares"]
    rss = np.sum((y - A @ row.coef) ** 2)
    assert row.bic == pytest.approx(100 * math.log(rss / 1000) + math.log(100) * 8)


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
    [({"methods": ["magic"]}, "methods"), ({"criterion": "luck"}, "criterion"), ({"effective": 0.0}, "effective"), ({"target": 1}, "target")],
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
    wrong = subprocess.run([*command, "--atoms", *paths, "--methods", "magic"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "magic" in wrong.stderr
