"""One contestant in a process of its own:  python worker.py FOLDER METHOD INDEX REPEATS

Says what happens as JSON lines on standard output: "ready"; per tolerance "set up" and "call", the first call with its
error and its memory; one "time" per timed call; "done" or "failed".  What it has said so far stays true when it is stopped
for taking too long.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Contestant, contestants
from problems import Data, Judge, load_arrays

SHORT = 0.005  # seconds; shorter calls are timed in groups at least this long
FAST = 1.0  # seconds; calls up to this are repeated at least five times
WARM_UP_ROWS = 8192


def quiet_output() -> Any:
    """Standard output for our lines alone: whatever the libraries print goes nowhere."""
    say = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return say


def kilobytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def measured(call: Any) -> tuple[Any, dict[str, Any]]:
    """The answer, with wall time, CPU time of all threads, and the growth of the peak resident set."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    except OSError:
        pass
    before = kilobytes("VmRSS")
    cpu, wall = time.process_time(), time.perf_counter()
    answer = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return answer, {"wall": wall, "cpu": cpu, "extra": max(0, kilobytes("VmHWM") - before) * 1024}


def repeated(call: Any, first: dict[str, Any], repeats: int, say: Any) -> None:
    inner = max(1, int(SHORT / max(first["wall"], 1e-7)))
    for _ in range(max(repeats, 5) if first["wall"] < FAST else repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(inner):
            call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        say({"event": "time", "wall": wall / inner, "cpu": cpu / inner})


def compete(one: Contestant, data: Data, judge: Judge, repeats: int, say: Any) -> None:
    for tol in one.ladder:
        call = one.make(data, tol)
        say({"event": "set up"})
        result, first = measured(call)
        answer, note = result if isinstance(result, tuple) else (result, "")
        error, qualified = judge(one.method, answer)
        del result, answer
        say({"event": "call", "tol": tol, "error": error, "qualified": qualified, "note": note, **first})
        if qualified:
            repeated(call, first, repeats, say)
            break
    say({"event": "done"})


def main() -> None:
    folder, method, index, repeats = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    stream = quiet_output()

    def say(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=stream)

    warnings.simplefilter("ignore")
    one = contestants(method)[index]
    D, y = load_arrays(folder)
    small = np.ascontiguousarray(D[:, :WARM_UP_ROWS]), np.ascontiguousarray(y[:WARM_UP_ROWS])
    c = small[0].astype(np.float32) @ small[1].astype(np.float32)
    try:
        # Imports, compilation and thread pools happen here, on a problem of the same types and layout.
        one.make(Data.of(*small, c), one.ladder[0])()
    except ImportError as error:
        say({"event": "failed", "reason": f"not installed: {error}"})
        return
    except Exception:  # a small problem may be too hard; the real one will tell
        pass
    from threadpoolctl import threadpool_limits

    judge = Judge(folder)
    with threadpool_limits(int(os.environ["OMP_NUM_THREADS"])):
        for array in (D, y):  # map every page, so that reading the data is not counted as memory
            array.reshape(-1).view(np.uint8)[::4096].max()
        say({"event": "ready"})
        try:
            compete(one, Data.of(D, y, judge.c), judge, repeats, say)
        except Exception as error:
            reason = (str(error).strip() or "no message").splitlines()[-1][:160]
            say({"event": "failed", "reason": f"{type(error).__name__}: {reason}"})
    stream.flush()
    os._exit(0)  # some peers hang or crash in their own finalisers


if __name__ == "__main__":
    main()
