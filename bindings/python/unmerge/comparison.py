"""compare: every method that applies, on one target, from one Gram, in one table.

    gram = unmerge.Gram(A, y, folds=5)             # the one pass over the data
    print(unmerge.compare(gram))                   # the best by cross-validation first
    print(unmerge.compare(base="base/", atoms=["medicine/", "law/"], target="merged/"))

A method here is a procedure that needs no option: a penalty, a number of atoms is chosen by EBIC (or BIC) on a grid.  Where
the Gram has folds or modules each procedure, choice included, is repeated without each of them, and scored by what it predicts
there.  A method that fails keeps its row, with the reason.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Union

import numpy as np

from . import _ffi
from ._assemble import assemble
from ._files import write_atomically
from ._options import choice, integer, real
from ._run import ProgressOption, Run
from .bayes import garrote_path, sparse_bayes, spike_slab
from .constrained import basis_pursuit, bpdn, bvls, dantzig, lasso_tau, simplex
from .decomposition import MAX_BLOCK_BYTES, Model, _base, _named
from .errors import Cancelled, DeadlinePassed, UnmergeError, bad_range, bad_type
from .files import read
from .gram import Gram, Precision
from .greedy import (
    best_subset,
    cosamp,
    htp,
    iht,
    matching_pursuit,
    ols_pursuit,
    pursuit,
    subspace_pursuit,
)
from .groups import group_lasso, sparse_group_lasso
from .methods import Coef, Data, dot, elastic_net, lasso, lasso_path, nnls, ridge
from .nonconvex import cel0, lq, mcp, scad
from .report import Report
from .selection import folded, table
from .structured import benjamini_hochberg_weights, fused_lasso, slope

Criterion = Literal["cv", "ebic", "bic"]
Choose = Literal["ebic", "bic"]
MOST_FOLDS = 20  # modules beyond it are not left out one by one: their errors would say little more
GRID = 30  # penalties tried by a method that has a path, and the largest number of atoms
COARSE = 12  # penalties tried by a method that starts anew at each


@dataclass(frozen=True)
class Compared:
    """One method's answer.

    support : atoms inside: coefficients that are not 0, or an inclusion probability above 1/2.  coef : n coefficients.
    residual : ||Aw-y|| / ||y||.  df : degrees of freedom.  bic : q ln(rss / p) + ln(q) df.  ebic : bic + ln C(n, df).
    cv, cv_error : mean squared error per entry on what was left out, its standard error; NaN without folds.
    certificate : what the report proves, in words.  options : what was chosen.  report : None where the method has none.
    seconds : of the answer, without cross-validation.
    failure : the sentence of a method that could not answer (its numbers are NaN) or not be cross-validated; else None.
    """

    method: str
    support: list[int]
    coef: Coef
    residual: float
    df: float
    bic: float
    ebic: float
    cv: float
    cv_error: float
    certificate: str
    options: dict[str, Any]
    report: Report | None
    seconds: float
    failure: str | None = None


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``print`` it.  ``rows`` begin with the smallest ``criterion`` and end with what failed.

    choose : the rule of the options.  left_out : methods that do not apply, with the reason.  names : of the atoms.
    effective : q of the criteria.  folds : K, 0 = none.
    """

    rows: list[Compared]
    criterion: str
    choose: str
    names: list[str]
    folds: int
    effective: float
    entries: int
    left_out: dict[str, str]
    seconds: float

    @property
    def best(self) -> Compared:
        """The row with the smallest criterion."""
        return self.rows[0]

    def __getitem__(self, method: str) -> Compared:
        """The row of a method."""
        for row in self.rows:
            if row.method == method:
                return row
        raise KeyError(method)

    def __str__(self) -> str:
        cells = [("method", "atoms", "residual", "cv error", "BIC", "seconds", "certificate", "weights")]
        for row in self.rows:
            largest = sorted(row.support, key=lambda j: -abs(row.coef[j]))
            weights = ", ".join(f"{self.names[j]} {row.coef[j]:.3g}" for j in largest[:4]) + (", ..." if len(largest) > 4 else "")
            error = "-" if math.isnan(row.cv) else f"{row.cv:.5g} ± {row.cv_error:.1g}"
            numbers = (str(len(row.support)), f"{row.residual:.4f}", error, f"{row.bic:.6g}", f"{row.seconds:.3f}")
            if row.failure is not None and math.isnan(row.residual):
                numbers = ("-", "-", "-", "-", f"{row.seconds:.3f}")
            certificate = row.certificate if row.failure is None else f"{row.certificate} FAILED: {row.failure}".strip()
            cells.append((row.method, *numbers, certificate, weights))
        by = "cross-validation error" if self.criterion == "cv" else self.criterion.upper()
        over = f", {self.folds} folds" if self.folds else ""
        head = f"{len(self.rows)} methods from one Gram, {len(self.names)} atoms, {self.entries} entries{over}; smallest {by} first"
        rule = f"options by {self.choose.upper()}"
        why = [f"left out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join([f"{head}; {rule}", table(cells), *why])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: None for NaN and infinity, weights by name over the support."""
        rows = []
        for row in self.rows:
            values: dict[str, Any] = {k: _plain(v) for k, v in asdict(row).items() if k not in ("coef", "report", "support")}
            values["support"] = [self.names[j] for j in row.support]
            values["weights"] = {self.names[j]: float(row.coef[j]) for j in row.support}
            values["report"] = None if row.report is None else row.report.to_dict()
            rows.append(values)
        kept = ("criterion", "choose", "names", "folds", "effective", "entries", "left_out", "seconds")
        rest = {k: _plain(getattr(self, k)) for k in kept}
        return rest | {"rows": rows}

    def to_json(self, path: Union[str, os.PathLike[str], None] = None) -> str:
        """The dict as JSON text; also written to ``path`` when given."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        if path is not None:
            write_atomically(path, text.encode("utf-8"))
        return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- the methods


@dataclass(frozen=True)
class _Answer:
    coef: Coef
    report: Report | None
    options: dict[str, Any]
    support: list[int] | None = None
    df: float | None = None
    certificate: str | None = None


Fit = tuple[Coef, Report, dict[str, Any]]


@dataclass(frozen=True)
class _Problem:
    gram: Gram
    q: float
    rule: str
    groups: Any
    run: dict[str, Any]

    def score(self, rule: str, rss: float, df: float) -> float:
        """BIC, or EBIC with gamma = 1/2, with q independent entries."""
        # What an exact fit leaves is rounding, not evidence.
        floor = 1e-14 * max(float(self.gram.arrays().yy[0]), 1e-300)
        bic = self.q * math.log(max(rss, floor) / max(self.gram.entries, 1)) + math.log(max(self.q, 2.0)) * df
        n, inside = float(self.gram.atoms), min(max(df, 0.0), float(self.gram.atoms))
        subsets = math.lgamma(n + 1) - math.lgamma(inside + 1) - math.lgamma(n - inside + 1)
        return bic + subsets if rule == "ebic" else bic

    def choose(self, fits: list[Fit]) -> _Answer:
        """The fit with the smallest criterion."""
        scores = [self.score(self.rule, report.rss, _df(coef, report)) for coef, report, _ in fits]
        return _Answer(*fits[int(np.argmin(scores))])


def _df(coef: Coef, report: Report | None) -> float:
    return float(np.count_nonzero(coef)) if report is None or math.isnan(report.df) else report.df


Procedure = Callable[[_Problem], _Answer]


def _as_it_is(method: Callable[..., Any], **options: Any) -> Procedure:
    def run(p: _Problem) -> _Answer:
        coef, report = method(p.gram, **options, **p.run)
        return _Answer(coef, report, options)

    return run


def _on_grid(method: Callable[..., Any], option: str, values: Any, **options: Any) -> Procedure:
    """The option as a fraction of what gives 0."""

    def run(p: _Problem) -> _Answer:
        given = [options | {option: float(x), "relative": True} for x in values]
        return p.choose([(*method(p.gram, **o, **p.run), o) for o in given])

    return run


def _with_groups(method: Callable[..., Any]) -> Procedure:
    return lambda p: _on_grid(method, "alpha", np.geomspace(1e-3, 1, COARSE), groups=p.groups)(p)


def _of_each_size(method: Callable[..., Any]) -> Procedure:
    def run(p: _Problem) -> _Answer:
        fits: list[Fit] = []
        for k in range(1, max(1, min(p.gram.atoms, GRID)) + 1):
            coef, report = method(p.gram, k=k, **p.run)
            fits.append((coef, report, {"k": k}))
            if report.nonzeros < k:
                break
        return p.choose(fits)

    return run


def _sized(method: Callable[..., Any]) -> Procedure:
    """A method that chooses its number of atoms by the same criterion."""

    def run(p: _Problem) -> _Answer:
        k = max(1, min(p.gram.atoms, GRID))
        coef, report = method(p.gram, k=k, size=p.rule, effective=max(p.q, 3.0), **p.run)
        return _Answer(coef, report, {"k": int(np.count_nonzero(coef))})

    return run


def _ridge(p: _Problem) -> _Answer:
    size = float(np.mean(np.diag(p.gram.arrays().G)))
    grid = [size * x for x in np.geomspace(1e-8, 10, GRID)]
    return p.choose([(*ridge(p.gram, alpha=a, **p.run), {"alpha": a}) for a in grid])


def _lasso(p: _Problem) -> _Answer:
    alphas, coefs, reports = lasso_path(p.gram, n_alphas=GRID, **p.run)
    scores = [p.score(p.rule, r.rss, _df(coefs[:, i], r)) for i, r in enumerate(reports)]
    alpha = float(alphas[int(np.argmin(scores))])
    return _Answer(*lasso(p.gram, alpha=alpha, **p.run), {"alpha": alpha})


def _lasso_tau(p: _Problem) -> _Answer:
    size = float(np.abs(ridge(p.gram, alpha=0, **p.run)[0]).sum())
    grid = [size * x for x in np.linspace(1 / GRID, 1, GRID)]
    return p.choose([(*lasso_tau(p.gram, tau=tau, **p.run), {"tau": tau}) for tau in grid])


def _bpdn(p: _Problem) -> _Answer:
    """sigma: the noise that least squares leave, sqrt(p rss / (p - n)) in the norm of p entries."""
    _, report = ridge(p.gram, alpha=0, **p.run)
    rows = p.gram.entries
    noise = math.sqrt(report.rss * rows / max(rows - p.gram.atoms, 1))
    sigma = min(max(noise, 1e-6 * math.sqrt(report.yy)), math.sqrt(report.yy))
    return _Answer(*bpdn(p.gram, sigma=sigma, **p.run), {"sigma": sigma})


def _slope(p: _Problem) -> _Answer:
    weights = benjamini_hochberg_weights(p.gram.atoms)
    answer = _on_grid(slope, "alpha", np.geomspace(1e-3, 1, COARSE), weights=weights)(p)
    return replace(answer, options={k: v for k, v in answer.options.items() if k != "weights"} | {"q": 0.1})


def _garrote(p: _Problem) -> _Answer:
    f = garrote_path(p.gram, n_gammas=GRID, held_out=False, effective=p.q, **p.run)
    i = f.bic
    strict = "a strict minimum" if "local_minimum" in f.reports[i].flags else f.reports[i].outcome
    certificate = f"{strict}, violation {f.reports[i].violation:.0e}"
    support = [int(j) for j in np.flatnonzero(f.inclusion[:, i] > 0.5)]
    return _Answer(f.coefs[:, i], f.reports[i], {"gamma": float(f.gammas[i])}, support, float(f.expected[i]), certificate)


def _sparse_bayes(p: _Problem) -> _Answer:
    f = sparse_bayes(p.gram, effective=p.q, **p.run)
    return _Answer(f.coef, f.report, {"sigma2": f.sigma2})


def _spike_slab(p: _Problem) -> _Answer:
    # A slab of one entry's worth of information (unit information; Kass & Wasserman 1995).
    G = p.gram.arrays().G
    size = float(np.mean(np.diag(G)))
    slab = p.gram.entries / size if size > 0 else 1.0
    run = {k: v for k, v in p.run.items() if k in ("deadline", "threads", "progress")}
    f = spike_slab(p.gram, slab=slab, effective=p.q, **run)
    options = {"prior": 0.5, "slab": slab}
    return _Answer(f.coef, None, options, f.selected, float(f.inclusion.sum()), f"exact, {f.sets} sets")


_FINE, _FEW = np.geomspace(1e-3, 1, GRID), np.geomspace(1e-3, 1, COARSE)

# Every method that answers for one target from a Gram.  A new one is a row here.
METHODS: dict[str, Procedure] = {
    "dot": _as_it_is(dot, variant="projection"),
    "least_squares": _as_it_is(ridge, alpha=0.0),
    "ridge": _ridge,
    "nnls": _as_it_is(nnls),
    "bvls": _as_it_is(bvls, lower=0.0, upper=1.0),
    "simplex": _as_it_is(simplex, total=1.0),
    "lasso": _lasso,
    "elastic_net": _on_grid(elastic_net, "alpha", _FINE, l1_ratio=0.5),
    "lasso_tau": _lasso_tau,
    "bpdn": _bpdn,
    "basis_pursuit": _as_it_is(basis_pursuit),
    "dantzig": _on_grid(dantzig, "delta", _FEW),
    "slope": _slope,
    "fused_lasso": _on_grid(fused_lasso, "alpha", _FEW, l1_ratio=0.5),
    "group_lasso": _with_groups(group_lasso),
    "sparse_group_lasso": _with_groups(sparse_group_lasso),
    "omp": _sized(pursuit),
    "ols_pursuit": _sized(ols_pursuit),
    "matching_pursuit": _of_each_size(matching_pursuit),
    "iht": _of_each_size(iht),
    "htp": _of_each_size(htp),
    "cosamp": _of_each_size(cosamp),
    "subspace_pursuit": _of_each_size(subspace_pursuit),
    "best_subset": _sized(best_subset),
    "mcp": _on_grid(mcp, "alpha", _FEW),
    "scad": _on_grid(scad, "alpha", _FEW),
    # What an atom lowers the residual by goes with the square of its weight.
    "cel0": _on_grid(cel0, "alpha", _FEW**2),
    "lq": _on_grid(lq, "alpha", _FEW),
    "garrote": _garrote,
    "sparse_bayes": _sparse_bayes,
    "spike_slab": _spike_slab,
}


def _refusal(name: str, gram: Gram, groups: Any, named: bool) -> str | None:
    """Why a method does not apply."""
    usable = int(np.count_nonzero(np.diag(gram.arrays().G)))
    if name == "spike_slab" and usable > 20:
        return f"{usable} atoms, enumeration takes 20"
    if name in ("group_lasso", "sparse_group_lasso") and groups is None:
        return "no groups were given"
    if name == "fused_lasso" and not named:
        return "the order of the atoms has to mean something; name it to have it"
    return None


def _certificate(report: Report) -> str:
    flags = " (fully explained)" if "fully_explained" in report.flags else ""
    if not report.converged and not flags:
        return report.outcome
    if not math.isnan(report.relative_gap):
        return f"gap {report.relative_gap:.0e}{flags}"
    if math.isnan(report.violation):
        return "closed form"
    strict = "a strict minimum, " if "local_minimum" in report.flags else ""
    return f"{strict}violation {report.violation:.0e}{flags}"


# ---------------------------------------------------------------- compare


def compare(
    data: Data | None = None,
    *,
    target: Model | int | None = None,
    atoms: Union[Sequence[Model], Mapping[str, Model], None] = None,
    base: Model | None = None,
    methods: Sequence[str] | None = None,
    without: Sequence[str] = (),
    groups: Any = None,
    criterion: Criterion | None = None,
    choose: Choose = "ebic",
    effective: float | None = None,
    folds: int = 5,
    precision: Precision = "auto",
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Comparison:
    """Runs every method that applies on one target from one Gram; the one with the smallest criterion first.

    Parameters
    ----------
    data : a Gram or a pair (A, y); or None and ``target``, ``atoms``, ``base`` as in :func:`decompose`.  With data, ``target``
        is the index of the target, which several need: ``[compare(gram, target=t) for t in range(gram.targets)]``.
    methods : names of :data:`METHODS`; None = all that apply.  Left out then: spike_slab above 20 atoms, group_lasso and
        sparse_group_lasso without ``groups``, fused_lasso unless named.  ``without``: names to leave out.
    groups : of the group methods, as in :func:`group_lasso`.
    criterion : "cv", the mean squared error on folds left out; "bic", q ln(rss / p) + ln(q) df; "ebic", that + ln C(n, df);
        None = "cv" where there are 2 to 20 folds or modules, else ``choose``.
    choose : "ebic" or "bic", of the options: penalties on a grid from 1e-3 of what gives 0, numbers of atoms up to 30.
        bpdn takes the noise that least squares leave for sigma; bvls has weights in [0, 1], simplex such that sum to 1.
    effective : q > 0, the number of entries that are worth an independent one, for BIC, EBIC and the Bayesian methods; None = all.
    folds : K of the Gram that is made from a pair or from files.
    deadline : of everything; methods it does not leave time for fail.

    Raises what a method raised only where none has an answer.
    """
    began = time.monotonic()
    for name in (*(methods or ()), *without):
        choice(name, "methods", {m: 0 for m in METHODS})
    chosen = [name for name in (METHODS if methods is None else dict.fromkeys(methods)) if name not in without]
    if not chosen:
        raise bad_range("methods and without leave no method")
    if criterion is not None:
        choice(criterion, "criterion", {"cv": 0, "ebic": 0, "bic": 0})
    choice(choose, "choose", {"ebic": 0, "bic": 0})
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as outer:
        whole, names = _gram(data, target, atoms, base, integer(folds, "folds"), precision, seed, deadline, threads, outer)
        index = _index(whole, target if data is not None else None)
        gram = _one_target(whole, index)
        q = float(gram.entries) if effective is None else real(effective, "effective")
        if not (q > 0 and math.isfinite(q)):
            raise bad_range(f"effective is {q}; it must be finite and > 0")
        parts = _groups(whole)
        by = criterion or ("cv" if parts else choose)
        if by == "cv" and not parts:
            raise bad_range(f"criterion is 'cv', but the Gram has no 2 to {MOST_FOLDS} folds or modules; make it with folds=5")

        def left() -> float:
            if deadline <= 0:
                return 0.0
            rest = deadline - (time.monotonic() - began)
            if rest <= 0:
                raise DeadlinePassed("the deadline had passed", _ffi.UNMERGE_E_DEADLINE)
            return rest

        def problem(g: Gram) -> _Problem:
            run = {"tol": tol, "max_iter": max_iter, "deadline": left(), "threads": threads, "seed": seed, "progress": outer.reporter}
            return _Problem(g, q * g.entries / max(gram.entries, 1), choose, groups, run)

        pairs = parts if by == "cv" else []
        training = [(_one_target(whole.subset(blocks=a), index), _one_target(whole.subset(blocks=b), index)) for a, b in pairs]
        rows, left_out = [], {}
        failures: list[UnmergeError] = []
        for name in chosen:
            reason = _refusal(name, gram, groups, methods is not None)
            if reason is not None:
                left_out[name] = reason
                continue
            rows.append(_row(name, problem, gram, training, failures))
        if not rows:
            raise bad_range(f"none of the methods applies: {left_out}")
        if len(failures) == len(rows):
            raise failures[0]

    def place(row: Compared) -> tuple[bool, float]:
        value = float(getattr(row, by))
        return math.isnan(value), value

    rows.sort(key=place)
    return Comparison(
        rows=rows,
        criterion=by,
        choose=choose,
        names=names,
        folds=len(training),
        effective=q,
        entries=gram.entries,
        left_out=left_out,
        seconds=time.monotonic() - began,
    )


def _row(
    name: str, problem: Callable[[Gram], _Problem], gram: Gram, training: list[tuple[Gram, Gram]], failures: list[UnmergeError]
) -> Compared:
    """One method's row; ``failures`` grows by the error of one without an answer."""
    start = time.monotonic()
    nan = math.nan
    try:
        p = problem(gram)
        answer = METHODS[name](p)
    except Cancelled:
        raise
    except UnmergeError as error:
        failures.append(error)
        coef = np.full(gram.atoms, nan)
        seconds = time.monotonic() - start
        return Compared(name, [], coef, nan, nan, nan, nan, nan, nan, "", {}, None, seconds, str(error))
    seconds = time.monotonic() - start
    failure = None
    errors: list[float] = []
    try:
        errors = [_squared_error(held, METHODS[name](problem(rest)).coef) / max(held.entries, 1) for rest, held in training]
    except Cancelled:
        raise
    except UnmergeError as error:
        failure = f"no cross-validation: {error}"
    yy = float(gram.arrays().yy[0])
    rss = _squared_error(gram, answer.coef)
    df = _df(answer.coef, answer.report) if answer.df is None else answer.df
    k = len(errors)
    words = answer.certificate or ("" if answer.report is None else _certificate(answer.report))
    return Compared(
        method=name,
        support=[int(j) for j in np.flatnonzero(answer.coef)] if answer.support is None else answer.support,
        coef=answer.coef,
        residual=math.sqrt(rss / yy) if yy > 0 else 0.0,
        df=df,
        bic=p.score("bic", rss, df),
        ebic=p.score("ebic", rss, df),
        cv=float(np.mean(errors)) if k else nan,
        cv_error=float(np.std(errors, ddof=1) / math.sqrt(k)) if k > 1 else nan,
        certificate=words,
        options=answer.options,
        report=answer.report,
        seconds=seconds,
        failure=failure,
    )


def _squared_error(gram: Gram, w: Coef) -> float:
    G, C, yy = gram.arrays()
    return max(0.0, float(yy[0] - 2 * C[:, 0] @ w + w @ G @ w))


def _groups(gram: Gram) -> list[tuple[list[int], list[int]]]:
    """Blocks to train on and blocks to leave out: the folds where there is more than one, else the modules."""
    blocks = gram.blocks
    keys = [b.fold for b in blocks] if len({b.fold for b in blocks}) > 1 else [b.module for b in blocks]
    kinds = list(dict.fromkeys(keys))
    if not 2 <= len(kinds) <= MOST_FOLDS:
        return []
    parts = [[i for i, key in enumerate(keys) if key == kind] for kind in kinds]
    if any(sum(blocks[i].entries for i in part) == 0 for part in parts):
        return []
    return [([i for i in range(len(keys)) if i not in part], part) for part in parts]


def _gram(
    data: Data | None,
    target: Any,
    atoms: Any,
    base: Any,
    folds: int,
    precision: Precision,
    seed: int,
    deadline: float,
    threads: int,
    outer: Run,
) -> tuple[Gram, list[str]]:
    """The complete Gram, and the names of its atoms."""
    if data is None:
        if target is None or atoms is None or isinstance(target, int):
            raise bad_type("compare needs data (a Gram, a pair or an Operator), or target and atoms as decompose does")
        paths = _named(atoms)
        sources = {name: read(model, name) for name, model in paths.items()}
        problem = assemble(_base(base), sources, read(target, "target"))
        # Folds inside modules where their blocks fit in memory; one sum per fold else.
        many = 8 * len(paths) ** 2 * len(problem.used) * folds > MAX_BLOCK_BYTES
        options: dict[str, Any] = {"threads": threads, "seed": seed, "deadline": deadline, "progress": outer.reporter}
        gram = Gram(
            problem.atoms, problem.target, precision=precision, blocks="one" if many else "module", folds=folds, **options
        )
        return gram, list(paths)
    if atoms is not None or base is not None:
        raise bad_type("give either data, or target, atoms and base")
    gram = data if isinstance(data, Gram) else folded(data, outer, folds)
    if gram.columns < gram.atoms:
        raise bad_range('the Gram has its columns on demand; make it with columns="all" to compare methods')
    return gram, [str(j) for j in range(gram.atoms)]


def _index(gram: Gram, target: Any) -> int:
    if target is None:
        if gram.targets == 1:
            return 0
        raise bad_range(f"the Gram has {gram.targets} targets; choose one: target=0 to {gram.targets - 1}")
    index = integer(target, "target")
    if not 0 <= index < gram.targets:
        raise bad_range(f"target is {index}; it must be in [0, {gram.targets})")
    return index


def _one_target(gram: Gram, index: int) -> Gram:
    """One target as a vector; of several, the sum of the blocks."""
    if gram.targets == 1 and gram._vector:
        return gram
    G, C, yy = gram.arrays()
    return Gram.from_arrays(G, C[:, index].copy(), float(yy[index]), gram.entries)
