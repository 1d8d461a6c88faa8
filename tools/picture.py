"""Draws the first merges of `unmerge demo` as docs/demo.svg, the README's picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

MERGES = 4
LINE, LEFT, TOP = 19, 16, 44

out = subprocess.run([sys.executable, "-m", "unmerge", "demo"], check=True, capture_output=True, text=True).stdout
lines = ["$ unmerge demo", "", *"\n\n".join(out.strip().split("\n\n")[:MERGES]).splitlines(), "…"]
height = TOP + LINE * len(lines) + 8
rows = []
for i, line in enumerate(lines):
    colour = "#9ece6a" if line.startswith("$") else "#7aa2f7" if line and not line.startswith(" ") else "#c0caf5"
    rows.append(f'<text x="{LEFT}" y="{TOP + LINE * i}" fill="{colour}" xml:space="preserve">{escape(line)}</text>')
body = "\n".join(rows)
svg = f"""<svg xmlns="http://www.w3.org/2000/svg" width="680" height="{height}" font-family="monospace" font-size="14">
<rect width="100%" height="100%" rx="8" fill="#1a1b26"/>
<circle cx="20" cy="18" r="5" fill="#f7768e"/><circle cx="38" cy="18" r="5" fill="#e0af68"/><circle cx="56" cy="18" r="5" fill="#9ece6a"/>
{body}
</svg>
"""
target = Path(__file__).resolve().parents[1] / "docs" / "demo.svg"
target.parent.mkdir(exist_ok=True)
target.write_text(svg, encoding="utf-8")
