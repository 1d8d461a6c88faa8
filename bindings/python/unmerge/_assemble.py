"""From what was read to two operators over the same modules: which tensors are compared, and which are left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from ._peft import Adapter, oriented
from ._tensors import Array, Tensors, as_matrix, some
from .errors import bad_format, bad_shape
from .files import Source
from .operator import Operator

Shape = tuple[int, int]


@dataclass
class Problem:
    """Atoms and target as operators; ``used``: modules; ``left_out``: names by reason."""

    atoms: Operator
    target: Operator
    used: dict[str, Shape]
    left_out: dict[str, list[str]] = field(default_factory=dict)


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
    model = base if base is not None else target if isinstance(target, Tensors) else None
    known = {} if model is None else {name: _matrix_shape(array, name) for name, array in model.arrays.items()}
    goal = _part("target", target, base, known)
    parts = [_part(name, source, base, known) for name, source in atoms.items()]
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
    return Problem(a, y, shapes, left_out)


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
