"""The shape of the Python API: what goes in, what comes out, and the refusals."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import unmerge
from unmerge import Accumulator, Gram, Operator, UnmergeError

rng = np.random.default_rng(0)
A = rng.standard_normal((120, 6))
TRUTH = np.array([1.0, 0.0, 0.5, 0.0, 0.0, 2.0])
y = A @ TRUTH + 0.01 * rng.standard_normal(120)
Y = np.column_stack([y, -A[:, 1], A[:, 0] + A[:, 3]])

METHODS = [
    ("dot", {"variant": "joint"}),
    ("ridge", {"alpha": 1e-6}),
    ("lasso", {"alpha": 0.05, "relative": True}),
    ("elastic_net", {"alpha": 0.1, "l1_ratio": 0.7}),
    ("nnls", {}),
    ("omp", {"k": 3}),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_shapes_of_answers(method: str, options: dict[str, Any]) -> None:
    solve = getattr(unmerge, method)
    coef, report = solve((A, y), **options)
    assert coef.shape == (6,) and coef.dtype == np.float64
    assert report.converged and isinstance(report.flags, set)
    many, reports = solve((A, Y), **options)
    assert many.shape == (6, 3) and len(reports) == 3
    np.testing.assert_allclose(many[:, 0], coef, rtol=1e-9, atol=1e-12)
    one, (single,) = solve((A, Y[:, :1]), **options)
    assert one.shape == (6, 1) and single.outcome == report.outcome


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_every_kind_of_data_gives_the_same_answer(method: str, options: dict[str, Any]) -> None:
    solve = getattr(unmerge, method)
    op = Operator.from_matrix(A)
    answers = [
        solve(data, **options)[0]
        for data in ((A, y), Gram(A, y), (op, y), (op, Operator.from_matrix(y)), op.with_target(y), [A, y])
    ]
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], rtol=1e-9, atol=1e-12)


def test_an_operator_of_one_column_is_one_target() -> None:
    coef, report = unmerge.nnls((A, Operator.from_vectors({"merged": y})))
    assert coef.shape == (6,) and report.converged


def test_many_atoms_use_columns_on_demand() -> None:
    wide = rng.standard_normal((400, 150))
    target = wide[:, [3, 70, 149]] @ np.array([1.0, 2.0, 3.0])
    dense, _ = unmerge.lasso(Gram(wide, target), alpha=0.1, relative=True)
    for method in (unmerge.lasso, unmerge.elastic_net):
        ratio = {} if method is unmerge.lasso else {"l1_ratio": 1.0}
        coef, report = method((wide, target), alpha=0.1, relative=True, **ratio)
        assert report.converged
        np.testing.assert_allclose(coef, dense, atol=1e-8)
    assert set(np.flatnonzero(unmerge.omp((wide, target), k=3)[0])) == {3, 70, 149}
    assert set(np.flatnonzero(unmerge.nnls((wide, target))[0] > 1e-9)) == {3, 70, 149}


def test_path_and_alpha_max() -> None:
    alphas, coefs, reports = unmerge.lasso_path((A, y), n_alphas=12)
    assert alphas.shape == (12,) and coefs.shape == (6, 12) and len(reports) == 12
    top = unmerge.alpha_max((A, y))
    assert isinstance(top, float) and alphas[0] == pytest.approx(top) and top == pytest.approx(np.abs(A.T @ y).max())
    assert not coefs[:, 0].any() and np.all(np.diff(alphas) < 0)
    several = unmerge.alpha_max((A, Y))
    assert isinstance(several, np.ndarray) and several.shape == (3,)
    given, _, _ = unmerge.lasso_path((A, Y), alphas=[1.0, 4.0, 2.0], target=2)
    assert list(given) == [1.0, 4.0, 2.0]  # given alphas stay in the order given


def test_omp_order_and_report() -> None:
    _, report = unmerge.omp((A, y), k=3)
    assert report.order == [5, 0, 2]
    coef, report = unmerge.omp((A, y), k=10**15)
    assert "clipped" in report.flags and len(report.order) <= 6
    text = str(report)
    assert "converged" in text and "clipped" in text and len(text.splitlines()) >= 8
    assert report.to_dict()["order"] == report.order


def test_warm_start_and_certify() -> None:
    coef, report = unmerge.lasso((A, y), alpha=1.0)
    again, certified = unmerge.lasso((A, y), alpha=1.0, start=coef, max_iter=0)
    np.testing.assert_allclose(again, coef, rtol=1e-12)
    assert certified.converged and certified.iterations == 0
    with pytest.raises(ValueError, match="start is 5, expected 6"):
        unmerge.lasso((A, y), start=np.zeros(5))


def test_verify_and_refine() -> None:
    coef, report = unmerge.nnls((A, y))
    correlation, checked = unmerge.verify(A, y, coef, positive=True)
    np.testing.assert_allclose(correlation, A.T @ (y - A @ coef), atol=1e-9)
    assert checked.streamed and checked.rss == pytest.approx(report.rss, rel=1e-6)
    rough = TRUTH + 1e-3
    least, _ = np.linalg.lstsq(A, y, rcond=None)[:2]
    better, refined = unmerge.refine(Gram(A, y), A, y, rough)
    assert np.abs(better - least).max() < 1e-2 * np.abs(rough - least).max()
    np.testing.assert_array_equal(rough, TRUTH + 1e-3)
    assert refined.streamed
    many, reports = unmerge.verify(A, Y, np.zeros((6, 3)))
    assert many.shape == (6, 3) and len(reports) == 3
    with pytest.raises(ValueError, match="coef is 5, expected 6x1"):
        unmerge.verify(A, y, np.zeros(5))


# ---------------------------------------------------------------- Gram, Accumulator, Operator, Mask


def test_gram_saved_loaded_pickled_added(tmp_path: Path) -> None:
    gram = Gram(A, Y)
    gram.save(tmp_path / "g.gram")
    assert [f.name for f in tmp_path.iterdir()] == ["g.gram"]  # nothing temporary is left
    for other in (Gram.load(tmp_path / "g.gram"), Gram.from_bytes(gram.to_bytes()), pickle.loads(pickle.dumps(gram))):
        assert other.to_bytes() == gram.to_bytes()
    parts = [Gram(A[:50], Y[:50]), Gram(A[50:], Y[50:])]
    np.testing.assert_allclose(sum(parts).arrays().G, gram.arrays().G, rtol=1e-12)
    assert (parts[0] + parts[1]).entries == 120
    np.testing.assert_array_equal(gram.subset(atoms=[4, 1]).arrays().G, gram.arrays().G[np.ix_([4, 1], [4, 1])])
    arrays = gram.arrays()
    copy = Gram.from_arrays(arrays.G, arrays.C, arrays.yy, 120)
    np.testing.assert_allclose(unmerge.nnls(copy)[0], unmerge.nnls(gram)[0])
    single = Gram.from_arrays(A.T @ A, A.T @ y, y @ y, 120)
    assert unmerge.nnls(single)[0].shape == (6,)
    assert pickle.loads(pickle.dumps(Gram(A, y)))._vector


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    gram = Gram(A, y)
    (tmp_path / "g").write_bytes(b"old")
    tmp_path.chmod(0o500)
    try:
        if subprocess.run(["touch", str(tmp_path / "x")], capture_output=True).returncode:  # root may write anywhere
            with pytest.raises(OSError):
                gram.save(tmp_path / "g")
            assert (tmp_path / "g").read_bytes() == b"old"
    finally:
        tmp_path.chmod(0o700)
    with pytest.raises(OSError):
        gram.save(tmp_path / "missing" / "g")


def test_damaged_bytes_are_refused() -> None:
    data = Gram(A, y).to_bytes()
    for bad in (b"", data[:-1], data + b"\0", b"x" * len(data), data[:40] + bytes([data[40] ^ 1]) + data[41:]):
        with pytest.raises(ValueError) as caught:
            Gram.from_bytes(bad)
        assert isinstance(caught.value, UnmergeError) and caught.value.name == "UNMERGE_E_FORMAT"
    with pytest.raises(TypeError):
        Gram.from_bytes("text")  # type: ignore[arg-type]


def test_gram_properties() -> None:
    gram = Gram(A, Y, folds=3)
    assert (gram.atoms, gram.targets, gram.entries, gram.passes, gram.columns) == (6, 3, 120, 1, 6)
    assert gram.precision == "exact" and gram.condition > 1
    assert [b.fold for b in gram.blocks] == [0, 1, 2] and sum(b.entries for b in gram.blocks) == 120
    np.testing.assert_allclose(sum(gram.arrays(b).G for b in range(3)), gram.arrays().G, rtol=1e-12, atol=1e-12)
    assert "6 atoms" in repr(gram)


def test_closed_handles_are_refused() -> None:
    with Gram(A, y) as gram:
        pass
    with pytest.raises(ValueError):
        unmerge.nnls(gram)
    assert "closed" in repr(gram)
    gram.close()
    op = Operator.from_matrix(A)
    op.close()
    with pytest.raises(ValueError, match="A is a closed operator"):
        Gram(op, y)


def test_accumulator_does_not_depend_on_the_cuts() -> None:
    whole = Gram(A, y, precision="exact", blocks="one").arrays()
    for cuts in ([120], [1, 119], [7] * 17 + [1]):
        acc = Accumulator(6)
        start = 0
        for rows in cuts:
            acc.add(A[start : start + rows], y[start : start + rows])
            start += rows
        gram = acc.gram()
        np.testing.assert_array_equal(gram.arrays().G, whole.G)
        assert unmerge.nnls(gram)[0].shape == (6,)
    with pytest.raises(ValueError):
        acc.add(A[:3, :5], y[:3])


def test_operator_of_modules() -> None:
    B, L, D = rng.standard_normal((8, 2)), rng.standard_normal((2, 5)), rng.standard_normal((4, 3))
    base = rng.standard_normal((4, 3))
    op = Operator()
    assert op.add_module("lin", 8, 5) == 0 and op.add_module("emb", 4, 3) == 1
    assert op.add_column("one") == 0 and op.add_column("two") == 1
    op.set_lora("lin", "one", B, L, scale=0.5)
    op.set_dense("emb", "two", D, base=base, scale=2.0)
    op.set_dense(1, 0, D)
    assert op.shape == (52, 2) and op.modules == ["lin", "emb"] and op.columns == ["one", "two"]
    dense = np.zeros((52, 2))
    dense[:40, 0] = 0.5 * (B @ L).ravel()
    dense[40:, 0] = D.ravel()
    dense[40:, 1] = 2 * (D - base).ravel()
    target = Operator.from_vectors({"y": {"lin": 0.5 * B @ L, "emb": D}})
    gram = Gram(op, target)
    np.testing.assert_allclose(gram.arrays().G, dense.T @ dense, rtol=1e-10, atol=1e-10)
    assert [b.module for b in gram.blocks] == ["lin", "emb"]
    np.testing.assert_allclose(unmerge.nnls(gram)[0], [1, 0], atol=1e-7)


def test_operator_refusals() -> None:
    op = Operator()
    op.add_module("m", 2, 2)
    op.add_column("c")
    with pytest.raises(ValueError):
        op.add_module("m", 2, 2)
    with pytest.raises(ValueError, match="no module named 'x'"):
        op.set_dense("x", "c", np.ones((2, 2)))
    with pytest.raises(ValueError):
        op.set_dense(5, "c", np.ones((2, 2)))
    with pytest.raises(ValueError):
        op.set_dense("m", "c", np.ones((2, 3)))
    with pytest.raises(ValueError, match="NUL"):
        op.add_column("a\0b")
    with pytest.raises(TypeError):
        op.add_column(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="without a target"):
        unmerge.nnls(op)
    with pytest.raises(ValueError, match="base has no module"):
        Operator.from_vectors({"a": {"m": np.ones(3)}}, base={"other": np.ones(3)})


def test_mask() -> None:
    op = Operator.from_vectors({"a": {"m": np.array([[1.0, -5, 0], [2, 0, 3]]), "k": np.ones(4)}})
    kept = unmerge.mask(op, per_module=2)
    assert kept.count() == 4 and kept.count("m") == 2 and kept.count(1) == 2
    assert list(kept.indices("m")) == [1, 5] and list(kept.indices("k")) == [0, 1]  # ties go to the lower index
    assert unmerge.mask(op, total=6).count() == 6
    gram = Gram(op, Operator.from_vectors({"y": {"m": np.ones((2, 3)), "k": np.ones(4)}}), mask=kept)
    assert gram.arrays().C[0, 0] == -5 + 3 + 2
    for bad in (lambda: kept.indices("x"), lambda: kept.count(-1), lambda: unmerge.mask(op, per_module=0)):
        with pytest.raises(ValueError):
            bad()


# ---------------------------------------------------------------- refusals of the methods


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: unmerge.lasso((A, y), alpha=-1), ValueError),
        (lambda: unmerge.lasso((A, y), alpha=float("nan")), ValueError),
        (lambda: unmerge.lasso((A, y), alpha="1"), TypeError),
        (lambda: unmerge.lasso((A, y), positive="yes"), TypeError),
        (lambda: unmerge.lasso((A, y), weights=[1.0] * 5), ValueError),
        (lambda: unmerge.lasso((A, y), weights=[-1.0] * 6), ValueError),
        (lambda: unmerge.lasso((A, y), weights=["a"] * 6), TypeError),
        (lambda: unmerge.elastic_net((A, y), l1_ratio=2), ValueError),
        (lambda: unmerge.omp((A, y), k=0), ValueError),
        (lambda: unmerge.omp((A, y), k=2.5), TypeError),
        (lambda: unmerge.omp((A, y), residual_tol=2), ValueError),
        (lambda: unmerge.dot((A, y), variant="sine"), ValueError),
        (lambda: unmerge.lasso_path((A, y), n_alphas=0), ValueError),
        (lambda: unmerge.lasso_path((A, y), n_alphas=2**62), ValueError),
        (lambda: unmerge.lasso_path((A, y), target=1), ValueError),
        (lambda: unmerge.nnls((A, y[:-1])), ValueError),
        (lambda: unmerge.nnls((A, np.where(y > 0, y, np.nan))), ValueError),
        (lambda: unmerge.nnls(A), TypeError),
        (lambda: unmerge.nnls((A,)), TypeError),
        (lambda: unmerge.nnls((A.astype(int), y)), TypeError),
        (lambda: Gram(A, y, precision="double"), ValueError),  # type: ignore[arg-type]
        (lambda: Gram(A, y, folds=0), ValueError),
        (lambda: Gram(A, y, folds=2**40), ValueError),
        (lambda: Gram(A, y, mask=np.ones(3)), TypeError),  # type: ignore[arg-type]
        (lambda: Gram(A, y).subset(atoms=[]), ValueError),
        (lambda: Gram(A, y).subset(atoms=[6]), ValueError),
        (lambda: Gram(A, y).arrays(7), ValueError),
        (lambda: Accumulator(-1), ValueError),
    ],
)
def test_refusals_are_unmerge_errors(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, UnmergeError)
    assert caught.value.status < 0 and len(str(caught.value)) > 10
    assert pickle.loads(pickle.dumps(caught.value)).status == caught.value.status


def test_import_needs_numpy_only_and_is_lazy() -> None:
    code = (
        "import sys, unmerge; assert 'numpy' not in sys.modules; unmerge.lasso, unmerge.decompose, unmerge.mask;"
        "import unmerge.gram; assert callable(unmerge.mask) and callable(unmerge.decompose) and callable(unmerge.verify);"
        "extra = {'safetensors', 'ml_dtypes', 'typer', 'rich', 'matplotlib', 'torch', 'scipy'} & set(sys.modules);"
        "assert not extra, extra; assert set(unmerge.__all__) <= set(dir(unmerge));"
        "[getattr(unmerge, name) for name in unmerge.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_zero_target() -> None:
    coef, report = unmerge.nnls((A, np.zeros(120)))
    assert not coef.any() and report.r2 == 0 and not math.isnan(report.objective)
