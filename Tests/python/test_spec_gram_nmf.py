"""Semi- and convex NMF from a Gram, against the same in p x T by NumPy and SciPy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import unmerge
from scipy.optimize import nnls

Array = npt.NDArray[np.float64]
KINDS = ["semi", "convex"]


def planted(p: int, T: int, k: int, noise: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    X: Array = rng.standard_normal((p, k)) @ np.maximum(rng.standard_normal((k, T)), 0)
    return X + noise * rng.standard_normal((p, T))


def codes(W: Array, X: Array) -> Array:
    return np.stack([nnls(W, x)[0] for x in X.T], axis=1)


def objective(X: Array, M: Array, H: Array, l1: float = 0, l2: float = 0) -> float:
    return float(0.5 * np.linalg.norm(X - X @ M @ H) ** 2 + l1 * H.sum() + l2 / 2 * (H**2).sum())


def violation(X: Array, M: Array, H: Array, kind: str, l1: float = 0, l2: float = 0) -> float:
    """As the header defines it, in p x T."""
    W = X @ M
    E = W @ H - X
    total = 0.0
    d = np.linalg.norm(X, axis=0)
    for h, w, m in zip(H, W.T, M.T):
        g = E @ h
        if l1 + l2 > 0 and w @ w > 1 - 1e-12:
            g = g + max(0.0, -(w @ g) / (w @ w)) * w  # what points out of the ball is held by it
        if h @ h > 0 and kind == "semi":
            total += g @ g / (h @ h)
        elif h @ h > 0:
            move = np.minimum((h @ h) * d * m, np.divide(X.T @ g, d, out=np.zeros_like(d), where=d > 0))
            total += move @ move / (h @ h)
        curvature = w @ w + l2
        if curvature > 0:
            move = np.minimum(curvature * h, w @ E + l1 + l2 * h)
            total += move @ move / curvature
    return float(np.sqrt(total) / np.linalg.norm(X))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"init": "random", "seed": 3},
    {"l1_h": 0.5},
    {"l2_h": 0.5},
    {"l1_h": 5, "l2_h": 1, "extrapolation": False},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("max_iter", [0, 1, 7, 2000])
def test_report_is_what_it_says(kind: Any, options: dict[str, Any], max_iter: int) -> None:
    X = planted(120, 30, 4, 0.3, seed=0)
    M, H, report = unmerge.gram_nmf(X, k=4, kind=kind, max_iter=max_iter, tol=1e-5, **options)
    l1, l2 = options.get("l1_h", 0), options.get("l2_h", 0)
    yy = float((X**2).sum())
    assert (H >= 0).all()
    assert kind == "semi" or (M >= 0).all()
    assert report.yy == pytest.approx(yy, rel=1e-12)
    assert report.rss == pytest.approx(np.linalg.norm(X - X @ M @ H) ** 2, abs=1e-12 * yy)
    assert report.objective == pytest.approx(objective(X, M, H, l1, l2), abs=1e-12 * yy)
    assert report.nonzeros == np.count_nonzero(H) + (np.count_nonzero(M) if kind == "convex" else 0)
    if max_iter > 0:
        assert report.violation == pytest.approx(violation(X, M, H, kind, l1, l2), rel=1e-5, abs=1e-10)
        norms = np.linalg.norm(X @ M, axis=0)
        assert (norms <= 1 + 1e-12).all()
        if l1 + l2 == 0:
            np.testing.assert_allclose(norms, 1, rtol=1e-11)
    if max_iter == 2000:
        assert report.outcome == "converged"
        assert report.violation <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_iteration_descends_and_codes_are_exact(kind: Any, options: dict[str, Any]) -> None:
    X = planted(50, 20, 3, 0.5, seed=1)
    l1, l2 = options.get("l1_h", 0), options.get("l2_h", 0)
    yy = float((X**2).sum())
    with unmerge.GramNMFModel(X, k=4, kind=kind, **options) as model:
        last = np.inf
        for _ in range(60):
            report = model.step(max_iter=1, tol=1e-14)
            assert report.objective <= last + 1e-13 * yy
            last = report.objective
        W = X @ model.mixing
        # NNLS with penalties: l2 as rows sqrt(l2) I, l1 by W'(x - z) with W'z = l1.
        tall = np.vstack([W, np.sqrt(l2) * np.eye(4)])
        shift = np.linalg.lstsq(W.T, np.full(4, l1), rcond=None)[0] if l1 > 0 else np.zeros(50)
        right = np.vstack([X - shift[:, None], np.zeros((4, 20))])
        np.testing.assert_allclose(model.codes, codes(tall, right), atol=1e-8 * np.sqrt(yy))


def test_semi_is_alternating_least_squares() -> None:
    """Without extrapolation: M by lstsq, H by SciPy's NNLS, iteration by iteration."""
    for seed in range(10):
        X = planted(60, 20, 3, 0.2, seed)
        H = np.random.default_rng(seed).random((3, 20))
        fast, plain = unmerge.GramNMFModel(X, k=3, H=H), unmerge.GramNMFModel(X, k=3, H=H, extrapolation=False)
        for _ in range(12):
            W = X @ np.linalg.pinv(H)
            H = codes(W, X)
            expected = 0.5 * np.linalg.norm(X - W @ H) ** 2
            report = plain.step(max_iter=1, tol=1e-14)
            assert report.objective == pytest.approx(expected, rel=1e-9)
        assert fast.step(max_iter=12, tol=1e-14).objective <= 1.05 * expected  # not a law: a sanity check of the default


def multiplicative(X: Array, H: Array, iterations: int) -> float:
    """Convex NMF by the updates of Ding, Li & Jordan 2010, equations 15 and 16, from their start for a given H."""
    K = X.T @ X
    up, down = np.maximum(K, 0), np.maximum(-K, 0)
    G = H.T.copy()
    B = np.maximum(np.linalg.pinv(H), 0)
    B += 0.2 * B.sum() / max(np.count_nonzero(B), 1)
    tiny = 1e-300
    for _ in range(iterations):
        G *= np.sqrt((up @ B + G @ (B.T @ down @ B)) / (down @ B + G @ (B.T @ up @ B) + tiny))
        S = G.T @ G
        B *= np.sqrt((up @ G + down @ B @ S) / (down @ G + up @ B @ S + tiny))
    return objective(X, B, G.T)


def test_convex_is_no_worse_than_multiplicative_updates() -> None:
    for seed in range(12):
        X = planted(60, 25, 4, 0.3, seed)
        H = np.random.default_rng(seed).random((4, 25)) + 0.2
        found = unmerge.gram_nmf(X, k=4, kind="convex", H=H, tol=1e-8)[2]
        assert found.objective <= 1.001 * multiplicative(X, H, 3000), seed


@pytest.mark.parametrize("kind", KINDS)
def test_rank_one_is_exact(kind: Any) -> None:
    rng = np.random.default_rng(2)
    u, v = rng.standard_normal(40), np.abs(rng.standard_normal(15))
    X = np.outer(u, v)
    M, H, report = unmerge.gram_nmf(X, k=1, kind=kind, tol=1e-10)
    assert report.rss <= 1e-15 * report.yy
    np.testing.assert_allclose(H[0], v * np.linalg.norm(u), rtol=1e-12)
    np.testing.assert_allclose((X @ M)[:, 0], u / np.linalg.norm(u), atol=1e-13)


def test_one_component_of_signed_data_is_the_best_non_negative_code() -> None:
    """max h'Kh over unit h >= 0: every support of eight columns has its Perron-like candidate, by enumeration of eigenvectors."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((30, 8)) + 0.5 * rng.standard_normal((30, 1))
    K = X.T @ X
    best = 0.0
    for bits in range(1, 256):
        s = [j for j in range(8) if bits >> j & 1]
        values, vectors = np.linalg.eigh(K[np.ix_(s, s)])
        for value, vector in zip(values, vectors.T):
            if (vector >= 0).all() or (vector <= 0).all():
                best = max(best, float(value))
    found = min(
        unmerge.gram_nmf(X, k=1, init=init, seed=seed, tol=1e-9)[2].rss for seed in range(5) for init in ("auto", "random")
    )
    assert found == pytest.approx(np.trace(K) - best, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_components_as_columns_explain_everything(kind: Any) -> None:
    X = planted(40, 12, 12, 0.1, seed=5)
    report = unmerge.gram_nmf(X, k=12, kind=kind, tol=1e-9)[2]
    assert report.rss <= 1e-13 * report.yy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", ["auto", "random"])
def test_separable_collection_is_found(kind: Any, init: Any) -> None:
    """The components are among the columns, everything else is a mixture of them."""
    rng = np.random.default_rng(6)
    W = rng.standard_normal((60, 4))
    H = np.hstack([np.eye(4), rng.dirichlet(np.ones(4), 21).T])
    X = W @ H
    M, found, _ = unmerge.gram_nmf(X, k=4, kind=kind, init=init, tol=1e-9, max_iter=5000)
    assert np.linalg.norm(X - X @ M @ found) <= 1e-7 * np.linalg.norm(X)
    if kind == "convex":
        cosines = (X @ M).T @ (W / np.linalg.norm(W, axis=0))
        assert sorted(np.argmax(cosines, axis=1)) == [0, 1, 2, 3]
        assert cosines.max(axis=1).min() > 1 - 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extrapolation", [False, True])
@pytest.mark.parametrize("options", [{}, {"l1_h": 0.1}], ids=str)
def test_resumed_is_bit_for_bit_the_same(kind: Any, extrapolation: bool, options: dict[str, Any], tmp_path: Path) -> None:
    X = planted(60, 300, 5, 0.3, seed=7)
    make: dict[str, Any] = {"k": 5, "kind": kind, "extrapolation": extrapolation, "init": "random", "seed": 1, **options}
    whole = unmerge.GramNMFModel(X, **make)
    whole.step(max_iter=9, tol=1e-14, threads=1)
    parts: Any = unmerge.GramNMFModel(X, **make)
    parts.step(max_iter=4, tol=1e-14, threads=3)
    parts.save(tmp_path / "model")
    parts = unmerge.load_model(tmp_path / "model")
    assert isinstance(parts, unmerge.GramNMFModel)
    parts.step(max_iter=2, tol=1e-14, threads=2)
    parts = pickle.loads(pickle.dumps(parts))
    parts.step(max_iter=3, tol=1e-14)
    assert np.array_equal(whole.mixing, parts.mixing)
    assert np.array_equal(whole.codes, parts.codes)
    assert parts.iterations == 9
    assert whole.to_bytes() == parts.to_bytes()
    assert (parts.rows, parts.columns, parts.k) == (60, 300, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_data_may_come_as_gram_operator_or_array(kind: Any) -> None:
    X = planted(48, 6, 2, 0.3, seed=8)
    M, H, _ = unmerge.gram_nmf(X, k=2, kind=kind)
    names = [f"task{j}" for j in range(6)]
    operator = unmerge.Operator.from_vectors({n: {"a": x[:30].reshape(5, 6), "b": x[30:]} for n, x in zip(names, X.T)})
    gram = unmerge.Gram(X, X[:, 0])
    lazy = unmerge.Gram(X, X[:, 0], columns="on_demand")
    for data in (operator, gram, lazy):
        other = unmerge.gram_nmf(data, k=2, kind=kind)
        np.testing.assert_allclose(X @ other[0] @ other[1], X @ M @ H, atol=1e-6)


def test_scales_move_nothing_but_the_units() -> None:
    X = planted(40, 12, 3, 0.2, seed=9)
    M, H, report = unmerge.gram_nmf(X, k=3, max_iter=8)
    for s in (2.0**-400, 2.0**-60, 2.0**60, 2.0**400):
        m, h, r = unmerge.gram_nmf(X * s, k=3, max_iter=8)
        np.testing.assert_allclose(h, H * s, rtol=1e-9)
        np.testing.assert_allclose(m, M / s, rtol=1e-9, atol=1e-12 / s)
        assert r.violation == pytest.approx(report.violation, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_collections(kind: Any) -> None:
    M, H, report = unmerge.gram_nmf(np.zeros((10, 5)), k=2, kind=kind)
    assert report.outcome == "converged" and not H.any() and report.violation == 0
    rng = np.random.default_rng(10)
    X = np.repeat(rng.standard_normal((30, 3)), 3, axis=1)
    X[:, 4] = 0
    M, H, report = unmerge.gram_nmf(X, k=5, kind=kind, tol=1e-8)  # rank 3, twins, a zero column
    assert np.linalg.norm(X - X @ M @ H) <= 1e-7 * np.linalg.norm(X)
    assert not H[:, 4].any()
    one = unmerge.gram_nmf(X[:, :1], k=1, kind=kind)
    assert one[2].rss <= 1e-15 * one[2].yy


def test_a_component_no_column_uses_starts_again() -> None:
    X = planted(50, 20, 3, 0.1, seed=11)
    H = np.random.default_rng(11).random((3, 20))
    H[1] = 0
    _, found, report = unmerge.gram_nmf(X, k=3, H=H, tol=1e-4)
    two = unmerge.gram_nmf(X, k=2, H=H[[0, 2]], tol=1e-4)[2]
    assert found[1].any()
    assert report.rss < 0.9 * two.rss


def test_heavy_penalty_empties_the_codes() -> None:
    X = planted(40, 12, 3, 0.2, seed=12)
    level = float(np.linalg.norm(X, axis=0).max())  # max <w, x_t> over the ball
    for kind in KINDS:
        assert not unmerge.gram_nmf(X, k=2, kind=kind, l1_h=1.0001 * level, max_iter=5)[1].any()
        assert unmerge.gram_nmf(X, k=2, kind=kind, l1_h=0.99 * level, max_iter=50)[1].any()


def test_refusals_name_the_argument() -> None:
    X = planted(20, 6, 2, 0.1, seed=13)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"k": 0}, "components is 0; it must be between 1 and the 6 atoms"),
        ({"k": 7}, "components is 7"),
        ({"k": 2, "kind": "hard"}, "kind"),
        ({"k": 2, "init": "given"}, "init"),
        ({"k": 2, "l1_h": -1}, "l1_h is -1"),
        ({"k": 2, "l2_h": np.inf}, "l2_h is inf"),
        ({"k": 2, "H": np.ones((3, 6))}, r"H is \(3, 6\), expected \(2, 6\)"),
        ({"k": 2, "H": -np.ones((2, 6))}, r"h\[0, 0\] is -1"),
        ({"k": 2, "H": np.full((2, 6), np.nan)}, "nan"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            unmerge.gram_nmf(X, **options)
    with unmerge.GramNMFModel(X, k=2) as model:
        with pytest.raises(ValueError, match="takes NULL"):
            model.step(X)
        with pytest.raises(ValueError, match="unmerge_gram_nmf_mixing"):
            _ = model.components
        with pytest.raises(ValueError, match="unmerge_gram_nmf_mixing"):
            model.transform(X)


def test_saved_bytes_that_are_damaged_are_refused() -> None:
    data = unmerge.GramNMFModel(planted(20, 6, 2, 0.1, seed=14), k=2).to_bytes()
    for i in (0, 7, 20, len(data) // 2, len(data) - 1):
        bad = bytearray(data)
        bad[i] ^= 1
        with pytest.raises(ValueError, match="bytes is not a saved model"):
            unmerge.model_from_bytes(bytes(bad))
    with pytest.raises(ValueError):
        unmerge.model_from_bytes(data[:-9])


def test_codes_of_new_targets_come_from_the_transformed_gram() -> None:
    X = planted(60, 12, 3, 0.1, seed=15)
    y = planted(60, 4, 3, 0.1, seed=15)
    with unmerge.GramNMFModel(X, k=3) as model:
        model.step(max_iter=50)
        coef, _ = unmerge.nnls(unmerge.Gram(X, y).transform(model.mixing))
        np.testing.assert_allclose(coef, codes(X @ model.mixing, y), atol=1e-9)
