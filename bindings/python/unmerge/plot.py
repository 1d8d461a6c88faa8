"""Plots of a decomposition, with matplotlib (extra ``plot``).  Each takes ``ax`` and gives the Axes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import bad_range
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
    limit = max(float(np.nanmax(np.abs(table))), 1e-12) if table.size else 1.0
    image = ax.imshow(table, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    if len(decomposition.modules) <= 40:
        ax.set_yticks(range(len(decomposition.modules)), [m.name for m in decomposition.modules])
    ax.figure.colorbar(image, ax=ax, label="weight in this module alone" if by_weight else "cosine")
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(NEEDS_PLOT) from error
    return plt.subplots(layout="constrained")[1]
