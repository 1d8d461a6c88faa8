"""Make the merges with the real packages (mergekit on whole checkpoints, PEFT on adapters) and write the manifest."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import shutil
import time
import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import training
import yaml
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from peft import PeftModel
from recipes import Recipe, all_recipes
from safetensors.torch import load_file
from torch import Tensor
from train import BASE_NAME, DTYPES, tidy
from transformers import AutoModel, AutoModelForCausalLM

LAYERS = {"encoder": 6, "decoder": 4}
ENCODER_PARTS = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
DECODER_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
                 "mlp.up_proj", "mlp.down_proj")  # fmt: skip
DESCRIBED = 2  # raise it when `describe` changes: the entries are then made anew, the merges are not


def modules(family: str) -> list[str]:
    """The matrices that adapters change."""
    if family == "encoder":
        return [f"encoder.layer.{i}.{part}" for i in range(LAYERS[family]) for part in ENCODER_PARTS]
    return [f"model.layers.{i}.{part}" for i in range(LAYERS[family]) for part in DECODER_PARTS]


def family_of(recipe: Recipe) -> str:
    """Which base a recipe is about."""
    return "decoder" if recipe.variant == "decoder" else "encoder"


def base_path(root: Path, recipe: Recipe) -> Path:
    """The base checkpoint."""
    return root / ("base-decoder" if family_of(recipe) == "decoder" else "base")


def component_path(root: Path, variant: str, name: str) -> Path:
    """Where a component lies: a full fine-tune, an adapter of its variant, or one of the wide dictionary."""
    if name.startswith("full-"):
        return root / "full" / name
    own = root / "adapters" / variant / name
    return own if own.exists() or variant != "shared" else _wide(root, name, own)


def _wide(root: Path, name: str, own: Path) -> Path:
    """Names ending in a number belong to the wide dictionary."""
    return root / "adapters" / "wide" / name if name.rsplit("-", 1)[-1].isdigit() else own


def load_model(path: Path, dtype: torch.dtype) -> Any:
    """A base model of either architecture."""
    kind = json.loads((path / "config.json").read_text())["model_type"]
    return (AutoModelForCausalLM if kind == "llama" else AutoModel).from_pretrained(path, dtype=dtype)


def task_model(root: Path, recipe: Recipe, name: str) -> Path:
    """The whole bfloat16 checkpoint of a fine-tune, merged from its adapter if need be.

    Two thirds are added in float32 and rounded once, as a careful publisher would; every third is merged by PEFT on
    the bfloat16 model, which rounds the product before it is added.
    """
    source = component_path(root, recipe.variant, name)
    if name.startswith("full-"):
        return source
    target = root / "tasks" / source.parent.name / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        dtype = torch.bfloat16 if zlib.crc32(name.encode()) % 3 == 0 else torch.float32
        base = load_model(base_path(root, recipe), torch.bfloat16).to(dtype)
        tuned = PeftModel.from_pretrained(base, source).merge_and_unload()
        training.save_checkpoint(tuned, base_path(root, recipe), target)
    return target


# --- mergekit ------------------------------------------------------------------------------------------------------


def weight_setting(recipe: Recipe, name: str) -> Any:
    """A weight as mergekit's YAML has it: a number, a list over depth, or values per matrix."""
    if recipe.gradient:
        return recipe.gradient[name]
    if recipe.filters:
        return [{"filter": f, "value": v} if f != "*" else {"value": v} for f, v in recipe.filters[name].items()]
    return recipe.weights[name]


def config(root: Path, recipe: Recipe) -> dict[str, Any]:
    """The mergekit recipe."""
    base = str(base_path(root, recipe))
    paths = {name: str(task_model(root, recipe, name)) for name in recipe.weights}
    out: dict[str, Any] = {"merge_method": recipe.method, "dtype": recipe.compute, "out_dtype": recipe.dtype}
    if recipe.method == "slerp":  # two models, of which one is called the base
        first = base if len(paths) == 1 else next(iter(paths.values()))
        second = list(paths.values())[-1]
        return out | {"base_model": first, "models": [{"model": first}, {"model": second}],
                      "parameters": {"t": recipe.t}}  # fmt: skip
    if recipe.method in ("karcher", "model_stock"):
        out |= {"models": [{"model": path} for path in paths.values()]}
        return out | ({"base_model": base} if recipe.method == "model_stock" else {})
    models = []
    for name, path in paths.items():
        parameters: dict[str, Any] = {"weight": weight_setting(recipe, name)}
        for key in ("density", "epsilon", "gamma"):
            if (value := getattr(recipe, key)) is not None:
                parameters[key] = value
        models.append({"model": path, "parameters": parameters})
    out["models"] = models
    if recipe.method != "linear":
        out["base_model"] = base
    shared = {"normalize": recipe.normalize, "lambda": recipe.lam}
    if chosen := {key: value for key, value in shared.items() if value is not None}:
        out["parameters"] = chosen
    return out


def run_mergekit(root: Path, recipe: Recipe, part: Path) -> None:
    """What `mergekit-yaml` does, in this process."""
    # mergekit 0.1.5 fails on *optional* tensors that have aliases (it adds a tuple to a list). BERT has one such,
    # position_ids, which no checkpoint here contains: leave it out of mergekit's table. The arithmetic is untouched.
    known = NAME_TO_ARCH["BertModel"][0].modules["default"].architecture.definition.pre_weights
    known[:] = [weight for weight in known if not weight.optional]
    text = yaml.safe_dump(config(root, recipe), sort_keys=False)
    options = MergeOptions(random_seed=recipe.seed, write_model_card=False, quiet=True, copy_tokenizer=False)
    run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), str(part), options)
    (part / "recipe.yml").write_text(text.replace(f"{root}/", ""))


# --- PEFT ----------------------------------------------------------------------------------------------------------


def run_peft(root: Path, recipe: Recipe, part: Path) -> None:
    """`add_weighted_adapter`; the result is kept as an adapter or merged into the base."""
    names = list(recipe.weights)
    base = load_model(base_path(root, recipe), torch.bfloat16)
    paths = {name: component_path(root, recipe.variant, name) for name in names}
    model = PeftModel.from_pretrained(base, paths[names[0]], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(paths[name], adapter_name=name)
    torch.manual_seed(recipe.seed)
    model.add_weighted_adapter(
        names, list(recipe.weights.values()), "merged", combination_type=recipe.method, svd_rank=recipe.svd_rank
    )
    model.set_adapter("merged")
    if recipe.form == "checkpoint":
        model.merge_and_unload(adapter_names=["merged"]).to(DTYPES[recipe.dtype]).save_pretrained(part)
        return
    for name, parameter in model.named_parameters():
        if ".merged." in name:
            parameter.data = parameter.data.to(DTYPES[recipe.dtype])
    model.peft_config["merged"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(str(part), selected_adapters=["merged"], save_embedding_layers=False)
    for path in (part / "merged").iterdir():
        path.rename(part / path.name)
    (part / "merged").rmdir()
    tidy(part)


# --- a little training after the merge -----------------------------------------------------------------------------


def tune(root: Path, recipe: Recipe, part: Path) -> None:
    """Train the attention matrices of a merged encoder for a few steps on another task, then round again."""
    assert recipe.tune is not None
    name, steps, lr = recipe.tune
    task = training.load_task(name, root / "base", root / "cache")
    model = AutoModel.from_pretrained(part, dtype=torch.float32).eval()
    wanted = {f"{module}.weight" for module in modules("encoder")}
    for n, p in model.named_parameters():
        p.requires_grad_(n in wanted)
    head = training.fresh_head(task)
    rows = training.bucketed(task.ids, random.Random(recipe.seed), steps)
    batches = ((head, [task.ids[i] for i in row], task.y[row]) for row in rows)
    training.optimise(model, [p for p in model.parameters() if p.requires_grad], [head], steps, lr, batches)
    model.to(DTYPES[recipe.dtype]).save_pretrained(part)


# --- the truth -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def checkpoint(path: Path, family: str) -> dict[str, Tensor]:
    """The adapted matrices of a whole checkpoint, in float32."""
    tensors = load_file(path / "model.safetensors")
    return {m: tensors[f"{m}.weight"].float() for m in modules(family)}


@lru_cache(maxsize=96)
def update(path: Path, base: Path, family: str) -> dict[str, Tensor]:
    """What a fine-tune adds to each matrix: exact from an adapter's factors, a difference for a checkpoint."""
    if not (path / "adapter_config.json").exists():
        before = checkpoint(base, family)
        return {m: w - before[m] for m, w in checkpoint(path, family).items()}
    settings = json.loads((path / "adapter_config.json").read_text())
    factors = load_file(path / "adapter_model.safetensors")
    scale = settings["lora_alpha"] / settings["r"]
    found = {}
    for m in modules(family):
        a, b = (factors[f"base_model.model.{m}.lora_{side}.weight"].float() for side in "AB")
        found[m] = scale * (b @ a)
    return found


def realised(root: Path, recipe: Recipe, target: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Least-squares weights of the true components in the merge, over all matrices and for each."""
    base, family = base_path(root, recipe), family_of(recipe)
    merged = update(target, base, family) if recipe.form == "adapter" else {
        m: w - checkpoint(base, family)[m] for m, w in checkpoint(target, family).items()
    }  # fmt: skip
    names = list(recipe.weights)
    parts = [update(component_path(root, recipe.variant, n), base, family) for n in names]
    gram, rhs = torch.zeros(len(names), len(names), dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
    each: dict[str, dict[str, float]] = {n: {} for n in names}
    for m in modules(family):
        x = torch.stack([p[m].flatten() for p in parts]).double()
        g, b = x @ x.T, x @ merged[m].flatten().double()
        for name, w in zip(names, torch.linalg.lstsq(g, b).solution.tolist(), strict=True):
            each[name][m] = round(w, 5)
        gram, rhs = gram + g, rhs + b
    pooled = torch.linalg.lstsq(gram, rhs).solution.tolist()
    return {n: round(w, 5) for n, w in zip(names, pooled, strict=True)}, each


def per_module(recipe: Recipe, measured: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The truth for each matrix: the recipe's where it says so, else what the method's geometry made of it."""
    if not (recipe.gradient or recipe.filters):
        return measured
    family = family_of(recipe)
    found: dict[str, dict[str, float]] = {}
    for name in recipe.weights:
        found[name] = {}
        for m in modules(family):
            if recipe.filters:
                found[name][m] = next(v for f, v in recipe.filters[name].items() if f == "*" or f in m)
            else:  # mergekit interpolates linearly over depth
                values = recipe.gradient[name]
                spot = int(m.split(".")[2]) / (LAYERS[family] - 1) * (len(values) - 1)
                i = int(spot)
                j = min(len(values) - 1, i + 1)
                found[name][m] = (1 - (spot - i)) * values[i] + (spot - i) * values[j]
    return found


def describe(root: Path, recipe: Recipe, target: Path, seconds: float) -> dict[str, Any]:
    """The manifest's entry of a merge."""
    pooled, measured = realised(root, recipe, target)
    # Where nothing divides by the weights, a factor on the sum is a factor on each: only the product can be recovered.
    factor = (recipe.lam or 1.0) if recipe.kind == "absolute" else 1.0
    components = {name: factor * w for name, w in recipe.weights.items()}
    entry: dict[str, Any] = {"name": recipe.name, "split": recipe.split, "suite": recipe.suite}
    entry |= {"variant": recipe.variant, "category": recipe.category}
    if recipe.kind == "per-layer":
        details = per_module(recipe, measured)
        components = {n: round(sum(v.values()) / len(v), 5) for n, v in details.items()}
        entry["truth_per_module"] = {n: v for n, v in details.items() if n in recipe.atoms}
    entry |= {
        "base": str(base_path(root, recipe).relative_to(root)),
        "target": str(target.relative_to(root)),
        "form": recipe.form,
        "atoms": [str(component_path(root, recipe.variant, n).relative_to(root)) for n in recipe.atoms],
        "truth": {n: w for n, w in components.items() if n in recipe.atoms},
        "components": components | ({f"tuning:{recipe.tune[0]}": 1.0} if recipe.tune else {}),
        "weights": recipe.kind,
        "recipe_weights": recipe.weights,
        "realised": pooled,
        "tool": recipe.tool,
        "tool_version": version(recipe.tool),
        "method": recipe.method,
        "density": recipe.density,
        "normalize": recipe.normalize,
        "lambda": 1.0 if recipe.lam is None else recipe.lam,
        "epsilon": recipe.epsilon,
        "gamma": recipe.gamma,
        "t": recipe.t,
        "svd_rank": recipe.svd_rank,
        "tune": recipe.tune,
        "compute_dtype": recipe.compute if recipe.tool == "mergekit" else None,
        "dtype": recipe.dtype,
        "random_seed": recipe.seed,
        "seconds": round(seconds, 2),
    }
    return entry


def make(root: Path, recipe: Recipe) -> dict[str, Any]:
    """Make one merge unless it is there; the record beside it is its entry in the manifest."""
    target, record = root / "merges" / recipe.name, root / "merges" / f"{recipe.name}.json"
    # JSON turns tuples into lists, so the comparison is on text.
    asked = json.loads(json.dumps(recipe.__dict__))
    if record.exists() and target.exists() and (kept := json.loads(record.read_text()))["asked"] == asked:
        if kept.get("described") != DESCRIBED:
            kept |= {"entry": describe(root, recipe, target, kept["entry"]["seconds"]), "described": DESCRIBED}
            record.write_text(json.dumps(kept, indent=1) + "\n")
        return dict(kept["entry"])
    part = target.with_name(target.name + ".part")
    for folder in (part, target):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    began = time.perf_counter()
    with contextlib.chdir(root):
        (run_mergekit if recipe.tool == "mergekit" else run_peft)(root, recipe, part)
    if recipe.tune:
        tune(root, recipe, part)
    keep = {"model.safetensors", "config.json", "recipe.yml", "adapter_config.json", "adapter_model.safetensors"}
    for path in part.iterdir():
        if path.name not in keep:
            path.unlink()
    part.rename(target)
    entry = describe(root, recipe, target, time.perf_counter() - began)
    record.write_text(json.dumps({"asked": asked, "entry": entry, "described": DESCRIBED}, indent=1) + "\n")
    return entry


def ready(root: Path, recipe: Recipe) -> bool:
    """Whether everything a merge needs has been trained; atoms that are not inside count too."""
    return all(component_path(root, recipe.variant, n).exists() for n in {*recipe.weights, *recipe.atoms})


def write_manifest(root: Path, entries: list[dict[str, Any]]) -> None:
    """All merges so far, replaced in one step so that a reader never sees half of it."""
    tools = {name: version(name) for name in ("torch", "transformers", "peft", "mergekit", "safetensors")}
    text = json.dumps({"format": 1, "tools": tools, "merges": copy.copy(entries)}, indent=1)
    part = root / "manifest.json.part"
    part.write_text(text + "\n")
    part.rename(root / "manifest.json")


def make_all(root: Path, quick: bool, say: Callable[[str], None]) -> None:
    """All merges whose parts exist; the manifest is rewritten after each suite and at least every 24 merges."""
    (root / "merges").mkdir(exist_ok=True)
    entries: list[dict[str, Any]] = []
    pending = 0
    for i, recipe in enumerate(recipes := all_recipes(quick)):
        if ready(root, recipe):
            began = time.perf_counter()
            entries.append(make(root, recipe))
            if (seconds := time.perf_counter() - began) > 0.2:
                say(f"{i + 1}/{len(recipes)} {recipe.name} {seconds:.1f} s")
        else:
            pending += 1
        if i + 1 == len(recipes) or recipes[i + 1].suite != recipe.suite or i % 24 == 23:
            write_manifest(root, entries)
    say(f"{len(entries)} merges; {pending} wait for their fine-tunes")
