"""The methods of decompose, a row each: what a method takes from the options, and the problem that ``verify`` checks.

A new method is a row of ``ANSWERS``, a name in ``decomposition.Method`` and one in ``cli.METHODS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bayes import sparse_bayes, variational_garrote
from .constrained import basis_pursuit, bpdn, bvls, dantzig, lasso_tau, simplex
from .errors import bad_range, bad_type
from .gram import Gram
from .greedy import best_subset, cosamp, htp, iht, matching_pursuit, ols_pursuit, subspace_pursuit
from .groups import group_alpha_max, group_lasso
from .methods import Coef, alpha_max, dot, elastic_net, lasso, nnls, omp, ridge
from .nonconvex import cel0, lq, mcp, scad
from .report import Report
from .structured import benjamini_hochberg_weights, fused_lasso, slope

# Penalties: alpha as a fraction of alpha_max, the smallest alpha that explains nothing.
RELATIVE_ALPHA = 1e-2
# Ridge: alpha as a fraction of the mean ||a_j||^2, enough to settle dependent atoms, too little to bias the others.
RIDGE_ALPHA = 1e-6


@dataclass(frozen=True)
class Asked:
    """The options of decompose that methods look at; None where a method's own default holds."""

    alpha: float | None = None
    l1_ratio: float | None = None
    k: int = 8
    lower: float | None = None
    upper: float | None = None
    total: float = 1.0
    tau: float | None = None
    sigma: float | None = None
    gamma: float | None = None
    q: float | None = None
    effective: float | None = None
    groups: dict[str, list[int]] | None = None

    def given(self, name: str) -> float:
        value = getattr(self, name)
        if value is None:
            raise bad_range(f"{name} is not given; this method has no default for it")
        return float(value)

    def strength(self, word: str = "alpha") -> dict[str, Any]:
        """alpha as it is, else a fraction of the method's own alpha_max."""
        return {word: RELATIVE_ALPHA, "relative": True} if self.alpha is None else {word: self.alpha}

    def ratio(self, default: float) -> float:
        return default if self.l1_ratio is None else self.l1_ratio

    def some(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


Options = dict[str, Any]
Answer = tuple[Coef, Report, Options]
Checked = Callable[[Options, Report], Options]


@dataclass(frozen=True)
class Row:
    """answer : coefficients, report and the options used.  problem : what :func:`unmerge.verify` is asked, from the options used
    and the report; None where the data alone have no certificate for it.
    """

    answer: Callable[[Gram, Asked, Options], Answer]
    problem: Checked | None = None


def _plain(method: Callable[..., Any], options: Callable[[Asked], Options]) -> Callable[[Gram, Asked, Options], Answer]:
    """A method whose keywords are the options used."""

    def answer(gram: Gram, asked: Asked, run: Options) -> Answer:
        used = options(asked)
        return (*method(gram, **used, **run), used)

    return answer


def _lasso(gram: Gram, asked: Asked, run: Options) -> Answer:
    alpha = RELATIVE_ALPHA * float(alpha_max(gram)) if asked.alpha is None else asked.alpha
    return (*lasso(gram, alpha=alpha, **run), {"alpha": alpha})


def _elastic_net(gram: Gram, asked: Asked, run: Options) -> Answer:
    ratio = asked.ratio(0.5)
    alpha = RELATIVE_ALPHA * float(alpha_max(gram, l1_ratio=ratio)) if asked.alpha is None else asked.alpha
    used: Options = {"alpha": alpha, "l1_ratio": ratio}
    return (*elastic_net(gram, **used, **run), used)


def _ridge(gram: Gram, asked: Asked, run: Options) -> Answer:
    alpha = RIDGE_ALPHA * float(np.mean(np.diag(gram.arrays().G))) if asked.alpha is None else asked.alpha
    return (*ridge(gram, alpha=alpha, **run), {"alpha": alpha})


def _bpdn(gram: Gram, asked: Asked, run: Options) -> Answer:
    sigma = asked.given("sigma")
    return (*bpdn(gram, sigma=sigma, relative=True, **run), {"sigma": sigma})


def _group_lasso(gram: Gram, asked: Asked, run: Options) -> Answer:
    if asked.groups is None:
        raise bad_range("groups is not given, nor group_by; group_lasso has no default for them")
    groups, ratio = list(asked.groups.values()), asked.ratio(0.0)
    alpha = asked.alpha
    if alpha is None:
        alpha = RELATIVE_ALPHA * float(group_alpha_max(gram, groups=groups, l1_ratio=ratio))
    used: Options = {"alpha": alpha, "l1_ratio": ratio}
    return (*group_lasso(gram, groups=groups, **used, **run), used | {"groups": groups})


def _slope(gram: Gram, asked: Asked, run: Options) -> Answer:
    q = 0.1 if asked.q is None else asked.q
    used = asked.strength()
    coef, report = slope(gram, weights=benjamini_hochberg_weights(gram.atoms, q=q), **used, **run)
    return coef, report, used | {"q": q}


def _garrote(gram: Gram, asked: Asked, run: Options) -> Answer:
    used = asked.some("gamma", "effective")
    found = variational_garrote(gram, **used, **run)
    return found.coef, found.report, used | {"gamma": found.gamma, "sigma2": found.sigma2}


def _sparse_bayes(gram: Gram, asked: Asked, run: Options) -> Answer:
    used = asked.some("effective")
    found = sparse_bayes(gram, **used, **run)
    return found.coef, found.report, used | {"sigma2": found.sigma2}


def _least_squares_on_support(_: Options, __: Report) -> Options:
    return {"support_only": True}


def _at_multiplier(_: Options, report: Report) -> Options:
    """The LASSO with the same answer."""
    return {"alpha": report.multiplier}


def _sparse(method: Callable[..., Any], is_refitted: bool = True) -> Row:
    """At most k atoms, least squares on those."""
    return Row(_plain(method, lambda asked: {"k": asked.k}), _least_squares_on_support if is_refitted else None)


def _bounds(asked: Asked) -> Options:
    return {"lower": asked.lower, "upper": asked.upper}


def _mixture(asked: Asked) -> Options:
    return {"lower": 0.0 if asked.lower is None else asked.lower, "upper": asked.upper, "total": asked.total}


ANSWERS: dict[str, Row] = {
    "nnls": Row(_plain(nnls, lambda _: {}), lambda _, __: {"positive": True}),
    "omp": _sparse(omp),
    "lasso": Row(_lasso, lambda used, _: {"alpha": used["alpha"]}),
    "elastic_net": Row(_elastic_net, lambda used, _: used),
    "ridge": Row(_ridge, lambda used, _: {"alpha": used["alpha"], "l1_ratio": 0.0}),
    "dot": Row(_plain(dot, lambda _: {"variant": "cosine"})),
    "bvls": Row(_plain(bvls, _bounds), lambda used, _: used),
    "simplex": Row(_plain(simplex, _mixture)),
    "lasso_tau": Row(_plain(lasso_tau, lambda asked: {"tau": asked.given("tau")}), _at_multiplier),
    "bpdn": Row(_bpdn, _at_multiplier),
    "basis_pursuit": Row(_plain(basis_pursuit, lambda _: {})),
    "dantzig": Row(_plain(dantzig, lambda asked: asked.strength("delta"))),
    "ols_pursuit": _sparse(ols_pursuit),
    "matching_pursuit": _sparse(matching_pursuit, is_refitted=False),
    "htp": _sparse(htp),
    "iht": _sparse(iht),
    "cosamp": _sparse(cosamp),
    "subspace_pursuit": _sparse(subspace_pursuit),
    "best_subset": _sparse(best_subset),
    "mcp": Row(_plain(mcp, lambda asked: asked.strength() | asked.some("gamma"))),
    "scad": Row(_plain(scad, lambda asked: asked.strength() | asked.some("gamma"))),
    "cel0": Row(_plain(cel0, lambda asked: asked.strength()), _least_squares_on_support),
    "lq": Row(_plain(lq, lambda asked: asked.strength() | asked.some("q"))),
    "group_lasso": Row(_group_lasso, lambda used, _: used),
    "slope": Row(_slope),
    "fused_lasso": Row(_plain(fused_lasso, lambda asked: asked.strength() | {"l1_ratio": asked.ratio(0.5)})),
    "variational_garrote": Row(_garrote),
    "sparse_bayes": Row(_sparse_bayes),
}
# No certificate is asked for where the answer is a formula, or certified already by what it is.
UNCHECKED = ("dot", "simplex")


def groups_by_name(names: Sequence[str], groups: Any, group_by: str | None) -> dict[str, list[int]] | None:
    """label -> atoms, in the order in which labels first appear.

    groups : a dict name -> label, or several labels (overlapping groups), of every atom.  group_by : a regular expression; an
    atom's label is what its first parenthesis matches in the name, else the whole match; without a match, it is alone.
    """
    if groups is not None and group_by is not None:
        raise bad_range("groups and group_by are both given; one of them says what belongs together")
    labels: list[tuple[str, ...]] = []
    if group_by is not None:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise bad_range(f"group_by is {group_by!r}, which is no regular expression: {error}") from None
        found = [pattern.search(name) for name in names]
        if not any(found):
            raise bad_range(f"group_by is {group_by!r}, which matches none of the atoms' names")
        parts = [match and (match.group(1) if pattern.groups else match.group(0)) for match in found]
        labels = [(name if part is None else part,) for name, part in zip(names, parts)]
    elif groups is not None:
        if not isinstance(groups, Mapping):
            raise bad_type(f"groups is a {type(groups).__name__}, expected a dict name -> label")
        for odd in [name for name in names if name not in groups][:1]:
            raise bad_range(f"groups does not say where {odd!r} belongs")
        for odd in [name for name in groups if name not in names][:1]:
            raise bad_range(f"groups names {odd!r}, which is not among the atoms")
        for name in names:
            label = groups[name]
            several = label if isinstance(label, (list, tuple)) else [label]
            if not several or not all(isinstance(x, (str, int)) and not isinstance(x, bool) for x in several):
                raise bad_type(f"groups[{name!r}] is {label!r}, expected a label, a string or an integer, or a list of them")
            labels.append(tuple(dict.fromkeys(map(str, several))))
    else:
        return None
    lists: dict[str, list[int]] = {}
    for j, several in enumerate(labels):
        for label in several:
            lists.setdefault(label, []).append(j)
    return lists
