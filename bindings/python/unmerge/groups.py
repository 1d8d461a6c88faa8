"""Group penalties: atoms that come and go together.

    1/2 ||Aw - y||^2 + alpha [ l1_ratio sum_j weights_j |w_j| + (1 - l1_ratio) sum_g group_weights_g ||w_g||_2 ]
                     + ridge/2 sum_g ridge_weights_g ||w_g||^2,                              optionally w >= 0

``groups`` is an array of labels, one per coefficient (equal labels are a group, in the order in which they first appear; a
negative number or None is in no group and has no group penalty), or a list of lists of coefficients.  Lists may overlap: an
atom in several groups is split into one latent coefficient per membership, the penalties are of those, and w is their sum
(Jacob, Obozinski & Vert 2009).  ``latent=True`` gives them too, in the order of the lists.

group_weights: one number >= 0 per group, None = the square root of its size, 0 = no group penalty; weights: one per
coefficient, of its l1 penalty; ridge_weights: one per group.  Data, run options and errors as in :mod:`unmerge.methods`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from itertools import chain
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, output
from ._library import prepared
from ._options import boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_shape, bad_type
from .gram import Columns, Gram
from .methods import Coef, Data, Reports, _gram, _seconds
from .report import Report, from_c, report_array


GroupNorm = Literal["coefficients", "prediction"]
GROUP_NORMS = {
    "coefficients": _ffi.UNMERGE_GROUP_NORM_COEFFICIENTS,
    "prediction": _ffi.UNMERGE_GROUP_NORM_PREDICTION,
}


def _columns(group_norm: str) -> Columns:
    """Of the Gram of arrays."""
    return "all" if group_norm == "prediction" else "on_demand"


def group_lasso(
    data: Data,
    *,
    groups: Any,
    alpha: float = 1.0,
    l1_ratio: float = 0.0,
    group_weights: Any = None,
    weights: Any = None,
    ridge: float = 0.0,
    ridge_weights: Any = None,
    relative: bool = False,
    positive: bool = False,
    group_norm: GroupNorm = "coefficients",
    start: Any = None,
    latent: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Any:
    """Group LASSO (l1_ratio = 0), sparse group LASSO (l1_ratio in (0, 1)), with ``ridge`` a group elastic net.

    Gives ``(coef, report)``, with ``latent`` ``(coef, report, latent)``: N numbers (N x T for a p x T target), one per
    membership.  alpha >= 0; with ``relative`` a fraction of :func:`group_alpha_max`, from which on the answer is exactly 0.
    groups: labels of shape (n,) or lists of atoms.  start: coefficients to begin with, as coef or as latent.
    group_norm: "prediction" has ||A_g w_g|| in place of ||w_g||, in the ridge too; for l1_ratio 0, without positive, over a
    Gram with all its columns (Simon & Tibshirani 2012).
    Exact block steps, active groups, Newton; the duality gap is free of cancellation; ``report.df`` is the trace of d(Aw)/dy.
    Yuan & Lin 2006; Simon, Friedman, Hastie & Tibshirani 2013.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, _columns(group_norm))
        penalty = Penalty(
            gram.atoms, groups, alpha, l1_ratio, group_weights, weights, ridge, ridge_weights, relative, positive, group_norm
        )
        return _solve("group_lasso", gram, penalty, run, start, latent, modules=None)


def sparse_group_lasso(data: Data, *, groups: Any, alpha: float = 1.0, l1_ratio: float = 0.05, **options: Any) -> Any:
    """:func:`group_lasso` with an l1 penalty inside the groups: single coefficients of a group that is in may be 0 too."""
    return group_lasso(data, groups=groups, alpha=alpha, l1_ratio=l1_ratio, **options)


def group_lasso_modules(
    gram: Gram,
    *,
    groups: Any = "atoms",
    alpha: float = 1.0,
    l1_ratio: float = 0.0,
    group_weights: Any = None,
    weights: Any = None,
    ridge: float = 0.0,
    ridge_weights: Any = None,
    relative: bool = False,
    positive: bool = False,
    start: Any = None,
    latent: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Any:
    """A coefficient of its own for every atom in every module, with groups across modules.

        1/2 sum_m ||A_m w_m - y_m||^2 + the penalties of :func:`group_lasso`

    gram: a Gram with its blocks (``Gram(A, y)`` over an Operator with modules; :func:`modules` lists them).  Gives
    ``(coef, report)``, coef n x L (n x L x T for a p x T target).  groups: "atoms" (one group per atom over all modules: which
    atoms are in, with what strength where), "modules" (one per module), labels of shape (n, L), or lists of pairs (atom,
    module).  weights and start are n x L.  Time and memory grow with L n^2.
    """
    if not isinstance(gram, Gram):
        raise bad_type(f"gram is a {type(gram).__name__}, expected a Gram, which keeps its modules apart")
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        n, count = gram.atoms, len(modules(gram))
        if isinstance(groups, str):
            if groups not in ("atoms", "modules"):
                raise bad_range(f"groups is {groups!r}; it must be 'atoms', 'modules', labels or lists")
            lines = np.arange(n * count, dtype=np.int64).reshape(count, n)
            chosen: Any = list(lines.T if groups == "atoms" else lines)
        elif _is_labels(groups):
            labels = np.asarray(groups)
            if labels.shape != (n, count):
                raise bad_shape(f"groups is {labels.shape}, expected labels of shape ({n}, {count})")
            chosen = labels.T.reshape(-1)
        else:
            chosen = [_pairs(members, n, count) for members in groups]
        penalty = Penalty(
            n * count, chosen, alpha, l1_ratio, group_weights, _flat(weights, "weights", n, count), ridge, ridge_weights,
            relative, positive,
        )  # fmt: skip
        return _solve("group_lasso_modules", gram, penalty, run, start, latent, modules=count)


def group_lasso_path(
    data: Data,
    *,
    groups: Any,
    alphas: Any = None,
    n_alphas: int = 100,
    alpha_min_ratio: float = 1e-3,
    l1_ratio: float = 0.0,
    group_weights: Any = None,
    weights: Any = None,
    ridge: float = 0.0,
    ridge_weights: Any = None,
    positive: bool = False,
    group_norm: GroupNorm = "coefficients",
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Coef, list[Report]]:
    """A path of :func:`group_lasso` for one target over decreasing alphas, each warm-started; groups by the strong rule.

    Gives ``(alphas, coefs, reports)`` as :func:`unmerge.lasso_path`.  Tibshirani et al. 2012.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        grid = None if alphas is None else numbers(alphas, "alphas").reshape(-1)
        count = integer(n_alphas, "n_alphas") if grid is None else grid.size
        if not 1 <= count <= 10_000_000:  # before n x n_alphas numbers are allocated here
            raise bad_range(f"n_alphas is {count}; it must be between 1 and 10000000")
        penalty = Penalty(
            gram.atoms, groups, 1.0, l1_ratio, group_weights, weights, ridge, ridge_weights, False, positive, group_norm
        )
        path = prepared(
            _ffi.unmerge_group_path_options,
            alpha_min_ratio=real(alpha_min_ratio, "alpha_min_ratio"),
            n_alphas=count,
            target=integer(target, "target"),
        )
        path.alphas = doubles(grid)
        found, coef, reports = np.zeros(count), np.zeros((gram.atoms, count)), report_array(count)
        run.call(
            "group_lasso_path",
            (gram._handle, ctypes.byref(penalty.options), ctypes.byref(path)),
            (doubles(found), output(coef).pointer, reports),
            predicted=count * _seconds(gram, 1),
        )
        return found, coef, from_c(reports)


def group_alpha_max(
    data: Data,
    *,
    groups: Any,
    l1_ratio: float = 0.0,
    group_weights: Any = None,
    weights: Any = None,
    ridge: float = 0.0,
    ridge_weights: Any = None,
    positive: bool = False,
    group_norm: GroupNorm = "coefficients",
) -> Union[float, npt.NDArray[np.float64]]:
    """The smallest alpha whose answer is 0 on every penalised coefficient: a number, or one per target."""
    with Run() as run:
        gram = _gram(data, run, _columns(group_norm))
        penalty = Penalty(
            gram.atoms, groups, 1.0, l1_ratio, group_weights, weights, ridge, ridge_weights, False, positive, group_norm
        )
        found = np.zeros(gram.targets)
        run.call(
            "group_alpha_max",
            (gram._handle, ctypes.byref(penalty.options)),
            (doubles(found),),
            predicted=_seconds(gram, gram.targets),
        )
        return float(found[0]) if gram._vector else found


def modules(gram: Gram) -> list[str]:
    """The modules of a Gram's blocks, in the order in which they first appear: the columns of group_lasso_modules."""
    return list(dict.fromkeys(block.module for block in gram.blocks))


# ---------------------------------------------------------------- what goes to C


class Penalty:
    """The options struct, and the arrays it points to."""

    def __init__(
        self,
        count: int,
        groups: Any,
        alpha: float,
        l1_ratio: float,
        group_weights: Any,
        weights: Any,
        ridge: float,
        ridge_weights: Any,
        relative: bool,
        positive: bool,
        group_norm: GroupNorm = "coefficients",
    ) -> None:
        self.offsets, self.members = _members(groups, count)
        n_groups = len(self.offsets) - 1
        self.arrays = [
            None if x is None else numbers(x, name, (size,))
            for x, name, size in (
                (group_weights, "group_weights", n_groups),
                (weights, "weights", count),
                (ridge_weights, "ridge_weights", n_groups),
            )
        ]
        self.options = prepared(
            _ffi.unmerge_group_options,
            alpha=real(alpha, "alpha"),
            l1_ratio=real(l1_ratio, "l1_ratio"),
            ridge=real(ridge, "ridge"),
            n_groups=n_groups,
            relative=boolean(relative, "relative"),
            positive=boolean(positive, "positive"),
            group_norm=choice(group_norm, "group_norm", GROUP_NORMS),
        )
        self.options.offsets = integers(self.offsets)
        self.options.members = integers(self.members)
        self.options.group_weights, self.options.weights, self.options.ridge_weights = map(doubles, self.arrays)


def _is_labels(groups: Any) -> bool:
    """An array of labels, or a flat list of them; a list of lists is a list of groups."""
    if isinstance(groups, np.ndarray) and groups.dtype != object:
        return True
    return len(groups) > 0 and not any(_is_list(x) for x in groups)


def _is_list(x: Any) -> bool:
    return isinstance(x, (list, tuple, set, frozenset, range, np.ndarray))


def _members(groups: Any, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """offsets and members of labels or lists."""
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Iterable):
        raise bad_type(f"groups is {groups!r}, expected labels, one per coefficient, or lists of coefficients")
    if not isinstance(groups, np.ndarray):
        groups = list(groups)
    lists: list[Any] = groups
    if isinstance(groups, np.ndarray) or _is_labels(groups):
        labels = groups.reshape(-1) if isinstance(groups, np.ndarray) else groups
        if len(labels) != count:
            raise bad_shape(f"groups has {len(labels)} labels, expected {count}, one per coefficient")
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
            return _sorted(labels)
        found: dict[Any, list[int]] = {}
        for j, label in enumerate(labels.tolist() if isinstance(labels, np.ndarray) else labels):
            if label is None or (isinstance(label, (int, float, np.number)) and not label >= 0):
                continue
            found.setdefault(label, []).append(j)
        lists = list(found.values())
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(members) for members in lists], out=offsets[1:])
    flat = np.array(list(chain.from_iterable(lists)))
    if flat.dtype.kind != "i" and flat.size:
        flat = np.array([integer(j, f"groups[{g}]") for g, members in enumerate(lists) for j in members])
    return offsets, flat.astype(np.int64)


def _sorted(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """offsets and members of integer labels, in the order in which they first appear; negative ones are left out."""
    kept = np.flatnonzero(labels >= 0)
    _, first, group = np.unique(labels[kept], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    group = rank[group]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(first)))]).astype(np.int64)
    return offsets, kept[np.argsort(group, kind="stable")].astype(np.int64)


def _pairs(members: Any, n: int, count: int) -> npt.NDArray[np.int64]:
    flat = []
    for atom, module in members:
        j, m = integer(atom, "atom"), integer(module, "module")
        if not (0 <= j < n and 0 <= m < count):
            raise bad_range(f"groups names atom {j} in module {m}; there are {n} atoms and {count} modules")
        flat.append(m * n + j)
    return np.array(flat, dtype=np.int64)


def _flat(x: Any, name: str, n: int, count: int) -> Any:
    """n x L numbers as the library numbers them, module by module."""
    return None if x is None else numbers(x, name, (n, count)).T.reshape(-1)


def _solve(
    name: str, gram: Gram, penalty: Penalty, run: Run, start: Any, latent: bool, modules: int | None
) -> tuple[Coef, Reports] | tuple[Coef, Reports, Coef]:
    n, targets = gram.atoms, gram.targets
    columns = targets * (1 if modules is None else modules)
    shape: tuple[int, ...] = (n,) if modules is None else (n, modules)
    total = len(penalty.members)
    parts = np.zeros((total, targets))
    use_parts = bool(boolean(latent, "latent"))
    coef = np.zeros((n, columns))
    if start is not None:
        penalty.options.warm_start = 1
        array = numbers(start, "start")
        full = shape if gram._vector else (*shape, targets)
        if array.shape == full:
            if modules is not None and not gram._vector:
                array = np.moveaxis(array, 2, 1)
            coef = np.ascontiguousarray(array.reshape(n, columns))
            if use_parts:  # the library would begin from the latent ones: each coefficient in the first of its groups
                first: dict[int, int] = {}
                for k, j in enumerate(penalty.members.tolist()):
                    first.setdefault(j, k)
                flat = coef.reshape(n, targets, -1).transpose(1, 2, 0).reshape(targets, -1)
                for j, k in first.items():
                    parts[k] = flat[:, j]
        elif array.shape == ((total,) if gram._vector else (total, targets)):
            parts, use_parts = array.reshape(total, targets), True
        else:
            raise bad_shape(f"start is {array.shape}, expected {full}, or one number per membership ({total})")
    reports = report_array(targets)
    run.call(
        name,
        (gram._handle, ctypes.byref(penalty.options)),
        (output(coef).pointer, output(parts).pointer if use_parts else None, reports),
        predicted=_seconds(gram, targets) * (1 if modules is None else max(modules, 1)),
    )
    found: Any = from_c(reports)
    answer: Any = coef
    if modules is not None:
        answer = np.moveaxis(coef.reshape(n, targets, modules), 1, 2)
    if gram._vector:
        answer, found, parts = answer[..., 0], found[0], parts[:, 0]
    return (answer, found, parts) if latent else (answer, found)

