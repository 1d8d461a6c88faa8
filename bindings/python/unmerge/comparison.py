"""compare: every method that applies, on one target, from one Gram, in one table.

    gram = unmerge.Gram(A, y, folds=5)             # the one pass over the data
    print(unmerge.compare(gram))                   # the best by cross-validation first
    print(unmerge.compare(base="base/", atoms=["medicine/", "law/"], target="merged/"))

A method here is a procedure that needs no option: a penalty is chosen by BIC along its path.  Where the Gram has folds or
modules each procedure, choice included, is repeated without each of them, and scored by what it predicts there.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Union

import numpy as np

from ._assemble import assemble
from ._files import write_atomically
from ._options import choice, integer, real
from ._run import ProgressOption, Run
from .bayes import garrote_path, sparse_bayes, spike_slab
from .decomposition import MAX_BLOCK_BYTES, Model, _base, _named
from .errors import DeadlinePassed, bad_range, bad_type
from .files import read
from .gram import Gram, Precision
from .methods import Coef, Data, elastic_net, lasso, lasso_path, nnls, omp, ridge
from .nonconvex import mcp, scad
from .report import Report
from .selection import folded, table

Criterion = Literal["cv", "bic"]
METHODS = (
    "least_squares",
    "ridge",
    "nnls",
    "lasso",
    "elastic_net",
    "omp",
    "mcp",
    "scad",
    "garrote",
    "sparse_bayes",
    "spike_slab",
)
MOST_FOLDS = 20  # modules beyond it are not left out one by one: their errors would say little more
GRID = 30  # penalties tried by a method that has one


@dataclass(frozen=True)
class Compared:
    """One method's answer.

    support : atoms inside: coefficients that are not 0, or an inclusion probability above 1/2.  coef : n coefficients.
    residual : ||Aw-y|| / ||y||.  df : degrees of freedom used by BIC.  bic : q ln(rss / p) + ln(q) df.
    cv, cv_error : mean squared error per entry on what was left out, its standard error; NaN without folds.
    certificate : what the report proves, in words.  options : what was chosen.  report : None where the method has none.
    seconds : of the answer, without cross-validation.
    """

    method: str
    support: list[int]
    coef: Coef
    residual: float
    df: float
    bic: float
    cv: float
    cv_error: float
    certificate: str
    options: dict[str, Any]
    report: Report | None
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``print`` it.  ``rows`` begin with the smallest ``criterion``.

    left_out : methods that did not run, with the reason.  names : of the atoms.  effective : q of the BIC.  folds : K, 0 = none.
    """

    rows: list[Compared]
    criterion: str
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
            cells.append((row.method, *numbers, row.certificate, weights))
        by = "cross-validation error" if self.criterion == "cv" else "BIC"
        over = f", {self.folds} folds" if self.folds else ""
        head = f"{len(self.rows)} methods from one Gram, {len(self.names)} atoms, {self.entries} entries{over}; smallest {by} first"
        why = [f"left out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join([head, table(cells), *why])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: None for NaN and infinity, weights by name over the support."""
        rows = []
        for row in self.rows:
            values: dict[str, Any] = {k: _plain(v) for k, v in asdict(row).items() if k not in ("coef", "report", "support")}
            values["support"] = [self.names[j] for j in row.support]
            values["weights"] = {self.names[j]: float(row.coef[j]) for j in row.support}
            values["report"] = None if row.report is None else row.report.to_dict()
            rows.append(values)
        rest = {k: _plain(getattr(self, k)) for k in ("criterion", "names", "folds", "effective", "entries", "left_out", "seconds")}
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


@dataclass(frozen=True)
class _Problem:
    gram: Gram
    q: float
    run: dict[str, Any]

    def bic(self, rss: float, df: float) -> float:
        # What an exact fit leaves is rounding, not evidence.
        floor = 1e-14 * max(float(self.gram.arrays().yy[0]), 1e-300)
        return self.q * math.log(max(rss, floor) / max(self.gram.entries, 1)) + math.log(max(self.q, 2.0)) * df

    def choose(self, fits: list[tuple[Coef, Report, dict[str, Any]]]) -> _Answer:
        """The fit with the smallest BIC."""
        scores = [self.bic(report.rss, _df(coef, report)) for coef, report, _ in fits]
        return _Answer(*fits[int(np.argmin(scores))])


def _df(coef: Coef, report: Report | None) -> float:
    return float(np.count_nonzero(coef)) if report is None or math.isnan(report.df) else report.df


def _least_squares(p: _Problem) -> _Answer:
    return _Answer(*ridge(p.gram, alpha=0, **p.run), {})


def _ridge(p: _Problem) -> _Answer:
    size = float(np.mean(np.diag(p.gram.arrays().G)))
    grid = [size * x for x in np.geomspace(1e-8, 10, GRID)]
    return p.choose([(*ridge(p.gram, alpha=a, **p.run), {"alpha": a}) for a in grid])


def _nnls(p: _Problem) -> _Answer:
    return _Answer(*nnls(p.gram, **p.run), {})


def _lasso(p: _Problem) -> _Answer:
    alphas, coefs, reports = lasso_path(p.gram, n_alphas=GRID, **p.run)
    scores = [p.bic(r.rss, _df(coefs[:, i], r)) for i, r in enumerate(reports)]
    alpha = float(alphas[int(np.argmin(scores))])
    return _Answer(*lasso(p.gram, alpha=alpha, **p.run), {"alpha": alpha})


def _elastic_net(p: _Problem) -> _Answer:
    fits = []
    for alpha in np.geomspace(1e-3, 1, GRID):
        options: dict[str, Any] = {"alpha": float(alpha), "l1_ratio": 0.5, "relative": True}
        fits.append((*elastic_net(p.gram, **options, **p.run), options))
    return p.choose(fits)


def _omp(p: _Problem) -> _Answer:
    most = max(1, min(p.gram.atoms, GRID))
    fits: list[tuple[Coef, Report, dict[str, Any]]] = []
    for k in range(1, most + 1):
        coef, report = omp(p.gram, k=k, **p.run)
        fits.append((coef, report, {"k": k}))
        if report.nonzeros < k:
            break
    return p.choose(fits)


def _concave(method: Callable[..., Any]) -> Callable[[_Problem], _Answer]:
    def run(p: _Problem) -> _Answer:
        grid = [float(a) for a in np.geomspace(1e-3, 1, 12)]
        return p.choose([(*method(p.gram, alpha=a, relative=True, **p.run), {"alpha": a, "relative": True}) for a in grid])

    return run


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


_RUN: dict[str, Callable[[_Problem], _Answer]] = {
    "least_squares": _least_squares,
    "ridge": _ridge,
    "nnls": _nnls,
    "lasso": _lasso,
    "elastic_net": _elastic_net,
    "omp": _omp,
    "mcp": _concave(mcp),
    "scad": _concave(scad),
    "garrote": _garrote,
    "sparse_bayes": _sparse_bayes,
    "spike_slab": _spike_slab,
}


def _refusal(name: str, gram: Gram) -> str | None:
    """Why a method does not apply."""
    usable = int(np.count_nonzero(np.diag(gram.arrays().G)))
    if name == "spike_slab" and usable > 20:
        return f"{usable} atoms, enumeration takes 20"
    return None


def _certificate(report: Report) -> str:
    flags = " (fully explained)" if "fully_explained" in report.flags else ""
    if not report.converged and not flags:
        return report.outcome
    if not math.isnan(report.relative_gap):
        return f"gap {report.relative_gap:.0e}{flags}"
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
    criterion: Criterion | None = None,
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
    data : a Gram, a pair (A, y) or an Operator with a target; or None and ``target``, ``atoms``, ``base`` as in
        :func:`decompose`.  With data, ``target`` is the index of the target (default 0).
    methods : some of "least_squares", "ridge", "nnls", "lasso", "elastic_net", "omp", "mcp", "scad", "garrote",
        "sparse_bayes", "spike_slab"; None = all that apply (spike_slab: up to 20 atoms).
    criterion : "cv", the mean squared error on folds left out, or "bic", q ln(rss / p) + ln(q) df; None = "cv" where there are
        2 to 20 folds or modules, else "bic".
    effective : q > 0, the number of entries that are worth an independent one, for BIC and the Bayesian methods; None = all.
    folds : K of the Gram that is made from a pair or from files.
    """
    began = time.monotonic()
    chosen = list(METHODS if methods is None else methods)
    for name in chosen:
        choice(name, "methods", {m: 0 for m in METHODS})
    if criterion is not None:
        choice(criterion, "criterion", {"cv": 0, "bic": 0})
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as outer:
        gram, names = _gram(data, target, atoms, base, integer(folds, "folds"), precision, seed, deadline, threads, outer)
        q = float(gram.entries) if effective is None else real(effective, "effective")
        if not (q > 0 and math.isfinite(q)):
            raise bad_range(f"effective is {q}; it must be finite and > 0")
        groups = _groups(gram)
        by = criterion or ("cv" if groups else "bic")
        if by == "cv" and not groups:
            raise bad_range(f"criterion is 'cv', but the Gram has no 2 to {MOST_FOLDS} folds or modules; make it with folds=5")

        def left() -> float:
            if deadline <= 0:
                return 0.0
            rest = deadline - (time.monotonic() - began)
            if rest <= 0:
                raise DeadlinePassed("deadline passed before every method had answered")
            return rest

        def problem(g: Gram) -> _Problem:
            run = {"tol": tol, "max_iter": max_iter, "deadline": left(), "threads": threads, "seed": seed, "progress": outer.reporter}
            return _Problem(g, q * g.entries / max(gram.entries, 1), run)

        training = [(gram.subset(blocks=rest), gram.subset(blocks=held)) for rest, held in groups] if by == "cv" else []
        rows, left_out = [], {}
        for name in chosen:
            reason = _refusal(name, gram)
            if reason is not None:
                left_out[name] = reason
                continue
            rows.append(_row(name, problem, gram, training))
        if not rows:
            raise bad_range(f"none of the methods applies: {left_out}")
    rows.sort(key=lambda row: row.cv if by == "cv" else row.bic)
    return Comparison(
        rows=rows,
        criterion=by,
        names=names,
        folds=len(training),
        effective=q,
        entries=gram.entries,
        left_out=left_out,
        seconds=time.monotonic() - began,
    )


def _row(name: str, problem: Callable[[Gram], _Problem], gram: Gram, training: list[tuple[Gram, Gram]]) -> Compared:
    start = time.monotonic()
    p = problem(gram)
    answer = _RUN[name](p)
    seconds = time.monotonic() - start
    yy = float(gram.arrays().yy[0])
    rss = _squared_error(gram, answer.coef)
    df = _df(answer.coef, answer.report) if answer.df is None else answer.df
    errors = [_squared_error(held, _RUN[name](problem(rest)).coef) / held.entries for rest, held in training]
    k = len(errors)
    words = answer.certificate or ("" if answer.report is None else _certificate(answer.report))
    return Compared(
        method=name,
        support=[int(j) for j in np.flatnonzero(answer.coef)] if answer.support is None else answer.support,
        coef=answer.coef,
        residual=math.sqrt(rss / yy) if yy > 0 else 0.0,
        df=df,
        bic=p.bic(rss, df),
        cv=float(np.mean(errors)) if k else math.nan,
        cv_error=float(np.std(errors, ddof=1) / math.sqrt(k)) if k > 1 else math.nan,
        certificate=words,
        options=answer.options,
        report=answer.report,
        seconds=seconds,
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
    """The Gram of one target, complete, and the names of its atoms."""
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
    index = 0 if target is None else integer(target, "target")
    gram = data if isinstance(data, Gram) else folded(data, outer, folds)
    if not 0 <= index < gram.targets:
        raise bad_range(f"target is {index}; it must be in [0, {gram.targets})")
    if gram.columns < gram.atoms:
        raise bad_range('the Gram has its columns on demand; make it with columns="all" to compare methods')
    return _one_target(gram, index), [str(j) for j in range(gram.atoms)]


def _one_target(gram: Gram, index: int) -> Gram:
    """One target of several, with the blocks."""
    if gram.targets == 1:
        return gram
    raise bad_range(f"the Gram has {gram.targets} targets; compare takes a Gram of one")
