"""How sure: standard errors of least squares on a support, and what a dictionary lets one tell apart.

    gram = unmerge.Gram(A, y)                      # A an Operator with modules: one block per module
    print(unmerge.least_squares_inference(gram, support=[3, 17], covariance="cluster"))
    print(unmerge.identifiability(gram))           # before any y
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, output
from ._library import call, prepared
from ._options import choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_shape, bad_type
from .gram import Gram
from .methods import Data, _gram, _seconds
from .operator import Operator
from .selection import table

COVARIANCES = {
    "classical": _ffi.UNMERGE_COVARIANCE_CLASSICAL,
    "cluster": _ffi.UNMERGE_COVARIANCE_CLUSTER,
}


@dataclass(frozen=True)
class Inferred:
    """One coefficient, or one contrast l'w.

    t : estimate / standard_error.  p_value : two-sided, of the value 0.  low, high : the interval.  vif : variance
    inflation, >= 1; infinity for an atom that depends on earlier ones of the support (whose estimate is 0 and whose
    standard error is NaN), NaN for a contrast.
    """

    name: str
    estimate: float
    standard_error: float
    t: float
    p_value: float
    low: float
    high: float
    vif: float


@dataclass(frozen=True)
class Inference:
    """What :func:`least_squares_inference` found; ``print`` it.

    coefficients : one per atom of the support, in its order.  contrasts : one per row of ``contrasts``.
    cov : covariance matrix of the coefficients.  degrees : of freedom of t.  sigma2 : rss / (p - rank).
    clusters : their number, 0 for "classical".
    """

    coefficients: list[Inferred]
    contrasts: list[Inferred]
    cov: npt.NDArray[np.float64]
    covariance: str
    confidence: float
    rank: int
    clusters: int
    degrees: float
    sigma2: float
    rss: float
    r2: float

    def __str__(self) -> str:
        per_cent = f"{100 * self.confidence:g}%"
        rows: list[tuple[str, ...]] = [("atom", "estimate", "std error", "t", "p", f"{per_cent} low", "high", "VIF")]
        for i in (*self.coefficients, *self.contrasts):
            cells = (i.estimate, i.standard_error, i.t, i.p_value, i.low, i.high, i.vif)
            rows.append((i.name, *("" if math.isnan(x) else f"{x:.4g}" for x in cells)))
        kind = f"{self.clusters} clusters" if self.clusters else "classical"
        return f"least squares, {kind} standard errors, t with {self.degrees:.6g} degrees of freedom\n{table(rows)}"


def least_squares_inference(
    data: Data,
    *,
    support: Sequence[int] | None = None,
    covariance: Literal["classical", "cluster"] = "classical",
    contrasts: Any = None,
    clusters: Sequence[int] | None = None,
    confidence: float = 0.95,
    target: int = 0,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Inference:
    """Least squares on a given support, with standard errors, t intervals and variance inflation factors.

    "classical": cov = s2 G_SS^-1, s2 = rss / (p - rank): every entry's error is independent and of the same size, which in
    a model it is not.  "cluster": the sandwich of the clusters' scores c_b - G_b w, with the factor
    L/(L-1) (p-1)/(p-rank) and L - 1 degrees of freedom; it asks only that clusters are independent.

    support: different atoms; None = all.  contrasts: rows l (one, or k x len(support)); l'w is tested as well.
    clusters: one number >= 0 per block of the Gram; None = its modules, or its folds where it has one module.
    confidence in (0, 1).  A support that was chosen on the same data makes intervals too short: choose on some blocks
    (:meth:`Gram.subset`), infer on the others.
    Liang & Zeger 1986; Cameron & Miller 2015; Belsley, Kuh & Welsch 1980.
    """
    with Run(deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _gram(data, run, "all")
        atoms = list(range(gram.atoms)) if support is None else [integer(j, "support") for j in support]
        chosen = np.array(atoms, dtype=np.int64)
        size = len(atoms)
        lines = np.zeros((0, size)) if contrasts is None else np.atleast_2d(numbers(contrasts, "contrasts"))
        if lines.ndim != 2 or lines.shape[1] != size:
            raise bad_shape(f"contrasts is {'x'.join(map(str, lines.shape))}, expected k x {size}, a number per atom of the support")
        options = prepared(
            _ffi.unmerge_inference_options,
            n_support=size,
            n_contrasts=len(lines),
            target=integer(target, "target"),
            confidence=real(confidence, "confidence"),
            covariance=choice(covariance, "covariance", COVARIANCES),
        )
        options.support, options.contrasts = integers(chosen), doubles(lines)
        if clusters is not None:
            given = np.array([integer(c, "clusters") for c in clusters], dtype=np.int64)
            if given.size != gram._info().blocks:
                raise bad_shape(f"clusters has {given.size} numbers, expected {gram._info().blocks}, one per block of the Gram")
            options.clusters = integers(given)
        found = (_ffi.unmerge_inferred * (size + len(lines)))()
        for item in found:
            item.struct_size = _ffi.LAYOUT["unmerge_inferred"][0]
        cov = np.zeros((size, size))
        result = prepared(_ffi.unmerge_inference_result)
        run.call(
            "least_squares_inference",
            (gram._handle, ctypes.byref(options)),
            (found, output(cov).pointer, ctypes.byref(result)),
            predicted=_seconds(gram, 1),
        )
        names = [*(str(j) for j in atoms), *(f"contrast {i}" for i in range(len(lines)))]
        items = [
            Inferred(name, i.estimate, i.standard_error, i.t, i.p_value, i.low, i.high, i.vif)
            for name, i in zip(names, found)
        ]
        return Inference(
            coefficients=items[:size],
            contrasts=items[size:],
            cov=cov,
            covariance=covariance,
            confidence=float(options.confidence),
            rank=result.rank,
            clusters=result.clusters,
            degrees=result.degrees,
            sigma2=result.sigma2,
            rss=result.rss,
            r2=result.r2,
        )


@dataclass(frozen=True)
class AtomIdentifiability:
    """One atom: its norm; vif = 1 / (1 - R_j^2) on all others, infinity in a group of dependent atoms, NaN for a zero atom;
    the nearest other atom (None where there is none) and the cosine with it; its group, or None where it is determined."""

    norm: float
    vif: float
    nearest: int | None
    cosine: float
    group: int | None


@dataclass(frozen=True)
class Identifiability:
    """What :func:`identifiability` found; ``print`` it.

    condition : of the unit-diagonal Gram of the non-zero atoms.  singular : its singular values, descending.
    groups : lists of numerically dependent atoms: only combinations of their coefficients are determined.
    """

    atoms: list[AtomIdentifiability]
    singular: npt.NDArray[np.float64]
    rank: int
    condition: float
    groups: list[list[int]]

    def __str__(self) -> str:
        rows = [("atom", "norm", "VIF", "nearest", "cosine", "group")]
        for j, a in enumerate(self.atoms):
            nearest = ("-", "-") if a.nearest is None else (str(a.nearest), f"{a.cosine:+.4f}")
            rows.append((str(j), f"{a.norm:.4g}", f"{a.vif:.4g}", *nearest, "" if a.group is None else str(a.group)))
        head = f"{len(self.atoms)} atoms of rank {self.rank}, condition {self.condition:.3g}"
        tail = [f"group {g}: only combinations of {members} are determined" for g, members in enumerate(self.groups)]
        return "\n".join([head, table(rows), *tail])


def identifiability(data: Any) -> Identifiability:
    """Which coefficients the dictionary determines, before any target: condition, variance inflation, nearest atoms, groups.

    data: a Gram, a pair (A, y), or the atoms alone (an array or Operator).
    Eigenvalues of the unit-diagonal Gram up to max(1e-12, n times its entry error) count as 0; atoms in their vectors can be
    replaced by others.  Belsley, Kuh & Welsch 1980.
    """
    with Run() as run:
        if isinstance(data, (Gram, tuple, list)) or getattr(data, "_target", None) is not None:
            gram = _gram(data, run, "all")
        else:
            if not isinstance(data, Operator) and len(getattr(data, "shape", ())) != 2:
                raise bad_type(f"data is a {type(data).__name__}, expected a Gram, a pair (A, y), or atoms")
            # Atoms alone: a Gram whose target is one of them.
            gram = Gram.__new__(Gram)
            gram._create(data, data if isinstance(data, Operator) else data[:, :1], run, blocks="one")
    n = gram.atoms
    found = (_ffi.unmerge_atom_identifiability * n)()
    for item in found:
        item.struct_size = _ffi.LAYOUT["unmerge_atom_identifiability"][0]
    singular = np.zeros(n)
    result = prepared(_ffi.unmerge_identifiability_result)
    call("identifiability", gram._handle, found, doubles(singular), ctypes.byref(result))
    groups: list[list[int]] = [[] for _ in range(result.groups)]
    for j, item in enumerate(found):
        if item.group >= 0:
            groups[item.group].append(j)
    return Identifiability(
        atoms=[
            AtomIdentifiability(
                norm=item.norm,
                vif=item.vif,
                nearest=item.nearest if item.nearest >= 0 else None,
                cosine=item.cosine,
                group=item.group if item.group >= 0 else None,
            )
            for item in found
        ],
        singular=singular,
        rank=result.rank,
        condition=result.condition,
        groups=groups,
    )
