"""Plots of a decomposition, an attribution or a factorisation, with matplotlib (extra ``plot``); each takes ``ax`` and gives it back."""

from __future__ import annotations

import math
import os
from typing import Any, Union

import numpy as np

from .attributed import Attribution
from .errors import bad_range, bad_shape
from .result import Decomposition

NEEDS_PLOT = 'plots need matplotlib: pip install "unmerge[plot]"'


def weights(decomposition: Decomposition, ax: Any = None) -> Any:
    """A bar per atom in the order given: its weight; bars of atoms that are not present are pale.

    The whiskers span the weights the modules would choose alone (10th to 90th percentile), where there is such evidence.
    """
    ax = _axes(ax)
    atoms = decomposition.atoms
    values = [atom.weight for atom in atoms]
    ax.bar(range(len(atoms)), values, color=["C0" if atom.present else "0.8" for atom in atoms])
    for j, atom in enumerate(atoms):
        alone = [module.weights[atom.name] for module in decomposition.modules if atom.name in module.weights]
        if len(alone) > 1:
            low, high = np.percentile(alone, [10, 90])
            ax.vlines(j, low, high, color="black", linewidth=1)
    ax.set_xticks(range(len(atoms)), [atom.name for atom in atoms], rotation=45, ha="right")
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set_ylabel("cosine" if decomposition.method == "dot" else "weight")
    return ax


def modules(decomposition: Decomposition, ax: Any = None) -> Any:
    """A heat map, modules down and atoms across: the weight each module would choose alone (cosine, where there is none).

    A component that is really there has one colour all the way down.
    """
    if not decomposition.modules:
        raise bad_range("this decomposition has no evidence per module")
    ax = _axes(ax)
    names = list(decomposition.modules[0].weights)
    by_weight = bool(names)
    names = names or list(decomposition.modules[0].cosine)
    table = np.array([[(m.weights if by_weight else m.cosine)[name] for name in names] for m in decomposition.modules])
    label = "weight in this module alone" if by_weight else "cosine"
    return _heat(ax, table, [m.name for m in decomposition.modules], names, label)


def attribution(attribution: Attribution, ax: Any = None) -> Any:
    """A forest plot, the first atom on top: weights with their intervals; atoms that are not present are pale."""
    ax = _axes(ax)
    atoms = attribution.atoms
    for j, atom in enumerate(atoms):
        color = "C0" if atom.present else "0.75"
        ax.hlines(j, atom.low, atom.high, color=color, linewidth=2)
        ax.plot(atom.weight, j, marker="o", color=color)
    ax.set_yticks(range(len(atoms)), [atom.name for atom in atoms])
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.5)
    unit = {"absolute": "weight", "ratio": "weight, as a ratio", "per-module": "mean weight over the modules"}
    ax.set_xlabel(f"{unit[attribution.weights_scale]} and {100 * attribution.options['confidence']:.3g} % interval")
    return ax


def evidence(attribution: Attribution, ax: Any = None) -> Any:
    """A heat map, modules down and atoms across: least squares in each module alone; blank where it was not analysed.

    An atom that is really there has one colour all the way down, unless the recipe has weights per module.
    """
    ax = _axes(ax)
    names = [atom.name for atom in attribution.atoms]
    return _heat(ax, attribution.modules.weights.T, attribution.modules.names, names, "weight in this module alone")


def components(W: Any, shape: tuple[int, int], ax: Any = None, *, across: int = 0) -> Any:
    """The columns of W (p x k) as images of ``shape`` (rows x columns, p = rows * columns), row by row, ``across`` side by side.

    Each image has its own scale, since a component's is arbitrary: white is 0, dark its largest magnitude; where W is signed, red
    is positive and blue negative.  across = 0: about a square.
    """
    columns = np.asarray(W, dtype=np.float64)
    height, width = shape
    if columns.ndim != 2 or columns.shape[0] != height * width or columns.shape[1] == 0:
        raise bad_shape(f"W is {columns.shape}, expected {height * width} rows for images of {height} x {width}, and a column")
    if across < 0:
        raise bad_range(f"across is {across}; it must be >= 0")
    k = columns.shape[1]
    across = min(across or math.ceil(math.sqrt(k * height / width)), k)
    down = -(-k // across)
    sheet = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for j in range(k):
        top, left = (height + 1) * (j // across), (width + 1) * (j % across)
        largest = np.abs(columns[:, j]).max()
        sheet[top : top + height, left : left + width] = columns[:, j].reshape(shape) / (largest if largest > 0 else 1)
    ax = _axes(ax)
    signed = bool((columns < 0).any())
    # "none" keeps the pixels of a vector format as they are.
    ax.imshow(sheet, cmap="RdBu_r" if signed else "Greys", vmin=-1 if signed else 0, vmax=1, interpolation="none")
    ax.set_facecolor("0.75")  # shows through between the images
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def save_attribution(attribution_: Attribution, path: Union[str, os.PathLike[str]]) -> Any:
    """Weights and evidence side by side, as a picture; needs no display.  Gives the two Axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(NEEDS_PLOT) from error
    atoms, modules_ = len(attribution_.atoms), len(attribution_.modules.names)
    height = max(3.0, 0.3 * atoms + 1, 0.15 * min(modules_, 40) + 2)
    figure = Figure(figsize=(8 + 0.25 * min(atoms, 40), height), layout="constrained")
    left, right = figure.subplots(1, 2)
    axes = attribution(attribution_, left), evidence(attribution_, right)
    try:
        figure.savefig(path)
    except ValueError as error:  # a suffix it does not know
        raise bad_range(f"the picture cannot be written to {os.fspath(path)}: {error}") from error
    return axes


def _heat(ax: Any, table: Any, rows: list[str], columns: list[str], label: str) -> Any:
    finite = np.abs(table[np.isfinite(table)])
    limit = max(float(np.max(finite)), 1e-12) if finite.size else 1.0
    image = ax.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    if len(rows) <= 40:
        ax.set_yticks(range(len(rows)), rows)
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(NEEDS_PLOT) from error
    return plt.subplots(layout="constrained")[1]
