"""Decomposition: the answer of decompose, as a table, as a dict, as JSON."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any, Union

from . import _ffi
from ._files import write_atomically
from .report import Report


@dataclass(frozen=True)
class Atom:
    """One atom of the dictionary.

    weight : its coefficient.  present : whether the weight is beyond the threshold.
    share : w_j <a_j, y> / ||y||^2; the shares of a least-squares fit add up to the explained share (None for dot).
    cosine : of atom and target.  size : |w_j| ||a_j|| / ||y|| (None for dot).
    """

    name: str
    present: bool
    weight: float
    share: float | None
    cosine: float
    size: float | None
    kind: str
    path: str | None


@dataclass(frozen=True)
class Module:
    """The evidence of one module (tensor).

    energy : its part of ||y||^2.  explained : the part of that which the joint weights explain (negative: they make it
    worse there).  weights : least squares over the present atoms in this module alone.  cosine : per atom.
    """

    name: str
    entries: int
    energy: float
    explained: float | None
    weights: dict[str, float] = field(default_factory=dict)
    cosine: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Decomposition:
    """What :func:`unmerge.decompose` found; ``print`` it, or see ``atoms`` (in the order given), ``modules``, ``report``."""

    method: str
    options: dict[str, Any]
    atoms: list[Atom]
    modules: list[Module]
    report: Report
    entries: int
    tensors: int
    left_out: dict[str, list[str]]
    target: str
    base: str | None
    precision: str
    seconds: float

    @property
    def explained(self) -> float | None:
        """1 - ||Aw-y||^2 / ||y||^2; None for dot, which is not a joint fit."""
        return None if math.isnan(self.report.r2) or self.method == "dot" else self.report.r2

    @property
    def weights(self) -> dict[str, float]:
        """Weight by name."""
        return {atom.name: atom.weight for atom in self.atoms}

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what JSON cannot say (NaN, infinity) is None."""
        version = f"{_ffi.UNMERGE_VERSION_MAJOR}.{_ffi.UNMERGE_VERSION_MINOR}.{_ffi.UNMERGE_VERSION_PATCH}"
        found = {
            "unmerge": version,
            "method": self.method,
            "options": self.options,
            "target": self.target,
            "base": self.base,
            "atoms": [asdict(atom) for atom in self.atoms],
            "explained": self.explained,
            "converged": self.report.converged,
            "report": self.report.to_dict(),
            "modules": [asdict(module) for module in self.modules],
            "data": {
                "tensors": self.tensors,
                "entries": self.entries,
                "passes": self.report.passes,
                "precision": self.precision,
                "left_out": self.left_out,
            },
            "seconds": self.seconds,
        }
        return _plain(found)  # type: ignore[no-any-return]

    def to_json(self, path: Union[str, os.PathLike[str], None] = None) -> str:
        """JSON text; with ``path`` also written there (whole, or not at all)."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        if path is not None:
            write_atomically(path, text.encode("utf-8"))
        return text

    def __str__(self) -> str:
        """A table: present atoms first, the largest weight on top; then the rest in the order given."""
        order = sorted(self.atoms, key=lambda a: (not a.present, -abs(a.weight) if a.present else 0.0))
        head: tuple[str, ...] = ("", "atom", "cosine" if self.method == "dot" else "weight", "share", "cosine")
        rows: list[tuple[str, ...]] = [
            ("*" if a.present else " ", _shown(a.name), f"{a.weight:.4f}", _percent(a.share), f"{a.cosine:.4f}") for a in order
        ]
        if self.method == "dot":
            head, rows = head[:3], [row[:3] for row in rows]
        table = _table([head, *rows])
        present = sum(a.present for a in self.atoms)
        threshold = self.options.get("threshold", 0)
        lines = [*table, "", f"{present} of {len(self.atoms)} atoms present (* weight beyond {threshold:g})"]
        if self.explained is not None:
            lines.append(f"explained    {_percent(self.explained)} of ||y||^2, {_percent(1 - self.explained)} is left")
        lines.append(f"certificate  {self._certificate()}")
        lines.append(
            f"read         {self.entries} entries of {_count(self.tensors, 'tensor')}, "
            f"{_count(self.report.passes, 'pass', 'es')}, {self.precision}"
        )
        for reason, names in self.left_out.items():
            shown = ", ".join(map(_shown, names[:3])) + (", …" if len(names) > 3 else "")
            lines.append(f"left out     {_count(len(names), 'tensor')} {reason}: {shown}")
        lines.append(f"method       {self.method}, {self.seconds:.2f} s")
        return "\n".join(lines)

    def _certificate(self) -> str:
        r = self.report
        words = [r.outcome]
        if not math.isnan(r.relative_gap):
            words.append(f"relative gap {r.relative_gap:.1e}")
        if not math.isnan(r.violation):
            words.append(f"largest violation {r.violation:.1e}")
        if not math.isnan(r.condition):
            words.append(f"condition {r.condition:.3g}")
        words += sorted(flag.replace("_", " ") for flag in r.flags)
        return ", ".join(words) + (", from the data" if r.streamed else ", from the Gram")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _count(n: int, noun: str, plural: str = "s") -> str:
    return f"{n} {noun}{'' if n == 1 else plural}"


def _shown(name: str) -> str:
    """A name from somebody else's file, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned columns: the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
