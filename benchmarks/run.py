#!/usr/bin/env python3
"""libunmerge against its peers, on the same arrays, in one run.

    pip install -r benchmarks/requirements.txt
    python benchmarks/run.py                                   # everything; 4 GB of arrays at n = 1024, and a peer's copy
    python benchmarks/run.py --quick                           # n = 8 and 64
    python benchmarks/run.py --n 256 --methods lasso omp -o results.json --markdown table.md

Quality first: a contestant is tightened until (f(w) - f*) / f(0) <= 1e-6 (OMP: until the support is that of the float64
reference) and only then timed; who never gets there is listed with the reason.  One thread against one thread; every
contestant in a process of its own, on arrays that all of them map from the same files, with an environment in which no
BLAS kernel is forced.  "Extra memory" is the growth of the peak resident set during the call.

The library is the installed package, or in a source tree the one of a release build; UNMERGE_LIBRARY names another.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

# Variables that would choose somebody's BLAS kernel or number of threads: a forced old kernel flatters whoever has another.
MEDDLING = ("OPENBLAS_", "GOTO_", "OMP_", "KMP_", "MKL_", "BLIS_", "NUMBA_", "VECLIB_")
HERE = Path(__file__).resolve().parent
WARM_UP = 240  # seconds for imports and compilation, and again for set-up
GB = 1e9


def main() -> int:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(MEDDLING)}
    if len(clean) < len(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], clean)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the arrays are removed
    import problems

    arguments = options(problems)
    if arguments.quick:
        arguments.n, arguments.timeout = arguments.n or [8, 64], min(arguments.timeout, 20)
    arguments.n = arguments.n or [8, 64, 256, 1024]
    import table
    from machine import describe

    run: dict[str, Any] = {"machine": describe(), "p": problems.P, "results": []}
    with tempfile.TemporaryDirectory(prefix="unmerge-benchmark-", dir=roomy()) as temporary:
        for name, n, rounds in dictionaries(arguments, problems):
            folder = Path(arguments.data or temporary) / name
            print(f"{name}: arrays and reference ...", file=sys.stderr)
            problems.make(folder, n, bfloat16=name.endswith("bfloat16"))
            for method, threads in rounds:
                run["results"] += tournament(folder, method, n, threads, arguments)
            if not arguments.data:
                shutil.rmtree(folder)
    run["machine"]["load at the end"] = os.getloadavg()[0]
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(run, indent=1) + "\n")
    if arguments.markdown:
        Path(arguments.markdown).write_text(table.markdown(run))
    table.show(run)
    return 0


def options(problems: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*problems.METHODS, "six", "gram_2_threads"]
    parser.add_argument("--quick", action="store_true", help="n = 8 and 64, at most 20 s per call")
    parser.add_argument("--n", type=int, nargs="+", help="numbers of atoms; default 8 64 256 1024")
    parser.add_argument("--methods", nargs="+", choices=known, default=known, metavar="METHOD", help=", ".join(known))
    parser.add_argument("--repeats", type=int, default=3, help="timed calls, five for short ones; default 3")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one call; default 60")
    parser.add_argument("--copies", type=float, default=6, metavar="GB", help="do not run who copies more; default 6")
    parser.add_argument("--only", nargs="+", default=[""], help="contestants whose name contains one of these")
    parser.add_argument("--data", help="keep the arrays in this folder, and use those that are there")
    parser.add_argument("-o", "--output", help="results as JSON")
    parser.add_argument("--markdown", help="the table as Markdown")
    return parser.parse_args()


def roomy() -> str | None:
    """Shared memory when it has room for the largest dictionary twice, else the usual temporary folder."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = os.statvfs(shared)
        if free.f_bavail * free.f_frsize > 10 * GB and available() > 16 * GB:
            return str(shared)
    return None


def available() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return float(line.split()[1]) * 1024
    return float("inf")


def dictionaries(arguments: argparse.Namespace, problems: Any) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """Name, number of atoms, and the rounds to play on it: (method, threads)."""
    found = [(f"n{n}", n, [(m, 1) for m in problems.METHODS if m in arguments.methods]) for n in arguments.n]
    for _, n, rounds in found:
        if n != problems.CV_ATOMS and ("lasso_cv", 1) in rounds:
            rounds.remove(("lasso_cv", 1))
    if "gram_2_threads" in arguments.methods and (os.cpu_count() or 1) > 1:
        for _, _, rounds in found:
            rounds.append(("gram", 2))
    if "six" in arguments.methods:
        found.insert(0, ("n8-bfloat16", 8, [("six", 1)]))
    return [entry for entry in found if entry[2]]


# ---------------------------------------------------------------- one method, all contestants


def tournament(folder: Path, method: str, n: int, threads: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from contestants import contestants
    from problems import P

    results = []
    for index, one in enumerate(contestants(method)):
        if not any(part.lower() in one.name.lower() for part in arguments.only):
            continue
        result: dict[str, Any] = {"method": method, "n": n, "threads": threads, "name": one.name, "kind": one.kind}
        result["headline"] = one.headline
        needs = one.copies * n * P * 4
        if n > one.largest:
            result["failure"] = f"not run: {one.reason}"
        elif needs > min(arguments.copies * GB, available() - 1 * GB):
            result["failure"] = f"not run: needs {needs / GB:.1f} GB"
        else:
            result |= compete(folder, method, index, threads, arguments)
        results.append(result)
        spent = f"{result['cpu'] * 1e3:10.3f} ms" if "cpu" in result else result["failure"]
        print(f"n={n} {method} x{threads}: {one.name}: {spent}", file=sys.stderr)
    return results


def compete(folder: Path, method: str, index: int, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    count = str(threads)
    environment = os.environ | {f"{name}_NUM_THREADS": count for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA")}
    command = [sys.executable, str(HERE / "worker.py"), str(folder), method, str(index), str(arguments.repeats)]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert worker.stdout is not None
    events: list[dict[str, Any]] = []
    late = False
    try:
        limit = time.monotonic() + WARM_UP
        pending = b""
        while not late and (not events or events[-1]["event"] not in ("done", "failed")):
            ready = select.select([worker.stdout], [], [], max(0, limit - time.monotonic()))[0]
            late = not ready
            chunk = os.read(worker.stdout.fileno(), 1 << 16) if ready else b""
            if ready and not chunk:
                break
            *lines, pending = (pending + chunk).split(b"\n")
            if lines:
                events += [json.loads(line) for line in lines]
                patience = WARM_UP if events[-1]["event"] == "ready" else arguments.timeout
                limit = time.monotonic() + patience
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    return verdict(events, late, worker.returncode, arguments)


def verdict(events: list[dict[str, Any]], late: bool, code: int, arguments: argparse.Namespace) -> dict[str, Any]:
    calls = [e for e in events if e["event"] == "call"]
    times = [e for e in events if e["event"] == "time"]
    last = calls[-1] if calls else {}
    result: dict[str, Any] = {k: last[k] for k in ("tol", "error", "note", "extra") if k in last}
    if last.get("qualified"):
        samples = times or [last]  # nothing but the first call, when the time was up
        result |= {f"{clock}s": [t[clock] for t in samples] for clock in ("wall", "cpu")}
        return result | {clock: median(result[f"{clock}s"]) for clock in ("wall", "cpu")}
    if events and events[-1]["event"] == "failed":
        reason = events[-1]["reason"]
    elif late:
        started = any(e["event"] == "set up" for e in events)
        reason = f"took > {arguments.timeout:g} s" if started else f"did not start in {WARM_UP} s"
    elif calls:
        reason = f"error {last['error']:.1e} at its tightest"
    else:
        reason = f"ended by itself ({code})"
    return result | {"failure": reason}


if __name__ == "__main__":
    sys.exit(main())
