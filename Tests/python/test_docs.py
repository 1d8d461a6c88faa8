"""Every program in the README and on the methods' pages runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import unmerge
from unmerge._library import library

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


@pytest.mark.parametrize(("language", "compiler"), [("c", "gcc"), ("cpp", "g++")])
def test_readme_program_compiles_and_answers(language: str, compiler: str, tmp_path: Path) -> None:
    (code,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    source = tmp_path / f"example.{language}"
    source.write_text(code, encoding="utf-8")
    lib = Path(library()._name).resolve()
    rpath = f"-Wl,-rpath,{lib.parent}"
    command = [compiler, str(source), f"-I{ROOT / 'include'}", str(lib), rpath, "-o", str(tmp_path / "example")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    out = subprocess.run([str(tmp_path / "example")], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["0.700", "0.300"]


def test_readme_names_the_version() -> None:
    assert f"## {unmerge.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_method_has_a_page() -> None:
    chooser = (ROOT / "Sources/UnmergeSparse/UnmergeSparse.docc/UnmergeSparse.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+\.md)\)", chooser))
    present = {page.name for page in ROOT.glob("Sources/UnmergeSparse/UnmergeSparse.docc/*.md")} - {"UnmergeSparse.md"}
    assert linked == present
    assert len(PROGRAMS) >= len(present)
