"""What is merged: every recipe of the benchmark, drawn once from fixed seeds, before anything is computed.

Suites: `paper-shared` and `paper-common` follow the design of UNMERGE (category x method x 2 to 5 equal weights, eight
known adapters, seven unknown); `decoder` does so on the small decoder; `harder`, `full` and `wide` hold what that
design leaves out. The `dev` part has its own seeds and shares no merge with `test`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from plan import FULL_TASKS, SHARED, WIDE_COUNT

CATEGORIES = ("known", "mixed", "unknown")
PAPER_METHODS = ("linear", "task_arithmetic", "ties", "dare_linear")
RANKS = {row[0]: row[1] for row in SHARED}
FULLS = tuple(f"full-{task}" for task in FULL_TASKS)
DECODER_KINDS = ("verses", "glosses", "satire", "jargon", "computing", "webster", "german-english", "manual", "code",
                 "docstrings", "messages-north", "messages-south")  # fmt: skip
Draw = Callable[[random.Random], tuple[list[str], list[str]]]


@dataclass(frozen=True)
class Recipe:
    """One merge. `weights` are what the recipe asks for; `gradient` and `filters` vary them over depth or matrices."""

    name: str
    split: str
    suite: str
    variant: str
    category: str
    method: str
    weights: dict[str, float]
    atoms: tuple[str, ...]
    tool: str = "mergekit"
    density: float | None = None
    normalize: bool | None = None
    lam: float | None = None
    epsilon: float | None = None
    gamma: float | None = None
    t: float | None = None
    compute: str = "bfloat16"
    dtype: str = "bfloat16"
    form: str = "checkpoint"
    svd_rank: int | None = None
    gradient: dict[str, list[float]] = field(default_factory=dict)
    filters: dict[str, dict[str, float]] = field(default_factory=dict)
    tune: tuple[str, int, float] | None = None  # task, steps, learning rate
    seed: int = 0

    @property
    def kind(self) -> str:
        """What the weights can be compared on: absolutely, up to scale, or module by module."""
        if self.gradient or self.filters or self.method in ("model_stock", "nuslerp"):
            return "per-layer"
        # A lone component survives normalisation unscaled, so the scale is lost only between several.
        return "ratio" if self.normalize and self.method != "linear" else "absolute"

    @property
    def signature(self) -> str:
        """Equal for two recipes that would make the same merge."""
        plain = replace(self, name="", split="", suite="", category="", atoms=(), seed=0)
        return repr((sorted(self.weights.items()), replace(plain, weights={})))


def spread_split(names: dict[str, int], known: int) -> Draw:
    """Split into dictionary and unknown, with the ranks spread over both."""

    def draw(rng: random.Random) -> tuple[list[str], list[str]]:
        groups = [[n for n in names if names[n] == rank] for rank in sorted(set(names.values()))]
        rng.shuffle(groups)
        order: list[str] = []
        for group in groups:
            order += rng.sample(group, len(group))
        # Every second of the order by rank goes to the dictionary, the first ones too until it is full.
        chosen = order[::2] + order[1::2]
        return sorted(chosen[:known]), sorted(chosen[known:])

    return draw


def fixed(draw: Draw, seed: str) -> Draw:
    """The same split every time."""
    parts = draw(random.Random(seed))
    return lambda _: parts


def pick(rng: random.Random, category: str, k: int, known: list[str], unknown: list[str]) -> list[str]:
    """`k` components of a category; mixed has at least one of each."""
    if category == "known":
        return rng.sample(known, k)
    if category == "unknown":
        return rng.sample(unknown, min(k, len(unknown)))
    inside = rng.randint(max(1, k - len(unknown)), k - 1)
    return rng.sample(known, inside) + rng.sample(unknown, k - inside)


def standard(method: str) -> dict[str, Any]:
    """The paper's options of a method."""
    if method == "linear":
        return {"normalize": True}
    if method == "ties":
        return {"density": 0.5, "normalize": True}
    if method in ("dare_linear", "dare_ties"):
        return {"density": 0.5, "normalize": False}
    if method in ("della", "della_linear"):
        return {"density": 0.5, "epsilon": 0.15, "normalize": method == "della"}
    if method in ("breadcrumbs", "breadcrumbs_ties"):
        return {"density": 0.7, "gamma": 0.01, "normalize": False}
    return {"normalize": False} if method == "task_arithmetic" else {}


def paper(split: str, suite: str, variant: str, draw: Draw, each: int, seed: str) -> Iterator[Recipe]:
    """The design of the paper: `each` merges per category and method."""
    rng, number = random.Random(seed), 0
    for category in CATEGORIES:
        for method in PAPER_METHODS:
            for i in range(each):
                known, unknown = draw(rng)
                k = (2, 3, 4, 5, 3, 4)[i % 6] if each > 2 else rng.randint(2, 5)
                chosen = pick(rng, category, k, known, unknown)
                weights = dict.fromkeys(chosen, 1 / len(chosen))
                number += 1
                yield Recipe(
                    f"{split}-{suite}-{category}-{method}-{i}", split, suite, variant, category, method, weights,
                    tuple(known), compute="float32" if number % 3 == 0 else "bfloat16", seed=rng.randrange(10**6),
                    **standard(method),
                )  # fmt: skip


class Harder:
    """Draws the recipes that the paper's design leaves out; one generator per kind."""

    def __init__(self, split: str, seed: str, draws: dict[str, Draw], suite: str = "harder") -> None:
        """`draws` gives the dictionary split per variant."""
        self.split, self.suite, self.rng, self.draws, self.count = split, suite, random.Random(seed), draws, 0

    def make(self, kind: str, method: str, category: str, weights: list[float], **options: Any) -> Recipe:
        """A recipe with these weights on freshly drawn components; variants alternate."""
        variant = options.pop("variant", None) or sorted(self.draws)[self.count % len(self.draws)]
        self.count += 1
        known, unknown = self.draws[variant](self.rng)
        if options.pop("same_rank", False):  # PEFT's linear combination adds factors, so ranks must agree
            rank = self.rng.choice((8, 16, 32))
            first = [n for n in known if RANKS[n] == rank]
            second = [n for n in unknown if RANKS[n] == rank]
            chosen = pick(self.rng, category, min(len(weights), len(first)), first, second)
        else:
            chosen = pick(self.rng, category, len(weights), known, unknown)
        shuffled = self.rng.sample(weights, len(weights)) if options.pop("shuffle", True) else weights
        paired = dict(zip(chosen, shuffled, strict=False))
        if method == "linear" and options.get("tool") != "peft":  # its weights are divided by their sum
            total = sum(paired.values())
            paired = {name: w / total for name, w in paired.items()}
        options = standard(method) | {"seed": self.rng.randrange(10**6)} | options
        name = f"{self.split}-{self.suite}-{kind}-{self.count:03d}"
        return Recipe(name, self.split, self.suite, variant, category, method, paired, tuple(known), **options)

    def parts(self) -> dict[str, list[Callable[[], Recipe]]]:
        """For each kind, its recipes in order of importance (dev takes the first ones)."""
        make, rng = self.make, self.rng

        def gradient(category: str, method: str) -> Recipe:
            recipe = make("gradient", method, category, [0.5, 0.5, 0.5][: rng.randint(2, 3)])
            lists = {n: [round(rng.uniform(0.1, 0.9), 2) for _ in range(rng.choice((2, 3)))] for n in recipe.weights}
            return replace(recipe, gradient=lists)

        def filters(category: str) -> Recipe:
            recipe = make("filters", "task_arithmetic", category, [0.4, 0.4])
            names = ("query", "key", "value", "*")
            return replace(
                recipe, filters={n: {f: round(rng.uniform(0.1, 0.8), 2) for f in names} for n in recipe.weights}
            )

        def slerp(category: str, two: bool) -> Recipe:
            t = round(rng.uniform(0.3, 0.7), 2)
            recipe = make("slerp", "slerp", category, [1 - t, t] if two else [t], shuffle=False)
            return replace(recipe, t=t)

        def peft(kind: str, form: str, category: str, weights: list[float], dtype: str, **more: Any) -> Recipe:
            return make(f"peft-{kind}", kind, category, weights, tool="peft", form=form, dtype=dtype, **more)

        def tuned(category: str, method: str, steps: int, lr: float) -> Recipe:
            recipe = make("tuned", method, category, [0.4, 0.35, 0.25])
            inside = set(recipe.weights)
            task = rng.choice([t for t in RANKS if t not in inside])
            return replace(recipe, category="mixed", tune=(task, steps, lr))

        return {
            "unequal": [
                lambda: make("unequal", "task_arithmetic", "known", [0.7, 0.3, 0.5]),
                lambda: make("unequal", "ties", "known", [0.6, 0.3, 0.1]),
                lambda: make("unequal", "dare_linear", "mixed", [0.8, 0.4, 0.2]),
                lambda: make("unequal", "linear", "mixed", [0.55, 0.25, 0.2]),
                lambda: make("unequal", "ties", "mixed", [0.5, 0.3, 0.2]),
                lambda: make("unequal", "task_arithmetic", "unknown", [0.9, 0.5, 0.2]),
            ],
            "negative": [
                lambda: make("negative", "task_arithmetic", "known", [0.8, -0.4]),
                lambda: make("negative", "task_arithmetic", "mixed", [0.6, -0.3, 0.5]),
                lambda: make("negative", "dare_linear", "known", [0.7, -0.5, 0.4], compute="float32"),
                lambda: make("negative", "task_arithmetic", "mixed", [-0.5, 0.7, 0.3, 0.3], compute="float32"),
            ],
            "tiny": [
                lambda: make("tiny", "task_arithmetic", "known", [0.9, 0.6, 0.05]),
                lambda: make("tiny", "linear", "known", [0.6, 0.36, 0.04], compute="float32"),
                lambda: make("tiny", "task_arithmetic", "mixed", [0.8, 0.5, 0.03, 0.02], compute="float32"),
                lambda: make("tiny", "dare_linear", "known", [0.7, 0.5, 0.05]),
                lambda: make("tiny", "ties", "mixed", [0.7, 0.25, 0.05]),
            ],
            "gradient": [
                lambda: gradient("known", "task_arithmetic"),
                lambda: gradient("mixed", "task_arithmetic"),
                lambda: gradient("known", "dare_linear"),
                lambda: gradient("mixed", "task_arithmetic"),
            ],
            "filters": [lambda: filters("known"), lambda: filters("mixed")],
            "slerp": [
                lambda: slerp("known", True),
                lambda: slerp("known", False),
                lambda: slerp("mixed", True),
                lambda: slerp("unknown", False),
            ],
            "dare-ties": [
                lambda: make("dare-ties", "dare_ties", "known", [0.5, 0.5, 0.4]),
                lambda: make("dare-ties", "dare_ties", "mixed", [0.6, 0.4, 0.3], density=0.3),
                lambda: make("dare-ties", "dare_ties", "known", [0.5, 0.3, 0.2], normalize=True),
            ],
            "della": [
                lambda: make("della", "della", "known", [0.5, 0.3, 0.2]),
                lambda: make("della", "della", "mixed", [0.6, 0.4, 0.3], density=0.6, epsilon=0.1),
                lambda: make("della", "della", "known", [0.7, 0.5], normalize=False),
            ],
            "della-linear": [
                lambda: make("della-linear", "della_linear", "known", [0.5, 0.3, 0.4]),
                lambda: make("della-linear", "della_linear", "mixed", [0.6, 0.4, 0.3], density=0.4, epsilon=0.2),
                lambda: make("della-linear", "della_linear", "known", [0.7, 0.5], compute="float32"),
            ],
            "breadcrumbs": [
                lambda: make("breadcrumbs", "breadcrumbs", "known", [0.6, 0.4, 0.3]),
                lambda: make("breadcrumbs", "breadcrumbs", "mixed", [0.7, 0.5], density=0.9, gamma=0.02),
                lambda: make("breadcrumbs", "breadcrumbs_ties", "known", [0.6, 0.4, 0.3]),
                lambda: make("breadcrumbs", "breadcrumbs_ties", "mixed", [0.7, 0.5, 0.4], density=0.5),
            ],
            "sphere": [
                lambda: make("model-stock", "model_stock", "known", [1 / 3] * 3),
                lambda: make("nuslerp", "nuslerp", "known", [0.6, 0.4]),
                lambda: make("karcher", "karcher", "known", [1 / 3] * 3, compute="float32"),
                lambda: make("model-stock", "model_stock", "mixed", [0.25] * 4, compute="float32"),
                lambda: make("nuslerp", "nuslerp", "mixed", [0.5, 0.5], compute="float32"),
                lambda: make("karcher", "karcher", "mixed", [0.5] * 2),
            ],
            "peft": [
                lambda: peft("linear", "checkpoint", "known", [0.6, 0.5], "bfloat16", same_rank=True),
                lambda: peft("svd", "adapter", "known", [0.7, 0.4], "float16", svd_rank=16),
                lambda: peft("cat", "adapter", "mixed", [0.7, 0.5, 0.3], "float32"),
                lambda: peft("linear", "adapter", "known", [0.7, 0.3], "float32", same_rank=True),
                lambda: peft("linear", "adapter", "mixed", [0.6, 0.4], "bfloat16", same_rank=True),
                lambda: peft("linear", "checkpoint", "mixed", [0.8, 0.5], "bfloat16", same_rank=True),
                lambda: peft("cat", "adapter", "known", [0.8, -0.3], "float16"),
                lambda: peft("cat", "checkpoint", "known", [0.5, 0.3, 0.2], "bfloat16"),
                lambda: peft("cat", "checkpoint", "mixed", [0.9, 0.6], "bfloat16"),
                lambda: peft("svd", "adapter", "mixed", [0.6, 0.5, 0.4], "float32", svd_rank=24),
                lambda: peft("svd", "checkpoint", "known", [0.6, 0.4], "bfloat16", svd_rank=8),
                lambda: peft("svd", "checkpoint", "unknown", [0.6, 0.4], "bfloat16", svd_rank=32),
            ],
            "density": [
                lambda: make("density", "ties", "known", [0.5, 0.5, 0.5], density=0.2),
                lambda: make("density", "dare_linear", "known", [0.5, 0.4], density=0.3),
                lambda: make("density", "ties", "mixed", [0.5, 0.5], density=0.9, lam=0.7),
                lambda: make("density", "dare_linear", "mixed", [0.5, 0.4, 0.3], density=0.9),
                lambda: make("density", "ties", "known", [0.4, 0.6], density=0.7, lam=1.5),
                lambda: make("density", "task_arithmetic", "known", [0.5, 0.3], lam=0.6),
                lambda: make("density", "dare_linear", "known", [0.6, 0.4, 0.3], density=0.7, lam=0.8),
                lambda: make("density", "dare_linear", "mixed", [0.7, 0.6], density=0.2, compute="float32"),
            ],
            "ties-sum": [
                lambda: make("ties-sum", "ties", "known", [0.5, 0.4, 0.3], normalize=False),
                lambda: make("ties-sum", "ties", "mixed", [0.6, 0.5], normalize=False, density=0.3),
                lambda: make("ties-sum", "ties", "known", [0.7, 0.5, 0.3, 0.2], normalize=False, density=0.8, lam=1.2),
            ],
            "storage": [
                lambda: make("storage", "task_arithmetic", "known", [0.5, 0.4], compute="float32", dtype="float16"),
                lambda: make("storage", "linear", "mixed", [0.4, 0.3, 0.3], compute="float32", dtype="float32"),
                lambda: make("storage", "ties", "known", [0.5, 0.3], compute="float32", dtype="float16"),
                lambda: make("storage", "dare_linear", "mixed", [0.5, 0.4], compute="float32", dtype="float32"),
            ],
            "tuned": [
                lambda: tuned("known", "linear", 15, 1e-5),
                lambda: tuned("known", "task_arithmetic", 10, 2e-5),
                lambda: tuned("mixed", "ties", 20, 1e-5),
                lambda: tuned("known", "dare_linear", 20, 3e-5),
            ],
            "one": [
                lambda: make("one", "task_arithmetic", "known", [1.0]),
                lambda: make("one", "ties", "known", [1.0]),
                lambda: make("one", "dare_linear", "unknown", [0.6]),
            ],
        }


def full(split: str, seed: str, draw: Draw, count: int) -> Iterator[Recipe]:
    """Full fine-tunes as atoms and as unknowns, alone and mixed with adapters."""
    rng = random.Random(seed)
    for i in range(count):
        known, unknown = draw(rng)
        known, unknown = known[:4], unknown[:4]
        fulls = rng.sample(FULLS, len(FULLS))
        role = ("both", "atoms", "unknown", "both")[i % 4]  # where the full fine-tunes stand
        if role in ("atoms", "both"):
            known = known + fulls[:4]
        if role in ("unknown", "both"):
            unknown = unknown + fulls[4:]
        category = ("known", "mixed", "mixed", "known", "mixed", "known", "unknown")[i % 7]
        method = ("linear", "task_arithmetic", "ties", "dare_linear", "linear", "ties", "task_arithmetic")[i % 7]
        k = rng.randint(2, 4)
        chosen = pick(rng, category, k, known, unknown)
        if category != "known" and role == "unknown" and not any(c in FULLS for c in chosen):
            outside = next(c for c in chosen if c in unknown)
            chosen[chosen.index(outside)] = fulls[4]
        weights = {n: round(rng.uniform(0.25, 0.7), 2) for n in chosen}
        if method == "linear":
            total = sum(weights.values())
            weights = {n: w / total for n, w in weights.items()}
        yield Recipe(f"{split}-full-{category}-{method}-{i}", split, "full", "shared", category, method, weights,
                     tuple(sorted(known)), compute=("bfloat16", "float32")[i % 3 == 2], seed=rng.randrange(10**6),
                     **standard(method))  # fmt: skip


def wide(split: str, seed: str, names: list[str], count: int) -> Iterator[Recipe]:
    """Dictionaries of 8 to 64 atoms of ranks 4 to 64; the rest is unknown."""
    rng = random.Random(seed)
    for i in range(count):
        size = (8, 16, 32, 64)[i % 4]
        order = rng.sample(names, len(names))
        known, unknown = order[:size], order[size:]
        category = ("known", "mixed", "known", "mixed", "unknown")[(i // 4) % 5]
        if category == "unknown" and len(unknown) < 2:
            category = "known"
        method = PAPER_METHODS[(i + i // 4) % 4]
        chosen = pick(rng, category, rng.randint(2, 6), known, unknown)
        weights = {n: round(rng.uniform(0.15, 0.6), 2) for n in chosen}
        if method == "linear":
            total = sum(weights.values())
            weights = {n: w / total for n, w in weights.items()}
        yield Recipe(f"{split}-wide-{size}-{category}-{method}-{i}", split, "wide", "shared", category, method,
                     weights, tuple(sorted(known)), compute=("bfloat16", "float32")[i % 3 == 2],
                     seed=rng.randrange(10**6), **standard(method))  # fmt: skip


def wide_names() -> list[str]:
    """All adapters a wide dictionary can hold."""
    from plan import trainings

    return sorted(RANKS) + [job.name for job in trainings("wide", False)]


def all_recipes(quick: bool) -> list[Recipe]:
    """Every recipe, in the order of making."""
    free = spread_split(RANKS, 8)
    fixed_draws = {v: fixed(free, f"dictionary {v}") for v in ("shared", "common")}
    kinds = dict.fromkeys(DECODER_KINDS, 8)
    recipes: list[Recipe] = []
    for variant in ("shared", "common"):
        recipes += paper("test", f"paper-{variant}", variant, fixed_draws[variant], 6, f"test paper {variant}")
        recipes += paper("dev", f"paper-{variant}", variant, free, 2, f"dev paper {variant}")
    draws = {"shared": free, "common": free}
    test = Harder("test", "test harder", draws).parts()
    dev = Harder("dev", "dev harder", draws).parts()
    recipes += [make() for kind in test.values() for make in kind]
    second = ("negative", "tiny", "gradient", "filters", "slerp", "sphere", "peft", "density", "storage", "one")
    chosen = [kind[0] for kind in dev.values()] + [dev[kind][1] for kind in second]
    recipes += [make() for make in (*chosen, dev["unequal"][5], dev["slerp"][3], dev["peft"][2])]
    recipes += full("test", "test full", free, 14)
    recipes += full("dev", "dev full", free, 4)
    recipes += paper("test", "decoder", "decoder", fixed(spread_split(kinds, 7), "decoder"), 2, "test decoder")
    recipes += wide("test", "test wide", wide_names(), 20)
    recipes += wide("dev", "dev wide", wide_names(), 6)
    # Drawn after the thresholds were fixed.
    for variant in ("shared", "common"):
        recipes += paper("final", f"paper-{variant}", variant, free, 3, f"final paper {variant}")
    recipes += [kind[0]() for kind in Harder("final", "final harder", draws).parts().values()]
    recipes += full("final", "final full", free, 6)
    recipes += wide("final", "final wide", wide_names(), 8)
    assert WIDE_COUNT + len(RANKS) > 64
    # A redraw would shift every later recipe, so the few coincidences are dropped instead.
    seen: set[str] = set()
    unique = [r for r in recipes if not (r.signature in seen or seen.add(r.signature))]  # type: ignore[func-returns-value]
    return unique[::12] if quick else unique
