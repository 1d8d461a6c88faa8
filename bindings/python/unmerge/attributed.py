"""Attribution: the answer of attribute, as a table, as HTML, as JSON, and as a recipe that mergekit runs."""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union

import numpy as np
import numpy.typing as npt

from . import _ffi, _mergekit
from ._files import write_atomically
from ._run import ProgressOption
from ._tensors import PathLike
from .errors import bad_range
from .operator import Operator
from .recipe import RESCALED, Recipe, ReplayReport, per_atom, replay
from .result import _count, _percent, _plain, _shown

Scale = Literal["absolute", "ratio", "per-module"]

FORMAT = "unmerge.attribution/1"
# Absent atoms beyond this many are counted in the table, not listed.
MOST_ABSENT = 20
BAR = 12  # cells
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class AttributedAtom:
    """One atom of the dictionary.

    present : called present at the false discovery rate asked for.
    weight : best estimate when present (see ``weights_scale``), else the weight least squares would give it.
    low, high : its interval at the confidence asked for.
    p_value : chance of such evidence were the atom absent.  q_value : the same over the dictionary (Benjamini & Hochberg).
    evidence : |w_j| ||d_j|| / ||R P_j||, its part of the target over what is left in its row space.
    share : excess share of entries that are multiples of this atom alone; NaN where that does not apply.
    scatter : standard deviation of its weight over the modules.
    flags : any of "zero", "duplicate" (of an earlier atom, which answers for both), "related" (cosine above 0.5 with
        another), "partial" (not set on some of the target's modules), "unseen" (on none: nothing can be said about it).
    nearest : the atom with the largest |cosine|, ``nearest_cosine``; None when there is none.
    modules : least squares module by module; NaN where the module was not analysed.
    """

    name: str
    present: bool
    weight: float
    low: float
    high: float
    p_value: float
    q_value: float
    evidence: float
    share: float
    scatter: float
    flags: tuple[str, ...]
    nearest: str | None
    nearest_cosine: float
    modules: npt.NDArray[np.float64] = field(repr=False, compare=False)
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        names = ("name", "present", "weight", "low", "high", "p_value", "q_value", "evidence", "share", "scatter")
        found = {name: getattr(self, name) for name in names}
        return found | {
            "flags": list(self.flags),
            "nearest": self.nearest,
            "nearest_cosine": self.nearest_cosine,
            "modules": self.modules.tolist(),
        }


@dataclass(frozen=True)
class MethodFound:
    """How it was merged.  name : as in :class:`Recipe`; None: none of the methods known.

    parameters : "density", "normalize" and "lambda", None where the method has none; "t", "gamma" or "epsilon" where it
        has one.
    equivalent : other methods this target cannot tell from it.
    """

    name: str | None
    parameters: dict[str, Any]
    equivalent: list[str]

    def __str__(self) -> str:
        if self.name is None:
            return "none of the methods known"
        words = [self.name]
        for name, value in self.parameters.items():
            if isinstance(value, bool):
                words.append(name if value else f"no {name}")
            elif value is not None and not (name == "lambda" and value == 1):
                words.append(f"{name} {value:.4g}")
        return ", ".join(words) + (f" (or {', '.join(self.equivalent)}, the same here)" if self.equivalent else "")


@dataclass(frozen=True)
class Proof:
    """Replay of the recipe found.

    equal : stored values it predicts exactly (random methods: is consistent with), of ``compared``.  chance : the share of
    values that coincidence predicts.  proved : nearly all are predicted.
    """

    equal: int
    compared: int
    chance: float
    proved: bool

    @property
    def share(self) -> float:
        """equal / compared; NaN when nothing was compared."""
        return self.equal / self.compared if self.compared else math.nan


@dataclass(frozen=True)
class Modules:
    """The evidence per module: names (M), weights (n x M: least squares in each module alone; NaN where it was not
    analysed) and the share of ||target||^2 there that is left unexplained (M)."""

    names: list[str]
    weights: npt.NDArray[np.float64] = field(repr=False)
    unexplained: npt.NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Attribution:
    """What :func:`unmerge.attribute` found; ``print`` it, or see ``atoms`` (in the order given), ``method``, ``proof``.

    complete : the atoms present explain the target up to the noise of its method and storage.
    unexplained : share of ||target||^2 that is neither explained nor rounding.  noise : share that storage and method
        predict as noise.  missing : evidence that something is missing, larger = more.
    weights_scale : "absolute"; "ratio" (the merge divides by a sum of weights: only ratios can be known, they sum to 1) or
        "per-module" (they differ; ``weight`` is their mean).
    rule : the :class:`Recipe` found, for :func:`unmerge.merge` and :func:`unmerge.replay`; None where there is none, or
        only the kind of method is known.
    warnings : sentences a person can act on.  flags : "unchanged", "wrong_base", "few_modules", "few_atoms", "proved".
    condition : of the unit-diagonal Gram of the atoms.  entries, analysed : of the target, and in the analysed sample.
    left_out : names of tensors, by reason.
    """

    atoms: list[AttributedAtom]
    method: MethodFound
    complete: bool
    unexplained: float
    noise: float
    missing: float
    proof: Proof
    modules: Modules
    weights_scale: Scale
    rule: Recipe | None
    warnings: list[str]
    flags: tuple[str, ...]
    condition: float
    entries: int
    analysed: int
    options: dict[str, Any]
    left_out: dict[str, list[str]]
    target: str
    base: str | None
    seconds: float
    _data: tuple[Operator, Operator] = field(repr=False)  # kept for replay; mapped files stay open as long
    _adapters: frozenset[str] = field(repr=False)

    @property
    def present(self) -> list[AttributedAtom]:
        """The atoms called present."""
        return [atom for atom in self.atoms if atom.present]

    @property
    def weights(self) -> dict[str, float]:
        """Weight by name, of the atoms called present."""
        return {atom.name: atom.weight for atom in self.present}

    # ------------------------------------------------------------ the recipe

    def replay(
        self, recipe: Recipe | None = None, *, deadline: float = 0, threads: int = 0, progress: ProgressOption = None
    ) -> ReplayReport:
        """Replay the recipe found, or another one, over all entries of the same data."""
        atoms, target = self._data
        return replay(atoms, target, recipe or self._rule(), deadline=deadline, threads=threads, progress=progress)

    def recipe(
        self, base: PathLike | None = None, atoms: Mapping[str, PathLike] | None = None
    ) -> dict[str, Any]:
        """The configuration with which mergekit would make this merge, as a dict.

        base, atoms (by name): paths to write instead of those the attribution was made from.  Raises ``ValueError`` where
        no method was found.
        """
        return self._configuration(base, atoms)[0]

    def mergekit_yaml(self, base: PathLike | None = None, atoms: Mapping[str, PathLike] | None = None) -> str:
        """:meth:`recipe` as the text of a file for ``mergekit-yaml``; what mergekit cannot say is in comments at its top."""
        content, remarks = self._configuration(base, atoms)
        if self.proof.proved:
            share = f"{_share(self.proof.share)} of the stored values are those of this recipe"
        else:
            share = "an estimate: the stored values do not prove it"
        return _mergekit.to_yaml(content, [f"found by unmerge {_version()} in {self.target}", share, *remarks])

    def _configuration(
        self, base: PathLike | None, atoms: Mapping[str, PathLike] | None
    ) -> tuple[dict[str, Any], list[str]]:
        rule, names, count = self._rule(), [atom.name for atom in self.atoms], len(self.modules.names)
        paths = {name: os.fspath(path) for name, path in (atoms or {}).items()}
        if unknown := [name for name in paths if name not in names]:
            raise bad_range(f"atoms names {unknown[0]!r}, which is not one of the atoms")
        below = os.fspath(base) if base is not None else self.base or "base"
        models = [_mergekit.Model(paths.get(a.name, a.path or a.name), a.name in self._adapters) for a in self.atoms]

        def spread(value: Any, name: str) -> npt.NDArray[np.float64]:
            return np.broadcast_to(per_atom(value, name, count, names), (count, len(names)))

        densities = rule.density if np.ndim(rule.density) else np.full(len(names), float(rule.density))
        stored = self._data[1]._stored
        dtype = max(stored, key=lambda name: stored[name]) if stored else None
        dtype = "float32" if dtype == "float64" else dtype
        weights = spread(rule.weights, "weights")
        return _mergekit.configuration(rule, models, below, self.modules.names, weights, spread(densities, "density"), dtype)

    def _rule(self) -> Recipe:
        if self.rule is None:
            raise bad_range("there is no recipe: none of the methods known gives this target, or nothing was merged")
        return self.rule

    # ------------------------------------------------------------ plain values

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what JSON cannot say (NaN, infinity) is None."""
        found = {
            "format": FORMAT,
            "base": self.base,
            "target": self.target,
            "atoms": [atom.to_dict() for atom in self.atoms],
            "method": {
                "name": self.method.name,
                "parameters": self.method.parameters,
                "equivalent": self.method.equivalent,
            },
            "weights": self.weights_scale,
            "complete": self.complete,
            "unexplained": {
                "share": self.unexplained,
                "noise": self.noise,
                "score": self.missing,
                "modules": dict(zip(self.modules.names, self.modules.unexplained.tolist())),
            },
            "proof": {
                "equal": self.proof.equal,
                "compared": self.proof.compared,
                "chance": self.proof.chance,
                "proved": self.proof.proved,
            },
            "warnings": self.warnings,
            "flags": list(self.flags),
            "options": self.options,
            "data": {
                "entries": self.entries,
                "analysed": self.analysed,
                "condition": self.condition,
                "left_out": self.left_out,
            },
            "seconds": self.seconds,
            "version": _version(),
        }
        return _plain(found)  # type: ignore[no-any-return]

    def to_json(self, path: Union[str, os.PathLike[str], None] = None) -> str:
        """JSON text; with ``path`` also written there (whole, or not at all)."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        if path is not None:
            write_atomically(path, text.encode("utf-8"))
        return text

    def save(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write the JSON to a file (whole, or not at all)."""
        self.to_json(path)

    def save_recipe(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write :meth:`mergekit_yaml` to a file."""
        write_atomically(path, self.mergekit_yaml().encode("utf-8"))

    def save_html(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write the table to a file as a page of its own."""
        write_atomically(path, self._page().encode("utf-8"))

    # ------------------------------------------------------------ for people

    def plot(self, where: Any = None) -> Any:
        """The weights with their intervals beside the evidence per module (matplotlib, extra ``plot``).

        where : a path to write the picture to; or Axes, which get the weights alone; None makes a figure.  Gives the Axes.
        """
        from . import plot

        if isinstance(where, (str, os.PathLike)):
            return plot.save_attribution(self, where)
        return plot.attribution(self, where)

    def __str__(self) -> str:
        """A table: present atoms first, the largest weight on top; then the rest by evidence; then what it means."""
        head, rows, more = self._rows()
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        left = (0, 1, len(head) - 1)
        lines = [
            "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
            for row in [head, *rows]
        ]
        if more:
            lines.append(more)
        lines.append("")
        lines += [f"{name:<11}  {value}".rstrip() for name, value in self._summary()]
        return "\n".join(lines)

    def _rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
        confidence = 100 * float(self.options.get("confidence", 0.9))
        unit = {"absolute": "weight", "ratio": "ratio", "per-module": "mean weight"}[self.weights_scale]
        head: tuple[str, ...] = ("", "atom", unit, f"± {confidence:.3g} %", "q-value", "evidence", "")
        present = sorted(self.present, key=lambda a: -abs(a.weight))
        absent = sorted((a for a in self.atoms if not a.present), key=lambda a: -_finite(a.evidence))
        most = max((abs(a.weight) for a in present), default=0.0)
        rows: list[tuple[str, ...]] = [
            (
                "✓" if a.present else " ",
                _shown(a.name),
                _number(a.weight),
                _number((a.high - a.low) / 2 if a.present or a.high > a.low else math.nan),
                _chance(a.q_value),
                _short(a.evidence),
                (_bar(abs(a.weight) / most) if a.present and most > 0 else "") + "".join(_mark(f) for f in a.flags),
            )
            for a in [*present, *absent[:MOST_ABSENT]]
        ]
        rest = len(absent) - MOST_ABSENT
        return head, rows, f"   … and {_count(rest, 'more atom')}, not present" if rest > 0 else ""

    def _summary(self) -> list[tuple[str, str]]:
        """What the numbers mean, line by line."""
        fdr = 100 * float(self.options.get("fdr", 0))
        scale = {
            "absolute": "",
            "ratio": "; only the ratios of the weights can be known, they sum to 1",
            "per-module": "; weights differ between modules, shown is their mean",
        }[self.weights_scale]
        counted = f"{len(self.present)} of {_count(len(self.atoms), 'atom')}"
        lines = [
            ("present", f"{counted} at a false discovery rate of {fdr:.3g} %{scale}"),
            ("method", str(self.method)),
        ]
        left = f"{_share(self.unexplained)} of ||target||^2 is neither explained nor noise ({_share(self.noise)} is noise)"
        lines.append(("complete", f"yes: {left}" if self.complete else f"no, something is missing: {left}"))
        if self.proof.compared:
            verb = "consistent with the recipe" if self.method.name in RESCALED else "predicted exactly"
            counted = f"{self.proof.equal} of {self.proof.compared} stored values {verb}, {_share(self.proof.share)}"
            word = "yes" if self.proof.proved else "no"
            lines.append(("proof", f"{word}: {counted} (chance: {_share(self.proof.chance)})"))
        else:
            lines.append(("proof", "none: no recipe was replayed"))
        lines.append(
            ("read", f"{self.entries} entries of {_count(len(self.modules.names), 'module')}, {self.analysed} analysed")
        )
        for reason, names in self.left_out.items():
            shown = ", ".join(map(_shown, names[:3])) + (", …" if len(names) > 3 else "")
            lines.append(("left out", f"{_count(len(names), 'tensor')} {reason}: {shown}"))
        lines += [("warning", _shown(warning)) for warning in self.warnings]
        return [*lines, ("time", f"{self.seconds:.2f} s")]

    def _repr_html_(self) -> str:
        head, rows, more = self._rows()
        sides = ["left" if i in (0, 1, len(head) - 1) else "right" for i in range(len(head))]

        def row(cells: tuple[str, ...], tag: str) -> str:
            shown = (f'<{tag} style="text-align:{s}">{html.escape(c)}</{tag}>' for c, s in zip(cells, sides))
            return f"<tr>{''.join(shown)}</tr>"

        body = "".join(row(cells, "td") for cells in rows)
        summary = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in self._summary())
        table = f"<table><thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table>"
        return f"{table}{f'<p>{html.escape(more)}</p>' if more else ''}<dl>{summary}</dl>"

    def _page(self) -> str:
        title = html.escape(f"unmerge: {_shown(self.target)}")
        style = "body{font-family:sans-serif;margin:2em}td,th{padding:.15em .6em}dt{font-weight:bold}"
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{style}</style></head><body><h1>{title}</h1>{self._repr_html_()}</body></html>\n"
        )


def _version() -> str:
    return f"{_ffi.UNMERGE_VERSION_MAJOR}.{_ffi.UNMERGE_VERSION_MINOR}.{_ffi.UNMERGE_VERSION_PATCH}"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}".replace("-0.0000", "0.0000")


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1e6 else f"{value:.1e}"


def _chance(value: float) -> str:
    return "-" if math.isnan(value) else "0" if value == 0 else f"{value:.1e}" if value < 0.001 else f"{value:.3f}"


def _share(value: float) -> str:
    if 0.99995 <= value < 1:  # would be rounded to all of it
        return "> 99.99 %"
    return _percent(None if math.isnan(value) else value)


def _bar(part: float) -> str:
    eighths = round(8 * BAR * min(part, 1.0))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _mark(flag: str) -> str:
    return "" if flag == "partial" else f" {flag}"


__all__ = ["AttributedAtom", "Attribution", "MethodFound", "Modules", "Proof"]
