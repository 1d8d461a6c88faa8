"""Our own calls.  A first answer starts from the raw arrays with the binding's defaults (columns of the Gram on demand
where it chooses so) and contains the pass over the data; a further answer starts from a Gram that exists."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contestants import FIRST, FURTHER, contestant
from problems import GROUP, GROUP_RATIOS, K, L1_RATIOS, SETS, SIGMA, SIX, SUBSETS, Data, folds

ONE_TARGET = (
    "dot", "ridge", "lasso", "lasso_path", "elastic_net", "elastic_net_95", "nnls", "omp", "bpdn", "group_lasso", "sparse_group_lasso",
)  # fmt: skip


def package() -> Any:
    """The installed package; in a source tree the one beside us, with the library of a release build."""
    root = Path(__file__).resolve().parent.parent
    try:
        import unmerge
    except ImportError:
        sys.path.insert(0, str(root / "bindings" / "python"))
        import unmerge
    built = root / ".build" / "release" / "libunmerge.so"
    if Path(unmerge.__file__).is_relative_to(root) and built.exists():
        os.environ.setdefault("UNMERGE_LIBRARY", str(built))
    return unmerge


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def _method(data: Data, method: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Our function for a method, and its options."""
    options: dict[str, Any] = {}
    if method == "ridge":
        options = {"alpha": data.ridge_alpha}
    elif method == "omp":
        options = {"k": data.k}
    elif method == "bpdn":
        options = {"sigma": SIGMA}
    elif method == "lasso_path":
        options = {"alphas": data.alphas}
    elif method in GROUP_RATIOS:
        groups = [range(g, min(g + GROUP, data.n)) for g in data.starts.tolist()]
        options = {"groups": groups, "alpha": data.group_alpha, "l1_ratio": GROUP_RATIOS[method]}
    elif method in L1_RATIOS:
        alpha, ratio = data.elastic_net(method)
        options = {"alpha": alpha} if method == "lasso" else {"alpha": alpha, "l1_ratio": ratio}
    return getattr(package(), method.removesuffix("_95").removesuffix("_gram")), options | {"threads": _threads()}


def _answer(result: Any) -> Any:
    """coef, or for the path coefficients row by row; with how it ended."""
    if len(result) == 3:
        _, coefs, reports = result
        ends = sorted({r.outcome for r in reports} - {"converged"})
        return coefs.T, _passes(reports[-1], ends)
    coef, report = result
    ends = [] if report.converged else [report.outcome]
    return coef, _passes(report, ends)


def _passes(report: Any, ends: list[str]) -> str:
    return ", ".join([f"{report.passes} pass" + ("es" if report.passes != 1 else ""), *ends])


def _caller(data: Data, method: str, source: Callable[[], Any]) -> Callable[[], Any]:
    call, options = _method(data, method)
    return lambda: _answer(call(source(), **options))


@contestant(*ONE_TARGET, name="unmerge.{method}((A, y))", kind=FIRST)
def first(data: Data, tol: Any, method: str) -> Callable[[], Any]:
    return _caller(data, method, lambda: (data.A, data.y))


@contestant(*ONE_TARGET, name="unmerge.{method}(Gram(A, y, precision='fast'))", kind=FIRST, headline=False)
def first_with_fast_gram(data: Data, tol: Any, method: str) -> Callable[[], Any]:
    Gram = package().Gram
    return _caller(data, method, lambda: Gram(data.A, data.y, precision="fast", blocks="one", threads=_threads()))


@contestant(*ONE_TARGET, name="unmerge.{method}(gram)", kind=FURTHER)
def further(data: Data, tol: Any, method: str) -> Callable[[], Any]:
    gram = package().Gram(data.A, data.y, blocks="one", threads=_threads())
    return _caller(data, method, lambda: gram)


def _folded(data: Data) -> Any:
    """A Gram with a block per fold: runs of rows, so that the folds are scikit-learn's."""
    unmerge = package()
    sides = []
    for columns in (data.D, data.y[None, :]):
        side = unmerge.Operator()
        for k, rows in enumerate(folds(data.p)):
            side.add_module(str(k), rows.stop - rows.start, 1)
        for j, column in enumerate(columns):
            side.add_column(str(j))
            for k, rows in enumerate(folds(data.p)):
                side.set_dense(k, j, column[rows, None])
        sides.append(side)
    return unmerge.Gram(*sides, threads=_threads())


def _validated(data: Data, source: Callable[[], Any]) -> Callable[[], Any]:
    cross_validate = package().lasso_cv

    def call() -> Any:
        cv = cross_validate(source(), alphas=data.alphas, threads=_threads())
        return cv.errors, f"{cv.unconverged} not converged" if cv.unconverged else ""

    return call


@contestant("lasso_cv", name="unmerge.lasso_cv(Gram(A, y))", kind=FIRST)
def first_cv(data: Data, tol: Any) -> Callable[[], Any]:
    return _validated(data, lambda: _folded(data))


@contestant("lasso_cv", name="unmerge.lasso_cv(gram)", kind=FURTHER)
def further_cv(data: Data, tol: Any) -> Callable[[], Any]:
    gram = _folded(data)
    return _validated(data, lambda: gram)


@contestant("group_lasso_gram", name="unmerge.group_lasso(gram)", kind=FIRST)
def group_from_gram(data: Data, tol: Any) -> Callable[[], Any]:
    return further(data, tol, "group_lasso_gram")


def _given(data: Data, call: Callable[..., Any]) -> Callable[[], Any]:
    gram = package().Gram(data.A, data.y, blocks="one", threads=_threads())
    return lambda: _answer(call(gram, threads=_threads()))


@contestant(*SUBSETS[:-1], name="unmerge.{method}(gram)", kind=FIRST)
def subset_from_gram(data: Data, tol: Any, method: str) -> Callable[[], Any]:
    solve = getattr(package(), method.removesuffix("_gram"))
    return _given(data, lambda gram, threads: solve(gram, k=min(K, gram.atoms), threads=threads))


@contestant("garrote_gram", name="unmerge.garrote_path, 50 gammas both ways", kind=FIRST)
def garrote_from_gram(data: Data, tol: Any) -> Callable[[], Any]:
    unmerge = package()

    def call(gram: Any, threads: int) -> Any:
        path = unmerge.garrote_path(gram, held_out=False, threads=threads)
        return path.coef, path.report

    return _given(data, call)


@contestant("lasso_composite_gram", name="unmerge.minimise(L1)", kind=FIRST)
def composite_lasso(data: Data, tol: Any) -> Callable[[], Any]:
    unmerge = package()
    terms = unmerge.terms.L1(data.penalties("lasso_composite_gram")[0])
    return _given(data, lambda gram, threads: unmerge.minimise(gram, terms=terms, tol=1e-7, threads=threads))


@contestant(*SETS, name="unmerge.minimise(its set)", kind=FIRST)
def composite_set(data: Data, tol: Any, method: str) -> Callable[[], Any]:
    unmerge = package()
    upper, total = SETS[method]
    terms = unmerge.terms.Box(0.0, upper) if total is None else unmerge.terms.Simplex(total)
    return _given(data, lambda gram, threads: unmerge.minimise(gram, terms=terms, tol=1e-7, threads=threads))


@contestant(*SETS, name="unmerge.bvls or simplex", kind=FIRST, headline=False)
def set_from_gram(data: Data, tol: Any, method: str) -> Callable[[], Any]:
    unmerge = package()
    upper, total = SETS[method]
    if total is None:
        return _given(data, lambda gram, threads: unmerge.bvls(gram, lower=0.0, upper=upper, threads=threads))
    return _given(data, lambda gram, threads: unmerge.simplex(gram, total=total, threads=threads))


def _gram(data: Data, precision: str) -> Callable[[], Any]:
    Gram = package().Gram

    def call() -> Any:
        gram = Gram(data.A, data.y, precision=precision, blocks="one", threads=_threads())
        return gram.arrays().G

    return call


@contestant("gram", name="unmerge.Gram, fast", kind=FIRST)
def gram_fast(data: Data, tol: Any) -> Callable[[], Any]:
    return _gram(data, "fast")


@contestant("gram", name="unmerge.Gram, auto", kind=FIRST, headline=False)
def gram_auto(data: Data, tol: Any) -> Callable[[], Any]:
    return _gram(data, "auto")


@contestant("gram", name="unmerge.Gram, exact", kind=FIRST, headline=False)
def gram_exact(data: Data, tol: Any) -> Callable[[], Any]:
    return _gram(data, "exact")


@contestant("six", name="unmerge: one Gram, six methods", kind=FIRST)
def six(data: Data, tol: Any) -> Callable[[], Any]:
    Gram, methods = package().Gram, [_method(data, name) for name in SIX]

    def call() -> Any:
        gram = Gram(data.A, data.y, blocks="one", threads=_threads())
        return [method(gram, **options)[0] for method, options in methods]

    return call
