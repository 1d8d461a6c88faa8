"""PEFT LoRA adapters: adapter_config.json + adapter_model.safetensors, as factors B, A and a scale per tensor.

What the adapter adds to the checkpoint tensor ``<module>.weight`` is

    scale * B @ A,   scale = alpha / r, or alpha / sqrt(r) with use_rslora (Kalajdzievski 2023)

with alpha and r from alpha_pattern and rank_pattern where they name the module.  With fan_in_fan_out (Conv1D), and for
embeddings, the checkpoint holds the transpose: the factors are exchanged and transposed, as views.  Whatever cannot be
written like that (DoRA, biases, full modules, initialisations that change the base, …) is refused by name, because a
delta that is almost right is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._tensors import Array, parse_json, read_limited, read_safetensors, some
from .errors import bad_format

MAX_CONFIG = 4 << 20
PREFIX = "base_model.model."
# Suffix of a tensor's name: (which factor, of an embedding?).
_FACTORS = {
    ".lora_A.weight": ("A", False),
    ".lora_B.weight": ("B", False),
    ".lora_embedding_A": ("A", True),
    ".lora_embedding_B": ("B", True),
}
# Initialisations that take part of the base weights into the adapter: B @ A is then not the change of the base.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MUST_BE_EMPTY = {
    "modules_to_save": "whole modules saved beside the factors",
    "layer_replication": "layers the base does not have",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "factors of parameters that are not weights of a module",
    "alora_invocation_tokens": "an adapter that is active on some tokens only",
}


@dataclass(frozen=True)
class Factors:
    """scale * B @ A is the change of the checkpoint tensor: B rows x r, A r x cols.

    ``fixed``: this orientation is certain (embeddings, convolutions); else it is what fan_in_fan_out says.
    """

    B: Array
    A: Array
    scale: float
    fixed: bool = False

    def transposed(self) -> Factors:
        return Factors(self.A.T, self.B.T, self.scale, self.fixed)

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.B.shape[0]), int(self.A.shape[1])


@dataclass
class Adapter:
    """The factors by the name of the checkpoint tensor they change."""

    path: str
    factors: dict[str, Factors] = field(default_factory=dict)


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def read_adapter(folder: Path) -> Adapter:
    """An adapter folder.  Raises ``ValueError`` naming the field or tensor that cannot be represented."""
    weights = folder / "adapter_model.safetensors"
    config = parse_json(read_limited(folder / "adapter_config.json", MAX_CONFIG), str(folder / "adapter_config.json"))
    _check_config(config, folder)
    if not weights.is_file():
        if (folder / "adapter_model.bin").exists():
            raise bad_format(
                f"{folder} has adapter_model.bin, a pickle, which can run code when it is loaded; load the adapter with "
                "PEFT where it can be trusted and save_pretrained() it, which writes adapter_model.safetensors"
            )
        raise bad_format(f"{folder} has no adapter_model.safetensors")
    tensors = read_safetensors(weights)
    if tensors.other:
        name, reason = next(iter(tensors.other.items()))
        raise bad_format(f"{weights}: {name!r} is {reason}, expected float64, float32, float16 or bfloat16")

    pairs: dict[tuple[str, bool], dict[str, Array]] = {}
    for name, array in tensors.arrays.items():
        module, factor, embedding = _parse(name, weights)
        pairs.setdefault((module, embedding), {})[factor] = array
    if not pairs:
        raise bad_format(f"{weights} has no LoRA factors")
    adapter = Adapter(str(folder))
    for (module, embedding), pair in pairs.items():
        tensor = f"{module}.weight"
        if len(pair) != 2 or tensor in adapter.factors:
            lacking = "B" if "A" in pair else "A"
            raise bad_format(f"{weights}: the module {module!r} has no matching lora_{lacking}")
        adapter.factors[tensor] = _factors(module, embedding, pair["B"], pair["A"], config, weights)
    return adapter


def oriented(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> Adapter:
    """The factors turned so that they fit the tensors of the model, where those are known.

    fan_in_fan_out is one flag for the whole adapter, and PEFT stores what held for the last module it met: in a model of
    both Conv1D and Linear it is wrong for some.  Shapes tell which, except for square modules: those are then refused.
    """
    wrong = [
        name
        for name, f in adapter.factors.items()
        if name in shapes and not f.fixed and f.shape != shapes[name] and f.shape[::-1] == shapes[name]
    ]
    if not wrong:
        return adapter
    if square := sorted(name for name, f in adapter.factors.items() if f.shape[0] == f.shape[1] and not f.fixed):
        raise bad_format(
            f"{adapter.path}: fan_in_fan_out does not hold for {some(wrong)}, so it is unknown whether the square "
            f"{some(square)} must be transposed"
        )
    turned = {name: f.transposed() if name in wrong else f for name, f in adapter.factors.items()}
    return Adapter(adapter.path, turned)


def _factors(module: str, embedding: bool, b: Array, a: Array, config: Mapping[str, Any], path: Path) -> Factors:
    convolution = a.ndim > 2
    if convolution and b.ndim == a.ndim and b.shape[2:] == (1,) * (b.ndim - 2):
        # A convolution: A is r x in x k x k, B is out x r x 1 x 1; their product over r is the flattened kernel's.
        b, a = b.reshape(b.shape[:2]), a.reshape(a.shape[0], -1)
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
        raise bad_format(f"{path}: {module!r} has lora_B {b.shape} and lora_A {a.shape}, which cannot be multiplied")
    rank = _rank(_pattern(config, "rank_pattern", module, config.get("r"), path), f"{path}: the rank of {module!r}")
    if rank != a.shape[0]:
        raise bad_format(f"{path}: {module!r} has factors of rank {a.shape[0]}, but the configuration says {rank}")
    alpha = _number(_pattern(config, "alpha_pattern", module, config.get("lora_alpha"), path), f"{path}: lora_alpha")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    found = Factors(b, a, scale, fixed=embedding or convolution)
    # The checkpoint holds embeddings (always) and Conv1D weights (fan_in_fan_out) as in x out: the transpose of B @ A.
    swap = embedding or (bool(config.get("fan_in_fan_out")) and not convolution)
    return found.transposed() if swap else found


def _parse(name: str, path: Path) -> tuple[str, str, bool]:
    """Module, factor and whether it is an embedding; or the reason why the tensor cannot be represented."""
    if "lora_magnitude_vector" in name:
        raise bad_format(f"{path}: {name!r} is a DoRA magnitude; DoRA is not a fixed change of the base and is refused")
    if name.endswith((".lora_A.bias", ".lora_B.bias")):
        raise bad_format(f"{path}: {name!r} is a bias of the factors (lora_bias), which a weight cannot carry")
    if not name.startswith(PREFIX):
        raise bad_format(f"{path}: {name!r} does not begin with {PREFIX!r}, as PEFT's tensors do")
    for suffix, (factor, embedding) in _FACTORS.items():
        if name.endswith(suffix) and len(name) > len(PREFIX) + len(suffix):
            return name[len(PREFIX) : -len(suffix)], factor, embedding
    if name.endswith(".bias"):
        raise bad_format(f"{path}: {name!r} is a trained bias, which is not a LoRA factor")
    raise bad_format(f"{path}: {name!r} is not a LoRA factor (a whole module saved beside them?)")


def _check_config(config: Mapping[str, Any], folder: Path) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise bad_format(f"{folder} is an adapter of the type {kind!r}; only LORA is a product of two factors per weight")
    if config.get("bias", "none") != "none":
        raise bad_format(f"{folder} has trained biases (bias = {config['bias']!r}), which are not LoRA factors")
    if config.get("lora_bias"):
        raise bad_format(f"{folder} has lora_bias = true, which a weight cannot carry")
    if config.get("use_dora"):
        raise bad_format(f"{folder} uses DoRA (use_dora = true), whose magnitudes are not a fixed change of the base")
    for name, meaning in _MUST_BE_EMPTY.items():
        if config.get(name):
            raise bad_format(f"{folder} has {name} = {_short(config[name])}: {meaning}, which are not LoRA factors")
    for name, value in config.items():
        if name.startswith("use_") and value and name not in ("use_rslora", "use_dora"):
            raise bad_format(f"{folder} has {name} = {_short(value)}, a kind of LoRA that is not known here")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise bad_format(
            f"{folder} was initialised with {start!r}, which changed the base; save it with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it an ordinary LoRA"
        )
    for name in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(name, False), bool):
            raise bad_format(f"{folder} has {name} = {_short(config[name])}, expected true or false")


def _pattern(config: Mapping[str, Any], field_: str, module: str, default: Any, path: Path) -> Any:
    """The value of the first key that is the module's name or its end, as PEFT finds it.

    PEFT takes keys as regular expressions, ``(.*\\.)?(key)$``.  Content of a file is not run as one here (some take
    forever): plain names mean the same either way, a leading ^ means the whole name, anything else is refused.
    """
    patterns = config.get(field_) or {}
    if not isinstance(patterns, dict):
        raise bad_format(f"{path}: {field_} is {_short(patterns)}, expected an object")
    for key, value in patterns.items():
        name = key.removeprefix("^")
        if not name or not all(c.isalnum() or c in "._-/" for c in name):
            raise bad_format(f"{path}: {field_} has the key {_short(key)}; only plain module names are understood")
        if module == name or (not key.startswith("^") and module.endswith(f".{name}")):
            return value
    return default


def _rank(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_format(f"{name} is {_short(value)}, expected an integer >= 1")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_format(f"{name} is {_short(value)}, expected a number")
    if not abs(value) <= 1e12:  # also NaN
        raise bad_format(f"{name} is {value}; it must be finite and at most 1e12 in size")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = ["Adapter", "Factors", "is_adapter", "oriented", "read_adapter"]
