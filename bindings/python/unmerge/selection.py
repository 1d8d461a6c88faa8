"""Model selection from one Gram: cross-validation, information criteria, stability selection.

    gram = unmerge.Gram(A, y, folds=5)             # the one pass over the data; blocks for everything below
    cv = unmerge.lasso_cv(gram)
    print(cv)                                      # the curve, the best alpha and the one-standard-error choice
    cv.coef, cv.report                             # the answer on all blocks at the best alpha

``data`` and the run options are as in :func:`unmerge.lasso`; for a pair ``(A, y)`` a Gram with folds is made on the way.
Rows are entries of a model.  Folds by hash ask how well entries like these are predicted, blocks by module whether
coefficients found in some modules hold in others.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, output, view
from ._library import call, prepared
from ._options import INT64, boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_shape, bad_type
from .gram import Gram
from .methods import Coef, Data, _seconds, _weights, bounds
from .operator import Operator
from .report import Report, from_c, report_array

SIGMAS = {
    "full": _ffi.UNMERGE_SIGMA_FULL,
    "unknown": _ffi.UNMERGE_SIGMA_UNKNOWN,
}
CRITERIA = ("aic", "bic", "ebic", "cp", "gcv")
FEWEST_BLOCKS = 20  # of stability selection


# ---------------------------------------------------------------- cross-validation


@dataclass(frozen=True)
class CrossValidation:
    """What :func:`cross_validate` found; ``print`` it.

    alphas : the grid (m).  mean, standard_error : of the K folds' errors per entry, at each alpha.
    best : index of the smallest mean.  one_se : index of the largest alpha within one standard error of it.
    errors : m x K.  folds : fold of each block of the Gram, -1 = never left out.
    coefs, reports : the path on all blocks, n x m and m reports.
    fold_coefs : K x n x m, the paths without each fold, or None.
    unconverged : of the K m fold problems, how many did not reach ``tol``.
    """

    alphas: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    standard_error: npt.NDArray[np.float64]
    best: int
    one_se: int
    errors: npt.NDArray[np.float64]
    folds: npt.NDArray[np.int64]
    coefs: Coef
    reports: list[Report]
    fold_coefs: npt.NDArray[np.float64] | None
    unconverged: int
    seconds: float
    l1_ratio: float

    @property
    def alpha(self) -> float:
        """The alpha with the smallest mean error."""
        return float(self.alphas[self.best])

    @property
    def alpha_one_se(self) -> float:
        """The largest alpha whose mean error is within one standard error of the smallest."""
        return float(self.alphas[self.one_se])

    @property
    def coef(self) -> Coef:
        """Coefficients on all blocks at the best alpha."""
        return self.coefs[:, self.best]

    @property
    def coef_one_se(self) -> Coef:
        """Coefficients on all blocks at the one-standard-error choice."""
        return self.coefs[:, self.one_se]

    @property
    def report(self) -> Report:
        """The report of ``coef``."""
        return self.reports[self.best]

    def __str__(self) -> str:
        head = f"{self.errors.shape[1]}-fold cross-validation, {len(self.alphas)} alphas, l1_ratio {self.l1_ratio:g}"
        rows = [("alpha", "mean error", "std error", "atoms", "")]
        order = np.argsort(-self.alphas, kind="stable")
        shown = {order[i] for i in np.linspace(0, len(order) - 1, min(9, len(order))).astype(int)}
        for i in order:
            mark = " ".join(word for word, at in (("best", self.best), ("1 SE", self.one_se)) if at == i)
            if mark or i in shown:
                cells = (f"{self.alphas[i]:.4g}", f"{self.mean[i]:.6g}", f"{self.standard_error[i]:.2g}")
                rows.append((*cells, str(self.reports[i].nonzeros), mark))
        tail = [f"{self.unconverged} fold problems did not reach tol"] if self.unconverged else []
        return "\n".join([head, table(rows), *tail])


def cross_validate(
    data: Data,
    *,
    folds: Union[int, Sequence[int], None] = None,
    l1_ratio: float = 1.0,
    alphas: Any = None,
    n_alphas: int = 100,
    alpha_min_ratio: float | None = None,
    positive: bool = False,
    lower: Any = None,
    upper: Any = None,
    weights: Any = None,
    target: int = 0,
    fold_coefs: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> CrossValidation:
    """K-fold cross-validation of a path of elastic nets (LASSO for l1_ratio = 1, ridge for 0), from the Gram alone.

    Fold k is left out: the training Gram is the sum of the other blocks, its alpha is ``alpha p_-k / p`` (the same per
    entry), and the error is (yy_k - 2 c_k'w + w'G_k w) / p_k, summed as if in twice the precision.  Chosen are the alpha
    of the smallest mean, and the largest within one standard error of it.

    folds: for a pair (A, y), their number (default 5); for a Gram, None (its folds where it has more than one, else its
    modules) or one number per block, 0 .. K-1, -1 = never left out.  alphas, n_alphas, alpha_min_ratio, positive, lower, upper,
    weights, target as in :func:`unmerge.lasso_path`; for ridge the grid begins at the trace of G and ends 1e-9 below it.
    fold_coefs: keep the paths of the folds.  scikit-learn's LassoCV: its alpha times p is this alpha.
    Stone 1974; Breiman et al. 1984 (one standard error).
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        given = None
        if isinstance(data, Gram):
            gram = data
            if isinstance(folds, int):
                raise bad_type("folds is a number, but the Gram is made already: Gram(A, y, folds=...), or one per block")
        else:
            if folds is not None and not isinstance(folds, int):
                raise bad_type("folds is a list, which needs a Gram to name the blocks of; pass their number")
            gram = folded(data, run, 5 if folds is None else folds)
            folds = None
        if folds is None:
            count = ctypes.c_int64()
            given = np.zeros(len(gram.blocks), dtype=np.int64)
            call("gram_folds", gram._handle, integers(given), ctypes.byref(count))
            k = count.value
        else:
            given = np.array([integer(f, "folds") for f in folds], dtype=np.int64)
            blocks = gram._info().blocks
            if given.size != blocks:
                raise bad_shape(f"folds has {given.size} numbers, expected {blocks}, one per block of the Gram")
            k = int(given.max(initial=-1)) + 1
            if k > blocks:
                raise bad_range(f"folds has fold {k - 1}, but the Gram has {blocks} blocks")
        grid, m = alpha_grid(alphas, n_alphas)
        n = gram.atoms
        penalty = _weights(weights, gram)
        options = prepared(
            _ffi.unmerge_cv_options,
            l1_ratio=real(l1_ratio, "l1_ratio"),
            alpha_min_ratio=0.0 if alpha_min_ratio is None else real(alpha_min_ratio, "alpha_min_ratio"),
            n_alphas=m,
            target=integer(target, "target"),
            positive=boolean(positive, "positive"),
        )
        low, high = bounds(lower, upper, n)
        options.alphas, options.weights, options.folds = doubles(grid), doubles(penalty), integers(given)
        options.lower, options.upper = doubles(low), doubles(high)
        curve, errors, coefs = np.zeros((m, 3)), np.zeros((m, k)), np.zeros((n, m))
        paths = np.zeros((n, k * m)) if boolean(fold_coefs, "fold_coefs") else None
        reports = report_array(m)
        result = prepared(_ffi.unmerge_cv_result)
        run.call(
            "cross_validate",
            (gram._handle, ctypes.byref(options)),
            (
                output(curve).pointer,
                output(errors).pointer,
                None if paths is None else output(paths).pointer,
                output(coefs).pointer,
                reports,
                ctypes.byref(result),
            ),
            predicted=_seconds(gram, k * m),
        )
        return CrossValidation(
            alphas=curve[:, 0].copy(),
            mean=curve[:, 1].copy(),
            standard_error=curve[:, 2].copy(),
            best=result.best,
            one_se=result.one_se,
            errors=errors,
            folds=given,
            coefs=coefs,
            reports=from_c(reports),
            fold_coefs=None if paths is None else paths.reshape(n, k, m).transpose(1, 0, 2).copy(),
            unconverged=result.unconverged,
            seconds=result.seconds,
            l1_ratio=float(options.l1_ratio),
        )


def lasso_cv(data: Data, **options: Any) -> CrossValidation:
    """:func:`cross_validate` of the LASSO; options as there, without l1_ratio."""
    return cross_validate(data, l1_ratio=1.0, **options)


def elastic_net_cv(data: Data, *, l1_ratio: float = 0.5, **options: Any) -> CrossValidation:
    """:func:`cross_validate` of the elastic net; options as there."""
    return cross_validate(data, l1_ratio=l1_ratio, **options)


def ridge_cv(data: Data, **options: Any) -> CrossValidation:
    """:func:`cross_validate` of ridge; options as there, without l1_ratio."""
    return cross_validate(data, l1_ratio=0.0, **options)


# ---------------------------------------------------------------- information criteria


@dataclass(frozen=True)
class InformationCriteria:
    """What :func:`information_criteria` found, one number per fit; ``print`` it.

    df : degrees of freedom used.  sigma2 : variance of an entry's error, NaN where each fit has its own.
    ``best["bic"]`` : index of the fit with the smallest BIC; None where it is NaN for all.
    """

    aic: npt.NDArray[np.float64]
    bic: npt.NDArray[np.float64]
    ebic: npt.NDArray[np.float64]
    cp: npt.NDArray[np.float64]
    gcv: npt.NDArray[np.float64]
    df: npt.NDArray[np.float64]
    sigma2: float
    effective: float
    best: dict[str, int | None] = field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("criterion", "best fit", "df", "value")]
        for name in CRITERIA:
            at = self.best[name]
            value = "" if at is None else f"{getattr(self, name)[at]:.6g}"
            rows.append((name.upper(), "-" if at is None else str(at), "" if at is None else f"{self.df[at]:.4g}", value))
        return f"{len(self.df)} fits, {self.effective:g} effective entries\n{table(rows)}"


def information_criteria(
    data: Gram,
    coef: Any,
    df: Any = None,
    *,
    sigma2: Union[float, Literal["full", "unknown"]] = "full",
    gamma: float = 0.5,
    effective: float | None = None,
    target: int = 0,
) -> InformationCriteria:
    """AIC, BIC, EBIC, Mallows' Cp and GCV of fits: the columns of a path, or coefficients of your own.

    coef: n or n x m.  df: m degrees of freedom, or m reports (their ``df``); None = numbers of non-zeros.
    sigma2: variance of an entry's error: "full" (from least squares on all atoms, as scikit-learn's LassoLarsIC), a number,
    or "unknown" (each fit's own; no Cp).  gamma in [0, 1]: of EBIC.  effective: q > 0, the number of entries that are worth
    an independent one; None = all.  Entries of a model are far from independent, so criteria with all of them let far too
    much in: try smaller q and see what changes.  Formulas in ``unmerge.h``.
    Akaike 1974; Schwarz 1978; Chen & Chen 2008; Mallows 1973; Golub, Heath & Wahba 1979.
    """
    if not isinstance(data, Gram):
        raise bad_type(f"data is a {type(data).__name__}, expected the Gram the coefficients come from")
    w = numbers(coef, "coef")
    w = w.reshape(w.shape[0], -1) if w.ndim == 1 else w
    if w.ndim != 2:
        raise bad_shape(f"coef is {w.ndim}-D, expected 1-D or 2-D")
    m = w.shape[1]
    if df is None:
        freedom = np.count_nonzero(w, axis=0).astype(np.float64)
    else:
        items = [df] if isinstance(df, (Report, int, float)) else list(df)
        freedom = np.array([item.df if isinstance(item, Report) else real(item, "df") for item in items])
        if freedom.shape != (m,):
            raise bad_shape(f"df has {freedom.size} numbers, expected {m}, one per column of coef")
    known = isinstance(sigma2, str)
    options = prepared(
        _ffi.unmerge_criteria_options,
        gamma=real(gamma, "gamma"),
        effective=0.0 if effective is None else real(effective, "effective"),
        target=integer(target, "target"),
        sigma=choice(sigma2, "sigma2", SIGMAS) if known else _ffi.UNMERGE_SIGMA_GIVEN,
    )
    if effective is not None and options.effective == 0:
        raise bad_range("effective is 0; it must be > 0, or None for all entries")
    if not known:
        options.sigma2 = real(sigma2, "sigma2")
    found = np.zeros((m, _ffi.UNMERGE_CRITERIA))
    variance = ctypes.c_double()
    call(
        "information_criteria",
        data._handle,
        ctypes.byref(options),
        view(w, "coef").pointer,
        doubles(freedom),
        output(found).pointer,
        ctypes.byref(variance),
    )
    columns = {name: found[:, i].copy() for i, name in enumerate(CRITERIA)}
    best = {name: None if np.isnan(c).all() else int(np.nanargmin(c)) for name, c in columns.items()}
    q = float(data.entries) if effective is None else float(options.effective)
    return InformationCriteria(**columns, df=freedom, sigma2=variance.value, effective=q, best=best)


# ---------------------------------------------------------------- stability selection


@dataclass(frozen=True)
class StabilitySelection:
    """What :func:`stability_selection` found; ``print`` it.

    frequency : share of the halves that select each atom (n).  selected : atoms at or above ``threshold``.
    path : n x m, the share of halves where an atom's coefficient is not 0 at each of ``alphas``, or None.
    mean_selected : atoms a half selects, on average (at most ``q``).
    bound : not below the expected number of falsely selected atoms: of those a half selects with probability
    <= mean_selected / n, how many are selected in all.  bound_unimodal : the smaller bound for unimodal frequencies.
    """

    frequency: npt.NDArray[np.float64]
    selected: list[int]
    threshold: float
    alphas: npt.NDArray[np.float64]
    path: npt.NDArray[np.float64] | None
    halves: int
    q: int
    mean_selected: float
    bound: float
    bound_unimodal: float
    seconds: float

    def __str__(self) -> str:
        order = np.argsort(-self.frequency, kind="stable")
        rows = [("atom", "frequency", "")]
        for j in order[: max(len(self.selected) + 5, 10)]:
            if self.frequency[j] > 0:
                rows.append((str(j), f"{self.frequency[j]:.2f}", "selected" if j in self.selected else ""))
        head = f"{len(self.selected)} of {len(self.frequency)} atoms selected by {self.threshold:g} of {self.halves} halves"
        unimodal = "" if math.isnan(self.bound_unimodal) else f" ({self.bound_unimodal:.3g} for unimodal frequencies)"
        return f"{head}\nfalsely selected, expected: at most {self.bound:.3g}{unimodal}\n{table(rows)}"


def stability_selection(
    data: Data,
    *,
    threshold: float = 0.75,
    q: int = 0,
    pairs: int = 50,
    l1_ratio: float = 1.0,
    alphas: Any = None,
    n_alphas: int = 100,
    alpha_min_ratio: float = 1e-3,
    positive: bool = False,
    lower: Any = None,
    upper: Any = None,
    weights: Any = None,
    target: int = 0,
    path: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> StabilitySelection:
    """Stability selection with complementary pairs of random halves of the blocks, from the Gram alone.

    On each half the path of elastic nets selects the first atoms to enter, at most q of them (0 = floor(sqrt(0.8 n)));
    selected in all is who is selected by ``threshold`` (in (0.5, 1]) of the 2 ``pairs`` halves.  The Gram needs at least 20
    blocks, best ``Gram(A, y, folds=20)`` or more: the bounds ask that blocks are exchangeable, which modules are not.
    path: also the frequencies along the path.  Other options as in :func:`unmerge.lasso_path`; ``seed`` chooses the halves.
    Meinshausen & Buhlmann 2010; Shah & Samworth 2013.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = data if isinstance(data, Gram) else folded(data, run, 2 * FEWEST_BLOCKS)
        grid, m = alpha_grid(alphas, n_alphas)
        penalty = _weights(weights, gram)
        n = gram.atoms
        options = prepared(
            _ffi.unmerge_stability_options,
            l1_ratio=real(l1_ratio, "l1_ratio"),
            alpha_min_ratio=real(alpha_min_ratio, "alpha_min_ratio"),
            threshold=real(threshold, "threshold"),
            q=integer(q, "q", INT64),
            pairs=integer(pairs, "pairs", INT64),
            n_alphas=m,
            target=integer(target, "target"),
            positive=boolean(positive, "positive"),
        )
        low, high = bounds(lower, upper, n)
        options.alphas, options.weights = doubles(grid), doubles(penalty)
        options.lower, options.upper = doubles(low), doubles(high)
        found, frequency = np.zeros(m), np.zeros(n)
        along = np.zeros((n, m)) if boolean(path, "path") else None
        result = prepared(_ffi.unmerge_stability_result)
        run.call(
            "stability_selection",
            (gram._handle, ctypes.byref(options)),
            (
                doubles(found),
                doubles(frequency),
                None if along is None else output(along).pointer,
                ctypes.byref(result),
            ),
            predicted=_seconds(gram, options.pairs),
        )
        order = np.argsort(-frequency, kind="stable")[: result.selected]
        return StabilitySelection(
            frequency=frequency,
            selected=sorted(int(j) for j in order),
            threshold=float(options.threshold),
            alphas=found,
            path=along,
            halves=result.halves,
            q=result.q,
            mean_selected=result.mean_selected,
            bound=result.bound,
            bound_unimodal=result.bound_unimodal,
            seconds=result.seconds,
        )


# ---------------------------------------------------------------- shared


def folded(data: Any, run: Run, folds: int) -> Gram:
    """A Gram with folds, made on the way from a pair or an Operator that carries a target."""
    if isinstance(data, Operator):
        if data._target is None:
            raise bad_type("data is an Operator without a target; pass (operator, y) or operator.with_target(y)")
        data = (data, data._target)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise bad_type(f"data is a {type(data).__name__}, expected a Gram, a pair (A, y) or an Operator with a target")
    gram = Gram.__new__(Gram)
    gram._create(data[0], data[1], run, blocks="one", folds=folds)
    return gram


def alpha_grid(alphas: Any, n_alphas: int) -> tuple[npt.NDArray[np.float64] | None, int]:
    """The caller's alphas, or None for the library's grid; and their number."""
    grid = None if alphas is None else numbers(alphas, "alphas").reshape(-1)
    count = integer(n_alphas, "n_alphas") if grid is None else grid.size
    if not 1 <= count <= 10_000_000:  # before n x n_alphas numbers are allocated
        raise bad_range(f"n_alphas is {count}; it must be between 1 and 10000000")
    return grid, count


def table(rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns, the first row being their names."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)
