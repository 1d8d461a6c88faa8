"""Attribute every merge of the benchmark with unmerge, one process each, and record its seconds and peak memory.

    python benchmarks/attribution/run.py --manifest DIR/manifest.json --results RESULTS --split dev [--only GLOB]

Answers that are there are kept (``--again`` makes them anew). ``usage.json`` beside them holds the measurements.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def attribute(base: str, atoms: list[str], target: str, out: str, tool: str) -> None:
    """The whole adapter to the library: ask it, and write its answer."""
    import unmerge

    if tool == "nnls":  # the baseline: plain regression with the paper's threshold
        found = unmerge.decompose(base=base, atoms=atoms, target=target, method="nnls", threads=1)
        rows = [{"name": a.name, "present": a.present, "weight": a.weight, "evidence": a.weight} for a in found.atoms]
        text = json.dumps({"atoms": rows, "unexplained": {"score": found.report.rss}})
    else:
        text = unmerge.attribute(base=base, atoms=atoms, target=target).to_json()
    part = Path(out).with_suffix(".part")
    part.write_text(text)
    part.rename(out)


def run_one(merge: dict[str, Any], root: Path, out: Path, tool: str) -> dict[str, Any]:
    """One merge in a process of its own."""
    asked = {"base": str(root / merge["base"]), "atoms": [str(root / a) for a in merge["atoms"]]}
    asked |= {"target": str(root / merge["target"]), "out": str(out), "tool": tool}
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with log.open("wb") as file:
        command = [sys.executable, __file__, "--one", json.dumps(asked)]
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)  # the one way to the peak of this child alone
    child.returncode = os.waitstatus_to_exitcode(status)
    found = {
        "seconds": round(time.perf_counter() - began, 3),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_bytes": used.ru_maxrss * 1024,
        "exit": child.returncode,
    }
    if child.returncode == 0:
        log.unlink()
    return found


def main() -> None:
    """Parse the command line and run what has no answer yet."""
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        attribute(**json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--split", choices=("dev", "test", "final"), help="this part only")
    parser.add_argument("--only", default="*", help="names that match this pattern")
    parser.add_argument("--tool", choices=("attribute", "nnls"), default="attribute")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--again", action="store_true", help="redo answers that are there")
    args = parser.parse_args()
    merges = json.loads(args.manifest.read_text())["merges"]
    merges = [m for m in merges if args.split in (None, m["split"]) and fnmatch.fnmatch(m["name"], args.only)]
    args.results.mkdir(parents=True, exist_ok=True)
    ledger = args.results / "usage.json"
    usage: dict[str, Any] = json.loads(ledger.read_text()) if ledger.exists() else {}
    root = args.manifest.resolve().parent
    todo = [m for m in merges if args.again or not (args.results / f"{m['name']}.json").exists()]
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = pool.map(lambda m: run_one(m, root, args.results / f"{m['name']}.json", args.tool), todo)
        for i, (merge, used) in enumerate(zip(todo, runs, strict=True)):
            usage[merge["name"]] = used
            ledger.write_text(json.dumps(usage, indent=1) + "\n")
            mark = "" if used["exit"] == 0 else f"  FAILED ({used['exit']}), see {merge['name']}.log"
            peak = used["peak_bytes"] / 2**20
            print(f"{i + 1}/{len(todo)} {merge['name']} {used['seconds']} s {peak:.0f} MiB{mark}", flush=True)
    done = [usage[m["name"]] for m in merges if usage.get(m["name"], {}).get("exit") == 0]
    if done:
        seconds, peaks = sorted(u["seconds"] for u in done), sorted(u["peak_bytes"] for u in done)
        print(
            f"{len(done)} answers: median {seconds[len(done) // 2]} s, longest {seconds[-1]} s, "
            f"largest peak {peaks[-1] / 2**20:.0f} MiB"
        )


if __name__ == "__main__":
    main()
