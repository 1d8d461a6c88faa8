#!/usr/bin/env python3
"""The picture of NMF's page: what the columns of W look like, parts against digits.

    python benchmarks/nmf_picture.py --svg docs/nmf.svg

Left: 25 of the 49 components of 2429 sums of rectangles, found again.  Middle: digits, 25 components.  Right: the same held at
an average Hoyer sparsity of 0.9 by group sparse projection.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import nmf_data
import numpy as np
from ours import package

LEVEL = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path, required=True)
    arguments = parser.parse_args()
    unmerge = package()
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "nmf"  # the same file every time
    figure = Figure(figsize=(9, 3.3), layout="constrained")
    faces, digits = nmf_data.parts(), nmf_data.digits()
    held = {"algorithm": "projected", "sparsity_w": LEVEL}
    panels = [
        ("rectangles", faces, 49, (19, 19), {}),
        ("digits", digits, 25, (8, 8), {}),
        (f"digits, sparsity {LEVEL}", digits, 25, (8, 8), held),
    ]
    for ax, (title, X, k, shape, options) in zip(figure.subplots(1, 3), panels, strict=True):
        W, H, _ = unmerge.nmf(X, k=k, max_iter=1000, threads=1, **options)
        error = 100 * np.linalg.norm(X - W @ H) / np.linalg.norm(X)
        unmerge.plot.components(W[:, :25], shape, ax=ax, across=5)
        ax.set_title(f"{title}: error {error:.1f} %", fontsize=10)
    figure.savefig(arguments.svg, metadata={"Date": None})
    text = arguments.svg.read_text(encoding="utf-8")
    arguments.svg.write_text(re.sub(r"[ \t]+\n", "\n", text), encoding="utf-8")


if __name__ == "__main__":
    main()
