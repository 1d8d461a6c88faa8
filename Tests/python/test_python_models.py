"""Small models and adapters written by hand, for the tests of the readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "fan_in_fan_out": False}
Arrays = dict[str, np.ndarray]


def write_adapter(folder: Path, tensors: Arrays, **config: Any) -> Path:
    """An adapter in PEFT's layout; tensors by the names PEFT would save, without their common prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    prefixed = {f"base_model.model.{name}": np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(prefixed, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def factors(seed: int, rows: int, cols: int, r: int = 2, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """lora_B (rows x r) and lora_A (r x cols)."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, r)) * 0.1).astype(dtype), rng.standard_normal((r, cols)).astype(dtype)


def write_model(folder: Path, tensors: Arrays, **metadata: str) -> Path:
    """A folder with model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors", metadata or None)
    return folder


def write_shards(folder: Path, shards: dict[str, Arrays], weight_map: dict[str, Any] | None = None) -> Path:
    """A sharded folder; the index says the truth unless a weight_map is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    truth = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = {"metadata": {}, "weight_map": truth if weight_map is None else weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def toy(tmp: Path, weights: tuple[float, ...] = (0.5, 0.0, 0.8), dtype: Any = np.float32) -> dict[str, Any]:
    """A base, three adapters on two modules, and the checkpoint merged from them with the given weights."""
    rng = np.random.default_rng(7)
    base = {
        "lin.0.weight": rng.standard_normal((16, 12)),
        "lin.1.weight": rng.standard_normal((12, 16)),
        "norm.weight": rng.standard_normal(16),
        "steps": np.array([3], dtype=np.int64),
    }
    names = ("medicine", "law", "code")
    merged = {name: np.array(array) for name, array in base.items()}
    for index, (name, weight) in enumerate(zip(names, weights)):
        tensors: Arrays = {}
        for module, (rows, cols) in (("lin.0", (16, 12)), ("lin.1", (12, 16))):
            b, a = factors(10 * index + rows, rows, cols)
            tensors |= {f"{module}.lora_B.weight": b, f"{module}.lora_A.weight": a}
            merged[f"{module}.weight"] += weight * 2.0 * (b.astype(float) @ a.astype(float))
        write_adapter(tmp / "adapters" / name, tensors)

    def stored(tensors: Arrays) -> Arrays:
        return {k: v if v.dtype == np.int64 else v.astype(dtype) for k, v in tensors.items()}

    return {
        "base": write_model(tmp / "base", stored(base)),
        "target": write_model(tmp / "merged", stored(merged)),
        "atoms": [tmp / "adapters" / name for name in names],
        "truth": dict(zip(names, weights)),
    }


BF16 = ml_dtypes.bfloat16


def test_the_toy_is_what_it_says(tmp_path: Path) -> None:
    made = toy(tmp_path)
    assert (made["base"] / "model.safetensors").exists() and len(made["atoms"]) == 3
    assert made["truth"] == {"medicine": 0.5, "law": 0.0, "code": 0.8}
