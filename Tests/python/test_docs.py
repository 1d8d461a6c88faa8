"""Every Python program in the README and on the methods' pages runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("Sources/*/*.docc/*.md")])
PROGRAMS = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}#{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
]


@pytest.mark.parametrize("code", PROGRAMS)
def test_program_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(code, "<page>", "exec"), {"__name__": "page"})


def test_every_method_has_a_page() -> None:
    chooser = (ROOT / "Sources/UnmergeSparse/UnmergeSparse.docc/UnmergeSparse.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+\.md)\)", chooser))
    present = {page.name for page in ROOT.glob("Sources/UnmergeSparse/UnmergeSparse.docc/*.md")} - {"UnmergeSparse.md"}
    assert linked == present
    assert len(PROGRAMS) >= len(present)
