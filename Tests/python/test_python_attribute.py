"""attribute: the sample's recipes, what is compared, warnings, JSON, table, mergekit's YAML, the command line; and replay."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import ml_dtypes
import numpy as np
import pytest
import unmerge
import yaml
from test_python_models import BF16, factors, write_adapter, write_model, write_shards
from unmerge import _ffi, _mergekit, plot
from unmerge._assemble import assemble_all
from unmerge._library import library
from unmerge.cli import main
from unmerge.files import read
from unmerge.recipe import METHODS

matplotlib.use("Agg")

NAMES = ("medicine", "law", "code", "poetry", "music", "chess")
TRUTH = {"medicine": 0.5, "code": 0.8, "chess": -0.4}
SHAPES = {f"layers.{i}.weight": (48, 40) if i % 2 else (40, 48) for i in range(6)}


def planted(
    tmp: Path,
    truth: dict[str, float] = TRUTH,
    dtype: Any = np.float32,
    atom_dtype: Any = np.float32,
    names: Sequence[str] = NAMES,
) -> dict[str, Any]:
    """A base, adapters on six modules, and the plain weighted sum of some of them; an untouched norm beside."""
    rng = np.random.default_rng(11)
    base = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()} | {"norm.weight": rng.standard_normal(40)}
    base = {name: array.astype(dtype) for name, array in base.items()}
    merged = {name: array.astype(np.float64) for name, array in base.items()}
    for index, name in enumerate(names):
        tensors = {}
        for number, (tensor, (rows, cols)) in enumerate(SHAPES.items()):
            b, a = factors(100 * index + number, rows, cols, dtype=atom_dtype)
            b = (b.astype(np.float32) / 10).astype(atom_dtype)
            module = tensor.removesuffix(".weight")
            tensors |= {f"{module}.lora_B.weight": b, f"{module}.lora_A.weight": a}
            merged[tensor] += truth.get(name, 0.0) * 2.0 * (b.astype(float) @ a.astype(float))
        write_adapter(tmp / "adapters" / name, tensors)
    return {
        "base": write_model(tmp / "base", base),
        "atoms": [tmp / "adapters" / name for name in names],
        "target": write_model(tmp / "merged", {name: array.astype(dtype) for name, array in merged.items()}),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def found(made: dict[str, Any]) -> unmerge.Attribution:
    return unmerge.attribute(**made)


@pytest.fixture(scope="module")
def sample(root: Path) -> Path:
    return root / "examples" / "data"


@pytest.fixture(scope="module")
def ties(sample: Path) -> unmerge.Attribution:
    return attribute_sample(sample, "ties-known")


def manifest(sample: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((sample / "manifest.json").read_text())
    return content


def dictionary(sample: Path) -> list[Path]:
    return [sample / a["path"] for a in manifest(sample)["adapters"] if a["in_dictionary"]]


def attribute_sample(sample: Path, name: str, **options: Any) -> unmerge.Attribution:
    return unmerge.attribute(base=sample / "base", atoms=dictionary(sample), target=sample / "merges" / name, **options)


# ---------------------------------------------------------------- the sample: real merges, recipes known

# What the manifest calls the method, and the names under which it may be found.
ACCEPTED = {
    "linear": {"linear", "task_arithmetic"},
    "task_arithmetic": {"task_arithmetic"},
    "ties": {"ties"},
    "dare_linear": {"dare_linear"},
    "cat+merge_and_unload": {"adapter_cat", "task_arithmetic"},
}


@pytest.mark.parametrize(
    "name",
    [
        "linear-known",
        "task-arithmetic-mixed",
        "ties-known",
        "dare-linear-known",
        "task-arithmetic-unknown",
        "peft-unload-known",
        "peft-cat-known",
        "peft-svd-mixed",
    ],
)
def test_the_sample(sample: Path, name: str) -> None:
    merge = next(m for m in manifest(sample)["merges"] if m["name"] == name)
    found = attribute_sample(sample, name)
    known = {path.name for path in dictionary(sample)}
    truth = {atom: weight for atom, weight in merge["truth"].items() if atom in known}
    assert {a.name for a in found.present} == set(truth)
    assert found.weights.keys() == truth.keys()
    scale = sum(truth.values()) if found.weights_scale == "ratio" else 1.0
    assert found.weights == pytest.approx({n: w / scale for n, w in truth.items()}, abs=0.03)
    assert found.complete == (merge["category"] == "known")
    if merge["category"] == "known" and merge["method"] in ACCEPTED:
        assert found.method.name in ACCEPTED[merge["method"]]
        assert found.proof.proved and found.proof.share > 0.99 > found.proof.chance
        if merge["density"] if "density" in merge else None:
            assert found.method.parameters["density"] == pytest.approx(merge["density"], abs=0.02)
    for atom in found.atoms:
        assert atom.low <= atom.weight <= atom.high or not atom.present
        assert 0 <= atom.p_value <= 1 and 0 <= atom.q_value <= 1 and atom.evidence >= 0
        assert len(atom.modules) == len(found.modules.names) == 7
    assert 0 <= found.unexplained <= 1 and 0 <= found.noise


def test_ties_gives_ratios_and_its_parameters(ties: unmerge.Attribution) -> None:
    assert ties.weights_scale == "ratio" and sum(ties.weights.values()) == pytest.approx(1, abs=0.01)
    assert ties.method.parameters["normalize"] is True
    assert str(ties.method).startswith("ties, density 0.5, normalize")


def test_replay_of_the_recipe_found(ties: unmerge.Attribution) -> None:
    report = ties.replay()
    assert report.entries == ties.proof.compared == 1032192
    assert report.consistent == ties.proof.equal
    assert set(report.modules) == set(ties.modules.names)
    assert sum(part.equal for part in report.modules.values()) == report.equal
    assert ties.rule is not None
    wrong = ties.replay(replace(ties.rule, density=0.4))
    assert wrong.equal < report.equal


# ---------------------------------------------------------------- what is found, on small made merges


@pytest.mark.parametrize(
    ("dtype", "atom_dtype"), [(np.float32, np.float32), (np.float32, BF16), (BF16, np.float16), (np.float16, np.float32)]
)
def test_storage_types(tmp_path: Path, dtype: Any, atom_dtype: Any) -> None:
    found = unmerge.attribute(**planted(tmp_path, dtype=dtype, atom_dtype=atom_dtype))
    assert found.weights == pytest.approx(TRUTH, abs=0.05)
    assert found.complete


def test_weights_are_in_the_order_given(found: unmerge.Attribution) -> None:
    assert [a.name for a in found.atoms] == list(NAMES)
    assert found.weights == pytest.approx(TRUTH, abs=1e-3)
    assert {a.name for a in found.present} == set(TRUTH)
    assert found.modules.names == list(SHAPES) and found.modules.weights.shape == (6, 6)
    assert found.entries == sum(rows * cols for rows, cols in SHAPES.values())
    for j, atom in enumerate(found.atoms):
        assert np.array_equal(atom.modules, found.modules.weights[j], equal_nan=True)
        if atom.present:
            assert np.nanmean(atom.modules) == pytest.approx(TRUTH[atom.name], abs=1e-2)


def test_an_unknown_component_is_missing(made: dict[str, Any]) -> None:
    atoms = [path for path in made["atoms"] if path.name != "code"]
    found = unmerge.attribute(base=made["base"], target=made["target"], atoms=atoms)
    assert {a.name for a in found.present} == {"medicine", "chess"}
    assert not found.complete and found.unexplained > 0.2 and not found.proof.proved
    assert found.missing > unmerge.attribute(**made).missing
    assert "no, something is missing" in str(found)


def test_operators_give_what_files_give(made: dict[str, Any], found: unmerge.Attribution) -> None:
    problem = assemble_all(read(made["base"]), {p.name: read(p) for p in made["atoms"]}, read(made["target"]))
    same = unmerge.attribute((problem.atoms, problem.target))
    again = unmerge.attribute(problem.atoms.with_target(problem.target))
    assert same.weights == again.weights == found.weights
    assert same.base is None and same.atoms[0].path is None


def test_threads_do_not_change_the_answer(made: dict[str, Any]) -> None:
    seen: list[unmerge.Progress] = []
    one = unmerge.attribute(**made, threads=1, progress=seen.append)
    two = unmerge.attribute(**made, threads=3, progress="rich")
    assert one.weights == two.weights and one.missing == two.missing
    assert all(p.phase in ("pass", "solve") for p in seen)


def test_a_dict_of_arrays(made: dict[str, Any], found: unmerge.Attribution) -> None:
    base, target = read(made["base"]).arrays, read(made["target"]).arrays
    same = unmerge.attribute(base=base, target=target, atoms={p.name: p for p in made["atoms"]})
    assert same.weights == found.weights and same.base == same.target == "arrays"


def test_a_merged_adapter_needs_no_base(tmp_path: Path) -> None:
    made = planted(tmp_path)
    tensors = {}
    for module in (name.removesuffix(".weight") for name in SHAPES):  # cat: the factors side by side
        parts = {n: read(tmp_path / "adapters" / n).factors[f"{module}.weight"] for n in ("medicine", "code")}
        tensors[f"{module}.lora_B.weight"] = np.hstack([0.5 * parts["medicine"].B, 0.8 * parts["code"].B])
        tensors[f"{module}.lora_A.weight"] = np.vstack([parts["medicine"].A, parts["code"].A])
    target = write_adapter(tmp_path / "cat", tensors, r=4, lora_alpha=8)
    found = unmerge.attribute(atoms=made["atoms"], target=target)
    assert found.weights == pytest.approx({"medicine": 0.5, "code": 0.8}, abs=0.01)
    assert found.base is None and found.complete


def test_checkpoints_and_adapters_mixed(tmp_path: Path) -> None:
    made = planted(tmp_path)
    base, code = read(made["base"]).arrays, read(tmp_path / "adapters" / "code").factors
    full = {n: a + (code[n].scale * code[n].B @ code[n].A if n in code else 0) for n, a in base.items()}
    shards = {"a.safetensors": dict(list(full.items())[:3]), "b.safetensors": dict(list(full.items())[3:])}
    folder = write_shards(tmp_path / "full", {k: {n: np.float32(a) for n, a in v.items()} for k, v in shards.items()})
    atoms = {p.name: (folder if p.name == "code" else p) for p in made["atoms"]}
    found = unmerge.attribute(base=made["base"], target=made["target"], atoms=atoms)
    assert found.weights == pytest.approx(TRUTH, abs=0.01)
    by_index = unmerge.attribute(
        base=made["base"], target=made["target"], atoms=atoms | {"code": folder / "model.safetensors.index.json"}
    )
    assert by_index.weights == found.weights
    assert found.left_out == {"the same in all": ["norm.weight"]}


# ---------------------------------------------------------------- what is compared


def problem(base: Any, atoms: dict[str, Any], target: Any) -> Any:
    return assemble_all(read(base), {name: read(model) for name, model in atoms.items()}, read(target))


def arrays(seed: int, *names: str, rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((rows, 3)) for name in names}


def test_what_nobody_changes_is_left_out() -> None:
    base = arrays(0, "w.2", "w.10", "frozen")
    atom = base | arrays(1, "w.2", "w.10")
    p = problem(base, {"a": atom}, base | arrays(2, "w.2"))
    assert list(p.used) == ["w.2", "w.10"]  # as people count
    assert p.left_out == {"the same in all": ["frozen"]} and not p.unasked


def test_what_only_the_target_changes_is_a_module_of_its_own() -> None:
    base = arrays(0, "w", "extra", "resized")
    target = base | arrays(2, "w", "extra") | arrays(2, "resized", rows=5)
    p = problem(base, {"a": {"w": base["w"] + 1}}, target)
    assert list(p.used) == ["extra", "w"] and p.unasked == ["extra"]
    assert p.left_out == {"of another shape than in the base": ["resized"]}
    assert p.silent == {} and p.target.shape == (24, 1)
    # A full fine-tune that left the tensor alone explains it no better than an adapter without it.
    p = problem(base, {"a": base | {"w": base["w"] + 1}}, target | {"resized": base["resized"]})
    assert p.unasked == ["extra"]


def test_what_the_target_does_not_have(tmp_path: Path) -> None:
    base = arrays(0, "w", "v")
    b, a = factors(0, 4, 3)
    names = {"lora_B.weight": b, "lora_A.weight": a}
    both = write_adapter(tmp_path / "both", {f"{m}.{k}": x for m in ("w", "v") for k, x in names.items()})
    base = {f"{k}.weight": x for k, x in base.items()}
    target = {"w.weight": base["w.weight"] + 1}
    p = assemble_all(read(base), {"both": read(both)}, read(target))
    assert list(p.used) == ["w.weight"] and p.lacking == {"both": ["v.weight"]}
    assert p.left_out == {"not in the target": ["v.weight"]}


def test_a_rounded_copy_of_the_base_is_no_change() -> None:
    base = {name: array.astype(np.float32) for name, array in arrays(0, "w", "v").items()}
    stored = {name: array.astype(ml_dtypes.bfloat16) for name, array in base.items()}
    p = problem(base, {"a": {"w": base["w"] + 1, "v": base["v"]}}, stored)
    assert list(p.used) == ["w"] and p.left_out == {"the same in all": ["v"]}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BF16])
def test_what_a_merge_leaves_of_equal_tensors_is_no_change(dtype: Any) -> None:
    w = np.array([[1.0, -2.0, 3e-4], [0.0, -0.0, 7.0]]).astype(dtype)
    bits = w.view(f"i{w.dtype.itemsize}")
    base, atom = {"w": w, "v": w}, {"w": w, "v": w + w}
    for units, used in ((2, ["v"]), (-3, ["v"]), (4, ["v", "w"]), (-5, ["v", "w"])):
        moved = bits.copy()
        moved[0] += units
        assert list(problem(base, {"a": atom}, {"v": w, "w": moved.view(w.dtype)}).used) == used
    assert list(problem(base, {"a": atom}, {"v": w, "w": -w}).used) == ["v", "w"]
    zeros = w * np.array([[1, 1, 1], [-1, -1, 1]], dtype)
    assert list(problem(base, {"a": atom}, {"v": w, "w": zeros}).used) == ["v"]
    # What an atom changes is compared, however little it is.
    little = bits.copy()
    little[0] += 1
    assert list(problem(base, {"a": {"w": little.view(w.dtype)}}, base).used) == ["w"]


# ---------------------------------------------------------------- refusals


def test_refusals(made: dict[str, Any], tmp_path: Path) -> None:
    for options, word in (
        ({"fdr": 0}, "fdr"),
        ({"fdr": 1}, "fdr"),
        ({"fdr": math.nan}, "fdr"),
        ({"confidence": 1.5}, "confidence"),
        ({"rows": 8}, "rows"),
        ({"bytes": 10}, "bytes"),
    ):
        with pytest.raises(ValueError, match=word):
            unmerge.attribute(**made, **options)
    for options in ({"rows": 2.5}, {"replay": "yes"}, {"progress": 3}, {"threads": "two"}):
        with pytest.raises(TypeError):
            unmerge.attribute(**made, **options)
    with pytest.raises(unmerge.DeadlinePassed):
        unmerge.attribute(**made, deadline=1e-9)
    with pytest.raises(TypeError, match="atoms and target"):
        unmerge.attribute(base=made["base"])
    with pytest.raises(TypeError, match="one or the other"):
        unmerge.attribute((np.ones((9, 2)), np.ones(9)), target=made["target"])
    with pytest.raises(TypeError, match="expected a pair"):
        unmerge.attribute(3)
    with pytest.raises(ValueError, match="give its base"):
        unmerge.attribute(atoms=made["atoms"], target=made["target"])
    with pytest.raises(ValueError, match="'merged' is a checkpoint: give its base"):
        unmerge.attribute(atoms=[made["target"]], target=made["atoms"][0])
    with pytest.raises(ValueError, match="the same atom is given twice"):
        unmerge.attribute(base=made["base"], atoms=made["atoms"][:1] * 2, target=made["target"])
    with pytest.raises(FileNotFoundError):
        unmerge.attribute(base=made["base"], atoms=made["atoms"], target=tmp_path / "nowhere")


def test_another_architecture_and_another_size(made: dict[str, Any], tmp_path: Path) -> None:
    b, a = factors(0, 8, 8)
    other = write_adapter(tmp_path / "other", {"blocks.0.lora_B.weight": b, "blocks.0.lora_A.weight": a})
    with pytest.raises(ValueError, match="no float tensor in common: another architecture.*'blocks.0.weight'"):
        unmerge.attribute(base=made["base"], atoms=[other], target=made["target"])
    base = dict(read(made["base"]).arrays)
    base["layers.1.weight"], base["layers.4.weight"] = np.ones((3, 4), np.float32), np.ones((5, 4), np.float32)
    with pytest.raises(ValueError, match=r"shapes differ: layers\.1\.weight: .*base 3x4.*layers\.4\.weight") as error:
        unmerge.attribute(base=base, atoms=made["atoms"], target=made["target"])
    assert "target 48x40" in str(error.value)


def test_what_is_not_a_number(made: dict[str, Any]) -> None:
    target = dict(read(made["target"]).arrays)
    target["layers.0.weight"] = np.full((40, 48), np.nan, np.float32)
    with pytest.raises(ValueError):
        unmerge.attribute(base=made["base"], atoms=made["atoms"], target=target)


# ---------------------------------------------------------------- warnings


def told(found: unmerge.Attribution, *words: str) -> bool:
    return any(all(word in warning for word in words) for warning in found.warnings)


def test_duplicates_and_relatives(tmp_path: Path) -> None:
    made = planted(tmp_path)
    source = read(tmp_path / "adapters" / "medicine").factors
    rng = np.random.default_rng(3)
    twin, cousin, zero = {}, {}, {}
    for tensor, f in source.items():
        module = tensor.removesuffix(".weight")
        for into, B in ((twin, 3 * f.B), (cousin, f.B + 0.5 * f.B.std() * rng.standard_normal(f.B.shape)), (zero, 0 * f.B)):
            into |= {f"{module}.lora_B.weight": np.float32(B), f"{module}.lora_A.weight": f.A}
    atoms = [write_adapter(tmp_path / n, t) for n, t in (("twin", twin), ("cousin", cousin), ("zero", zero))]
    found = unmerge.attribute(base=made["base"], target=made["target"], atoms=made["atoms"] + atoms)
    flags = {a.name: a.flags for a in found.atoms}
    assert "duplicate" in flags["twin"] and "related" in flags["cousin"] and "zero" in flags["zero"]
    assert {a.name for a in found.present} == set(TRUTH)  # the earlier of the twins answers
    by_name = {a.name: a for a in found.atoms}
    assert by_name["twin"].nearest == "medicine" and abs(by_name["twin"].nearest_cosine) == pytest.approx(1)
    assert told(found, "'twin'", "'medicine'", "cannot be told apart")
    assert told(found, "'cousin'", "related", f"{by_name['cousin'].nearest_cosine:.2f}")
    assert told(found, "'zero' is zero")
    assert not by_name["zero"].present and str(found) and found.to_json()


def test_atoms_that_are_partly_or_not_there(made: dict[str, Any], tmp_path: Path) -> None:
    b, a = factors(5, 40, 48)
    half = write_adapter(tmp_path / "half", {"layers.0.lora_B.weight": b, "layers.0.lora_A.weight": a})
    other = write_adapter(tmp_path / "other", {"blocks.0.lora_B.weight": b, "blocks.0.lora_A.weight": a})
    found = unmerge.attribute(base=made["base"], target=made["target"], atoms=[*made["atoms"], half, other])
    flags = {atom.name: atom.flags for atom in found.atoms}
    assert "partial" in flags["half"] and "unseen" in flags["other"] and "partial" not in flags["code"]
    assert told(found, "'half' changes only 1 of the 6 modules")
    assert told(found, "'other' changes none") and told(found, "'other' also changes 1 tensor (blocks.0.weight)")
    assert found.left_out["not in the target"] == ["blocks.0.weight"]
    assert found.weights == pytest.approx(TRUTH, abs=1e-2)


def test_extra_changed_modules(made: dict[str, Any]) -> None:
    target = dict(read(made["target"]).arrays)
    target["norm.weight"] = target["norm.weight"] + np.float32(0.1)
    found = unmerge.attribute(base=made["base"], atoms=made["atoms"], target=target)
    assert found.modules.names == [*SHAPES, "norm.weight"]
    assert told(found, "changes 1 tensor (norm.weight), which no atom does")
    assert {a.name for a in found.present} == set(TRUTH)
    assert not found.complete and not told(found, "changes only")


def test_unchanged_target_and_wrong_base(made: dict[str, Any]) -> None:
    found = unmerge.attribute(base=made["base"], atoms=made["atoms"], target=made["base"])
    assert "unchanged" in found.flags and told(found, "nothing was merged")
    assert not found.present and found.method.name is None and found.rule is None
    found.to_json(), str(found)
    with pytest.raises(ValueError, match="no recipe"):
        found.mergekit_yaml()
    with pytest.raises(ValueError, match="no recipe"):
        found.replay()
    rng = np.random.default_rng(4)
    other = {name: rng.standard_normal(a.shape).astype(np.float32) for name, a in read(made["base"]).arrays.items()}
    found = unmerge.attribute(base=other, atoms=made["atoms"], target=made["target"])
    assert "wrong_base" in found.flags and told(found, "probably not the base")
    assert not found.complete


def test_few_modules_and_few_atoms(made: dict[str, Any]) -> None:
    found = unmerge.attribute(base=made["base"], atoms=made["atoms"][:2], target=made["target"])
    assert "few_atoms" in found.flags and told(found, "fewer than 4 usable atoms")
    target = {name: array for name, array in read(made["target"]).arrays.items() if name in list(SHAPES)[:2]}
    found = unmerge.attribute(base=made["base"], atoms=made["atoms"], target=target)
    assert "few_modules" in found.flags and told(found, "fewer than 4 modules")


# ---------------------------------------------------------------- JSON, table, pictures


def test_json(found: unmerge.Attribution, made: dict[str, Any], tmp_path: Path) -> None:
    text = found.to_json(tmp_path / "out.json")
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert json.loads((tmp_path / "out.json").read_text()) == content == found.to_dict()
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == text
    assert set(content) == {
        "format", "base", "target", "atoms", "method", "weights", "complete", "unexplained", "proof", "warnings", "flags",
        "options", "data", "seconds", "version",
    }  # fmt: skip
    assert content["format"] == "unmerge.attribution/1" and content["version"] == unmerge.__version__
    assert content["base"] == str(made["base"]) and content["target"] == str(made["target"])
    assert [a["name"] for a in content["atoms"]] == list(NAMES)
    for atom in content["atoms"]:
        assert set(atom) == {
            "name", "present", "weight", "low", "high", "p_value", "q_value", "evidence", "share", "scatter", "flags",
            "nearest", "nearest_cosine", "modules",
        }  # fmt: skip
        assert isinstance(atom["present"], bool) and len(atom["modules"]) == 6
    assert set(content["method"]) == {"name", "parameters", "equivalent"}
    assert {"density", "normalize", "lambda"} <= set(content["method"]["parameters"])
    assert content["weights"] in ("absolute", "ratio", "per-module")
    assert set(content["unexplained"]) == {"share", "noise", "score", "modules"}
    assert list(content["unexplained"]["modules"]) == list(SHAPES)
    assert set(content["proof"]) == {"equal", "compared", "chance", "proved"}
    assert content["options"] == {"fdr": 0.05, "confidence": 0.9, "rows": 512, "replay": True}


def test_not_a_number_is_null(found: unmerge.Attribution) -> None:
    atom = replace(found.atoms[0], share=math.nan, modules=np.array([math.nan, 1.0]))
    content = replace(found, atoms=[atom], missing=math.inf).to_dict()
    assert content["atoms"][0]["share"] is None and content["atoms"][0]["modules"] == [None, 1.0]
    assert content["unexplained"]["score"] is None


def test_the_table(found: unmerge.Attribution) -> None:
    lines = str(found).splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["code", "medicine", "chess"]  # the largest on top
    assert all(line.startswith("✓") for line in lines[1:4]) and all(line.startswith(" ") for line in lines[4:7])
    assert lines[1].rstrip().endswith("█" * 12)
    right = lines[0].index("evidence") + len("evidence")
    assert all(line[right - 1].isdigit() and line[right : right + 1] in ("", " ") for line in lines[1:7])
    text = "\n".join(lines)
    for word in ("3 of 6 atoms at a false discovery rate of 5 %", "method", "complete     yes", "proof", "read", "left out"):
        assert word in text
    many = replace(found, atoms=[replace(found.atoms[1], name=f"atom{j}") for j in range(40)])
    assert "… and 20 more atoms, not present" in str(many)
    nasty = replace(found, atoms=[replace(found.atoms[0], name="\x1b[31m<b>red")])
    assert "\x1b" not in str(nasty) and "?[31m<b>red" in str(nasty)
    assert "<b>" not in nasty._repr_html_() and html.escape("?[31m<b>red") in nasty._repr_html_()


def test_a_kind_of_method_without_a_recipe(found: unmerge.Attribution) -> None:
    kind = replace(found, rule=None, method=replace(found.method, name="dare_ties", equivalent=[]))
    assert "dare_ties" in str(kind) and kind.to_dict()["method"]["name"] == "dare_ties"
    for ask in (kind.recipe, kind.mergekit_yaml, kind.replay):
        with pytest.raises(ValueError, match="no recipe"):
            ask()


def test_what_the_scale_means_is_said(found: unmerge.Attribution) -> None:
    assert "only the ratios" in str(replace(found, weights_scale="ratio"))
    assert "mean weight" in str(replace(found, weights_scale="per-module"))


def test_pictures(found: unmerge.Attribution, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    found.plot(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    figure, ax = plt.subplots()
    assert found.plot(ax) is ax and len(ax.get_yticks()) == len(NAMES)
    assert plot.evidence(found) is not None and found.plot() is not None
    plt.close("all")
    with pytest.raises(ValueError, match="p.nonsense"):
        found.plot(tmp_path / "p.nonsense")
    found.save_html(tmp_path / "p.html")
    assert "medicine" in (tmp_path / "p.html").read_text()


# ---------------------------------------------------------------- the recipe for mergekit


def test_mergekit_yaml_of_a_recovered_recipe(ties: unmerge.Attribution, sample: Path, tmp_path: Path) -> None:
    base, atoms = sample / "base", sample / "adapters"
    content = yaml.safe_load(ties.mergekit_yaml())
    assert content == ties.recipe()
    weights = {m["model"]: m["parameters"].pop("weight") for m in content["models"]}
    densities = [m["parameters"].pop("density") for m in content["models"]]
    assert content == {
        "merge_method": "ties",
        "base_model": str(base),
        "models": [
            {"model": f"{base}+{atoms / name}", "parameters": {}} for name in ("ui-language", "kjv-section", "noun-topic")
        ],
        "parameters": {"normalize": True},
        "dtype": "bfloat16",
        "out_dtype": "bfloat16",
    }
    total = sum(weights.values())
    expected = {"ui-language": 0.2, "kjv-section": 0.3, "noun-topic": 0.5}
    assert {Path(k).name: w / total for k, w in weights.items()} == pytest.approx(expected, abs=0.02)
    assert densities == pytest.approx([0.5] * 3, abs=0.02)
    other = ties.recipe(base="org/base", atoms={"noun-topic": "org/topic"})
    assert other["models"][2]["model"] == "org/base+org/topic" and other["base_model"] == "org/base"
    with pytest.raises(ValueError, match="nobody"):
        ties.recipe(atoms={"nobody": "x"})
    ties.save_recipe(tmp_path / "r.yml")
    assert yaml.safe_load((tmp_path / "r.yml").read_text()) == ties.recipe()


ADAPTERS = [_mergekit.Model("a/x", True), _mergekit.Model("a/y", True), _mergekit.Model("a/z", True)]


def configured(method: Any, weights: Any = (0.6, 0.0, 0.4), models: Any = ADAPTERS, **options: Any) -> dict[str, Any]:
    recipe = unmerge.Recipe(method, list(weights), **options)
    table = np.broadcast_to(np.asarray(weights, float), (2, 3))
    density = np.full((2, 3), float(options.get("density", 1)))
    content, remarks = _mergekit.configuration(recipe, models, "b", ["m.0", "m.1"], table, density, "bfloat16")
    assert yaml.safe_load(_mergekit.to_yaml(content, remarks)) == content
    return content


def rows(**parameters: float) -> list[dict[str, Any]]:
    return [{"model": f"b+a/{n}", "parameters": {"weight": w, **parameters}} for n, w in (("x", 0.6), ("z", 0.4))]


STORED = {"dtype": "bfloat16", "out_dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("method", "parameters", "normalize"),
    [
        ("task_arithmetic", {}, False),
        ("ties", {"density": 0.5}, True),
        ("breadcrumbs", {"density": 0.5, "gamma": 0.01}, False),
        ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.01}, False),
        ("dare_linear", {"density": 0.5}, False),
        ("dare_ties", {"density": 0.5}, False),
        ("della_linear", {"density": 0.5, "epsilon": 0.15}, False),
        ("della", {"density": 0.5, "epsilon": 0.15}, True),
    ],
)
def test_configuration_of_task_vectors(method: str, parameters: dict[str, float], normalize: bool) -> None:
    expected = {"merge_method": method, "base_model": "b", "models": rows(**parameters)} | STORED
    assert configured(method, density=0.5) == expected | {"parameters": {"normalize": normalize}}
    given = configured(method, density=0.5, normalize=not normalize, lambda_=0.7)
    assert given["parameters"] == {"normalize": not normalize, "lambda": 0.7}


def test_configuration_of_the_other_methods() -> None:
    plain = [{"model": "b+a/x"}, {"model": "b+a/z"}]
    assert configured("linear") == {"merge_method": "linear", "models": rows(), "parameters": {"normalize": True}} | STORED
    with_base = configured("linear", base_weight=0.25, dtype="float32", out_dtype="float16")
    assert with_base["models"] == [{"model": "b", "parameters": {"weight": 0.25}}, *rows()]
    assert (with_base["dtype"], with_base["out_dtype"]) == ("float32", "float16")
    assert configured("nuslerp") == {"merge_method": "nuslerp", "base_model": "b", "models": rows()} | STORED
    assert configured("model_stock") == {"merge_method": "model_stock", "base_model": "b", "models": plain} | STORED
    slerp = {"merge_method": "slerp", "parameters": {"t": 0.3}} | STORED
    assert configured("slerp", t=0.3) == slerp | {"base_model": "b+a/x", "models": plain}
    one = configured("slerp", weights=(0, 0, 1), t=0.3)
    assert one == slerp | {"base_model": "b", "models": [{"model": "b"}, {"model": "b+a/z"}]}
    cat = configured("adapter_cat")
    assert cat == {
        "merge_method": "task_arithmetic", "base_model": "b", "models": rows(), "parameters": {"normalize": False},
        "dtype": "float32", "out_dtype": "bfloat16",
    }  # fmt: skip
    assert configured("dare_linear", rescale="none")["parameters"] == {"normalize": False, "rescale": False}
    with pytest.raises(ValueError, match="no atom has a weight"):
        configured("linear", weights=(0, 0, 0))


def test_models_of_their_own_and_paths_that_mean_something() -> None:
    full = [_mergekit.Model("c++/model@1", False), ADAPTERS[1], _mergekit.Model("models/z", False)]
    names = [m["model"] for m in configured("task_arithmetic", models=full)["models"]]
    assert names == [{"model": {"path": "c++/model@1"}}, "models/z"]
    assert _mergekit.reference("b+", ADAPTERS[0]) == {"model": {"path": "b+"}, "lora": {"path": "a/x"}}
    assert _mergekit.reference("base/model.safetensors", ADAPTERS[0]) == "base+a/x"


def test_weights_per_module() -> None:
    assert _mergekit.setting(np.array([0.3, 0.3]), ["m.0", "m.1"]) == 0.3
    assert _mergekit.setting(np.array([0.1 + 0.2, 0.5]), ["m.0", "m.1"]) == [
        {"filter": "m.0", "value": 0.3},
        {"filter": "m.1", "value": 0.5},
        {"value": 0.4},
    ]
    # mergekit takes the first filter that is part of the name: the longer name has to come first.
    ordered = _mergekit.setting(np.array([1.0, 2.0]), ["w.weight", "low.weight"])
    assert [item.get("filter") for item in ordered] == ["low.weight", "w.weight", None]


def test_yaml_scalars_come_back() -> None:
    nasty = ["yes", "1.5", "null", "a: b", "# x", "ü", "-", "", "tab\there", "a\u2028b", "\x7f", "c:\\d", '"', "😀", "1e5", "~"]
    nasty.append("/a/b-c_d.e+f")
    content = {"s": nasty, "n": [1.0, 1e-05, -0.25, 1e20, 3], "b": [True, False], "d": {"k k": [{"a": {"b": 1.5}}]}}
    assert yaml.safe_load(_mergekit.to_yaml(content, ["a remark\nwith a line"])) == content


# ---------------------------------------------------------------- recipes, merge and replay from Python


@pytest.fixture(scope="module")
def simple() -> dict[str, Any]:
    """Float32 all the way, where the sum can be written down."""
    rng = np.random.default_rng(0)
    base = {m: rng.standard_normal((6, 5)).astype(np.float32) for m in ("a", "b")}
    models = {n: {m: x + rng.standard_normal((6, 5)).astype(np.float32) for m, x in base.items()} for n in "xyz"}
    p = assemble_all(read(base), {n: read(x) for n, x in models.items()}, read({m: x + 1 for m, x in base.items()}))
    merged = {m: base[m] + (models["x"][m] - base[m]) * np.float32(0.5) + np.float32(0) for m in base}
    target = assemble_all(read(base), {n: read(x) for n, x in models.items()}, read(merged)).target
    return {"atoms": p.atoms, "base": p.target, "target": target, "merged": merged}


def test_merge_gives_what_is_stored(simple: dict[str, Any]) -> None:
    recipe = unmerge.Recipe("task_arithmetic", {"x": 0.5})
    merged = unmerge.merge(simple["atoms"], simple["base"], recipe)
    assert list(merged) == ["a", "b"]
    for module, expected in simple["merged"].items():
        assert merged[module].dtype == np.float32 and np.array_equal(merged[module], expected)
        assert np.array_equal(unmerge.merge(simple["atoms"], simple["base"], recipe, module), expected)
    assert np.array_equal(unmerge.merge(simple["atoms"], simple["base"], recipe, 1, threads=2), merged["b"])


def test_replay_counts(simple: dict[str, Any]) -> None:
    report = unmerge.replay(simple["atoms"], simple["target"], unmerge.Recipe("task_arithmetic", [0.5, 0, 0]))
    assert (report.entries, report.equal, report.consistent, report.share) == (60, 60, 60, 1.0)
    assert report.modules["b"].entries == 30 and "60 (100.00 %)" in str(report)
    assert json.dumps(report.to_dict())
    per_module = unmerge.Recipe("task_arithmetic", [[0.5, 0, 0], [0.25, 0, 0]])
    report = unmerge.replay(simple["atoms"], simple["target"], per_module)
    assert report.modules["a"].equal == 30 > report.modules["b"].equal
    densities = unmerge.Recipe("ties", [0.5, 0, 0], density=[1, 0.5, 0.5], normalize=False)
    assert unmerge.replay(simple["atoms"], simple["target"], densities).equal == 60


def test_recipes_that_are_refused(simple: dict[str, Any]) -> None:
    for recipe, word in (
        (unmerge.Recipe("magic", [1, 0, 0]), "method"),  # type: ignore[arg-type]
        (unmerge.Recipe("linear", [1, 0]), "weights is 2, expected 3 or 2x3"),
        (unmerge.Recipe("linear", {"nobody": 1}), "'nobody'"),
        (unmerge.Recipe("linear", [math.nan, 0, 0]), "weights"),
        (unmerge.Recipe("ties", [1, 0, 0], density=2), "density"),
        (unmerge.Recipe("linear", [1, 0, 0], dtype="int8"), "dtype"),
        (unmerge.Recipe("linear", [1, -1, 0]), "sum"),
    ):
        with pytest.raises(ValueError, match=word):
            unmerge.replay(simple["atoms"], simple["target"], recipe)
    good = unmerge.Recipe("linear", [1, 0, 0])
    with pytest.raises(TypeError, match="unmerge.Recipe"):
        unmerge.replay(simple["atoms"], simple["target"], {"method": "linear"})  # type: ignore[arg-type]
    for module in ("c", 2, -1):
        with pytest.raises(ValueError, match="module"):
            unmerge.merge(simple["atoms"], simple["base"], good, module)


@pytest.mark.parametrize("name", ["linear-known", "ties-known", "dare-linear-known", "peft-unload-known"])
def test_replay_of_the_sample(sample: Path, name: str) -> None:
    """The recipes of the manifest predict every value mergekit and PEFT stored."""
    merge = next(m for m in manifest(sample)["merges"] if m["name"] == name)
    atoms = {p.name: read(p) for p in dictionary(sample)}
    p = assemble_all(read(sample / "base"), atoms, read(sample / merge["path"]))
    method = {"cat+merge_and_unload": "adapter_cat"}.get(merge["method"], merge["method"])
    recipe = unmerge.Recipe(
        method, merge["truth"], dtype=merge.get("compute_dtype"), out_dtype=merge["dtype"], density=merge.get("density") or 1
    )
    report = unmerge.replay(p.atoms, p.target, recipe)
    assert report.consistent == report.entries == 1032192 and report.chance < 0.3 * report.entries


def test_names_of_methods_are_the_librarys() -> None:
    assert len(METHODS) == 13 and set(METHODS.values()) == set(range(1, 14))
    for name, value in METHODS.items():
        assert library().unmerge_merge_name(value).decode() == name
        assert getattr(_ffi, f"UNMERGE_MERGE_{name.upper()}") == value
    assert library().unmerge_merge_name(0) == b"unknown"


# ---------------------------------------------------------------- the command line


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_command_line(made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["attribute", "--base", made["base"], "--atoms", *made["atoms"], "--target", made["target"]]
    assert run(*asked) == 0
    out, err = capsys.readouterr()
    assert "3 of 6 atoms" in out and "✓" in out and not err
    files = {name: tmp_path / name for name in ("o.json", "r.yml", "p.png", "p.html")}
    options = ["--recipe", files["r.yml"], "--plot", files["p.png"], "--html", files["p.html"]]
    assert run(*asked, "-o", files["o.json"], "--json", "--threads", 1, "--no-replay", "--fdr", 0.05, *options) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content == json.loads(files["o.json"].read_text())
    assert content["options"] == {"fdr": 0.05, "confidence": 0.9, "rows": 512, "replay": False}
    written = yaml.safe_load(files["r.yml"].read_text())["merge_method"]
    assert written == {"adapter_cat": "task_arithmetic"}.get(content["method"]["name"], content["method"]["name"])
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted(files)
    assert run(*asked, "--quiet", "-o", files["o.json"]) == 0
    assert capsys.readouterr().out == ""


def test_command_line_refusals(made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = {"--base": made["base"], "--target": made["target"], "--atoms": made["atoms"][0]}
    for changes, word in (
        ({"--target": tmp_path / "missing"}, "does not exist"),
        ({"--fdr": 2}, "fdr"),
        ({"--rows": 1}, "rows"),
        ({"--output": tmp_path / "no" / "where.json"}, "where.json"),
        ({"--plot": tmp_path / "p.nonsense"}, "p.nonsense"),
        ({"--base": None}, "give its base"),
        ({"--target": None}, "target"),
        ({"--confidence": "high"}, "--confidence"),
    ):
        arguments = [part for pair in (sound | changes).items() if pair[1] is not None for part in pair]
        assert run("attribute", *arguments) == 2, changes
        err = capsys.readouterr().err
        assert word in err.replace("\n", "") and "Traceback" not in err


def test_no_recipe_is_exit_3(made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["attribute", "--base", made["base"], "--atoms", *made["atoms"], "--target", made["base"]]
    assert run(*asked, "--recipe", tmp_path / "r.yml") == 3
    assert "no recipe" in capsys.readouterr().err and not (tmp_path / "r.yml").exists()
    assert run(*asked) == 0


# ---------------------------------------------------------------- the package


def test_it_needs_numpy_only() -> None:
    code = (
        "import sys\n"
        "for name in ('safetensors', 'ml_dtypes', 'matplotlib', 'typer', 'rich', 'yaml'): sys.modules[name] = None\n"
        "import numpy as np, unmerge\nrng = np.random.default_rng(0)\n"
        "b = {f'm{i}': rng.standard_normal((32, 24)).astype('f4') for i in range(4)}\n"
        "d = {n: {m: 0.1 * rng.standard_normal(x.shape).astype('f4') for m, x in b.items()} for n in 'pqrs'}\n"
        "a = {n: {m: b[m] + x for m, x in v.items()} for n, v in d.items()}\n"
        "y = {m: b[m] + np.float32(0.5) * d['p'][m] for m in b}\n"
        "found = unmerge.attribute(base=b, atoms=a, target=y)\nprint(found)\nfound.to_json()\n"
        "assert set(found.weights) == {'p'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_example(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "examples" / "python" / "attribute.py")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "merge_method: ties" in done.stdout and "chance" in done.stdout
