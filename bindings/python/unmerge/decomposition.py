"""decompose: this merged model: which of these fine-tunes are in it, how much, how sure, and what is left?

The target (merged checkpoint minus base, or an adapter) is y, the task vectors of the atoms (adapters as factors, never
multiplied out; checkpoints minus base, subtracted on the fly) are the columns of A, the data is read once, and a method
answers; the module structure gives the evidence.  The experiment is that of UNMERGE (Agents4Science 2025).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np

from ._answers import ANSWERS, UNCHECKED, Asked, groups_by_name
from ._assemble import Problem, assemble
from ._options import choice, integer, real
from ._run import ProgressOption, Run
from ._tensors import PathLike, Tensors
from .certificate import verify as verify_from_data
from .errors import bad_range, bad_type
from .files import Source, read
from .gram import Gram, Precision
from .masks import Mask, mask
from .methods import Coef, ridge
from .result import Atom, Decomposition, Module

Method = Literal[
    "nnls", "omp", "lasso", "elastic_net", "ridge", "dot", "bvls", "simplex", "lasso_tau", "bpdn", "basis_pursuit", "dantzig",
    "ols_pursuit", "matching_pursuit", "htp", "iht", "cosamp", "subspace_pursuit", "best_subset", "mcp", "scad", "cel0", "lq",
    "group_lasso", "slope", "fused_lasso", "variational_garrote", "sparse_bayes",
]  # fmt: skip
METHODS = tuple(ANSWERS)

Model = Union[PathLike, Mapping[str, Any]]

# An atom counts as present when its weight is larger than this in size (the paper's threshold for NNLS and for dot).
THRESHOLD = 0.01
# Blocks per module cost n^2 numbers each; above this many bytes only the sum is kept, and there is no evidence.
MAX_BLOCK_BYTES = 1 << 30


def decompose(
    *,
    target: Model,
    atoms: Union[Sequence[Model], Mapping[str, Model]],
    base: Model | None = None,
    method: Method = "nnls",
    alpha: float | None = None,
    l1_ratio: float | None = None,
    k: int = 8,
    lower: float | None = None,
    upper: float | None = None,
    total: float = 1.0,
    tau: float | None = None,
    sigma: float | None = None,
    gamma: float | None = None,
    q: float | None = None,
    effective: float | None = None,
    groups: Mapping[str, Any] | None = None,
    group_by: str | None = None,
    compress: int | None = None,
    threshold: float = THRESHOLD,
    precision: Precision = "auto",
    verify: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Decomposition:
    """Which atoms are in the target, and how much.

    Parameters
    ----------
    target : the merged model: a checkpoint (minus ``base``), a task vector, or an adapter folder.
    atoms : paths (named by their last part), or a dict name -> path; adapters, checkpoints or task vectors.
    base : the checkpoint the others are compared with; needed for checkpoints only.  See :mod:`unmerge.files`.
        Instead of a path, each may be a dict of NumPy arrays by tensor name.
    method : "nnls" (default), "omp", "lasso", "elastic_net", "ridge", "dot" (the cosines), "bvls", "simplex", "lasso_tau",
        "bpdn", "basis_pursuit", "dantzig", "ols_pursuit", "matching_pursuit", "htp", "iht", "cosamp", "subspace_pursuit",
        "best_subset", "mcp", "scad", "cel0", "lq", "group_lasso", "slope", "fused_lasso" (atoms in the order given),
        "variational_garrote" or "sparse_bayes".
    alpha : of every penalty, and delta of dantzig.  None means 0.01 of the largest that leaves an atom in, for ridge 1e-6 times
        the mean ||a_j||^2; a number is used as it is, in the scale of 1/2 ||Aw-y||^2.
    l1_ratio : [0, 1]; elastic_net and fused_lasso, default 0.5; group_lasso, default 0, above it single atoms of a group that is
        in may be out.
    k : omp, ols_pursuit, matching_pursuit, htp, iht, cosamp, subspace_pursuit and best_subset, at most this many atoms.
    lower, upper : bvls and simplex, of every weight; None = no bound (simplex: >= 0).  total : simplex, what the weights sum to.
    tau : lasso_tau, what their sizes sum to at most.  sigma : bpdn, the residual to reach as a fraction of ||target||.
    gamma : mcp > 1, scad > 2, variational_garrote.  q : lq; slope, the level of its Benjamini-Hochberg weights, default 0.1.
    effective : variational_garrote and sparse_bayes, how many independent entries the data are worth; default all.
    groups : group_lasso, a dict from the name of every atom to its group, or to a list of groups.  group_by : instead, a regular
        expression: atoms belong together whose names give the same first parenthesis, or match.
    compress : keep only about this many entries, the largest over the atoms in each module (999936 in the paper).
    threshold : an atom is ``present`` when its weight is larger than this in size (0.01, as in the paper).
    verify : recompute the certificate from the data, in one more pass.

    With adapters as atoms only the tensors they change are compared; checkpoints are compared in the tensors that all have.
    What was left out is listed in the result.  Raises ``ValueError`` naming tensors that are missing or of other shapes.
    """
    began = time.monotonic()
    choice(method, "method", {name: 0 for name in METHODS})
    row = ANSWERS[method]
    if verify and row.problem is None and method not in UNCHECKED:
        raise bad_range(f"verify is True, but {method} is not a problem that a certificate from the data knows")
    if method != "group_lasso" and not (groups is None and group_by is None):
        raise bad_range(f"{'group_by' if groups is None else 'groups'} is given, but {method} knows no groups")
    cut = real(threshold, "threshold")
    if not cut >= 0:
        raise bad_range(f"threshold is {cut}; it must be >= 0")
    paths = _named(atoms)
    together = groups_by_name(list(paths), groups, group_by)
    sources = {name: read(model, name) for name, model in paths.items()}
    below = _base(base)
    problem = assemble(below, sources, read(target, "target"))

    with Run(progress=progress) as outer:  # owns the progress bar, so that every step below draws on the same one
        common: dict[str, Any] = {"threads": threads, "progress": outer.reporter}

        def left() -> float:
            return max(deadline - (time.monotonic() - began), 1e-9) if deadline > 0 else deadline

        kept: Mask | None = None
        if compress is not None:
            kept = mask(problem.atoms, total=integer(compress, "compress"), deadline=left(), **common)
        many = 8 * len(paths) ** 2 * len(problem.used) > MAX_BLOCK_BYTES
        gram = Gram(
            problem.atoms,
            problem.target,
            precision=precision,
            blocks="one" if many else "module",
            mask=kept,
            seed=seed,
            deadline=left(),
            **common,
        )
        run = {"tol": tol, "max_iter": max_iter, "deadline": left(), "seed": seed, **common}
        asked = Asked(alpha, l1_ratio, k, lower, upper, total, tau, sigma, gamma, q, effective, together)
        coef, report, options = row.answer(gram, asked, run)
        if verify and row.problem is not None:
            run["deadline"] = left()
            checked = row.problem(options, report)
            _, report = verify_from_data(problem.atoms, problem.target, coef, mask=kept, **checked, **run)
        if together is not None:
            names = list(paths)
            options = options | {"groups": {label: [names[j] for j in members] for label, members in together.items()}}

    present = np.abs(coef) > cut
    found = Decomposition(
        method=method,
        options=options | {"compress": compress, "threshold": cut},
        atoms=_atoms(paths, sources, gram, coef, present, method),
        modules=[] if many else _evidence(problem, gram, coef, present, method),
        report=report,
        entries=gram.entries,
        tensors=len(problem.used),
        left_out=problem.left_out,
        target=str(target) if not isinstance(target, Mapping) else "arrays",
        base=None if base is None else str(base) if not isinstance(base, Mapping) else "arrays",
        precision=gram.precision,
        seconds=time.monotonic() - began,
    )
    return found


def _named(atoms: Union[Sequence[Model], Mapping[str, Model]]) -> dict[str, Model]:
    """Atoms by name: the last part of the path; the whole path where two end alike."""
    if isinstance(atoms, Mapping):
        named = {str(name): model for name, model in atoms.items()}
    elif isinstance(atoms, (str, bytes)) or not isinstance(atoms, Sequence):
        raise bad_type(f"atoms is a {type(atoms).__name__}, expected a list of paths or a dict name -> path")
    else:
        if any(isinstance(model, Mapping) for model in atoms):
            raise bad_type("atoms in memory need names: pass a dict name -> arrays")
        last = [_last_part(model) for model in atoms]
        names = [str(model) if last.count(name) > 1 else name for model, name in zip(atoms, last)]
        if len(set(names)) != len(names):
            raise bad_range("the same atom is given twice")
        named = dict(zip(names, atoms))
    if not named:
        raise bad_range("there are no atoms")
    return named


def _last_part(path: Any) -> str:
    place = Path(path)
    return place.name if place.name not in ("", "..") else place.resolve().name


def _base(base: Model | None) -> Tensors | None:
    if base is None:
        return None
    source = read(base, "base")
    if not isinstance(source, Tensors):
        raise bad_type(f"the base {base} is an adapter, expected a checkpoint")
    return source


def _atoms(
    paths: Mapping[str, Model], sources: Mapping[str, Source], gram: Gram, coef: Coef, present: Any, method: str
) -> list[Atom]:
    G, C, yy = gram.arrays()
    norms, c, y = np.sqrt(np.diag(G)), C[:, 0], float(yy[0])
    cosine = _cosine(c, norms, y)
    found = []
    for j, (name, path) in enumerate(paths.items()):
        weight = float(coef[j])
        joint = method != "dot" and y > 0
        found.append(
            Atom(
                name=name,
                present=bool(present[j]),
                weight=weight,
                share=weight * float(c[j]) / y if joint else None,
                cosine=float(cosine[j]),
                size=abs(weight) * float(norms[j]) / float(np.sqrt(y)) if joint else None,
                kind="tensors" if isinstance(sources[name], Tensors) else "adapter",
                path=None if isinstance(path, Mapping) else str(path),
            )
        )
    return found


def _evidence(problem: Problem, gram: Gram, coef: Coef, present: Any, method: str) -> list[Module]:
    """Per module: its part of ||y||^2, how much of it the joint weights explain, and the weights it would choose alone.

    One weight must hold in all modules; where the weights of the modules scatter, the atom only resembles what is there.
    """
    names = problem.atoms.columns
    chosen = [j for j in range(len(names)) if present[j]]
    total = float(gram.arrays().yy[0])
    found = []
    for index, block in enumerate(gram.blocks):
        G, C, yy = gram.arrays(index)
        c, y = C[:, 0], float(yy[0])
        explained = None
        if y > 0 and method != "dot":
            # Cancellation can leave a trifle beyond 1 when nothing is left.
            explained = min(1.0, float(2 * coef @ c - coef @ G @ coef) / y)
        alone: dict[str, float] = {}
        if chosen:
            weights, _ = ridge(gram.subset(chosen, [index]), alpha=0)
            alone = {names[j]: float(w) for j, w in zip(chosen, weights)}
        cosine = _cosine(c, np.sqrt(np.diag(G)), y)
        found.append(
            Module(
                name=block.module,
                entries=block.entries,
                energy=y / total if total > 0 else 0.0,
                explained=explained,
                weights=alone,
                cosine={name: float(value) for name, value in zip(names, cosine)},
            )
        )
    return found


def _cosine(c: Coef, norms: Coef, yy: float) -> Coef:
    scale = norms * np.sqrt(yy)
    cosine: Coef = np.divide(c, scale, out=np.zeros_like(c), where=scale > 0)
    return cosine
