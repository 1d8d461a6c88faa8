"""Short real trainings of the encoder, adapters and full fine-tunes: classifiers on mean-pooled embeddings."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from train import BASE_NAME, DTYPES, accuracy, fit_head, load_base, tidy
from transformers import AutoTokenizer, PreTrainedTokenizerBase

MODULES = [
    f"encoder.layer.{i}.attention.{part}"
    for i in range(6)
    for part in ("self.query", "self.key", "self.value", "output.dense")
]
MAX_TOKENS, BATCH, HEAD_TEXTS = 24, 16, 400


@dataclass(frozen=True)
class Training:
    """One training. `start` names a warm-up adapter to go on from; without a rank all encoder weights are trained."""

    name: str
    task: str
    variant: str
    rank: int | None
    alpha: int | None
    steps: int
    lr: float
    seed: int
    dtype: str
    start: str | None = None
    classes: int | None = None  # train on this many of the task's classes only
    share: float = 1.0  # and on this share of its texts


@dataclass(frozen=True)
class Task:
    """Tokenised texts and labels of a task, and the head fitted on the frozen base."""

    ids: list[list[int]]
    y: Tensor
    test_ids: list[list[int]]
    test_y: Tensor
    classes: list[str]
    head: dict[str, Tensor]
    before: float


def batch_of(ids: list[list[int]]) -> dict[str, Tensor]:
    """Padded input."""
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
    }


def pooled(model: nn.Module, ids: list[list[int]]) -> Tensor:
    """Mean-pooled last hidden states of one batch."""
    batch = batch_of(ids)
    mask = batch["attention_mask"].unsqueeze(-1).float()
    hidden: Tensor = model(**batch).last_hidden_state
    mean: Tensor = (hidden * mask).sum(1) / mask.sum(1)
    return mean


@torch.no_grad()
def pooled_all(model: nn.Module, ids: list[list[int]]) -> Tensor:
    """Embeddings of many texts, batched by length so that little is padding."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts = [pooled(model, [ids[j] for j in order[i : i + 32]]) for i in range(0, len(order), 32)]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def bucketed(ids: list[list[int]], rng: random.Random, steps: int) -> Iterator[list[int]]:
    """Random batches of texts of like length: windows of eight batches are sorted, then dealt out shuffled."""
    batches: list[list[int]] = []
    queue: list[int] = []
    for _ in range(steps):
        if not batches:
            while len(queue) < 8 * BATCH:
                queue += rng.sample(range(len(ids)), len(ids))
            window, queue = sorted(queue[: 8 * BATCH], key=lambda i: len(ids[i])), queue[8 * BATCH :]
            batches = [window[i : i + BATCH] for i in range(0, len(window), BATCH)]
            rng.shuffle(batches)
        yield batches.pop()


def tokenised(tokens: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids, cut to `MAX_TOKENS`."""
    return list(tokens(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"])


def load_task(name: str, base: Path, cache: Path) -> Task:
    """A task with its frozen-base head, which is fitted once and kept."""
    train, test = corpus.task(name, cache)
    classes = sorted({label for _, label in train})
    tokens = AutoTokenizer.from_pretrained(base)
    ids, test_ids = (tokenised(tokens, [t for t, _ in rows]) for rows in (train, test))
    y, test_y = (torch.tensor([classes.index(c) for _, c in rows]) for rows in (train, test))
    kept = cache / "heads" / f"{name}.pt"
    if not kept.exists():
        model = load_base(base)
        head = fit_head(pooled_all(model, ids[:HEAD_TEXTS]), y[:HEAD_TEXTS], len(classes), 1e-2)
        before = accuracy(head, pooled_all(model, test_ids), test_y)
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"head": head.state_dict(), "before": before}, kept.with_suffix(".part"))
        kept.with_suffix(".part").rename(kept)
    state = torch.load(kept)
    return Task(ids, y, test_ids, test_y, classes, state["head"], state["before"])


def fresh_head(task: Task) -> nn.Linear:
    """The frozen-base head, to be trained along."""
    head = nn.Linear(task.head["weight"].shape[1], len(task.classes))
    head.load_state_dict(task.head)
    return head


def lora(model: nn.Module, rank: int, alpha: int, seed: int) -> PeftModel:
    """A new adapter on the attention matrices; equal seeds and ranks give equal lora_A."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(MODULES), task_type="FEATURE_EXTRACTION")
    return get_peft_model(model, config)


def optimise(
    model: nn.Module, weights: list[nn.Parameter], heads: list[nn.Linear], steps: int, lr: float, batches: Iterator[Any]
) -> list[float]:
    """AdamW with a short warm-up and linear decay; `batches` yields (head, ids, labels). Returns the losses."""
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": [p for h in heads for p in h.parameters()]}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    rise = max(0.1, 2 / steps)  # at least two steps, or the cycle divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [lr, 2e-3], total_steps=steps, pct_start=rise)
    losses = []
    for head, ids, labels in batches:
        loss = nn.functional.cross_entropy(head(pooled(model, ids)), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def save_adapter(tuned: PeftModel, dtype: str, out: Path, base_name: str = BASE_NAME) -> None:
    """Save in the adapter's own type; the folder appears when it is complete."""
    for p in tuned.parameters():
        if p.requires_grad:
            p.data = p.data.to(DTYPES[dtype])
    tuned.peft_config["default"].base_model_name_or_path = base_name
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    tuned.save_pretrained(str(part), save_embedding_layers=False)
    tidy(part)
    part.rename(out)


def save_checkpoint(model: Any, tokens_from: Path, out: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """A whole checkpoint with its tokenizer, as mergekit wants it; the folder appears when it is complete."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.to(dtype).save_pretrained(part)
    AutoTokenizer.from_pretrained(tokens_from).save_pretrained(part)
    part.rename(out)


def warm_up(rank: int, alpha: int, names: list[str], base: Path, cache: Path, out: Path, steps: int) -> None:
    """One adapter trained on all tasks in turn: the common history of the variant `common`."""
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    tasks = [load_task(name, base, cache) for name in names]
    heads = [fresh_head(task) for task in tasks]
    tuned = lora(load_base(base), rank, alpha, seed=1).eval()
    rng = random.Random(rank)

    def batches() -> Iterator[Any]:
        for step in range(steps):
            i = step % len(tasks)
            rows = rng.sample(range(len(tasks[i].ids)), BATCH)
            yield heads[i], [tasks[i].ids[j] for j in rows], tasks[i].y[rows]

    optimise(tuned, [p for p in tuned.parameters() if p.requires_grad], heads, steps, 2e-3, batches())
    save_adapter(tuned, "float32", out)


def train(job: Training, base: Path, cache: Path, root: Path) -> dict[str, object] | None:
    """Do one training unless its result exists; returns its figures.

    `accuracy_before` is the frozen base with its own head, `accuracy_after` the fine-tune with the head trained along,
    both on the same unseen texts.
    """
    out = root / ("full" if job.rank is None else f"adapters/{job.variant}") / job.name
    record = root / "figures" / job.variant / f"{job.name}.json"
    if out.exists() and record.exists():
        return None
    shutil.rmtree(out, ignore_errors=True)
    for folder in (out.parent, record.parent):
        folder.mkdir(parents=True, exist_ok=True)
    began, busy = time.perf_counter(), time.process_time()
    task, rng, model = load_task(job.task, base, cache), random.Random(job.name), load_base(base)
    head = fresh_head(task)
    wanted = set(rng.sample(range(len(task.classes)), job.classes or len(task.classes)))
    keep = [i for i in range(len(task.ids)) if int(task.y[i]) in wanted and rng.random() < job.share]
    torch.manual_seed(job.seed)
    if job.rank is None:
        tuned: Any = model
        tuned.embeddings.requires_grad_(False)
    elif job.start:
        tuned = PeftModel.from_pretrained(model, root / job.start, is_trainable=True).eval()
    else:
        tuned = lora(model, job.rank, job.alpha or job.rank, job.seed).eval()
    weights = [p for n, p in tuned.named_parameters() if p.requires_grad and "pooler" not in n]
    ids = [task.ids[i] for i in keep]
    rows = bucketed(ids, random.Random(job.seed), job.steps)
    batches = ((head, [ids[i] for i in row], task.y[[keep[i] for i in row]]) for row in rows)
    losses = optimise(tuned, weights, [head], job.steps, job.lr, batches)

    with torch.no_grad():  # round first, then measure and save: what is stored is what is scored and merged
        for p in weights:
            p.copy_(p.to(DTYPES[job.dtype]).float())
    unseen = [i for i in range(len(task.test_ids)) if int(task.test_y[i]) in wanted]
    after = accuracy(head, pooled_all(tuned, [task.test_ids[i] for i in unseen]), task.test_y[unseen])
    if job.rank is None:
        save_checkpoint(model, base, out, DTYPES[job.dtype])
    else:
        save_adapter(tuned, job.dtype, out)
    tenth = max(1, job.steps // 10)
    figures = asdict(job) | {
        "accuracy_before": task.before if len(wanted) == len(task.classes) else None,
        "accuracy_after": after,
        "loss_first": round(float(np.mean(losses[:tenth])), 4),
        "loss_last": round(float(np.mean(losses[-tenth:])), 4),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
    }
    record.write_text(json.dumps(figures, indent=1) + "\n")
    print(
        f"{job.variant}/{job.name}: {figures['accuracy_before']} -> {after}, {figures['seconds']} s, pid {os.getpid()}",
        flush=True,
    )
    return figures
