"""The second architecture: a small Llama-style decoder, pretrained here from scratch, and its adapters."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import corpus
import torch
from merging import modules
from peft import LoraConfig, get_peft_model
from recipes import DECODER_KINDS
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from training import save_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, WIDTH = 2048, 96
PRETRAIN_STEPS, STEPS = 1600, 60


def windows(ids: list[int], rng: random.Random, rows: int) -> Tensor:
    """Random stretches of a token stream."""
    starts = [rng.randrange(len(ids) - WIDTH) for _ in range(rows)]
    return torch.tensor([ids[s : s + WIDTH] for s in starts])


def train(model: Any, batches: Iterator[Tensor], steps: int, lr: float) -> list[float]:
    """AdamW on the next-token loss, one cycle."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=max(0.1, 2 / steps))
    losses = []
    for batch in batches:
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def loss_on(model: Any, batch: Tensor) -> float:
    """Mean next-token loss."""
    return round(float(model(input_ids=batch, labels=batch).loss), 4)


def make_base(base: Path, cache: Path, quick: bool, say: Callable[[str], None]) -> None:
    """Tokenizer and decoder, pretrained on all kinds of text, rounded to bfloat16."""
    texts = {kind: corpus.kind(kind, cache) for kind in corpus.KINDS}
    part = base.with_name("base-decoder.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator((t for rows in texts.values() for t in rows[:1500]), VOCABULARY, special_tokens=["<s>"])
    tokens = PreTrainedTokenizerFast(tokenizer_object=learner._tokenizer, bos_token="<s>", eos_token="<s>")
    tokens.save_pretrained(part)
    streams = {kind: stream(tokens, rows) for kind, rows in texts.items()}
    torch.manual_seed(11)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    ))  # fmt: skip
    rng, steps = random.Random(11), 4 if quick else PRETRAIN_STEPS
    kinds = list(streams)
    batches = (torch.cat([windows(streams[rng.choice(kinds)], rng, 1) for _ in range(8)]) for _ in range(steps))
    losses = train(model, batches, steps, 2e-3)
    say(f"decoder pretrained: loss {losses[0]:.3f} -> {sum(losses[-10:]) / len(losses[-10:]):.3f}")
    model.to(torch.bfloat16).save_pretrained(part)
    part.rename(base)


def stream(tokens: PreTrainedTokenizerFast, rows: list[str]) -> list[int]:
    """All documents one after another."""
    return [i for ids in tokens(rows)["input_ids"] for i in (0, *ids)]


def make_all(root: Path, cache: Path, quick: bool, say: Callable[[str], None]) -> None:
    """The base and one adapter per kind of text; half of the adapters share a seed, the others have their own."""
    base = root / "base-decoder"
    if not base.exists():
        make_base(base, cache, quick, say)
    tokens = AutoTokenizer.from_pretrained(base)
    for i, kind in enumerate(DECODER_KINDS):
        out, record = root / "adapters/decoder" / kind, root / "figures/decoder" / f"{kind}.json"
        if out.exists() and record.exists():
            continue
        for folder in (out.parent, record.parent):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        ids = stream(tokens, corpus.kind(kind, cache))
        cut, rng = len(ids) // 10, random.Random(kind)
        unseen = windows(ids[:cut], rng, 48)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).float()
        before = loss_on(model, unseen)
        rank, seed, dtype = (8, 16, 12)[i % 3], 5 if i % 2 else 100 + i, ("float32", "bfloat16", "float16")[i % 3]
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules("decoder"), task_type="CAUSAL_LM")
        tuned = get_peft_model(model, config)
        steps = 4 if quick else STEPS
        losses = train(tuned, (windows(ids[cut:], rng, 8) for _ in range(steps)), steps, 3e-3)
        figures = {"name": kind, "variant": "decoder", "rank": rank, "alpha": 2 * rank, "seed": seed, "dtype": dtype}
        figures |= {"steps": steps, "loss_before": before, "loss_after": loss_on(tuned, unseen)}
        figures |= {"train_loss_first": round(losses[0], 4), "train_loss_last": round(losses[-1], 4)}
        save_adapter(tuned, dtype, out, "base-decoder")
        figures["seconds"] = round(time.perf_counter() - began, 1)
        record.write_text(json.dumps(figures, indent=1) + "\n")
        say(f"decoder/{kind}: loss {before} -> {figures['loss_after']}, {figures['seconds']} s")
