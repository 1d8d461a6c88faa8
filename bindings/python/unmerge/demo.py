"""The shipped sample: every merge taken apart, truth beside answer.

The folder has a manifest.json: ``base`` {path, …}, ``adapters`` [{name, path, in_dictionary, …}] and ``merges``
[{name, path, method, category, truth: {name: weight}}]; paths are relative to the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._tensors import PathLike, parse_json, read_limited
from .decomposition import decompose
from .errors import bad_format
from .result import Decomposition

# In a checkout, from a folder above the sample, or shipped beside the package.
_PLACES = (
    Path(__file__).resolve().parents[3] / "examples" / "data",
    Path("examples") / "data",
    Path(__file__).resolve().parent / "data",
)


@dataclass(frozen=True)
class Case:
    """One merge of the sample and what was found in it."""

    name: str
    method: str
    category: str
    truth: dict[str, float]
    found: Decomposition


def data_folder(folder: PathLike | None = None) -> Path:
    """The sample's folder: the one given, or the first known place that has a manifest."""
    places = _PLACES if folder is None else (Path(folder),)
    for place in places:
        if (place / "manifest.json").is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise FileNotFoundError(f"no manifest.json in {looked}; the sample is examples/data of the repository: --data DIR")


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest, its three parts present."""
    content = parse_json(read_limited(folder / "manifest.json", 4 << 20), str(folder / "manifest.json"))
    try:
        for entry in (content["base"], *content["adapters"], *content["merges"]):
            entry["path"].strip()
    except (KeyError, TypeError, AttributeError):
        raise bad_format(f"{folder / 'manifest.json'} lacks base, adapters or merges, or one of their paths") from None
    return content


def cases(folder: PathLike | None = None, **options: Any) -> Iterator[Case]:
    """Every merge of the sample, decomposed over the adapters of its dictionary; options as for ``decompose``."""
    place = data_folder(folder)
    content = manifest(place)
    known = [a for a in content["adapters"] if a.get("in_dictionary", True)]
    atoms = {a["name"]: place / a["path"] for a in known}
    for merge in content["merges"]:
        found = decompose(base=place / content["base"]["path"], atoms=atoms, target=place / merge["path"], **options)
        truth = {name: float(weight) for name, weight in merge.get("truth", {}).items()}
        yield Case(merge["name"], merge.get("method", ""), merge.get("category", ""), truth, found)


def table(case: Case) -> str:
    """Truth beside answer for one merge; atoms that are in neither are left out."""
    rows = [("atom", "truth", "found")]
    for atom in case.found.atoms:
        true = case.truth.get(atom.name)
        if true is not None or atom.present:
            rows.append((atom.name, "-" if true is None else f"{true:.4f}", f"{atom.weight:.4f}"))
    known = {atom.name for atom in case.found.atoms}
    rows += [(name, f"{w:.4f}", "(not an atom)") for name, w in case.truth.items() if name not in known]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    explained = case.found.explained
    words = "" if explained is None else f", {100 * explained:.2f} % explained"
    lines = [f"{case.name} ({', '.join(w for w in (case.method, case.category) if w)}){words}"]
    for name, *numbers in rows:
        lines.append("  " + name.ljust(widths[0]) + "".join(f"  {n.rjust(w)}" for n, w in zip(numbers, widths[1:])))
    return "\n".join(lines)
