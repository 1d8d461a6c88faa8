"""The merges, each made by the real package: mergekit on whole checkpoints, PEFT on adapters."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from peft import PeftModel
from safetensors.torch import load_file, save_file
from train import BASE_NAME, MODULES, tidy
from transformers import AutoModel, AutoTokenizer

TENSORS = [f"{module}.weight" for module in MODULES]
ENTRIES = len(TENSORS) * 384 * 384
SEED = 7  # of DARE's random masks
SVD_RANK = 4


@dataclass(frozen=True)
class Merge:
    """One merge: `truth` holds the weights its recipe asks for; `compute` is the dtype mergekit calculates in."""

    name: str
    tool: str
    method: str
    category: str
    truth: dict[str, float]
    density: float | None = None
    compute: str = "bfloat16"


MERGES = (
    Merge("linear-known", "mergekit", "linear", "known", {"ui-language": 0.5, "python-kind": 0.3, "man-heading": 0.2},
          compute="float32"),
    Merge("task-arithmetic-mixed", "mergekit", "task_arithmetic", "mixed",
          {"gloss-pos": 0.7, "german-gender": 0.4, "misspelling": 0.5}, compute="float32"),
    Merge("ties-known", "mergekit", "ties", "known", {"noun-topic": 0.5, "kjv-section": 0.3, "ui-language": 0.2}, 0.5),
    Merge("dare-linear-known", "mergekit", "dare_linear", "known",
          {"kjv-swap": 0.6, "dictionary-source": 0.5, "python-package": 0.4, "gloss-pos": 0.3}, 0.5),
    Merge("task-arithmetic-unknown", "mergekit", "task_arithmetic", "unknown",
          {"foldoc-subject": 0.6, "word-origin": 0.6, "unicode-category": 0.6}),
    Merge("peft-unload-known", "peft", "cat+merge_and_unload", "known", {"man-heading": 0.9, "python-package": 0.6}),
    Merge("peft-cat-known", "peft", "cat", "known", {"gloss-pos": 0.7, "dictionary-source": 0.5}),
    Merge("peft-svd-mixed", "peft", "svd", "mixed", {"python-kind": 0.8, "foldoc-subject": 0.5}),
)  # fmt: skip


def keep_seven(source: Path, target: Path) -> None:
    """Copy only the fine-tuned matrices of a checkpoint; nothing else differs from the base."""
    tensors = load_file(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensors[name].to(torch.bfloat16).contiguous() for name in TENSORS}, target, {"format": "pt"})
    target.chmod(0o644)


def save_checkpoint(model: Any, source: Path, folder: Path) -> None:
    """A whole bfloat16 checkpoint with its tokenizer, as mergekit wants it."""
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def recipe_text(merge: Merge) -> str:
    """The mergekit recipe. Paths are relative to the working directory, so it reads well outside too."""
    lines = [f"merge_method: {merge.method}"]
    lines += [] if merge.method == "linear" else ["base_model: base"]
    lines += ["models:"]
    for name, weight in merge.truth.items():
        lines += [f"  - model: tasks/{name}", "    parameters:", f"      weight: {weight}"]
        lines += [] if merge.density is None else [f"      density: {merge.density}"]
    if merge.method in ("linear", "ties"):
        lines += ["parameters:", "  normalize: true"]
    return "\n".join([*lines, f"dtype: {merge.compute}", "out_dtype: bfloat16"]) + "\n"


def run_mergekit(merge: Merge, work: Path, target: Path) -> None:
    """Merge the whole models with mergekit (what `mergekit-yaml` calls), then keep the seven matrices."""
    target.mkdir(parents=True, exist_ok=True)
    text = recipe_text(merge)
    (target / "recipe.yml").write_text(text)
    # mergekit 0.1.5 fails on *optional* tensors that have aliases (it adds a tuple to a list). BERT has one such,
    # position_ids, which no checkpoint here contains: leave it out of mergekit's table. The arithmetic is untouched.
    known = NAME_TO_ARCH["BertModel"][0].modules["default"].architecture.definition.pre_weights
    known[:] = [weight for weight in known if not weight.optional]
    with contextlib.chdir(work):
        options = MergeOptions(random_seed=SEED, write_model_card=False, quiet=True)
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), f"merged/{merge.name}", options)
    keep_seven(work / "merged" / merge.name / "model.safetensors", target / "model.safetensors")


def run_peft(merge: Merge, source: Path, adapters: Path, work: Path, target: Path) -> None:
    """Combine adapters with add_weighted_adapter; save the new adapter, or the base it was merged into."""
    names, weights = list(merge.truth), list(merge.truth.values())
    base = AutoModel.from_pretrained(source, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, adapters / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(adapters / name, adapter_name=name)
    kind = merge.method.split("+")[0]
    model.add_weighted_adapter(
        names, weights, "merged", combination_type=kind, svd_rank=SVD_RANK if kind == "svd" else None
    )
    model.set_adapter("merged")
    if merge.method.endswith("merge_and_unload"):
        out = work / "merged" / merge.name
        model.merge_and_unload(adapter_names=["merged"]).save_pretrained(out)
        keep_seven(out / "model.safetensors", target / "model.safetensors")
        return
    for name, parameter in model.named_parameters():
        if ".merged." in name:
            parameter.data = parameter.data.half()
    model.peft_config["merged"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(str(target), selected_adapters=["merged"], save_embedding_layers=False)
    for path in (target / "merged").iterdir():
        path.rename(target / path.name)
    (target / "merged").rmdir()
    tidy(target)


def make_all(source: Path, out: Path, work: Path, adapters: list[str]) -> list[dict[str, Any]]:
    """Write the base, every task model (to the work directory) and every merge; return the manifest's entries."""
    shutil.rmtree(work, ignore_errors=True)
    save_checkpoint(AutoModel.from_pretrained(source), source, work / "base")
    keep_seven(work / "base" / "model.safetensors", out / "base" / "model.safetensors")
    needed = {name for merge in MERGES if merge.tool == "mergekit" for name in merge.truth}
    for name in sorted(needed & set(adapters)):
        # Added in float32 to the bfloat16 values and rounded once, as a careful publisher of a fine-tune would.
        base = AutoModel.from_pretrained(work / "base", dtype=torch.bfloat16).float()
        tuned = PeftModel.from_pretrained(base, out / "adapters" / name).merge_and_unload()
        save_checkpoint(tuned, source, work / "tasks" / name)
    entries = []
    for merge in MERGES:
        target = out / "merges" / merge.name
        if merge.tool == "mergekit":
            run_mergekit(merge, work, target)
        else:
            run_peft(merge, source, out / "adapters", work, target)
        entry: dict[str, Any] = {"name": merge.name, "path": f"merges/{merge.name}", "method": merge.method}
        entry |= {"tool": merge.tool, "tool_version": version(merge.tool)}
        entry |= {"category": merge.category, "truth": merge.truth}
        stored_as_adapter = (target / "adapter_config.json").exists()
        entry["form"] = "adapter" if stored_as_adapter else "checkpoint"
        entry["dtype"] = "float16" if stored_as_adapter else "bfloat16"
        if merge.tool == "mergekit":
            entry |= {"density": merge.density, "normalize": merge.method in ("linear", "ties")}
            entry |= {"compute_dtype": merge.compute, "recipe": f"merges/{merge.name}/recipe.yml"}
        if merge.method == "dare_linear":
            entry["random_seed"] = SEED
        if merge.method == "svd":
            entry["svd_rank"] = SVD_RANK
        entries.append(entry)
    return entries
