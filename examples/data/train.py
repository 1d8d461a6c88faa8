"""Fine-tune one LoRA adapter on one task: real training of a classifier on mean-pooled sentence embeddings."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from scipy.optimize import minimize
from texts import Library, make_split
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MODULES = [f"encoder.layer.{i}.attention.self.value" for i in range(6)] + ["encoder.layer.5.attention.self.query"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_TOKENS = 32


@dataclass(frozen=True)
class Recipe:
    """How one adapter is trained and stored. Without `seed` the name makes one; equal seeds start from one lora_A."""

    name: str
    rank: int
    alpha: int
    in_dictionary: bool = True
    rslora: bool = False
    dtype: str = "float16"
    texts: int = 4800
    steps: int = 150
    lr: float = 3e-3
    seed: int | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int] = field(default_factory=dict)


def load_base(folder: Path) -> nn.Module:
    """The base in float32 arithmetic, but with the values of its bfloat16 weights."""
    model: nn.Module = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    return model.float().eval()


def embed(model: nn.Module, tokens: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Mean-pooled last hidden states of one batch."""
    batch = tokens(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1).float()
    hidden: Tensor = model(**batch).last_hidden_state
    pooled: Tensor = (hidden * mask).sum(1) / mask.sum(1)
    return pooled


@torch.no_grad()
def embed_all(model: nn.Module, tokens: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Embeddings of many texts, batched by length so that little is padding."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [embed(model, tokens, [texts[j] for j in order[i : i + 64]]) for i in range(0, len(order), 64)]
    return torch.cat(parts)[torch.tensor(order).argsort()]


def fit_head(x: Tensor, y: Tensor, classes: int, decay: float) -> nn.Linear:
    """Multinomial logistic regression to convergence."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    z, onehot = ((x - mean) / spread).double().numpy(), np.eye(classes)[y.numpy()]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logits = z @ w + b
        logits -= logits.max(1, keepdims=True)
        norm = np.log(np.exp(logits).sum(1, keepdims=True))
        error = (np.exp(logits - norm) - onehot) / len(z)
        value = -((logits - norm) * onehot).sum() / len(z) + decay * (w**2).sum()
        return value, np.concatenate([(z.T @ error + 2 * decay * w).ravel(), error.sum(0)])

    flat = minimize(loss, np.zeros((z.shape[1] + 1) * classes), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    head = nn.Linear(x.shape[1], classes)
    weight = torch.tensor(flat[:-classes].reshape(-1, classes).T, dtype=torch.float32) / spread
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(torch.tensor(flat[-classes:], dtype=torch.float32) - weight @ mean)
    return head


def best_head(x: Tensor, y: Tensor, classes: int) -> nn.Linear:
    """The head with the best of three penalties (judged on a fifth of the texts): the baseline is no straw man."""
    cut = len(x) // 5
    scores = {d: accuracy(fit_head(x[cut:], y[cut:], classes, d), x[:cut], y[:cut]) for d in (1e-3, 1e-2, 1e-1)}
    return fit_head(x, y, classes, max(scores, key=lambda d: scores[d]))


def accuracy(head: nn.Linear, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        return round(float((head(x).argmax(1) == y).double().mean()), 4)


def tidy(folder: Path) -> None:
    """Make a saved adapter the same on every run: sorted target modules, no empty model card, plain file mode."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"].sort()  # PEFT keeps a set, whose order differs from run to run
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "adapter_model.safetensors").chmod(0o644)


def train_adapter(recipe: Recipe, base: Path, cache: Path, out: Path, quick: bool = False) -> dict[str, object]:
    """Train and save one adapter with its head (which is not kept); return its figures, measured on unseen texts.

    `accuracy_before` is the frozen model with a converged head, where training starts; `accuracy_after` is the adapter
    with the head trained along with it.
    """
    torch.set_num_threads(1)
    train, test = make_split(recipe.name, Library(cache), *((200, 100) if quick else (recipe.texts, 800)))
    names = sorted({label for _, label in train})
    texts, unseen = [t for t, _ in train], [t for t, _ in test]
    y, y_test = (torch.tensor([names.index(c) for _, c in rows]) for rows in (train, test))
    tokens, model = AutoTokenizer.from_pretrained(base), load_base(base)

    head = best_head(embed_all(model, tokens, texts), y, len(names))
    before = accuracy(head, embed_all(model, tokens, unseen), y_test)

    seed = zlib.crc32(recipe.name.encode()) if recipe.seed is None else recipe.seed
    torch.manual_seed(seed)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, use_rslora=recipe.rslora, target_modules=list(MODULES),
        rank_pattern=recipe.rank_pattern, alpha_pattern=recipe.alpha_pattern, task_type="FEATURE_EXTRACTION",
    )  # fmt: skip
    tuned = get_peft_model(model, config).eval()  # no dropout: a few hundred steps do not overfit
    lora = [p for p in tuned.parameters() if p.requires_grad]
    steps = 5 if quick else recipe.steps
    groups: list[dict[str, Any]] = [{"params": lora}, {"params": head.parameters()}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [recipe.lr, 2e-3], total_steps=steps, pct_start=0.1)
    rng, losses = random.Random(seed), []
    queue: list[int] = []
    for _ in range(steps):
        if len(queue) < 32:  # a new pass over the texts
            queue = rng.sample(range(len(texts)), len(texts))
        rows, queue = queue[:32], queue[32:]
        loss = nn.functional.cross_entropy(head(embed(tuned, tokens, [texts[i] for i in rows])), y[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(lora, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())

    with torch.no_grad():  # round first, then measure and save: what is shipped is what is scored and merged
        for p in lora:
            p.copy_(p.to(DTYPES[recipe.dtype]).float())
    after = accuracy(head, embed_all(tuned, tokens, unseen), y_test)
    for p in lora:
        p.data = p.data.to(DTYPES[recipe.dtype])
    tuned.peft_config["default"].base_model_name_or_path = BASE_NAME
    shutil.rmtree(out, ignore_errors=True)
    tuned.save_pretrained(str(out), save_embedding_layers=False)
    tidy(out)
    tenth = max(1, steps // 10)
    figures = {
        "classes": names,
        "train_texts": len(texts),
        "test_texts": len(unseen),
        "chance": round(1 / len(names), 4),
    }
    figures |= {"loss_first": round(float(np.mean(losses[:tenth])), 4)}
    figures |= {"loss_last": round(float(np.mean(losses[-tenth:])), 4)}
    return asdict(recipe) | figures | {"seed": seed, "accuracy_before": before, "accuracy_after": after}
