"""Pruning a network's weights by projection: which entries of its layers can be zeros.

    pruned = unmerge.pruning.prune(weights, sparsity=0.7)            # a dict of arrays: one projection, no training
    plain = unmerge.pruning.magnitude(weights, keep=pruned.kept)      # as many entries, the largest magnitudes

Two numbers that are not the same have two names: ``sparsity`` is Hoyer's level, what a projection is asked for; ``zeros``
is the fraction of entries that are 0, what it made of it.  A projection decides by itself how many zeros each group gets; a
threshold at a given number of zeros is what ``magnitude`` is for.

Weights are a mapping from names to arrays, rows (first axis) being output features.  Arrays of fewer than two dimensions (biases, norms)
are never pruned.  Nothing here trains: ``InducedGSP`` is called by a training loop of any framework whose weights are
arrays in memory.  After Ohib, Gillis, Dalmasso, Shah, Potluru & Plis, TMLR 2022.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ._options import choice, integer, real
from .errors import bad_range, bad_shape, bad_type
from .projections import ProjectionReport, group_sparse_projection, hoyer_projection

Array = npt.NDArray[Any]
Weights = Mapping[str, Any]
Grouping = Literal["filter", "layer", "all", "vector"]
GROUPINGS: dict[str, int] = {"filter": 0, "layer": 1, "all": 2, "vector": 3}


@dataclass(frozen=True)
class Pruned:
    """Weights with zeros, and where those are.

    weights : as given, by name: new arrays, except those that are not pruned.
    masks : True where an entry stays; all True for arrays that are not pruned.
    reports : of the projections, by layer ("" for the one of all layers); empty for magnitudes.
    """

    weights: dict[str, Array]
    masks: dict[str, npt.NDArray[np.bool_]]
    reports: dict[str, ProjectionReport]

    @property
    def kept(self) -> int:
        """Entries that stay in the arrays that can be pruned."""
        return sum(int(np.count_nonzero(m)) for m in self._prunable())

    @property
    def entries(self) -> int:
        """Entries of the arrays that can be pruned."""
        return sum(m.size for m in self._prunable())

    @property
    def zeros(self) -> float:
        """The fraction of those that are zeros, in [0, 1]."""
        return 1 - self.kept / self.entries if self.entries else 0.0

    @property
    def one_sparse(self) -> int:
        """Groups with a single entry left, over all projections.  Many of them: layers collapse, the level is too high."""
        return sum(r.one_sparse for r in self.reports.values())

    @property
    def collapsed(self) -> list[str]:
        """Layers in which at least half the rows have no more than one entry left, and had more."""
        return [n for n, m in self.masks.items() if m.ndim >= 2 and m.size > 2 * len(m) and _share(m) >= 0.5]

    def to_dict(self) -> dict[str, Any]:
        """Counts and reports, ready for JSON; no weights."""
        layers = {n: {"entries": m.size, "kept": int(np.count_nonzero(m))} for n, m in self.masks.items() if m.ndim >= 2}
        totals = {"entries": self.entries, "kept": self.kept, "zeros": self.zeros, "one_sparse": self.one_sparse}
        reports = {n: {k: v for k, v in r.to_dict().items() if k != "details"} for n, r in self.reports.items()}
        return {**totals, "collapsed": self.collapsed, "layers": layers, "reports": reports}

    def __str__(self) -> str:
        rows = [f"{n:<40} {int(np.count_nonzero(m)):>12} of {m.size:>12} kept" for n, m in self.masks.items() if m.ndim >= 2]
        level = [r.sparsity for r in self.reports.values()]
        end = f"{self.zeros:.2%} zeros" + (f" at an average Hoyer level of {np.mean(level):.4f}" if level else "")
        if self.reports:
            end += f"; {self.one_sparse} groups with one entry left"
        return "\n".join([*rows, end, *(f"{n} has collapsed: half its rows have one entry left or none" for n in self.collapsed)])

    def _prunable(self) -> list[npt.NDArray[np.bool_]]:
        return [m for m in self.masks.values() if m.ndim >= 2]


def _share(mask: npt.NDArray[np.bool_]) -> float:
    rows = mask.reshape(len(mask), -1)
    return float(np.mean(rows.sum(axis=1) <= 1)) if len(rows) else 0.0


def prune(
    weights: Weights,
    *,
    sparsity: float,
    grouping: Grouping = "filter",
    objective: Literal["surrogate", "squared"] = "surrogate",
    normalise: Literal["none", "l2", "rms"] = "none",
    refit: bool = False,
) -> Pruned:
    """One projection of trained weights to Hoyer's level ``sparsity`` (single-shot GSP).

    grouping : what shares the average.
        "filter" : the rows of a layer, layer by layer: some of its filters become sparser than others.
        "all" : the layers, each as one vector, in one projection: some layers become sparser than others.
        "layer" : nothing; each layer is one vector with that level.
        "vector" : nothing; each row has that level.
    refit : original values on the support found, instead of shrunk ones.
    """
    choice(grouping, "grouping", GROUPINGS)
    arrays = _arrays(weights)
    layers = {name: a for name, a in arrays.items() if a.ndim >= 2}
    out, reports = dict(arrays), {}
    if grouping == "all":
        found, reports[""] = group_sparse_projection(
            list(layers.values()), sparsity=sparsity, objective=objective, normalise=normalise, refit=refit
        )
        out.update(zip(layers, found))
    else:
        for name, layer in layers.items():
            if layer.size == 0:
                continue
            rows = layer.reshape(1, -1) if grouping == "layer" else layer.reshape(len(layer), -1)
            if grouping == "filter":
                z, report = group_sparse_projection(
                    rows.T, sparsity=sparsity, objective=objective, normalise=normalise, refit=refit
                )
            else:
                z, report = hoyer_projection(rows.T, sparsity=sparsity)
                if refit:
                    z = np.where(z != 0, rows.T, 0).astype(z.dtype)
            out[name] = np.ascontiguousarray(z.T).reshape(layer.shape)
            reports[name] = report
    out = {name: a.astype(arrays[name].dtype, copy=False) for name, a in out.items()}
    return Pruned(out, _masks(out), reports)


def magnitude(
    weights: Weights,
    *,
    zeros: float | None = None,
    keep: int | Mapping[str, int] | None = None,
    scope: Literal["global", "layer"] = "global",
) -> Pruned:
    """The entries with the largest magnitudes, exactly as many as asked for; among equals those that come first.

    zeros : the fraction to make 0, in [0, 1], of all layers together or, with scope "layer", of each.
    keep : instead, how many entries stay: in all, or by layer.
    """
    arrays = _arrays(weights)
    layers = {name: a for name, a in arrays.items() if a.ndim >= 2}
    if (zeros is None) == (keep is None):
        raise bad_range("give either zeros or keep")
    choice(scope, "scope", {"global": 0, "layer": 1})
    sizes = {name: np.abs(a.astype(np.float64)).ravel() for name, a in layers.items()}
    for name, flat in sizes.items():
        if not np.isfinite(flat).all():
            raise bad_range(f"weights[{name!r}] has values that are not finite")
    if scope == "layer" or isinstance(keep, Mapping):
        if isinstance(keep, int):
            raise bad_range("keep is a number; with scope 'layer' it must be a mapping by layer")
        counts = keep or {name: flat.size - round(_fraction(zeros) * flat.size) for name, flat in sizes.items()}
        chosen = [_largest(flat, integer(counts[name], "keep"), f"keep[{name!r}]") for name, flat in sizes.items()]
    else:
        together = np.concatenate([*sizes.values(), np.zeros(0)])
        count = integer(keep, "keep") if keep is not None else together.size - round(_fraction(zeros) * together.size)
        ends = np.cumsum([flat.size for flat in sizes.values()])
        chosen = np.split(_largest(together, count, "keep"), ends[:-1]) if layers else []
    masks = {name: part.reshape(a.shape) for (name, a), part in zip(layers.items(), chosen)}
    every = {name: masks.get(name, np.ones(a.shape, dtype=bool)) for name, a in arrays.items()}
    return Pruned(apply_masks(arrays, every), every, {})


def apply_masks(weights: Weights, masks: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, Array]:
    """New arrays, 0 where a mask is False; arrays without a mask as they are."""
    out = {}
    for name, a in _arrays(weights).items():
        mask = masks.get(name)
        if mask is not None and mask.shape != a.shape:
            raise bad_shape(f"masks[{name!r}] has the shape {mask.shape}, expected {a.shape}")
        out[name] = a if mask is None or mask.all() else np.where(mask, a, np.zeros((), dtype=a.dtype))
    return out


def prune_file(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    sparsity: float | None = None,
    zeros: float | None = None,
    grouping: Grouping = "filter",
    normalise: Literal["none", "l2", "rms"] = "none",
    refit: bool = False,
) -> Pruned:
    """A .safetensors file again, with the same tensors in the same places, those of two dimensions and more pruned.

    sparsity : Hoyer's level, as in ``prune``; or zeros : the fraction, as in ``magnitude`` over all layers.
    """
    from ._files import write_atomically
    from ._tensors import read_safetensors

    if (sparsity is None) == (zeros is None):
        raise bad_range("give either sparsity or zeros")
    source = read_safetensors(Path(model))
    if sparsity is not None:
        pruned = prune(source.arrays, sparsity=sparsity, grouping=grouping, normalise=normalise, refit=refit)
    else:
        pruned = magnitude(source.arrays, zeros=zeros)
    data = np.fromfile(model, dtype=np.uint8)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    for name, a in pruned.weights.items():
        begin, end = header[name]["data_offsets"]
        data[start + begin : start + end] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    write_atomically(output, data.tobytes())
    return pruned


class InducedGSP:
    """Sparsity induced while training: a projection every so many steps, and a threshold at the end.

        induced = InducedGSP(0.7, every=150)
        for epoch in range(epochs):
            for batch in data:
                ...                                        # one step of any optimiser on arrays
                induced.step(weights, epoch=epoch)         # projects them in place when it is time
        pruned = induced.finish(weights, zeros=0.9)        # one magnitude threshold over all layers: the mask to fine-tune under

    sparsity : Hoyer's level to project to.  The fraction of zeros at the end is another number.
    every : steps between projections.
    start : the first epoch in which to project.
    schedule : "fixed", or "growing": level(e) = min(sparsity, 1 - E^(-e/E)) in epoch e of ``epochs`` = E.
    grouping, objective, normalise : as in ``prune``.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        every: int = 150,
        start: int = 0,
        schedule: Literal["fixed", "growing"] = "fixed",
        epochs: int | None = None,
        grouping: Grouping = "filter",
        objective: Literal["surrogate", "squared"] = "surrogate",
        normalise: Literal["none", "l2", "rms"] = "none",
    ) -> None:
        self.sparsity = real(sparsity, "sparsity")
        if not 0 <= self.sparsity <= 1:
            raise bad_range(f"sparsity is {self.sparsity}; it must be in [0, 1]")
        self.every = integer(every, "every", (1, 2**62))
        self.start = integer(start, "start", (0, 2**62))
        choice(schedule, "schedule", {"fixed": 0, "growing": 1})
        choice(grouping, "grouping", GROUPINGS)
        if schedule == "growing" and epochs is None:
            raise bad_range("schedule is 'growing'; it needs epochs")
        self.schedule, self.grouping = schedule, grouping
        self.epochs = None if epochs is None else integer(epochs, "epochs", (1, 2**62))
        self._objective, self._normalise = objective, normalise
        self.steps = 0
        self.last: Pruned | None = None

    def level(self, epoch: int) -> float:
        """What the weights are projected to in this epoch."""
        if self.schedule == "fixed" or self.epochs is None:
            return self.sparsity
        return float(min(self.sparsity, 1 - self.epochs ** (-epoch / self.epochs)))

    def step(self, weights: Weights, *, epoch: int = 0) -> bool:
        """Counts a step of training; on every ``every``-th the arrays are projected in place.  Whether they were."""
        self.steps += 1
        if epoch < self.start or self.steps % self.every:
            return False
        self.last = prune(
            weights,
            sparsity=self.level(epoch),
            grouping=self.grouping,
            objective=self._objective,
            normalise=self._normalise,
        )
        for name, a in self.last.weights.items():
            if not isinstance(weights[name], np.ndarray):
                raise bad_type(f"weights[{name!r}] is a {type(weights[name]).__name__}, expected an array to write to")
            if a.ndim >= 2:
                weights[name][...] = a
        return True

    def finish(self, weights: Weights, *, zeros: float) -> Pruned:
        """The entries with the largest magnitudes over all layers; ``masks`` is what to fine-tune under."""
        return magnitude(weights, zeros=zeros)


def _arrays(weights: Weights) -> dict[str, Array]:
    if not isinstance(weights, Mapping):
        raise bad_type(f"weights is a {type(weights).__name__}, expected a mapping from names to arrays")
    return {str(name): np.asarray(a) for name, a in weights.items()}


def _masks(weights: dict[str, Array]) -> dict[str, npt.NDArray[np.bool_]]:
    return {name: (a != 0) if a.ndim >= 2 else np.ones(a.shape, dtype=bool) for name, a in weights.items()}


def _fraction(zeros: float | None) -> float:
    value = real(zeros, "zeros")
    if not 0 <= value <= 1:
        raise bad_range(f"zeros is {value}; it must be in [0, 1]")
    return value


def _largest(flat: Array, count: int, name: str) -> npt.NDArray[np.bool_]:
    """Exactly ``count`` of the largest; of equal ones the first."""
    if not 0 <= count <= flat.size:
        raise bad_range(f"{name} is {count}; it must be between 0 and {flat.size}")
    chosen = np.zeros(flat.size, dtype=bool)
    if count == 0:
        return chosen
    edge = np.partition(flat, flat.size - count)[flat.size - count]
    chosen[flat > edge] = True
    ties = np.flatnonzero(flat == edge)
    chosen[ties[: count - int(np.count_nonzero(chosen))]] = True
    return chosen


__all__ = ["InducedGSP", "Pruned", "apply_masks", "magnitude", "prune", "prune_file"]
