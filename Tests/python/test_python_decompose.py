"""decompose: the right weights from every kind of model, evidence per module, and errors that name the tensors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import matplotlib
import numpy as np
import pytest
import unmerge
from test_python_models import BF16, factors, toy, write_adapter, write_model, write_shards
from unmerge import cli, plot
from unmerge.decomposition import METHODS, Method
from unmerge.files import read

matplotlib.use("Agg")

WEIGHTS = {"medicine": 0.5, "law": 0.0, "code": 0.8}


@pytest.mark.parametrize(
    "method",
    [
        *("nnls", "omp", "lasso", "elastic_net", "ridge", "dot", "htp", "cosamp", "subspace_pursuit", "best_subset"),
        *("mcp", "scad", "cel0", "lq", "basis_pursuit", "dantzig", "ols_pursuit", "matching_pursuit", "iht"),
        *("slope", "fused_lasso", "variational_garrote"),
    ],
)
def test_methods(tmp_path: Path, method: Any) -> None:
    made = toy(tmp_path)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"], method=method, k=2)
    assert [a.name for a in found.atoms] == list(WEIGHTS)
    assert found.report.converged
    present = {a.name for a in found.atoms if a.present}
    if method == "dot":
        assert found.explained is None and present >= {"medicine", "code"}
        assert found.atoms[0].weight == pytest.approx(found.atoms[0].cosine)
    else:
        assert present == {"medicine", "code"}
        loose = {"lasso": 0.05, "elastic_net": 0.05, "lq": 0.05, "dantzig": 0.05, "slope": 0.05, "fused_lasso": 0.05}.get(method, 1e-4)
        assert found.weights == pytest.approx(WEIGHTS, abs=loose)
        assert found.explained > 0.99
    for text in (str(found), found.to_json()):
        assert "medicine" in text and "NaN" not in text


def test_a_penalty_that_the_data_cannot_certify(tmp_path: Path) -> None:
    made = toy(tmp_path)
    models = {"base": made["base"], "atoms": made["atoms"], "target": made["target"]}
    assert unmerge.decompose(**models, method="cel0", verify=True).report.streamed
    for method in ("mcp", "slope", "matching_pursuit", "sparse_bayes"):
        with pytest.raises(unmerge.InvalidValue, match=f"{method} is not a problem that a certificate"):
            unmerge.decompose(**models, method=method, verify=True)


def test_sparse_bayes_needs_noise(tmp_path: Path) -> None:
    """Its evidence has no maximum where the fit is exact; the rounding of bfloat16 is noise enough."""
    made = toy(tmp_path, dtype=BF16)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"], method="sparse_bayes", effective=200)
    assert found.report.converged and found.weights == pytest.approx(WEIGHTS, abs=0.05) and found.options["effective"] == 200


def test_every_method_has_its_row_everywhere() -> None:
    assert set(get_args(Method)) == set(METHODS) == {name.replace("-", "_") for name in cli.METHODS}


def test_atoms_that_come_and_go_together(tmp_path: Path) -> None:
    made = toy(tmp_path)
    models = {"base": made["base"], "atoms": made["atoms"], "target": made["target"], "method": "group_lasso"}
    # medicine and law are one group: law stays in because medicine does; code alone.
    by_name = {"medicine": "health", "law": "health", "code": 1}
    assert unmerge.decompose(**models, groups=by_name, alpha=1e-3, verify=True).report.streamed
    found = unmerge.decompose(**models, groups=by_name, alpha=1e-3)
    assert found.options["groups"] == {"health": ["medicine", "law"], "1": ["code"]} and found.options["l1_ratio"] == 0
    assert found.weights["law"] != 0 and found.weights == pytest.approx(WEIGHTS, abs=0.05)
    sparse = unmerge.decompose(**models, groups=by_name, alpha=0.1, l1_ratio=0.9)
    assert sparse.weights["law"] == 0 and sparse.weights["medicine"] > 0.4
    A, y = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 4)))[0], np.zeros(50)
    vectors = {name: {"w": column} for name, column in zip(("law-1", "law-2", "tax-1", "other"), A.T)}
    y = A @ [1.0, 0.1, 0.2, 0.0]
    for pattern in ("^[a-z]+-", "^([a-z]+)-", "(law|tax)"):
        found = unmerge.decompose(atoms=vectors, target={"w": y}, method="group_lasso", group_by=pattern, alpha=0.5)
        assert list(found.options["groups"].values()) == [["law-1", "law-2"], ["tax-1"], ["other"]]
        norm = np.hypot(1, 0.1)  # orthonormal atoms: the group shrinks as one
        assert found.weights["law-2"] == pytest.approx(0.1 * (1 - 0.5 * np.sqrt(2) / norm)) and found.weights["tax-1"] == 0
    both = unmerge.decompose(
        atoms=vectors, target={"w": y}, method="group_lasso", alpha=0.1,
        groups={"law-1": ["law", "old"], "law-2": "law", "tax-1": ["tax", "old"], "other": "other"},
    )  # fmt: skip
    assert both.options["groups"]["old"] == ["law-1", "tax-1"] and both.report.converged


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "group_lasso"}, "groups is not given, nor group_by"),
        ({"method": "group_lasso", "groups": {"medicine": 1, "law": 1}}, "does not say where 'code' belongs"),
        ({"method": "group_lasso", "groups": {"medicine": 1, "law": 1, "code": 2, "x": 3}}, "groups names 'x', which is not"),
        ({"method": "group_lasso", "groups": {"medicine": 1, "law": None, "code": 2}}, r"groups\['law'\] is None, expected a label"),
        ({"method": "group_lasso", "groups": {"medicine": 1, "law": [], "code": 2}}, r"groups\['law'\] is \[\], expected"),
        ({"method": "group_lasso", "groups": ["a", "b", "c"]}, "groups is a list, expected a dict"),
        ({"method": "group_lasso", "group_by": "("}, "no regular expression"),
        ({"method": "group_lasso", "group_by": "zebra"}, "matches none of the atoms"),
        ({"method": "group_lasso", "group_by": "a", "groups": {}}, "both given"),
        ({"method": "group_lasso", "group_by": "a", "l1_ratio": 2.0}, "options->l1_ratio is 2.0"),
        ({"method": "lasso", "group_by": "a"}, "group_by is given, but lasso knows no groups"),
        ({"method": "slope", "q": 1.0}, "q is 1.0"),
        ({"method": "fused_lasso", "l1_ratio": -1.0}, "options->l1_ratio is -1.0"),
        ({"method": "dantzig", "alpha": -1.0}, "options->delta is -1.0"),
        ({"method": "scad", "gamma": 2.0}, "options->gamma is 2.0"),
        ({"method": "lq", "q": 2.0}, "options->q is 2.0"),
        ({"method": "sparse_bayes", "effective": -1.0}, "effective"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    made = toy(tmp_path)
    with pytest.raises((ValueError, TypeError), match=sentence):
        unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"], **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("bvls", {"lower": 0, "upper": 0.9}),
        ("simplex", {"total": 1.3}),
        ("lasso_tau", {"tau": 1.3}),
        ("bpdn", {"sigma": 0.01}),
    ],
)
def test_methods_with_a_constraint(tmp_path: Path, method: Any, options: dict[str, Any]) -> None:
    made = toy(tmp_path)
    models = {"base": made["base"], "atoms": made["atoms"], "target": made["target"]}
    for verify in (False, True):
        found = unmerge.decompose(**models, method=method, verify=verify, **options)
        assert found.weights == pytest.approx(WEIGHTS, abs=0.02)
        assert found.report.streamed if verify and method != "simplex" else found.report.converged
        assert found.options | options == found.options
    if method in ("lasso_tau", "bpdn"):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is not given"):
            unmerge.decompose(**models, method=method)


def test_storage_in_bfloat16(tmp_path: Path) -> None:
    """The rounding of the merged weights leaves noise; the weights are right all the same."""
    made = toy(tmp_path, dtype=BF16)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"])
    assert found.weights == pytest.approx(WEIGHTS, abs=0.05)


def test_evidence_per_module(tmp_path: Path) -> None:
    made = toy(tmp_path)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"], precision="exact")
    assert [m.name for m in found.modules] == ["lin.0.weight", "lin.1.weight"]
    assert sum(m.energy for m in found.modules) == pytest.approx(1)
    for module in found.modules:
        assert module.entries == 192 and module.explained == pytest.approx(1, abs=1e-6)
        assert module.weights == pytest.approx({"medicine": 0.5, "code": 0.8}, abs=1e-4)
        assert set(module.cosine) == set(WEIGHTS)
    assert sum(a.share for a in found.atoms) == pytest.approx(found.explained, abs=1e-9)
    assert found.left_out == {"not changed by any atom": ["norm.weight"], "not floating point": ["steps"]}


def test_json(tmp_path: Path) -> None:
    made = toy(tmp_path)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"])
    text = found.to_json(tmp_path / "out.json")
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert json.loads((tmp_path / "out.json").read_text()) == content == found.to_dict()
    assert [a["name"] for a in content["atoms"]] == list(WEIGHTS)
    assert {"name", "present", "weight", "share", "cosine", "size", "kind", "path"} == set(content["atoms"][0])
    assert content["method"] == "nnls" and content["converged"] is True and content["report"]["outcome"] == "converged"
    assert content["data"]["tensors"] == 2 and content["data"]["entries"] == 384


def test_the_table_is_aligned(tmp_path: Path) -> None:
    made = toy(tmp_path)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"])
    lines = str(found).splitlines()
    assert [line.split()[1] for line in lines[1:3]] == ["code", "medicine"] and lines[1].startswith("*")
    assert lines[3].split()[0] == "law"
    assert len({len(line) for line in lines[:4]}) == 1
    text = "\n".join(lines)
    nasty = unmerge.decompose(atoms={"\x1b[31mred": {"w": np.ones(3)}}, target={"w": np.ones(3)})
    assert "\x1b" not in str(nasty) and "?[31mred" in str(nasty)
    for word in ("2 of 3 atoms present", "explained", "certificate  converged", "read", "left out", "nnls"):
        assert word in text


def test_verify_and_compress(tmp_path: Path) -> None:
    made = toy(tmp_path)
    common: dict[str, Any] = {"base": made["base"], "atoms": made["atoms"], "target": made["target"]}
    for method in ("nnls", "lasso", "elastic_net", "ridge", "omp"):
        assert unmerge.decompose(**common, method=method, verify=True).report.streamed
    small = unmerge.decompose(**common, compress=100)
    assert small.entries == 100 and small.weights == pytest.approx(WEIGHTS, abs=1e-3)


def test_progress_and_threads(tmp_path: Path) -> None:
    made = toy(tmp_path)
    seen: list[unmerge.Progress] = []
    one = unmerge.decompose(
        base=made["base"], atoms=made["atoms"], target=made["target"], progress=seen.append, threads=1
    )
    assert all(isinstance(p, unmerge.Progress) for p in seen)
    two = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"], threads=2, progress="rich")
    assert one.weights == two.weights


# ---------------------------------------------------------------- kinds of models


def test_checkpoints_as_atoms(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base = {"a": rng.standard_normal((6, 4)), "b": rng.standard_normal(5), "k": rng.standard_normal((3, 2, 2, 2))}
    deltas = [{k: rng.standard_normal(v.shape) for k, v in base.items()} for _ in range(3)]
    ends = [write_model(tmp_path / f"ft{i}", {k: base[k] + d[k] for k in base}) for i, d in enumerate(deltas)]
    merged = {k: base[k] + 0.3 * deltas[0][k] + 0.6 * deltas[2][k] for k in base}
    expected = {"ft0": 0.3, "ft1": 0.0, "ft2": 0.6}
    sharded = write_shards(
        tmp_path / "merged", {"m-1.safetensors": {"a": merged["a"]}, "m-2.safetensors": {k: merged[k] for k in "bk"}}
    )
    found = unmerge.decompose(base=write_model(tmp_path / "base", base), atoms=ends, target=sharded)
    assert found.weights == pytest.approx(expected, abs=1e-9) and found.tensors == 3 and found.entries == 24 + 5 + 24

    # A tensor that one model lacks is left out, and the result says so.
    short = write_model(tmp_path / "ft1", {k: base[k] + deltas[1][k] for k in "ab"})
    found = unmerge.decompose(base=tmp_path / "base", atoms=[ends[0], short, ends[2]], target=sharded)
    assert found.weights == pytest.approx(expected, abs=1e-9)
    assert found.left_out["not in every atom"] == ["k"]
    tied = write_model(tmp_path / "tied", {k: merged[k] for k in "ak"})
    found = unmerge.decompose(base=tmp_path / "base", atoms=[ends[0], ends[2]], target=tied)
    assert found.left_out["not in the target"] == ["b"] and found.tensors == 2


def test_task_vectors(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((3, 50))
    for i, v in enumerate(vectors):
        np.save(tmp_path / f"v{i}.npy", v.astype(np.float32))
    np.save(tmp_path / "y.npy", (vectors[0] - 2 * vectors[2]).astype(np.float32))
    atoms = [tmp_path / f"v{i}.npy" for i in range(3)]
    found = unmerge.decompose(atoms=atoms, target=tmp_path / "y.npy", method="ridge")
    assert found.weights == pytest.approx({"v0.npy": 1, "v1.npy": 0, "v2.npy": -2}, abs=1e-4)
    assert found.atoms[2].present  # a subtracted component is present

    modules = [{"m": v[:30].reshape(5, 6), "k": v[30:]} for v in vectors]
    base = {"m": rng.standard_normal((5, 6)), "k": rng.standard_normal(20)}
    merged = write_model(tmp_path / "merged", {k: base[k] + 0.5 * modules[1][k] for k in base})
    np.savez(tmp_path / "a.npz", **modules[0])
    write_model(tmp_path / "tv", modules[1], kind="task_vector")
    found = unmerge.decompose(
        base=write_model(tmp_path / "base", base), atoms=[tmp_path / "a.npz", tmp_path / "tv"], target=merged
    )
    assert found.weights == pytest.approx({"a.npz": 0, "tv": 0.5}, abs=1e-9)
    # Without a base everything is a difference; where the base is an .npz, so is what is compared with it.
    bare = unmerge.decompose(atoms={"one": modules[1]}, target={k: 2 * v for k, v in modules[1].items()})
    assert bare.weights == pytest.approx({"one": 2.0}, abs=1e-9)
    np.savez(tmp_path / "base.npz", **base)
    np.savez(tmp_path / "full.npz", **{k: base[k] + modules[0][k] for k in base})
    full = unmerge.decompose(base=tmp_path / "base.npz", atoms=[tmp_path / "full.npz"], target=tmp_path / "full.npz")
    assert full.weights == pytest.approx({"full.npz": 1.0}, abs=1e-9)


def test_adapter_as_target(tmp_path: Path) -> None:
    """A merge of adapters by concatenation of their factors is itself an adapter."""
    made = toy(tmp_path)
    one, two = (read(path) for path in made["atoms"][:2])
    tensors = {}
    for name, f in one.factors.items():
        module = name.removesuffix(".weight")
        tensors[f"{module}.lora_B.weight"] = np.hstack([0.25 * f.B, 0.75 * two.factors[name].B])
        tensors[f"{module}.lora_A.weight"] = np.vstack([f.A, two.factors[name].A])
    target = write_adapter(tmp_path / "merged_adapter", tensors, r=4, lora_alpha=8)
    found = unmerge.decompose(atoms=made["atoms"], target=target)
    assert found.weights == pytest.approx({"medicine": 0.25, "law": 0.75, "code": 0}, abs=1e-6)


def test_atoms_of_the_same_name(tmp_path: Path) -> None:
    for i, folder in enumerate(("x/adapter", "y/adapter")):
        b, a = factors(i, 4, 4)
        write_adapter(tmp_path / folder, {"q.lora_B.weight": b, "q.lora_A.weight": a})
    paths = [tmp_path / "x" / "adapter", tmp_path / "y" / "adapter"]
    found = unmerge.decompose(atoms=paths, target=paths[1])
    assert [a.name for a in found.atoms] == [str(p) for p in paths]
    assert [round(a.weight, 6) for a in found.atoms] == [0, 1]
    with pytest.raises(ValueError, match="twice"):
        unmerge.decompose(atoms=[paths[0], paths[0]], target=paths[1])
    assert unmerge.decompose(atoms=[f"{paths[0]}/"], target=paths[0]).atoms[0].name == "adapter"


# ---------------------------------------------------------------- refusals


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    made = toy(tmp_path)
    base = read(made["base"]).arrays
    without = write_model(tmp_path / "without", {k: v for k, v in base.items() if k != "lin.1.weight"})
    with pytest.raises(ValueError, match="'lin.1.weight'.*target or the base does not have"):
        unmerge.decompose(base=made["base"], atoms=made["atoms"], target=without)
    with pytest.raises(ValueError, match="'lin.1.weight'"):
        unmerge.decompose(base=without, atoms=made["atoms"], target=made["target"])
    other = dict(base)
    other["lin.0.weight"] = np.ones((16, 13), np.float32)
    with pytest.raises(ValueError, match=r"lin\.0\.weight: target 16x13, medicine 16x12.*base 16x12"):
        unmerge.decompose(base=made["base"], atoms=made["atoms"], target=write_model(tmp_path / "o", other))
    quantised = dict(base)
    quantised["lin.0.weight"] = np.ones((16, 12), np.int8)
    with pytest.raises(ValueError, match=r"'lin\.0\.weight'.*float tensor"):
        unmerge.decompose(base=made["base"], atoms=made["atoms"], target=write_model(tmp_path / "q", quantised))
    with pytest.raises(ValueError, match="no float tensor in common"):
        unmerge.decompose(base={"a": np.ones(3)}, atoms={"x": {"b": np.ones(3)}}, target={"a": np.ones(3)})


def test_other_refusals(tmp_path: Path) -> None:
    made = toy(tmp_path)
    common: dict[str, Any] = {"base": made["base"], "atoms": made["atoms"], "target": made["target"]}
    with pytest.raises(ValueError, match="method"):
        unmerge.decompose(**common, method="magic")
    with pytest.raises(ValueError, match="threshold"):
        unmerge.decompose(**common, threshold=-1)
    with pytest.raises(ValueError, match="threshold"):
        unmerge.decompose(**common, threshold=math.nan)
    with pytest.raises(ValueError):
        unmerge.decompose(**common, compress=0)
    with pytest.raises(ValueError, match="no atoms"):
        unmerge.decompose(base=made["base"], atoms=[], target=made["target"])
    with pytest.raises(TypeError, match="list of paths"):
        unmerge.decompose(base=made["base"], atoms="a path", target=made["target"])
    with pytest.raises(TypeError, match="base .* is an adapter"):
        unmerge.decompose(base=made["atoms"][0], atoms=made["atoms"], target=made["target"])
    with pytest.raises(TypeError, match="need names"):
        unmerge.decompose(atoms=[{"a": np.ones(3)}], target={"a": np.ones(3)})
    nan = dict(read(made["target"]).arrays)
    nan["lin.0.weight"] = np.full((16, 12), np.nan, np.float32)
    with pytest.raises(ValueError):
        unmerge.decompose(base=made["base"], atoms=made["atoms"], target=write_model(tmp_path / "nan", nan))


def test_a_merge_that_is_the_base(tmp_path: Path) -> None:
    made = toy(tmp_path)
    found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["base"])
    assert not any(a.present for a in found.atoms) and found.explained == 0
    found.to_json()
    str(found)


# ---------------------------------------------------------------- plots


def test_plots(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    made = toy(tmp_path)
    for method in ("nnls", "dot"):
        found = unmerge.decompose(base=made["base"], atoms=made["atoms"], target=made["target"], method=method)
        ax = plot.weights(found)
        assert len(ax.patches) == 3
        figure, given = plt.subplots()
        assert plot.modules(found, ax=given) is given
        figure.savefig(tmp_path / "plot.png")
        plt.close("all")
