"""Every program in the README and on the methods' pages runs."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import unmerge
from unmerge._library import library
from unmerge.attribution import ATOM_FLAGS, FLAGS
from unmerge.recipe import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("Sources/*/*.docc/*.md")])
EXPLAINS_ITSELF = {"name", "path", "flags", "nearest_cosine", "modules"}
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


@pytest.mark.parametrize("room", ["UnmergeSparse", "UnmergeFactor", "UnmergeMerge"])
def test_every_method_has_a_page(room: str) -> None:
    folder = ROOT / f"Sources/{room}/{room}.docc"
    chooser = (folder / f"{room}.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+\.md)\)", chooser))
    present = {page.name for page in folder.glob("*.md")} - {f"{room}.md"}
    assert linked == present
    for page in present:
        assert "```python" in (folder / page).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_merge_method_has_a_formula() -> None:
    page = (ROOT / "Sources/UnmergeMerge/UnmergeMerge.docc/Recipes.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(METHODS)


def test_every_number_of_an_attribution_is_explained() -> None:
    page = (ROOT / "Sources/UnmergeMerge/UnmergeMerge.docc/Attribution.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    for option in ("fdr", "confidence"):
        assert f"`{option}` ({signature(unmerge.attribute).parameters[option].default})" in page
    assert {f.name for f in fields(unmerge.AttributedAtom)} - EXPLAINS_ITSELF <= named
    assert {"method", "complete", "unexplained", "noise", "missing", "proof"} <= named
    for flag in (*FLAGS.values(), *ATOM_FLAGS.values()):
        assert flag in named, flag
