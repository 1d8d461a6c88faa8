"""Factorisation and group sparse projection as scikit-learn estimators (extra ``sklearn``).

    codes = unmerge.NMF(n_components=8, random_state=0).fit_transform(X)      # X: samples in rows

Everything here follows scikit-learn: samples are rows, W (samples x components) holds the codes and H, ``components_``
(components x features), the dictionary.  :func:`unmerge.nmf` has the atoms in columns: its X, W and H are X', H' and W' here.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .factorisation import Algorithm, Init, Loss, NMFModel, SparsityMode
from .projections import group_sparse_projection
from .report import Report

try:
    from sklearn.base import (  # type: ignore[import-untyped]
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        OneToOneFeatureMixin,
        TransformerMixin,
    )
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
    from sklearn.utils import check_random_state  # type: ignore[import-untyped]
    from sklearn.utils.validation import check_is_fitted, validate_data  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError('the estimators need scikit-learn 1.6 or newer: pip install "unmerge[sklearn]"') from error

Array = npt.NDArray[Any]
_DTYPES = [np.float64, np.float32]


class NMF(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Non-negative matrix factorisation: minimise over W >= 0, H >= 0

        D(X, WH) + alpha_W n_features (l1_ratio sum W + (1 - l1_ratio)/2 ||W||^2)
                 + alpha_H n_samples  (l1_ratio sum H + (1 - l1_ratio)/2 ||H||^2)

    the objective of ``sklearn.decomposition.NMF``, with this library's algorithms, sparsity, signs and missing entries.

    Parameters
    ----------
    n_components : k >= 1; None: as many as features.
    algorithm, loss : as in :func:`unmerge.nmf`; ``loss="kl"`` needs ``algorithm="mu"``, a sparsity ``algorithm="projected"``.
    init : "auto", "random", "nndsvd", "nndsvda"; "custom": W and H of :meth:`fit`.
    alpha_W, alpha_H, l1_ratio : penalties, >= 0, >= 0 or "same" (as alpha_W), [0, 1].  Penalise both factors or none: the
        scale runs into the one without a penalty.
    sparsity_W, sparsity_H : Hoyer sparsity in [0, 1) held by the columns of W, the rows of H; ``sparsity_mode`` "average" or
        "each"; 0 = not held.
    nonnegative_H : False: semi-NMF, components and X signed.
    missing : True: a NaN in X is an entry that is not there.
    tol, max_iter, extrapolation, threads : as in :func:`unmerge.nmf`; ``tol=0``: every iteration.
    random_state : draws the random starts.

    Attributes
    ----------
    components_ : H, n_components_ x n_features_in_.
    reconstruction_err_ : sqrt(2 D(X, WH)), the Frobenius norm ||X - WH|| where that is the loss.
    n_iter_ : iterations.
    report_ : the :class:`unmerge.Report`; its violation is 0 exactly at a stationary point.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        algorithm: Algorithm = "hals",
        loss: Loss = "frobenius",
        init: Init | Literal["custom"] = "auto",
        alpha_W: float = 0.0,
        alpha_H: float | Literal["same"] = "same",
        l1_ratio: float = 0.0,
        sparsity_W: float = 0.0,
        sparsity_H: float = 0.0,
        sparsity_mode: SparsityMode = "average",
        nonnegative_H: bool = True,
        missing: bool = False,
        tol: float = 1e-4,
        max_iter: int = 500,
        extrapolation: bool = True,
        threads: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.algorithm = algorithm
        self.loss = loss
        self.init = init
        self.alpha_W = alpha_W
        self.alpha_H = alpha_H
        self.l1_ratio = l1_ratio
        self.sparsity_W = sparsity_W
        self.sparsity_H = sparsity_H
        self.sparsity_mode = sparsity_mode
        self.nonnegative_H = nonnegative_H
        self.missing = missing
        self.tol = tol
        self.max_iter = max_iter
        self.extrapolation = extrapolation
        self.threads = threads
        self.random_state = random_state

    n_components_: int
    components_: Array
    reconstruction_err_: float
    n_iter_: int
    report_: Report

    def fit(self, X: Any, y: Any = None, W: Any = None, H: Any = None) -> NMF:
        """Learn the components.  W, H: the start, with ``init="custom"``."""
        self.fit_transform(X, W=W, H=H)
        return self

    def fit_transform(self, X: Any, y: Any = None, W: Any = None, H: Any = None) -> Array:
        """Learn the components and return their codes W (n_samples x n_components), the same as those of :meth:`transform`.

        With ``sparsity_W`` they are the codes learned with the components, which hold it.
        """
        X = self._data(X, reset=True)
        samples, features = X.shape
        k = features if self.n_components is None else self.n_components
        penalties = self._penalties(samples, features)
        if self.init != "custom":
            start: dict[str, Any] = {"init": self.init}
        elif W is None or H is None:
            raise ValueError('init is "custom"; fit needs W (n_samples x n_components) and H (n_components x n_features)')
        else:
            start = {"W": np.asarray(H, dtype=np.float64).T, "H": np.asarray(W, dtype=np.float64).T}
        model = NMFModel(
            X.T, k=k, algorithm=self.algorithm, loss=self.loss, unit="none", sparsity_w=self.sparsity_H,
            sparsity_h=self.sparsity_W, sparsity_mode=self.sparsity_mode, nonnegative_w=self.nonnegative_H, missing=self.missing,
            extrapolation=self.extrapolation, threads=self.threads, seed=_seed(self.random_state), **penalties, **start,
        )  # fmt: skip
        with model:
            report = model.fit(X.T, max_iter=self.max_iter, tol=self.tol or sys.float_info.min, threads=self.threads)
            components, codes = model.components, model.codes
        if report.outcome == "iteration limit" and self.tol > 0:
            message = f"{self.max_iter} iterations did not reach tol = {self.tol:g} (violation {report.violation:.1e})"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        self.n_components_ = k
        self.components_ = np.ascontiguousarray(components.T, dtype=X.dtype)
        self.n_iter_ = report.iterations
        self.report_ = report
        if self.sparsity_W == 0:
            codes, report = self._codes(X)
        fitted = report.rss / 2 if self.loss == "frobenius" else self._kl(report, codes)
        self.reconstruction_err_ = math.sqrt(max(0.0, 2 * fitted))
        return np.ascontiguousarray(codes.T, dtype=X.dtype)

    def transform(self, X: Any) -> Array:
        """Codes (n_samples x n_components) of X for ``components_`` as they are, each sample by itself.

        Exact for the Frobenius norm; the divergence keeps to ``tol`` and ``max_iter``.  ``sparsity_W`` belongs to the samples
        of the fit together and plays no part.
        """
        check_is_fitted(self)
        X = self._data(X, reset=False)
        return np.ascontiguousarray(self._codes(X)[0].T, dtype=X.dtype)

    def inverse_transform(self, X: Any) -> Array:
        """WH for codes W (n_samples x n_components)."""
        check_is_fitted(self)
        found: Array = np.asarray(X) @ self.components_
        return found

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = bool(self.nonnegative_H)
        tags.input_tags.allow_nan = bool(self.missing)
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _data(self, X: Any, reset: bool) -> Array:
        finite = "allow-nan" if self.missing else True
        found: Array = validate_data(self, X, reset=reset, dtype=_DTYPES, ensure_all_finite=finite)
        if self.nonnegative_H and bool((found < 0).any()):
            raise ValueError("Negative values in data passed to NMF; split X into max(X, 0) and max(-X, 0), or set nonnegative_H=False")
        return found

    def _penalties(self, samples: int, features: int) -> dict[str, Any]:
        """By our names, in which the codes are H."""
        alpha_H = self.alpha_W if self.alpha_H == "same" else self.alpha_H
        codes, components = features * self.alpha_W, samples * alpha_H
        return {
            "l1_h": codes * self.l1_ratio,
            "l2_h": codes * (1 - self.l1_ratio),
            "l1_w": components * self.l1_ratio,
            "l2_w": components * (1 - self.l1_ratio),
        }

    def _codes(self, X: Array) -> tuple[Array, Report]:
        """k x samples, and a report on D and the codes' penalty."""
        dictionary = np.asarray(self.components_, dtype=np.float64).T
        penalties = self._penalties(*X.shape)
        exact = self.loss == "frobenius"
        model = NMFModel(
            X.T, k=dictionary.shape[1], algorithm="hals" if exact else "mu", loss=self.loss, unit="none", W=dictionary,
            H=np.zeros((dictionary.shape[1], len(X))), nonnegative_w=self.nonnegative_H, missing=self.missing,
            threads=self.threads, l1_h=penalties["l1_h"], l2_h=penalties["l2_h"],
        )  # fmt: skip
        stop: dict[str, Any] = {} if exact else {"tol": self.tol or sys.float_info.min, "max_iter": self.max_iter}
        with model:
            return model.transform(X.T, threads=self.threads, **stop)

    def _kl(self, report: Report, codes: Array) -> float:
        """The divergence in an objective that has the codes' penalty."""
        penalties = self._penalties(codes.shape[1], self.n_features_in_)
        return float(report.objective - penalties["l1_h"] * codes.sum() - penalties["l2_h"] / 2 * (codes**2).sum())


class GSPTransformer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Group sparse projection of the samples: their average Hoyer sparsity becomes ``sparsity``.

    Fitting finds the one multiplier mu at which the training samples have that average
    (:func:`unmerge.group_sparse_projection`); transforming thresholds any sample x of n features at mu,

        u = (|x| - mu / (sqrt n - 1))_+ / ||.||,    z = (u'|x|) sign(x) u    (the largest entry alone, where none is above)

    so that a sample's answer does not depend on the others it comes with.  Samples of a small norm become sparse first.

    Parameters
    ----------
    sparsity : Hoyer sparsity in [0, 1], (sqrt n - ||x||_1/||x||_2) / (sqrt n - 1); not the share of zeros.

    Attributes
    ----------
    multiplier_ : mu; 0 where the training samples were sparse enough.
    sparsity_ : the average of the projected training samples.

    Ohib et al. 2022.
    """

    def __init__(self, sparsity: float = 0.8) -> None:
        self.sparsity = sparsity

    multiplier_: float
    sparsity_: float

    def fit(self, X: Any, y: Any = None) -> GSPTransformer:
        """Find the multiplier."""
        self.fit_transform(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array:
        """The projection of the training samples itself; ties, at which no multiplier meets the average, included."""
        X = validate_data(self, X, dtype=_DTYPES)
        found, report = group_sparse_projection(X.T, sparsity=self.sparsity)
        self.multiplier_, self.sparsity_ = float(report.multiplier), float(report.sparsity)
        return np.ascontiguousarray(found.T, dtype=X.dtype)

    def transform(self, X: Any) -> Array:
        """Threshold every sample at the multiplier."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=_DTYPES)
        features = X.shape[1]
        if self.multiplier_ == 0 or features < 2:
            return np.array(X)
        size = np.abs(X, dtype=np.float64)
        left = np.maximum(size - self.multiplier_ / (math.sqrt(features) - 1), 0)
        alone = ~left.any(axis=1)
        left[alone, size[alone].argmax(axis=1)] = 1
        left *= ((left * size).sum(axis=1) / (left**2).sum(axis=1))[:, None]
        found: Array = np.copysign(left, X).astype(X.dtype)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
