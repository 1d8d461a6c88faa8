"""Recipes and replay: what would the merging tool have stored?

A recipe says how a merged checkpoint was made from a base b and task models t_j; replaying it gives the weights the tool
would have stored, every operation in the tool's own arithmetic.  A right recipe predicts (almost) all stored values
exactly, a wrong one as many as chance does.  With task vectors d_j = t_j - b, for example

    task_arithmetic   b + lambda sum_j w_j d_j
    ties              d_j loses all but its int(density p) largest entries; then b + lambda sum w_j d_j / sum w_j, entry
                      by entry over the j whose w_j d_j has the elected sign

All thirteen rules are in ``unmerge.h``.  Formulas and order of operations are those of mergekit 0.1.5 and PEFT 0.21.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, numbers, view
from ._library import prepared
from ._options import boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_shape, bad_type
from .gram import pass_seconds
from .operator import Operator, as_operator

MergeMethod = Literal[
    "linear",
    "task_arithmetic",
    "ties",
    "breadcrumbs",
    "breadcrumbs_ties",
    "model_stock",
    "slerp",
    "nuslerp",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "adapter_cat",
]
METHODS: dict[str, int] = {
    name.removeprefix("UNMERGE_MERGE_").lower(): value
    for name, value in vars(_ffi).items()
    if name.startswith("UNMERGE_MERGE_") and value != _ffi.UNMERGE_MERGE_ADAPTER_LINEAR  # which is not a recipe
}
DTYPES = {"float32": _ffi.UNMERGE_F32, "float16": _ffi.UNMERGE_F16, "bfloat16": _ffi.UNMERGE_BF16}
TASK_ROUNDINGS = {
    "exact": _ffi.UNMERGE_TASK_EXACT,
    "stored": _ffi.UNMERGE_TASK_STORED,
    "product": _ffi.UNMERGE_TASK_PRODUCT,
}
RESCALES = {
    "none": _ffi.UNMERGE_RESCALE_NONE,
    "density": _ffi.UNMERGE_RESCALE_DENSITY,
    "l1": _ffi.UNMERGE_RESCALE_L1,
}
DEFAULT = {"": _ffi.UNMERGE_METHOD_DEFAULT}
CONSENSUS = {"sum": _ffi.UNMERGE_CONSENSUS_SUM, "count": _ffi.UNMERGE_CONSENSUS_COUNT}

# Methods that divide by the sum of weights unless told otherwise, and methods that rescale what they keep.
NORMALIZED = frozenset({"linear", "ties", "della"})
RESCALED = frozenset({"dare_linear", "dare_ties", "della_linear", "della"})

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recipe:
    """How a merged checkpoint was made.

    method : "linear", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "model_stock", "slerp", "nuslerp",
        "dare_linear", "dare_ties", "della_linear", "della" or "adapter_cat".
    weights : n numbers, or modules x n; or a dict by the names of the atoms, the others being 0.  Atoms with weight 0 in a
        module take no part there (model_stock and slerp look at nothing else).
    dtype, out_dtype : computed in and stored as "float32", "float16" or "bfloat16"; None: as the target is stored, and
        the same as dtype.
    task_rounding : how the task model of an atom that is not itself a stored checkpoint came to be: "stored" (base + atom
        in float32, rounded once to task_dtype), "product" (atom rounded, then the sum) or "exact" (no task model stored).
    task_dtype : None: as the base is stored.
    normalize : divide by the sum of weights; None: True for linear, ties and della.
    rescale : "none", "density" (divided by it), "l1" (the sum of sizes put back); None: "l1" for DARE and DELLA.
    consensus : the elected sign is that of the "sum" of w_j d_j, or of most of them ("count").
    density : [0, 1]; one number, or shaped like weights.  gamma : [0, 1].  epsilon : [0, 0.5].
    lambda_ : multiplies the sum.  t : slerp.  base_weight : linear; 0: the base is not among the models.
    stacked : linear; weights and products are rounded to dtype before the sum, as by mergekit before 0.1.5.
    """

    method: MergeMethod
    weights: Any
    dtype: str | None = None
    out_dtype: str | None = None
    task_rounding: Literal["exact", "stored", "product"] = "stored"
    task_dtype: str | None = None
    normalize: bool | None = None
    rescale: Literal["none", "density", "l1"] | None = None
    consensus: Literal["sum", "count"] = "sum"
    density: Any = 1.0
    gamma: float = 0.01
    epsilon: float = 0.15
    lambda_: float = 1.0
    t: float = 0.5
    base_weight: float = 0.0
    stacked: bool = False

    @property
    def normalizes(self) -> bool:
        """``normalize``, or what None means for this method."""
        return self.method in NORMALIZED if self.normalize is None else self.normalize

    @property
    def rescaling(self) -> str:
        """``rescale``, or what None means for this method."""
        return ("l1" if self.method in RESCALED else "none") if self.rescale is None else self.rescale


@dataclass(frozen=True)
class ReplayReport:
    """How many stored values a recipe predicts.

    equal : predicted exactly (random methods: equal to the rounded mean); 0 equals -0.
    near : at most one unit in the last place apart.
    consistent : random methods: equal to the result of one of the keep/drop patterns of that entry, None where more than 12
        atoms are drawn; other methods: equal.
    chance : what coincidence gives; evidence is how far ``consistent`` is above it.
    tied : of equal, those that another choice between equal magnitudes predicts.
    squared_difference : sum of (predicted - stored)^2.  largest : difference in units in the last place.
    modules : the same for every module, by name.
    """

    entries: int
    equal: int
    near: int
    consistent: int | None
    chance: int
    tied: int
    squared_difference: float
    largest: float
    modules: dict[str, ReplayReport] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of the stored values, those the recipe predicts (is consistent with, where that is known)."""
        right = self.equal if self.consistent is None else self.consistent
        return right / self.entries if self.entries else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        of = max(self.entries, 1)
        rows = [("entries", f"{self.entries}"), ("equal", f"{self.equal} ({100 * self.equal / of:.2f} %)")]
        rows.append(("near", f"{self.near} ({100 * self.near / of:.2f} %)"))
        if self.consistent is not None and self.consistent != self.equal:
            rows.append(("consistent", f"{self.consistent} ({100 * self.consistent / of:.2f} %)"))
        rows.append(("chance", f"{self.chance} ({100 * self.chance / of:.2f} %)"))
        rows.append(("largest", f"{self.largest:.3g} units in the last place"))
        return "\n".join(f"{name:<11} {value}" for name, value in rows)


def merge(
    atoms: Any,
    base: Any,
    recipe: Recipe,
    module: str | int | None = None,
    *,
    deadline: float = 0,
    threads: int = 0,
    progress: ProgressOption = None,
) -> Any:
    """The merged weights as they would be stored: rows x cols float32 for one module, or a dict by name for all.

    atoms, base : Operators over the same modules (or arrays p x n and p); base has one column, of which the base is taken,
    or where it has none its values: a target operator (checkpoint minus base) serves as it is.
    Random methods give the mean over their draws, not rounded.
    """
    a, b = as_operator(atoms, "atoms"), as_operator(base, "base")
    if isinstance(module, str) and module not in a._modules:
        raise bad_range(f"there is no module named {module!r}")
    index = None if module is None else a._modules[module] if isinstance(module, str) else integer(module, "module")
    if index is not None and not 0 <= index < len(a._sizes):
        raise bad_range(f"module is {index}; it must be between 0 and {len(a._sizes) - 1}")
    struct, keep = to_c(recipe, a)
    found: dict[str, npt.NDArray[np.float32]] = {}
    with Run(deadline=deadline, threads=threads, progress=progress) as run:
        for name, m in a._modules.items():
            if index is not None and m != index:
                continue
            found[name] = np.empty(a._sizes[m], np.float32)
            run.call(
                "merge",
                (a._handle, b._handle, ctypes.byref(struct)),
                (m, view(found[name], "out").pointer),
                predicted=found[name].size * len(a.columns) / 1e8,
            )
    del keep
    return found if index is None else next(iter(found.values()))


def replay(
    atoms: Any,
    target: Any,
    recipe: Recipe,
    *,
    deadline: float = 0,
    threads: int = 0,
    progress: ProgressOption = None,
) -> ReplayReport:
    """Compare what the recipe gives with what the target's one column stores (dense with a base), entry by entry.

    atoms, target : Operators over the same modules.
    """
    a, y = as_operator(atoms, "atoms"), as_operator(target, "target")
    struct, keep = to_c(recipe, a)
    reports = (_ffi.unmerge_replay_report * (len(y.modules) + 1))()
    for report in reports:
        report.struct_size = _ffi.LAYOUT["unmerge_replay_report"][0]
    with Run(deadline=deadline, threads=threads, progress=progress) as run:
        before = (a._handle, y._handle, ctypes.byref(struct))
        run.call("replay", before, (reports,), predicted=2 * pass_seconds(a, y))
    del keep
    parts = {name: _report(reports[m], {}) for m, name in enumerate(y.modules)}
    return _report(reports[len(parts)], parts)


def _report(r: Any, modules: dict[str, ReplayReport]) -> ReplayReport:
    return ReplayReport(
        entries=r.entries,
        equal=r.equal,
        near=r.near,
        consistent=None if r.consistent < 0 else r.consistent,
        chance=r.chance,
        tied=r.tied,
        squared_difference=r.squared_difference,
        largest=r.largest,
        modules=modules,
    )


# ---------------------------------------------------------------- to and from C


def to_c(recipe: Recipe, atoms: Operator) -> tuple[Any, object]:
    """The C recipe, and what its pointers point to."""
    if not isinstance(recipe, Recipe):
        raise bad_type(f"recipe is a {type(recipe).__name__}, expected an unmerge.Recipe")
    modules, columns = len(atoms.modules), atoms.columns
    weights = per_atom(recipe.weights, "weights", modules, columns)
    struct = prepared(
        _ffi.unmerge_recipe,
        method=choice(recipe.method, "method", METHODS),
        dtype=_dtype(recipe.dtype, "dtype"),
        out_dtype=_dtype(recipe.out_dtype, "out_dtype"),
        task_rounding=choice(recipe.task_rounding, "task_rounding", TASK_ROUNDINGS),
        task_dtype=_dtype(recipe.task_dtype, "task_dtype"),
        consensus=choice(recipe.consensus, "consensus", CONSENSUS),
        weights=doubles(weights),
        weights_stride=len(columns) if weights.ndim == 2 else 0,
        gamma=real(recipe.gamma, "gamma"),
        epsilon=real(recipe.epsilon, "epsilon"),
        lambda_=real(recipe.lambda_, "lambda_"),
        t=real(recipe.t, "t"),
        base_weight=real(recipe.base_weight, "base_weight"),
        stacked=boolean(recipe.stacked, "stacked"),
    )
    if recipe.normalize is not None:
        struct.normalize = boolean(recipe.normalize, "normalize")
    if recipe.rescale is not None:
        struct.rescale = choice(recipe.rescale, "rescale", RESCALES)
    densities = None
    if isinstance(recipe.density, Mapping) or np.ndim(recipe.density) > 0:
        densities = per_atom(recipe.density, "density", modules, columns, missing=1.0)
        struct.densities, struct.densities_stride = doubles(densities), len(columns) if densities.ndim == 2 else 0
    else:
        struct.density = real(recipe.density, "density")
    return struct, (weights, densities)


def from_c(struct: Any, modules: int, columns: int) -> Recipe:
    """A Recipe that owns its numbers."""
    density: Any = float(struct.density)
    if struct.densities:
        density = _copied(struct.densities, struct.densities_stride, modules, columns)
    return Recipe(
        method=_word(METHODS, struct.method),  # type: ignore[arg-type]
        weights=_copied(struct.weights, struct.weights_stride, modules, columns),
        dtype=_word(DTYPES, struct.dtype) if struct.dtype else None,
        out_dtype=_word(DTYPES, struct.out_dtype) if struct.out_dtype else None,
        task_rounding=_word(TASK_ROUNDINGS, struct.task_rounding),  # type: ignore[arg-type]
        task_dtype=_word(DTYPES, struct.task_dtype) if struct.task_dtype else None,
        normalize=None if struct.normalize == _ffi.UNMERGE_METHOD_DEFAULT else bool(struct.normalize),
        rescale=_word(DEFAULT | RESCALES, struct.rescale) or None,  # type: ignore[arg-type]
        consensus=_word(CONSENSUS, struct.consensus),  # type: ignore[arg-type]
        density=density,
        gamma=struct.gamma,
        epsilon=struct.epsilon,
        lambda_=struct.lambda_,
        t=struct.t,
        base_weight=struct.base_weight,
        stacked=bool(struct.stacked),
    )


def per_atom(value: Any, name: str, modules: int, columns: list[str], missing: float = 0.0) -> Numbers:
    """n numbers, or modules x n; from a dict by the atoms' names with ``missing`` for the others."""
    if isinstance(value, Mapping):
        if unknown := [key for key in value if key not in columns]:
            raise bad_range(f"{name} names {unknown[0]!r}, which is not one of the atoms")
        return numbers([real(value.get(column, missing), f"{name}[{column!r}]") for column in columns], name)
    array = numbers(value, name)
    if array.shape not in ((len(columns),), (modules, len(columns))):
        came = "x".join(map(str, array.shape)) or "a single number"
        raise bad_shape(f"{name} is {came}, expected {len(columns)} or {modules}x{len(columns)}")
    return array


def _copied(pointer: Any, stride: int, modules: int, columns: int) -> Numbers:
    if not stride:
        return np.array(pointer[:columns], np.float64)
    return np.array([pointer[m * stride : m * stride + columns] for m in range(modules)], np.float64)


def _dtype(value: str | None, name: str) -> int:
    return 0 if value is None else choice(value, name, DTYPES)


def _word(words: Mapping[str, int], value: int) -> str:
    for word, number in words.items():
        if number == value:
            return word
    raise bad_range(f"the library gave {value}, expected one of {', '.join(words)}")


__all__ = ["MergeMethod", "Recipe", "ReplayReport", "merge", "replay"]
