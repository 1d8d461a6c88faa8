"""From what was read to two operators over the same modules: which tensors are compared, and which are left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from ._peft import Adapter, oriented
from ._tensors import Array, Tensors, as_matrix, some
from .errors import bad_format, bad_shape
from .files import Source
from .operator import Operator

Shape = tuple[int, int]


@dataclass
class Problem:
    """Atoms and target as operators; ``used``: modules; ``left_out``: names by reason.

    ``unasked``: modules of ``used`` that differ from the base and that no atom changes.  ``lacking``: per atom, tensors it
    changes and the target does not have.  ``silent``: per atom, modules that other atoms change and it does not.
    """

    atoms: Operator
    target: Operator
    used: dict[str, Shape]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unasked: list[str] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=dict)
    silent: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """An atom or the target: an adapter, a task vector (``minus`` None), or a checkpoint minus its base."""

    name: str
    source: Source
    minus: Tensors | None

    def names(self) -> set[str]:
        """The tensors it has something to say about."""
        if isinstance(self.source, Adapter):
            return set(self.source.factors)
        if self.minus is None:
            return set(self.source.arrays)
        return self.source.arrays.keys() & self.minus.arrays.keys()

    @property
    def is_checkpoint(self) -> bool:
        return self.minus is not None

    def shape(self, tensor: str) -> Shape:
        if isinstance(self.source, Adapter):
            return self.source.factors[tensor].shape
        return _matrix_shape(self.source.arrays[tensor], tensor)

    def changes(self, tensor: str, units: int = 0) -> bool:
        """Whether it says something there; for a checkpoint, more than some units in the last place beside the base."""
        if isinstance(self.source, Adapter):
            return tensor in self.source.factors
        if self.minus is None:
            return tensor in self.source.arrays
        return tensor in self.source.arrays and tensor in self.minus.arrays and not _unchanged(self, tensor, units)

    def fits(self, tensor: str) -> bool:
        """Whether a checkpoint's tensor has the shape of the base's."""
        return self.minus is None or self.shape(tensor) == _matrix_shape(self.minus.arrays[tensor], tensor)

    def put(self, op: Operator, tensor: str) -> None:
        """Set the column of this name on one module."""
        if isinstance(self.source, Adapter):
            f = self.source.factors[tensor]
            op.set_lora(tensor, self.name, f.B, f.A, f.scale)
            return
        base = None if self.minus is None else as_matrix(self.minus.arrays[tensor], tensor)
        op.set_dense(tensor, self.name, as_matrix(self.source.arrays[tensor], tensor), base)


def assemble(base: Tensors | None, atoms: dict[str, Source], target: Source) -> Problem:
    """The operators.  Raises ``ValueError`` naming every tensor that does not fit."""
    goal, parts = _parts(base, atoms, target)
    touched = _touched(parts)
    available = _available(goal, base)

    # Adapters and task vectors name the tensors they change: the target must have them.  Checkpoints are compared where
    # they overlap, since a tied or added tensor is nobody's mistake.
    named = {t: p.name for p in parts if not p.is_checkpoint for t in sorted(p.names())}
    if available is not None and (lacking := sorted(named.keys() - available)):
        where = "the target" if goal.minus is None else "the target or the base"
        raise bad_format(f"{named[lacking[0]]!r} changes {some(lacking)}, which {where} does not have as a float tensor")
    checkpoints = [p for p in parts if p.is_checkpoint]
    left_out: dict[str, list[str]] = {}
    used = []
    for tensor in sorted(touched):
        lacks = next((p.name for p in checkpoints if tensor not in p.names()), None)
        if available is not None and tensor not in available:
            left_out.setdefault("not in the target", []).append(tensor)
        elif lacks is not None and tensor in named:
            raise bad_format(f"{named[tensor]!r} changes {tensor!r}, which the atom {lacks!r} does not have")
        elif lacks is not None:
            left_out.setdefault("not in every atom", []).append(tensor)
        else:
            used.append(tensor)
    if not used:
        raise bad_format("the atoms and the target have no float tensor in common")
    if untouched := sorted(goal.names() - touched):
        left_out["not changed by any atom"] = untouched
    if isinstance(target, Tensors) and target.other:
        left_out["not floating point"] = sorted(target.other)

    shapes = _shapes(used, parts, goal)
    return Problem(*_operators(shapes, parts, goal), shapes, left_out)


def assemble_all(base: Tensors | None, atoms: dict[str, Source], target: Source) -> Problem:
    """The operators over every tensor that an atom or the target changes; what an atom does not have is zero there.

    A tensor the target changes and no atom does is evidence that something else is inside: it becomes a module.  Tensors
    that no atom changes, and the target by no more than rounding, are left out.  Raises ``ValueError`` where nothing can be
    compared.
    """
    goal, parts = _parts(base, atoms, target)
    touched = _touched(parts)
    available = _available(goal, base)
    candidates = touched | goal.names()
    if available is None:
        available = candidates
    elif foreign := sorted(goal.names() - available):
        raise bad_format(f"the target changes {some(foreign)}, which the base does not have as a float tensor")
    if not touched & available:
        raise bad_format(
            "the atoms and the target have no float tensor in common: another architecture, or other names "
            f"(the atoms change {_example(touched)}, the target has {_example(available)})"
        )

    left_out: dict[str, list[str]] = {}
    if lacks := sorted(touched - available, key=_natural):
        left_out["not in the target"] = lacks
    cheap_first = sorted(parts, key=lambda p: p.is_checkpoint)  # adapters need no comparison of values
    used: list[str] = []
    unasked: list[str] = []
    for tensor in sorted(candidates & available, key=_natural):
        if any(part.changes(tensor) for part in cheap_first):
            used.append(tensor)
        elif not goal.changes(tensor, ROUNDING):
            left_out.setdefault("the same in all", []).append(tensor)
        elif tensor in touched or goal.fits(tensor):
            used.append(tensor)
            unasked.append(tensor)
        else:
            left_out.setdefault("of another shape than in the base", []).append(tensor)
    if not used:  # nothing was changed anywhere: one module is enough to say so
        used.append(min(touched & available, key=_natural))
    if isinstance(target, Tensors) and target.other:
        left_out["not floating point"] = sorted(target.other)

    shapes = _shapes(used, parts, goal)
    asked = touched & shapes.keys()
    named = [p for p in parts if not p.is_checkpoint]  # a tied or added tensor of a checkpoint is nobody's mistake
    return Problem(
        *_operators(shapes, parts, goal),
        shapes,
        left_out,
        unasked=unasked,
        lacking={p.name: found for p in named if (found := sorted(p.names() - available, key=_natural))},
        silent={p.name: found for p in parts if (found := sorted(asked - p.names(), key=_natural))},
    )


def _parts(base: Tensors | None, atoms: dict[str, Source], target: Source) -> tuple[_Part, list[_Part]]:
    """The target and the atoms."""
    model = base if base is not None else target if isinstance(target, Tensors) else None
    known = {} if model is None else {name: _matrix_shape(array, name) for name, array in model.arrays.items()}
    return _part("target", target, base, known), [_part(name, source, base, known) for name, source in atoms.items()]


def _operators(shapes: dict[str, Shape], parts: list[_Part], goal: _Part) -> tuple[Operator, Operator]:
    a, y = Operator(), Operator()
    for tensor, shape in shapes.items():
        a.add_module(tensor, *shape)
        y.add_module(tensor, *shape)
    y.add_column(goal.name)
    for part in parts:
        a.add_column(part.name)
        for tensor in part.names() & shapes.keys():
            part.put(a, tensor)
    for tensor in goal.names() & shapes.keys():
        goal.put(y, tensor)
    return a, y


def _part(name: str, source: Source, base: Tensors | None, known: dict[str, Shape]) -> _Part:
    if isinstance(source, Adapter):
        return _Part(name, oriented(source, known), None)
    # .npy and .npz are differences, unless the base is one of them too; see the table in files.py.
    numpy = source.kind in ("npy", "npz")
    difference = source.vector and not (numpy and base is not None and base.kind in ("npy", "npz"))
    return _Part(name, source, None if difference else base)


def _touched(parts: list[_Part]) -> set[str]:
    found: set[str] = set()
    return found.union(*(part.names() for part in parts))


def _available(goal: _Part, base: Tensors | None) -> set[str] | None:
    """The tensors a target can answer for; None for an adapter, which is zero where it has no factors."""
    if not isinstance(goal.source, Adapter):
        return goal.names()
    return None if base is None else set(base.arrays)


def _shapes(used: list[str], parts: list[_Part], goal: _Part) -> dict[str, Shape]:
    """The common shape of each tensor; all that disagree are named at once."""
    shapes: dict[str, Shape] = {}
    wrong = []
    for tensor in used:
        seen = {p.name: p.shape(tensor) for p in [goal, *parts] if tensor in p.names()}
        for p in [goal, *parts]:
            if p.minus is not None and tensor in p.minus.arrays:
                seen["base"] = _matrix_shape(p.minus.arrays[tensor], tensor)
        if len(set(seen.values())) > 1:
            wrong.append(tensor + ": " + ", ".join(f"{who} {r}x{c}" for who, (r, c) in seen.items()))
        shapes[tensor] = next(iter(seen.values()))
    if wrong:
        raise bad_shape("shapes differ: " + "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if wrong[8:] else ""))
    return shapes


def _matrix_shape(array: Array, name: str) -> Shape:
    rows, cols = as_matrix(array, name).shape
    return int(rows), int(cols)


def _natural(name: str) -> list[tuple[int, str]]:
    """layers.2 before layers.10."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)]


def _example(names: set[str]) -> str:
    return some(sorted(names, key=_natural), 1)


CHUNK = 1 << 20  # entries compared at a time
# A merge leaves that many units in the last place where all models are the same: (0.3 b + 0.7 b) / 1.0 need not be b.
ROUNDING = 3


def _unchanged(part: _Part, tensor: str, units: int = 0) -> bool:
    """Whether a checkpoint's tensor is that of the base, in the type it is stored in, to some units in the last place."""
    assert isinstance(part.source, Tensors) and part.minus is not None
    values, base = part.source.arrays[tensor], part.minus.arrays[tensor]
    if values.shape != base.shape:
        return False  # the shapes are compared, and refused, where modules are made
    left, right = values.reshape(-1), base.reshape(-1)
    bits = np.dtype(f"i{values.dtype.itemsize}")
    for begin in range(0, left.size, CHUNK):
        piece, other = left[begin : begin + CHUNK], right[begin : begin + CHUNK]
        if other.dtype != piece.dtype:
            other = other.astype(piece.dtype)
        one, two = np.ascontiguousarray(piece).view(bits), np.ascontiguousarray(other).view(bits)
        if np.array_equal(one, two):
            continue
        # Numbers of one sign are ordered as their bits are.
        size, size_of_base = one & np.iinfo(bits).max, two & np.iinfo(bits).max
        close = np.abs(size - size_of_base) <= units
        if not np.all(close & (((one ^ two) >= 0) | (np.maximum(size, size_of_base) <= units))):
            return False
    return True
