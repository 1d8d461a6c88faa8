"""A Recipe as a configuration that mergekit runs, and as the text of its YAML file.

mergekit names a model with an adapter ``base+adapter``; a weight that differs from tensor to tensor is a list of
``{filter, value}``, of which the first whose filter is part of the tensor's name holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import bad_range
from .recipe import Recipe

# What mergekit calls generalised task arithmetic, with the parameters each model has beside its weight.
_TASK_VECTORS: dict[str, tuple[str, ...]] = {
    "task_arithmetic": (),
    "ties": ("density",),
    "breadcrumbs": ("density", "gamma"),
    "breadcrumbs_ties": ("density", "gamma"),
    "dare_linear": ("density",),
    "dare_ties": ("density",),
    "della_linear": ("density", "epsilon"),
    "della": ("density", "epsilon"),
}


@dataclass(frozen=True)
class Model:
    """An atom's path, and whether it is an adapter of the base rather than a model of its own."""

    path: str
    adapter: bool


def configuration(
    recipe: Recipe,
    models: Sequence[Model],
    base: str,
    modules: Sequence[str],
    weights: npt.NDArray[np.float64],
    densities: npt.NDArray[np.float64],
    stored: str | None,
) -> tuple[dict[str, Any], list[str]]:
    """The configuration, and remarks on what it cannot say.

    weights, densities : modules x n.  stored : the type of the target.
    """
    inside = [j for j in range(len(models)) if np.any(weights[:, j] != 0)]
    if not inside:
        raise bad_range("there is no recipe: no atom has a weight")
    method, remarks = recipe.method, _remarks(recipe)
    if method == "adapter_cat":
        method = "task_arithmetic"
    references = {j: reference(base, models[j]) for j in inside}
    of_base = reference(base, None)
    found: dict[str, Any] = {"merge_method": method}
    shared: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    if method == "slerp":
        ends = [references[j] for j in inside] if len(inside) > 1 else [of_base, references[inside[0]]]
        found["base_model"] = ends[0]
        rows, shared["t"] = [{"model": end} for end in ends], number(recipe.t)
    elif method == "model_stock":
        found["base_model"] = of_base
        rows = [{"model": references[j]} for j in inside]
    else:
        if method == "linear":
            if recipe.base_weight:
                rows.append({"model": of_base, "parameters": {"weight": number(recipe.base_weight)}})
        else:
            found["base_model"] = of_base
        for j in inside:
            parameters = {"weight": setting(weights[:, j], modules)}
            for name in _TASK_VECTORS.get(method, ()):
                values = densities[:, j] if name == "density" else np.full(len(modules), getattr(recipe, name))
                parameters[name] = setting(values, modules)
            rows.append({"model": references[j], "parameters": parameters})
        if method == "linear" or method in _TASK_VECTORS:
            shared["normalize"] = recipe.normalizes if recipe.method != "adapter_cat" else False
        if method in _TASK_VECTORS:
            if recipe.lambda_ != 1:
                shared["lambda"] = number(recipe.lambda_)
            if recipe.rescale is not None and method != "task_arithmetic":
                shared["rescale"] = recipe.rescale != "none"
    found["models"] = rows
    if shared:
        found["parameters"] = shared
    dtype = recipe.dtype or stored
    out_dtype = recipe.out_dtype or dtype
    if recipe.method == "adapter_cat":
        dtype = "float32"  # one rounding at the end is the nearest to a sum that PEFT adds at once
    found |= {name: value for name, value in (("dtype", dtype), ("out_dtype", out_dtype)) if value}
    if any(models[j].adapter for j in inside):
        product = recipe.task_rounding == "product"
        lora = recipe.task_dtype or stored or "bfloat16" if product else "float32"
        remarks.insert(0, f"run with: mergekit-yaml --lora-merge-dtype {lora} this-file output-folder")
    return found, remarks


def _remarks(recipe: Recipe) -> list[str]:
    found = []
    if recipe.method == "adapter_cat":
        found.append('made by PEFT: add_weighted_adapter(combination_type="cat"), then merge_and_unload')
        found.append("what follows is the same sum, up to rounding")
    if recipe.consensus == "count":
        found.append("signs were elected by count, which mergekit has no parameter for")
    if recipe.rescaling == "density":
        found.append("kept entries were divided by the density; mergekit 0.1.5 restores the sum of their sizes instead")
    if recipe.stacked:
        found.append("weights and products were rounded before the sum, as mergekit did before 0.1.5")
    return found


def reference(base: str, model: Model | None) -> Any:
    """How mergekit names a model; None is the base."""
    plain = _folder(base if model is None or model.adapter else model.path)
    lora = model.path if model is not None and model.adapter else None
    if any(mark in part for part in (plain, lora or "") for mark in "+@"):  # they mean something in its short form
        full: dict[str, Any] = {"model": {"path": plain}}
        return full if lora is None else full | {"lora": {"path": lora}}
    return plain if lora is None else f"{plain}+{lora}"


def _folder(path: str) -> str:
    """mergekit wants the folder a model lies in."""
    folder, separator, name = path.rpartition("/")
    return folder or "/" if separator and name in ("model.safetensors", "model.safetensors.index.json") else path


def number(value: float) -> float:
    """The shortest number that is the same in float32, mergekit's widest: 0.3, not 0.30000000000000004."""
    return float(str(np.float32(value)))


def setting(values: npt.NDArray[np.float64], modules: Sequence[str]) -> Any:
    """A number; or a list of {filter, value}, longer names first where one is part of another, at the end their mean."""
    shown = [number(value) for value in values]
    if len(set(shown)) == 1:
        return shown[0]
    order = list(range(len(modules)))
    if any(a != b and a in b for a in modules for b in modules):
        order.sort(key=lambda m: -len(modules[m]))
    found: list[dict[str, Any]] = [{"filter": modules[m], "value": shown[m]} for m in order]
    return [*found, {"value": number(float(np.mean(values)))}]


# ---------------------------------------------------------------- YAML: maps, lists, strings, numbers, booleans


def to_yaml(content: Mapping[str, Any], remarks: Sequence[str] = ()) -> str:
    """The text of a YAML file, remarks as comments at its top."""
    comments = [f"# {''.join(c if c.isprintable() else '?' for c in remark)}" for remark in remarks]
    return "\n".join([*comments, *_lines(content)]) + "\n"


def _lines(value: Any) -> list[str]:
    found: list[str] = []
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, (Mapping, list)):
                found += [f"{_scalar(key)}:", *(f"  {line}" for line in _lines(item))]
            else:
                found.append(f"{_scalar(key)}: {_scalar(item)}")
        return found
    for item in value:
        first, *rest = _lines(item) if isinstance(item, (Mapping, list)) else [_scalar(item)]
        found += [f"- {first}", *(f"  {line}" for line in rest)]
    return found


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        # YAML 1.1 takes 1e-05 for a word.
        text = format(Decimal(repr(value)), "f")
        return text if "." in text else f"{text}.0"
    words = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
    if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./+@-]*", value) and value.lower() not in words:
        return str(value)
    text = json.dumps(value, ensure_ascii=False)  # a JSON string is a YAML string, but for what YAML wants escaped
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


__all__ = ["Model", "configuration", "reference", "setting", "to_yaml"]
