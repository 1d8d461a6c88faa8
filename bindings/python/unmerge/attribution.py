"""attribute: which of these fine-tunes are in the merged model, how much, how sure, merged how, and is anything missing?

The target is what a merge left, merged - base, and may contain fine-tunes nobody has; the atoms are the fine-tunes one
has.  Three kinds of evidence, each with its own null distribution (``unmerge.h`` has the formulas):

* least squares and the log-determinant fit, whose right weights leave the residual of lowest rank;
* where entries were dropped or trimmed, entries that one component alone has left are exact multiples of it;
* replay of the recipe found: how many stored values it predicts exactly.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from . import _ffi
from ._arrays import doubles, output
from ._assemble import assemble_all
from ._library import call, destroy, library, prepared
from ._options import INT32, boolean, integer, real
from ._peft import Adapter
from ._run import ProgressOption, Run
from ._tensors import Tensors
from .attributed import AttributedAtom, Attribution, MethodFound, Modules, Proof, Scale
from .decomposition import Model, _base, _named
from .errors import bad_format, bad_type
from .files import Source, read
from .operator import Operator, as_operator
from .recipe import METHODS, NORMALIZED, Recipe, from_c

ATOM_FLAGS = {
    _ffi.UNMERGE_ATOM_ZERO: "zero",
    _ffi.UNMERGE_ATOM_DUPLICATE: "duplicate",
    _ffi.UNMERGE_ATOM_RELATED: "related",
    _ffi.UNMERGE_ATOM_PARTIAL: "partial",
    _ffi.UNMERGE_ATOM_UNSEEN: "unseen",
}
FLAGS = {
    _ffi.UNMERGE_ATTRIBUTION_UNCHANGED: "unchanged",
    _ffi.UNMERGE_ATTRIBUTION_WRONG_BASE: "wrong_base",
    _ffi.UNMERGE_ATTRIBUTION_FEW_MODULES: "few_modules",
    _ffi.UNMERGE_ATTRIBUTION_FEW_ATOMS: "few_atoms",
    _ffi.UNMERGE_ATTRIBUTION_PROVED: "proved",
}
SCALES: dict[int, Scale] = {
    _ffi.UNMERGE_WEIGHTS_ABSOLUTE: "absolute",
    _ffi.UNMERGE_WEIGHTS_RATIO: "ratio",
    _ffi.UNMERGE_WEIGHTS_PER_MODULE: "per-module",
}
MEMORY = 400 << 20  # bytes for the analysed sample
MOST_PAIRS = 8  # related pairs that get a sentence each


def attribute(
    data: Any = None,
    *,
    base: Model | None = None,
    atoms: Union[Sequence[Model], Mapping[str, Model], None] = None,
    target: Model | None = None,
    fdr: float = 0.05,
    confidence: float = 0.9,
    rows: int = 512,
    bytes: int = MEMORY,
    replay: bool = True,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Attribution:
    """Which atoms are in the target, with what weight, how sure; merged by which method; is anything missing.

    Parameters
    ----------
    data : instead of base, atoms and target: a pair of Operators ``(atoms, target)`` over the same modules, or an Operator
        that carries a target.
    base : the checkpoint the others are compared with (file, folder, sharded folder, or a dict of NumPy arrays).
    atoms : paths (named by their last part), or a dict name -> path; adapters and checkpoints, mixed.
    target : the merged checkpoint; or a merged adapter, which needs no base where all atoms are adapters.
    fdr : (0, 1); false discovery rate at which atoms are called present.
    confidence : (0, 1); of the intervals.
    rows : of each module that are analysed, >= 16 (all where a module has fewer).
    bytes : of memory for the analysed sample, >= 1 MiB; modules are left out evenly beyond it.
    replay : replay the recipe found over all entries, not over the analysed rows only.

    Files are memory-mapped and never copied.  Compared are the tensors that an atom changes; tensors that only the target
    changes are evidence that something else is inside.  Raises ``ValueError`` naming tensors of other shapes, and where
    atoms and target have no tensor in common.
    """
    began = time.monotonic()
    options = prepared(
        _ffi.unmerge_attribute_options,
        fdr=real(fdr, "fdr"),
        confidence=real(confidence, "confidence"),
        rows=integer(rows, "rows"),
        bytes=integer(bytes, "bytes"),
        replay=boolean(replay, "replay"),
    )
    integer(threads, "threads", INT32)  # before files are read
    if data is not None and not (base is None and atoms is None and target is None):
        raise bad_type("data is given, and so are base, atoms or target; give one or the other")
    given = _operators(data) if data is not None else _files(base, atoms, target)

    left = max(deadline - (time.monotonic() - began), 1e-9) if deadline > 0 else deadline
    handle = ctypes.c_void_p()
    with Run(deadline=left, threads=threads, seed=seed, progress=progress) as run:
        run.call(
            "attribute",
            (given.atoms._handle, given.target._handle, ctypes.byref(options)),
            (ctypes.byref(handle),),
            predicted=1.0,  # always worth a thread
        )
    try:
        asked = {"fdr": options.fdr, "confidence": options.confidence, "rows": options.rows, "replay": bool(options.replay)}
        return _answer(handle, given, asked, began)
    finally:
        destroy("attribution", handle.value or 0)


# ---------------------------------------------------------------- what is given


@dataclass
class _Given:
    """Two operators, and what is known about where they come from."""

    atoms: Operator
    target: Operator
    paths: dict[str, str | None]
    name: str = "operator"
    base: str | None = None
    adapters: frozenset[str] = frozenset()
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    silent: dict[str, list[str]] = field(default_factory=dict)


def _operators(data: Any) -> _Given:
    if isinstance(data, Operator):
        if data._target is None:
            raise bad_type("data is an Operator without a target; pass (atoms, target) or operator.with_target(target)")
        data = (data, data._target)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise bad_type(f"data is a {type(data).__name__}, expected a pair (atoms, target) or an Operator with a target")
    a, y = as_operator(data[0], "A"), as_operator(data[1], "y")
    return _Given(a, y, {name: None for name in a.columns})


def _files(base: Model | None, atoms: Any, target: Model | None) -> _Given:
    if atoms is None or target is None:
        raise bad_type("atoms and target are needed, or data")
    named = _named(atoms)
    sources = {name: read(model, name) for name, model in named.items()}
    goal, below = read(target, "target"), _base(base)
    if below is None and isinstance(goal, Tensors) and goal.kind == "safetensors" and not goal.vector:
        raise bad_format(
            f"the target {goal.path} is a checkpoint: give its base (a file of differences says so in its metadata: "
            "kind = task_vector)"
        )
    if below is None and (lost := next((n for n, s in sources.items() if _needs_base(s)), None)):
        raise bad_format(f"the atom {lost!r} is a checkpoint: give its base")
    problem = assemble_all(below, sources, goal)
    return _Given(
        problem.atoms,
        problem.target,
        {name: _path(model) for name, model in named.items()},
        _path(target) or "arrays",
        None if base is None else _path(base) or "arrays",
        frozenset(name for name, source in sources.items() if isinstance(source, Adapter)),
        problem.left_out,
        problem.unasked,
        problem.lacking,
        problem.silent,
    )


def _needs_base(source: Source) -> bool:
    return isinstance(source, Tensors) and source.kind == "safetensors" and not source.vector


def _path(model: Model) -> str | None:
    return None if isinstance(model, Mapping) else str(model)


# ---------------------------------------------------------------- what is found


def _answer(handle: ctypes.c_void_p, given: _Given, asked: dict[str, Any], began: float) -> Attribution:
    info = prepared(_ffi.unmerge_attribution_info)
    call("attribution_get_info", handle, ctypes.byref(info))
    names, modules = given.atoms.columns, given.atoms.modules
    structs = (_ffi.unmerge_attributed_atom * len(names))()
    for struct in structs:  # struct_size is read from the first; the rest is filled for tidiness
        struct.struct_size = _ffi.LAYOUT["unmerge_attributed_atom"][0]
    call("attribution_atoms", handle, structs)
    weights, unexplained = np.zeros((len(names), len(modules))), np.zeros(len(modules))
    call("attribution_modules", handle, output(weights).pointer, doubles(unexplained))
    atoms = [_atom(struct, j, names, weights[j], given.paths) for j, struct in enumerate(structs)]
    rule = None
    if info.has_recipe:
        recipe = prepared(_ffi.unmerge_recipe)
        call("attribution_recipe", handle, ctypes.byref(recipe))
        rule = from_c(recipe, len(modules), len(names))  # its numbers belong to the attribution: copied
    flags = _words(FLAGS, info.flags)
    return Attribution(
        atoms=atoms,
        method=_method(info, rule),
        complete=bool(info.complete),
        unexplained=info.unexplained,
        noise=info.noise,
        missing=info.missing,
        proof=Proof(info.equal, info.compared, info.chance, "proved" in flags),
        modules=Modules(modules, weights, unexplained),
        weights_scale=SCALES.get(info.weights_scale, "absolute"),
        rule=rule,
        warnings=_warnings(atoms, flags, given),
        flags=flags,
        condition=info.condition,
        entries=info.entries,
        analysed=info.analysed,
        options=asked,
        left_out=given.left_out,
        target=given.name,
        base=given.base,
        seconds=time.monotonic() - began,
        _data=(given.atoms, given.target),
        _adapters=given.adapters,
    )


def _atom(struct: Any, j: int, names: list[str], weights: Any, paths: dict[str, str | None]) -> AttributedAtom:
    return AttributedAtom(
        name=names[j],
        present=bool(struct.present),
        weight=struct.weight,
        low=struct.low,
        high=struct.high,
        p_value=struct.p_value,
        q_value=struct.q_value,
        evidence=struct.evidence,
        share=struct.share,
        scatter=struct.scatter,
        flags=_words(ATOM_FLAGS, struct.flags),
        nearest=names[struct.nearest] if 0 <= struct.nearest < len(names) else None,
        nearest_cosine=struct.nearest_cosine,
        modules=weights,
        path=paths[names[j]],
    )


def _method(info: Any, rule: Recipe | None) -> MethodFound:
    """The name may be known without a recipe that would reproduce the target."""
    values = (*METHODS.values(), _ffi.UNMERGE_MERGE_ADAPTER_LINEAR)
    names = {value: library().unmerge_merge_name(value).decode() for value in values}
    name = names.get(info.method)
    normalize = None if info.normalize == _ffi.UNMERGE_METHOD_DEFAULT else bool(info.normalize)
    scaled = name is not None and name not in ("model_stock", "slerp", "nuslerp", "adapter_cat", "adapter_linear")
    parameters: dict[str, Any] = {
        "density": None if name is None or math.isnan(info.density) else info.density,
        "normalize": (name in NORMALIZED if normalize is None else normalize) if scaled else None,
        "lambda": info.lambda_ if scaled and name != "linear" else None,
    }
    if rule is not None and rule.method == "slerp":
        parameters["t"] = rule.t
    if rule is not None and rule.method.startswith("breadcrumbs"):
        parameters["gamma"] = rule.gamma
    if rule is not None and rule.method.startswith("della"):
        parameters["epsilon"] = rule.epsilon
    equivalent = [other for value, other in names.items() if info.equivalent >> value & 1 and value != info.method]
    return MethodFound(name, parameters, equivalent if name else [])


def _words(words: dict[int, str], bits: int) -> tuple[str, ...]:
    return tuple(word for bit, word in words.items() if bits & bit)


# ---------------------------------------------------------------- sentences a person can act on


def _warnings(atoms: list[AttributedAtom], flags: tuple[str, ...], given: _Given) -> list[str]:
    found = [sentence for flag, sentence in _SENTENCES.items() if flag in flags]
    if given.unasked:
        some = _some(given.unasked, "tensor")
        found.append(f"the target changes {some}, which no atom does: none of these atoms can explain that")
    if other := given.left_out.get("of another shape than in the base"):
        found.append(f"{_some(other, 'tensor')} has another shape in the target than in the base and was not compared")
    found += _relations(atoms)
    for atom in atoms:
        if "unseen" in atom.flags:
            found.append(f"{atom.name!r} changes none of the target's modules: nothing can be said about it")
        elif "zero" in atom.flags:
            found.append(f"{atom.name!r} is zero in every module compared: whether it is inside makes no difference")
        elif "partial" in atom.flags and (silent := given.silent.get(atom.name)):
            count = f"{len(given.atoms.modules) - len(given.unasked) - len(silent)} of the {len(given.atoms.modules)}"
            found.append(f"{atom.name!r} changes only {count} modules; it is judged by those")
        if lacking := given.lacking.get(atom.name):
            found.append(f"{atom.name!r} also changes {_some(lacking, 'tensor')}, which the target does not have")
    return found


_SENTENCES = {
    "unchanged": "the target equals its base in everything compared: nothing was merged, or this is not the merged model",
    "wrong_base": "target and base differ by as much as the base is large: this is probably not the base it was merged from",
    "few_modules": "fewer than 4 modules were compared: p-values and intervals are rough",
    "few_atoms": "there are fewer than 4 usable atoms, too few for a null distribution of their own: a default is used; "
    "more fine-tunes of the same base make p-values sharper, also when they are not inside",
}


def _relations(atoms: list[AttributedAtom]) -> list[str]:
    """Duplicates, then pairs of relatives, each pair once."""
    found = []
    pairs: dict[frozenset[str], float] = {}
    for atom in atoms:
        if atom.nearest is None:
            continue
        if "duplicate" in atom.flags:
            found.append(
                f"{atom.name!r} is a multiple of {atom.nearest!r} (cosine {atom.nearest_cosine:.4f}): the two cannot be "
                f"told apart, so {atom.nearest!r} answers for both; leave one of them out"
            )
        elif "related" in atom.flags:
            pairs.setdefault(frozenset((atom.name, atom.nearest)), atom.nearest_cosine)
    duplicates = {atom.name for atom in atoms if "duplicate" in atom.flags}
    related = [(sorted(pair), c) for pair, c in pairs.items() if len(pair) == 2 and not pair & duplicates]
    related.sort(key=lambda item: -abs(item[1]))
    for (one, other), cosine in related[:MOST_PAIRS]:
        found.append(
            f"{one!r} and {other!r} are related (cosine {cosine:.2f}): evidence for one is in part evidence for the other"
        )
    if more := len(related) - MOST_PAIRS:
        if more > 0:
            found.append(f"{more} more pairs of atoms are related (cosine above 0.5)")
    return found


def _some(names: list[str], noun: str) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown})"


__all__ = ["attribute"]
