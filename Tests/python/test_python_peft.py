"""PEFT adapters: for every flag, weight 1.0 must give the adapter back; what is no product of factors is refused by name."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import unmerge
from test_python_models import BF16, CONFIG, Arrays, factors, write_adapter, write_model
from unmerge.files import read

B, A = factors(1, 6, 5)
PLAIN: Arrays = {"blk.0.q.lora_B.weight": B, "blk.0.q.lora_A.weight": A}
B4, A4 = factors(2, 6, 5, r=4)


def product(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    return b.astype(float) @ a.astype(float)


def convolution() -> tuple[Arrays, np.ndarray]:
    """What PEFT's Conv2d does: conv2d(A.permute(1, 0, 2, 3), B).permute(1, 0, 2, 3)."""
    rng = np.random.default_rng(3)
    b, a = rng.standard_normal((6, 2, 1, 1)).astype(np.float32), rng.standard_normal((2, 4, 3, 3)).astype(np.float32)
    delta = np.einsum("or,rihw->oihw", b[:, :, 0, 0].astype(float), a.astype(float))
    return {"conv.lora_B.weight": b, "conv.lora_A.weight": a}, delta


def embedding() -> tuple[Arrays, np.ndarray]:
    """lora_embedding_A is r x vocabulary, lora_embedding_B dimension x r; the weight is vocabulary x dimension."""
    b, a = factors(4, 5, 9)
    return {"emb.lora_embedding_B": b, "emb.lora_embedding_A": a}, product(b, a).T


CONV, CONV_DELTA = convolution()
EMB, EMB_DELTA = embedding()

# name: (tensors, configuration, the tensor changed, the change)
FLAGS: dict[str, tuple[Arrays, dict[str, Any], str, np.ndarray]] = {
    "plain": (PLAIN, {}, "blk.0.q.weight", 2.0 * product(B, A)),
    "rslora": (PLAIN, {"use_rslora": True}, "blk.0.q.weight", 4 / math.sqrt(2) * product(B, A)),
    "float alpha": (PLAIN, {"lora_alpha": 0.5}, "blk.0.q.weight", 0.25 * product(B, A)),
    "rank pattern": (
        {"blk.0.q.lora_B.weight": B4, "blk.0.q.lora_A.weight": A4},
        {"rank_pattern": {"k": 7, "q": 4}},
        "blk.0.q.weight",
        1.0 * product(B4, A4),
    ),
    "rank pattern, whole name": (
        {"blk.0.q.lora_B.weight": B4, "blk.0.q.lora_A.weight": A4},
        {"rank_pattern": {"^q": 9, "^blk.0.q": 4}},
        "blk.0.q.weight",
        1.0 * product(B4, A4),
    ),
    "alpha pattern": (PLAIN, {"alpha_pattern": {"xq": 1, "0.q": 8}}, "blk.0.q.weight", 4.0 * product(B, A)),
    "alpha pattern, first wins": (PLAIN, {"alpha_pattern": {"q": 6, "0.q": 8}}, "blk.0.q.weight", 3.0 * product(B, A)),
    "alpha pattern with rslora": (
        PLAIN,
        {"alpha_pattern": {"blk.0.q": 8}, "use_rslora": True},
        "blk.0.q.weight",
        8 / math.sqrt(2) * product(B, A),
    ),
    "fan in fan out": (PLAIN, {"fan_in_fan_out": True}, "blk.0.q.weight", 2.0 * product(B, A).T),
    "embedding": (EMB, {}, "emb.weight", 2.0 * EMB_DELTA),
    "convolution": (CONV, {}, "conv.weight", 2.0 * CONV_DELTA),
    "unrelated fields": (
        PLAIN,
        {"lora_dropout": 0.1, "modules_to_save": None, "use_dora": False, "init_lora_weights": True, "revision": None},
        "blk.0.q.weight",
        2.0 * product(B, A),
    ),
}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BF16])
def test_identity(tmp_path: Path, flag: str, dtype: Any) -> None:
    """A checkpoint merged with weight 1 by the formula of PEFT is explained by the adapter with weight 1."""
    tensors, config, name, delta = FLAGS[flag]
    folder = write_adapter(tmp_path / "adapter", {k: v.astype(dtype) for k, v in tensors.items()}, **config)
    base = np.random.default_rng(5).standard_normal(delta.shape)
    if dtype is BF16:  # the delta of the rounded factors
        tensors = {k: v.astype(BF16).astype(float) for k, v in tensors.items()}
        delta = unmerge_delta(tensors, name, delta, flag)
    model = write_model(tmp_path / "base", {name: base})
    merged = write_model(tmp_path / "merged", {name: base + delta})
    found = unmerge.decompose(base=model, atoms=[folder], target=merged, precision="exact")
    assert found.atoms[0].weight == pytest.approx(1.0, abs=1e-6)
    assert found.explained == pytest.approx(1.0, abs=1e-9)
    itself = unmerge.decompose(atoms=[folder], target=folder, precision="exact")
    assert itself.atoms[0].weight == pytest.approx(1.0, abs=1e-12) and itself.atoms[0].present


def unmerge_delta(rounded: Arrays, name: str, delta: np.ndarray, flag: str) -> np.ndarray:
    """The same formula as in FLAGS, for rounded factors: the scale is that of the unrounded ones."""
    values = list(rounded.values())
    b, a = values[0], values[1]
    if flag == "convolution":
        change = np.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
        original = CONV_DELTA
    else:
        change, original = b @ a, product(*[FLAGS[flag][0][k] for k in rounded])
        if flag in ("embedding", "fan in fan out"):
            change, original = change.T, original.T
    scale = float(np.vdot(delta, original) / np.vdot(original, original))
    return scale * change


def test_factors_are_views(tmp_path: Path) -> None:
    for config in ({}, {"fan_in_fan_out": True}):
        adapter = read(write_adapter(tmp_path / "a", PLAIN, **config))
        f = adapter.factors["blk.0.q.weight"]
        assert not f.B.flags.owndata and not f.A.flags.owndata


REFUSED_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora"),
    "lora_bias": ({"lora_bias": True}, "lora_bias"),
    "bias all": ({"bias": "all"}, "bias"),
    "bias lora_only": ({"bias": "lora_only"}, "bias"),
    "modules_to_save": ({"modules_to_save": ["score"]}, "modules_to_save"),
    "IA3": ({"peft_type": "IA3"}, "IA3"),
    "LoHa": ({"peft_type": "LOHA"}, "LOHA"),
    "no type": ({"peft_type": None}, "type"),
    "qalora": ({"use_qalora": True}, "use_qalora"),
    "layer replication": ({"layer_replication": [[0, 4]]}, "layer_replication"),
    "token indices": ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    "target parameters": ({"target_parameters": ["experts"]}, "target_parameters"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
    "olora": ({"init_lora_weights": "olora"}, "olora"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "lora_alpha"),
    "alpha infinite": ({"lora_alpha": float("inf")}, "lora_alpha"),
    "alpha 1e308": ({"lora_alpha": 1e308}, "lora_alpha"),
    "alpha text": ({"lora_alpha": "16"}, "lora_alpha"),
    "alpha missing": ({"lora_alpha": None}, "lora_alpha"),
    "alpha true": ({"lora_alpha": True}, "lora_alpha"),
    "alpha huge integer": ({"lora_alpha": 10**400}, "lora_alpha"),
    "r = 0": ({"r": 0}, "rank"),
    "r = -1": ({"r": -1}, "rank"),
    "r = 2.0": ({"r": 2.0}, "rank"),
    "r wrong": ({"r": 3}, "rank"),
    "rslora as text": ({"use_rslora": "yes"}, "use_rslora"),
    "fan_in_fan_out as number": ({"fan_in_fan_out": 1}, "fan_in_fan_out"),
    "pattern is a list": ({"rank_pattern": ["q"]}, "rank_pattern"),
    "pattern is a regular expression": ({"rank_pattern": {"blk\\.[0-9]+\\.q": 2}}, "plain module names"),
    "pattern takes for ever": ({"alpha_pattern": {"(a+)+$" * 20: 2}}, "plain module names"),
    "pattern is empty": ({"alpha_pattern": {"": 2}}, "plain module names"),
}


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_refused_configurations(tmp_path: Path, case: str) -> None:
    config, word = REFUSED_CONFIGS[case]
    began = time.monotonic()
    with pytest.raises(ValueError, match=word) as caught:
        read(write_adapter(tmp_path / "adapter", PLAIN, **config))
    assert time.monotonic() - began < 2
    assert "adapter" in str(caught.value) and len(str(caught.value)) < 600


REFUSED_TENSORS: dict[str, tuple[Arrays, str]] = {
    "DoRA magnitude": (PLAIN | {"blk.0.q.lora_magnitude_vector.weight": np.ones(6)}, "DoRA"),
    "bias of the factors": (PLAIN | {"blk.0.q.lora_B.bias": np.ones(6)}, "lora_bias"),
    "trained bias": (PLAIN | {"blk.0.q.bias": np.ones(6)}, "trained bias"),
    "whole module": (PLAIN | {"score.weight": np.ones((2, 6))}, "not a LoRA factor"),
    "A missing": ({"blk.0.q.lora_B.weight": B}, "no matching lora_A"),
    "B missing": (PLAIN | {"blk.1.q.lora_A.weight": A}, "no matching lora_B"),
    "ranks differ": ({"blk.0.q.lora_B.weight": B, "blk.0.q.lora_A.weight": A4}, "cannot be multiplied"),
    "not matrices": ({"blk.0.q.lora_B.weight": B[:, 0], "blk.0.q.lora_A.weight": A}, "cannot be multiplied"),
    "integers": ({"blk.0.q.lora_B.weight": B.astype(np.int8), "blk.0.q.lora_A.weight": A}, "I8"),
    "rank zero": ({"q.lora_B.weight": np.zeros((4, 0)), "q.lora_A.weight": np.zeros((0, 4))}, "empty"),
    "embedding and matrix": (EMB | {"emb.lora_A.weight": A, "emb.lora_B.weight": B}, "no matching"),
    "nothing": ({}, "no LoRA factors"),
}


@pytest.mark.parametrize("case", REFUSED_TENSORS)
def test_refused_tensors(tmp_path: Path, case: str) -> None:
    tensors, word = REFUSED_TENSORS[case]
    with pytest.raises(ValueError, match=word):
        read(write_adapter(tmp_path / "adapter", tensors))


def test_refused_folders(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", PLAIN)
    config = folder / "adapter_config.json"
    for text, word in (
        ("{", "JSON"),
        ("[]", "object"),
        ("[" * 100_000, "JSON"),
        ('{"r": 2, "r": 3}', "twice"),
        (json.dumps(CONFIG) + " " * (5 << 20), "bytes"),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=word):
            read(folder)
    config.write_bytes(b'{"peft_type": "\xff"}')
    with pytest.raises(ValueError, match="JSON"):
        read(folder)
    config.write_text(json.dumps(CONFIG))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(ValueError, match="sound"):
        read(folder)
    weights.unlink()
    with pytest.raises(ValueError, match="no adapter_model.safetensors"):
        read(folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match="adapter_model.bin, a pickle"):
        read(folder)


def test_names_without_the_prefix_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = write_adapter(tmp_path / "adapter", PLAIN)
    save_file(PLAIN, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="base_model.model"):
        read(folder)


def test_one_flag_for_conv1d_and_linear(tmp_path: Path) -> None:
    """PEFT stores fan_in_fan_out of the last module it met; shapes decide, and what they cannot decide is refused."""
    mixed = PLAIN | {"c1.lora_B.weight": B4[:, :2].copy(), "c1.lora_A.weight": A4[:2].copy()}
    deltas = {"blk.0.q.weight": 2 * product(B, A), "c1.weight": 2 * product(B4[:, :2], A4[:2]).T}
    base = {name: np.random.default_rng(6).standard_normal(delta.shape) for name, delta in deltas.items()}
    model = write_model(tmp_path / "base", base)
    merged = write_model(tmp_path / "merged", {name: base[name] + deltas[name] for name in base})
    for flag in (False, True):
        folder = write_adapter(tmp_path / "mixed", mixed, fan_in_fan_out=flag)
        found = unmerge.decompose(base=model, atoms=[folder], target=merged, precision="exact")
        assert found.atoms[0].weight == pytest.approx(1, abs=1e-6) and found.explained == pytest.approx(1, abs=1e-9)
    b, a = factors(8, 5, 5)
    folder = write_adapter(tmp_path / "square", mixed | {"s.lora_B.weight": b, "s.lora_A.weight": a})
    wider = {"s.weight": np.ones((5, 5))}
    model, merged = write_model(tmp_path / "base", base | wider), write_model(tmp_path / "merged", base | wider)
    with pytest.raises(ValueError, match="square 's.weight'"):
        unmerge.decompose(base=model, atoms=[folder], target=merged)
