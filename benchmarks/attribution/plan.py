"""What is trained: the lists of fine-tunes, fixed here so that they can be read at a glance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training import Training

# (task, rank, alpha / rank, stored as)
SHARED = (
    ("ui-language", 16, 2, "float32"),
    ("kjv-section", 8, 2, "bfloat16"),
    ("kjv-swap", 32, 1, "float32"),
    ("gloss-pos", 16, 1, "float32"),
    ("noun-topic", 8, 2, "float16"),
    ("dictionary-source", 32, 2, "bfloat16"),
    ("python-kind", 8, 1, "float32"),
    ("python-package", 16, 2, "bfloat16"),
    ("man-heading", 32, 1, "float32"),
    ("german-gender", 8, 2, "float32"),
    ("foldoc-subject", 16, 2, "bfloat16"),
    ("misspelling", 32, 2, "float32"),
    ("word-origin", 16, 1, "bfloat16"),
    ("unicode-category", 8, 1, "float16"),
    ("verb-topic", 32, 1, "float32"),
)
SHARED_TASKS = tuple(row[0] for row in SHARED)
WARM_UP = {8: 16, 16: 16, 32: 32}  # rank: alpha of the common start
FULL_TASKS = ("ui-language", "kjv-section", "gloss-pos", "python-kind", "man-heading", "foldoc-subject", "word-origin",
              "verb-topic")  # fmt: skip
WIDE_COUNT = 50
WIDE_RANKS = (4, 16, 8, 32, 4, 64, 8, 16)
LEARNING_RATE = {4: 3e-3, 8: 2e-3, 16: 1.5e-3, 32: 1e-3, 64: 7e-4}


def trainings(stage: str, quick: bool) -> list[Training]:
    """The trainings of one variant."""
    from corpus import ALL_TASKS
    from training import Training

    jobs: list[Training] = []
    if stage == "shared":  # one seed: adapters of one rank start from the same lora_A
        for task, rank, scale, dtype in SHARED:
            jobs.append(Training(task, task, stage, rank, scale * rank, 80, LEARNING_RATE[rank], 0, dtype))
    elif stage == "common":  # all start from one short training on a mixture of the tasks
        for task, rank, _, dtype in SHARED:
            start = f"adapters/warm-up/r{rank}"
            lr = LEARNING_RATE[rank]
            jobs.append(Training(task, task, stage, rank, WARM_UP[rank], 60, lr, 0, dtype, start=start))
    elif stage == "full":
        for i, task in enumerate(FULL_TASKS):
            lr = (5e-5, 1e-4, 3e-5, 8e-5)[i % 4]
            jobs.append(Training(f"full-{task}", task, stage, None, None, 60, lr, i, "bfloat16"))
    elif stage == "wide":  # other seeds, ranks, texts and classes
        many = [t for t in ALL_TASKS if t not in ("kjv-swap", "misspelling", "german-gender")]
        for i in range(WIDE_COUNT):
            task, turn = ALL_TASKS[i % len(ALL_TASKS)], i // len(ALL_TASKS) + 2
            rank = WIDE_RANKS[(i + turn) % len(WIDE_RANKS)]
            jobs.append(Training(
                f"{task}-{turn}", task, stage, rank, rank * (1, 2)[i % 2], 25 + 5 * (i % 4), LEARNING_RATE[rank],
                1000 + i, ("float32", "bfloat16", "float32", "float16")[i % 4],
                classes=3 if task in many and i % 3 == 1 else None, share=(1.0, 0.5)[i % 2],
            ))  # fmt: skip
    return [replace(job, steps=4) for job in jobs] if quick else jobs
