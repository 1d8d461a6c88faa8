"""unmerge.NMF and unmerge.GSPTransformer are scikit-learn estimators, and NMF solves scikit-learn's problem."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.decomposition
import unmerge
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

ESTIMATORS = [
    unmerge.NMF(random_state=0),
    unmerge.NMF(random_state=0, init="random", n_components=3),
    unmerge.NMF(random_state=0, algorithm="anls"),
    unmerge.NMF(random_state=0, algorithm="mu"),
    unmerge.NMF(random_state=0, algorithm="mu", loss="kl"),
    unmerge.NMF(random_state=0, alpha_W=1e-3, alpha_H=1e-2, l1_ratio=0.5),
    unmerge.NMF(random_state=0, nonnegative_H=False),
    unmerge.NMF(random_state=0, missing=True),
    unmerge.NMF(random_state=0, algorithm="projected", sparsity_H=0.6),
    unmerge.GSPTransformer(),
    unmerge.GSPTransformer(0.3),
    unmerge.GSPTransformer(1.0),
]


# check_array_api_input skips itself without SCIPY_ARRAY_API=1, for every estimator; we read NumPy's memory only.
@parametrize_with_checks(ESTIMATORS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


# ---------------------------------------------------------------- the same problem as scikit-learn's


def parts(samples: int, seed: int, side: int = 19, how_many: int = 49) -> np.ndarray:
    """Sums of random rectangles on a square, in place of faces."""
    rng = np.random.default_rng(seed)
    shapes = np.zeros((how_many, side, side))
    for shape in shapes:
        (top, left), (height, width) = rng.integers(0, side - 3, 2), rng.integers(3, 8, 2)
        shape[top : top + height, left : left + width] = 1
    codes = rng.gamma(1, 1, (samples, how_many)) * (rng.random((samples, how_many)) < 0.3)
    return codes @ shapes.reshape(how_many, -1) + 0.02 * rng.random((samples, side * side))


def low_rank(samples: int, features: int, rank: int, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((samples, rank)) @ rng.random((rank, features)) + noise * rng.random((samples, features))


PROBLEMS = {
    "dense": (lambda: low_rank(200, 120, 10, 0.3, 0), 10),
    "uniform": (lambda: np.random.default_rng(1).random((150, 90)), 8),
    "wide": (lambda: low_rank(40, 300, 6, 0.1, 2), 6),
    "digits": (lambda: load_digits().data[:500], 16),
    "parts": (lambda: parts(150, 3), 20),
}
PENALTIES = {
    "plain": {"alpha_W": 0.0},
    "l1": {"alpha_W": 1e-3, "l1_ratio": 1.0},
    "l2": {"alpha_W": 1e-3, "alpha_H": 3e-3, "l1_ratio": 0.0},
    "both": {"alpha_W": 5e-4, "alpha_H": 2e-3, "l1_ratio": 0.3},
}


def objective(X: np.ndarray, W: np.ndarray, H: np.ndarray, alpha_W: float, alpha_H: Any = "same", l1_ratio: float = 0.0) -> float:
    """As scikit-learn's documentation has it."""
    samples, features = X.shape
    alpha_H = alpha_W if alpha_H == "same" else alpha_H
    return float(
        0.5 * np.sum((X - W @ H) ** 2)
        + alpha_W * features * (l1_ratio * np.abs(W).sum() + 0.5 * (1 - l1_ratio) * np.sum(W**2))
        + alpha_H * samples * (l1_ratio * np.abs(H).sum() + 0.5 * (1 - l1_ratio) * np.sum(H**2))
    )


def start(X: np.ndarray, k: int, seed: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's random start: half-normal, scaled so that WH has the mean of X."""
    rng, scale = np.random.default_rng(seed), np.sqrt(X.mean() / k)
    return scale * np.abs(rng.standard_normal((len(X), k))), scale * np.abs(rng.standard_normal((k, X.shape[1])))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_objective_is_no_worse_at_equal_budget(problem: str, penalty: str) -> None:
    """In the geometric mean over starts: from a single one either may end at a better stationary point.  In `parts` those lie
    6 % apart, which two standard errors of the mean allow for."""
    make, k = PROBLEMS[problem]
    X, options = make(), PENALTIES[penalty] | {"tol": 0.0, "max_iter": 200}
    ratios = []
    for seed in range(8):
        W0, H0 = start(X, k, seed)
        theirs = sklearn.decomposition.NMF(k, init="custom", solver="cd", **options)
        W = theirs.fit_transform(X, W=W0.copy(), H=H0.copy())
        ours = unmerge.NMF(k, init="custom", **options).fit(X, W=W0, H=H0)
        assert ours.n_iter_ <= 200
        # The report is on the factors that were learned, before the last step for the codes.
        ratios.append(ours.report_.objective / objective(X, W, theirs.components_, **PENALTIES[penalty]))
    again = objective(X, ours.transform(X), ours.components_, **PENALTIES[penalty])
    assert again <= ours.report_.objective * (1 + 1e-9)
    worse = np.log(ratios)
    assert worse.mean() - 2 * worse.std(ddof=1) / np.sqrt(len(worse)) <= np.log(1.001), ratios
    assert problem == "parts" or worse.mean() <= np.log(1.001), ratios


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_are_scaled_as_in_scikit_learn(penalty: str) -> None:
    """At scikit-learn's solution the gradient of our objective, with our scaling, vanishes; and we stay there."""
    X, k, options = low_rank(30, 18, 3, 0.2, 5), 3, PENALTIES[penalty]
    W0, H0 = start(X, k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = sklearn.decomposition.NMF(k, init="custom", tol=0, max_iter=100_000, **options)
        W = theirs.fit_transform(X, W=W0.copy(), H=H0.copy())
    H = theirs.components_
    estimator = unmerge.NMF(k, init="custom", tol=0, max_iter=1, **options)
    mapped = estimator._penalties(*X.shape)
    R = W @ H - X
    gradient_W = R @ H.T + mapped["l1_h"] + mapped["l2_h"] * W
    gradient_H = W.T @ R + mapped["l1_w"] + mapped["l2_w"] * H
    scale = np.linalg.norm(X)
    assert np.abs(np.minimum(W, gradient_W / scale)).max() <= 1e-8
    assert np.abs(np.minimum(H, gradient_H / scale)).max() <= 1e-8
    there = estimator.fit(X, W=W, H=H)
    assert there.report_.violation <= 1e-7
    np.testing.assert_allclose(there.report_.objective, objective(X, W, H, **options), rtol=1e-12)
    # Without penalties the scale is free.
    ours, theirs = (rows / (np.linalg.norm(rows, axis=1, keepdims=True) if penalty == "plain" else 1) for rows in (there.components_, H))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_reconstruction_err_is_scikit_learns() -> None:
    X = load_digits().data[:300]
    model = unmerge.NMF(12, alpha_W=1e-3, l1_ratio=0.4, random_state=0)
    W = model.fit_transform(X)
    np.testing.assert_allclose(model.reconstruction_err_, np.linalg.norm(X - W @ model.components_), rtol=1e-9)
    model = unmerge.NMF(12, algorithm="mu", loss="kl", alpha_W=1e-3, l1_ratio=0.4, max_iter=2000, random_state=0)
    W = model.fit_transform(X)
    Y = W @ model.components_
    inside = X > 0
    divergence = np.sum(X[inside] * np.log(X[inside] / Y[inside])) - X.sum() + Y.sum()
    np.testing.assert_allclose(model.reconstruction_err_, np.sqrt(2 * divergence), rtol=1e-7)


def test_transform_is_scikit_learns() -> None:
    X = load_digits().data
    model = unmerge.NMF(10, alpha_W=2e-3, alpha_H=0.0, l1_ratio=0.7, max_iter=20, tol=0).fit(X[:500])
    theirs = sklearn.decomposition.NMF(10, alpha_W=2e-3, alpha_H=0.0, l1_ratio=0.7, tol=1e-14, max_iter=20_000)
    theirs.components_ = theirs.components_ = model.components_
    theirs.n_components_, theirs._n_components, theirs.n_features_in_ = 10, 10, 64
    theirs._beta_loss = 2
    np.testing.assert_allclose(model.transform(X[500:600]), theirs.transform(X[500:600]), atol=1e-6)


# ---------------------------------------------------------------- conventions


def test_codes_of_the_fit_and_of_transform_are_the_same() -> None:
    X = load_digits().data[:200]
    model = unmerge.NMF(8, max_iter=5, tol=0)
    W = model.fit_transform(X)
    assert np.array_equal(W, model.transform(X))
    np.testing.assert_allclose(model.transform(X[40:47]), W[40:47], atol=1e-9)
    assert np.array_equal(model.inverse_transform(W), W @ model.components_)
    assert list(model.get_feature_names_out()) == [f"nmf{i}" for i in range(8)]


def test_iterations_end_with_a_warning() -> None:
    X = load_digits().data[:100]
    with pytest.warns(ConvergenceWarning, match="3 iterations"):
        assert unmerge.NMF(8, max_iter=3, tol=1e-12).fit(X).n_iter_ == 3


def test_random_state() -> None:
    X = load_digits().data[:100]

    def components(state: Any) -> np.ndarray:
        found: np.ndarray = unmerge.NMF(6, init="random", random_state=state, max_iter=3, tol=0).fit(X).components_
        return found

    assert np.array_equal(components(4), components(4))
    assert np.array_equal(components(np.random.RandomState(4)), components(np.random.RandomState(4)))
    assert not np.allclose(components(4), components(5))


def test_missing_entries_are_not_read() -> None:
    rng = np.random.default_rng(0)
    X = low_rank(60, 40, 3, 0, 4)
    holes = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    model = unmerge.NMF(3, missing=True, tol=1e-9, max_iter=5000)
    filled = model.inverse_transform(model.fit_transform(holes))
    assert np.abs(filled - X).max() <= 1e-3 * X.max()


def test_signed_data() -> None:
    X = np.random.default_rng(0).standard_normal((50, 12))
    with pytest.raises(ValueError, match="nonnegative_H=False"):
        unmerge.NMF(4).fit(X)
    model = unmerge.NMF(4, nonnegative_H=False, tol=1e-2).fit(X)
    assert model.components_.min() < 0 <= model.transform(X).min()


def hoyer(X: np.ndarray) -> np.ndarray:
    """Of every row; 1 for zeros."""
    root, norms = np.sqrt(X.shape[1]), np.linalg.norm(X, axis=1)
    level = (root - np.abs(X).sum(axis=1) / np.where(norms > 0, norms, 1)) / (root - 1)
    return np.where(norms > 0, level, 1.0)


@pytest.mark.parametrize("mode", ["average", "each"])
def test_sparsity_is_held_by_the_factor_that_is_named(mode: Any) -> None:
    X = load_digits().data[:200]
    held = unmerge.NMF(6, algorithm="projected", sparsity_H=0.85, sparsity_mode=mode, tol=1e-2).fit(X)
    levels = hoyer(held.components_)
    assert (levels.mean() if mode == "average" else levels.min()) >= 0.85 - 1e-9
    held = unmerge.NMF(6, algorithm="projected", sparsity_W=0.6, sparsity_mode=mode, tol=1e-2)
    levels = hoyer(held.fit_transform(X).T)
    assert (levels.mean() if mode == "average" else levels.min()) >= 0.6 - 1e-9
    free = hoyer(unmerge.NMF(6).fit_transform(X).T)
    assert free.mean() < 0.6  # it had to be held


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_gsp_is_the_projection_of_the_samples(sparsity: float) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((40, 25)) * rng.lognormal(0, 0.5, (40, 1))
    X[7] = 0
    model = unmerge.GSPTransformer(sparsity)
    Z = model.fit_transform(X)
    expected, report = unmerge.group_sparse_projection(np.ascontiguousarray(X.T), sparsity=sparsity)
    np.testing.assert_array_equal(Z, expected.T)
    assert hoyer(Z).mean() == pytest.approx(max(sparsity, hoyer(X).mean()), abs=1e-10)
    assert model.sparsity_ == pytest.approx(hoyer(Z).mean(), abs=1e-10) and model.multiplier_ == report.multiplier
    np.testing.assert_allclose(model.transform(X), Z, atol=1e-9)


def test_gsp_thresholds_each_sample_by_itself() -> None:
    """Its best multiple of (|x| - t)_+ with the t of the fit, for samples that were not in it; signs are kept."""
    rng = np.random.default_rng(4)
    model = unmerge.GSPTransformer(0.7).fit(rng.standard_normal((60, 16)))
    X = np.vstack([rng.standard_normal((5, 16)), 0.01 * rng.standard_normal((1, 16)), np.zeros((1, 16))])
    Z = model.transform(X)
    np.testing.assert_array_equal(np.vstack([model.transform(x[None]) for x in X]), Z)
    for x, z in zip(X[:5], Z):
        u = np.sign(x) * np.maximum(np.abs(x) - model.multiplier_ / 3, 0)
        np.testing.assert_allclose(z, u * (u @ x) / (u @ u), atol=1e-12)
    largest = np.abs(X[5]).argmax()
    assert np.flatnonzero(Z[5]).tolist() == [largest] and Z[5, largest] == X[5, largest]
    assert not Z[6].any()


def test_gsp_leaves_sparse_samples_and_single_features_alone() -> None:
    X = np.eye(6)
    model = unmerge.GSPTransformer(0.5).fit(X)
    assert model.multiplier_ == 0 and np.array_equal(model.transform(X), X)
    one = np.arange(4.0)[:, None]
    assert np.array_equal(unmerge.GSPTransformer(0.9).fit_transform(one), one)
    assert list(model.get_feature_names_out(list("abcdef"))) == list("abcdef")


def test_gsp_meets_the_average_where_ties_jump() -> None:
    X = np.ones((3, 4))
    X[0, 0] = 2
    assert hoyer(unmerge.GSPTransformer(0.5).fit_transform(X)).mean() == pytest.approx(0.5, abs=1e-12)


def test_start_is_asked_for() -> None:
    with pytest.raises(ValueError, match="fit needs W"):
        unmerge.NMF(2, init="custom").fit(np.ones((4, 3)))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"n_components": 0}, "components"), ({"alpha_W": -1.0}, "l2_"), ({"algorithm": "cd"}, "algorithm"), ({"init": "x"}, "init")],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        unmerge.NMF(**options).fit(np.ones((5, 4)))


def test_works_in_a_pipeline_and_a_search() -> None:
    X, y = load_digits(return_X_y=True)
    pipe = make_pipeline(unmerge.NMF(random_state=0, max_iter=50, tol=1e-2), KNeighborsClassifier())
    search = GridSearchCV(pipe, {"nmf__n_components": [2, 16]}, cv=2).fit(X[:400], y[:400])
    assert search.best_params_ == {"nmf__n_components": 16}
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert np.array_equal(again.predict(X[400:]), search.predict(X[400:]))


def test_set_output_names_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(load_digits().data[:50])
    assert list(unmerge.NMF(3).set_output(transform="pandas").fit_transform(frame).columns) == ["nmf0", "nmf1", "nmf2"]


def test_import_needs_numpy_only() -> None:
    """Without scikit-learn everything else works, and the estimators say what they need."""
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import unmerge, numpy as np\n"
        "unmerge.nmf(np.ones((3, 3)), k=1)\n"
        "try: unmerge.NMF\n"
        "except ImportError as error: print(error)\n"
        "else: print('no error')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "unmerge[sklearn]"' in done.stdout
