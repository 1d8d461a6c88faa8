"""Attribution at the size of a 7B model: seconds against the machine's limits and against the paper's way.

    python benchmarks/attribution/scale.py --data DIR [--square] [--atoms 8 32] [--runs 3] [--json FILE]

The model has the attention projections of Qwen2.5-7B: 28 layers of q 3584x3584, k and v 512x3584, o 3584x3584, that is 112
modules with 822,083,584 entries (``--square``: all are 3584x3584, 1,438,646,272 entries), in bfloat16. Weights are normal
numbers; adapters have rank 32, start from a common A and share a part of B, as fine-tunes of one base do. The merged model is
base + .5 d_1 + .3 d_3 + .2 d_6, summed in float32 and rounded once; with ``--stored`` every task model is rounded to bfloat16
before it is added, as a tool that merges checkpoints does. Nothing here was trained: this measures cost, and that the answer
is right at this size; the benchmark of real fine-tunes measures how right.

Every measurement is a process of its own, and all are taken in one run with files in the page cache:

reading     every byte of base, target and adapters once, summed as 64-bit words on all cores
products    D A_j' for all atoms, by sgemm on all cores from arrays in the cache: no attribution that looks at every entry in
            the directions of every atom can do less
attribute   unmerge.attribute from the files, with and without the replay of the recipe over all entries
paper       UNMERGE's way: multiply every adapter out, keep per module the 8,928 positions of largest |d| over the dictionary,
            take D and all d there, and scipy.optimize.nnls on the 999,936 x n matrix; modules on all cores

Resident memory is RssAnon of /proc/self/status at its highest, sampled every few milliseconds: memory-mapped files count into
ru_maxrss as far as the page cache happens to hold them, and can be dropped at any time. The data takes 4.6 GB (7.4 with
``--square``) and is kept for the next run; ``--delete`` removes it at the end.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

LAYERS, HIDDEN, HEADS = 28, 3584, 512
RANK = 32
ADAPTERS = 32
WEIGHTS = {0: 0.5, 2: 0.3, 5: 0.2}
SHARDS = 4
MASKED = 999_936
BASE_SCALE, DELTA_SCALE = 0.03, 4e-4
CORES = len(os.sched_getaffinity(0))


def modules(square: bool) -> list[tuple[str, int, int]]:
    """Name, rows and columns of every projection."""
    rows = {"q": HIDDEN, "k": HEADS, "v": HEADS, "o": HIDDEN}
    return [
        (f"model.layers.{layer}.self_attn.{letter}_proj", HIDDEN if square else height, HIDDEN)
        for layer in range(LAYERS)
        for letter, height in rows.items()
    ]


# ---------------------------------------------------------------- bfloat16 and safetensors


def to_bits(x: Floats) -> Bits:
    """Round to the nearest bfloat16, ties to even."""
    words = x.view(np.uint32)
    return ((words + (0x7FFF + ((words >> 16) & 1))) >> 16).astype(np.uint16)


def to_floats(bits: Bits) -> Floats:
    """Exact: bfloat16 is the upper half of a float32."""
    words = np.zeros((*bits.shape, 2), dtype=np.uint16)
    words[..., 1] = bits
    return words.view(np.float32)[..., 0]


def header(tensors: Iterable[tuple[str, tuple[int, int]]]) -> bytes:
    """A safetensors header for bfloat16 tensors, one after the other."""
    entries: dict[str, Any] = {}
    end = 0
    for name, shape in tensors:
        first, end = end, end + 2 * shape[0] * shape[1]
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensors(path: Path) -> Iterator[tuple[str, Bits]]:
    """Every tensor of a file or of the files of a folder, mapped."""
    for file in sorted(path.glob("*.safetensors")):
        data = np.memmap(file, dtype=np.uint8, mode="r")
        length = int.from_bytes(bytes(data[:8]), "little")
        for name, entry in json.loads(bytes(data[8 : 8 + length])).items():
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            yield name, data[first:last].view(np.uint16).reshape(entry["shape"])


# ---------------------------------------------------------------- the data


def factors(index: int, rows: int, cols: int) -> tuple[list[Bits], list[Bits]]:
    """A and B of every adapter on one module."""
    rng = np.random.default_rng((1, index))
    common_a = rng.standard_normal((RANK, cols), dtype=np.float32)
    common_b = rng.standard_normal((rows, RANK), dtype=np.float32)
    scale = DELTA_SCALE * cols**0.5 / RANK**0.5
    a, b = [], []
    for _ in range(ADAPTERS):
        own = rng.standard_normal((RANK, cols), dtype=np.float32)
        a.append(to_bits((0.8 * common_a + 0.6 * own) / np.float32(cols**0.5)))
        own = rng.standard_normal((rows, RANK), dtype=np.float32)
        b.append(to_bits((0.4 * common_b + 0.9 * own) * np.float32(scale)))
    return a, b


def generate(data: Path, square: bool, stored: bool) -> None:
    """Write base, target and adapters, module by module; what is complete stays."""
    done = data / "complete"
    if done.exists():
        return
    shapes = modules(square)
    per_shard = len(shapes) // SHARDS
    files: dict[str, Any] = {}
    for model in ("base", "merged"):
        folder = data / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": HIDDEN, "torch_dtype": "bfloat16"}))
        names = {}
        for shard in range(SHARDS):
            name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
            own = shapes[shard * per_shard : (shard + 1) * per_shard]
            files[f"{model}{shard}"] = file = (folder / name).open("wb")
            file.write(header((f"{module}.weight", (d, k)) for module, d, k in own))
            names |= {f"{module}.weight": name for module, _, _ in own}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for j in range(ADAPTERS):
        folder = adapter(data, j)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        files[f"adapter{j}"] = file = (folder / "adapter_model.safetensors").open("wb")
        file.write(
            header(
                (f"base_model.model.{module}.lora_{which}.weight", shape)
                for module, d, k in shapes
                for which, shape in (("A", (RANK, k)), ("B", (d, RANK)))
            )
        )

    def make(index: int) -> tuple[Bits, Bits, list[Bits], list[Bits]]:
        _, rows, cols = shapes[index]
        a, b = factors(index, rows, cols)
        base = to_bits(np.random.default_rng((0, index)).standard_normal((rows, cols), dtype=np.float32) * np.float32(BASE_SCALE))
        start = to_floats(base)
        merged = start.copy()
        for j, weight in WEIGHTS.items():
            delta = to_floats(b[j]) @ to_floats(a[j])
            if stored:
                delta += start
                delta = to_floats(to_bits(delta))
                delta -= start
            delta *= np.float32(weight)
            merged += delta
        return base, to_bits(merged), a, b

    with ThreadPoolExecutor(2) as pool:  # two modules at a time: memory stays below 2 GB
        for first in range(0, len(shapes), 2):
            for offset, (base, merged, a, b) in enumerate(pool.map(make, range(first, first + 2))):
                shard = (first + offset) // per_shard
                files[f"base{shard}"].write(base.data)
                files[f"merged{shard}"].write(merged.data)
                for j in range(ADAPTERS):
                    files[f"adapter{j}"].write(a[j].data)
                    files[f"adapter{j}"].write(b[j].data)
    for file in files.values():
        file.close()
    done.touch()


def adapter(data: Path, j: int) -> Path:
    """Folder of an adapter."""
    return data / "adapters" / f"atom-{j:02d}"


# ---------------------------------------------------------------- what is measured, each in a process of its own


class Memory:
    """RssAnon at its highest, and what it was at the start."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.start = self.peak = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def _now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self._now())

    def close(self) -> dict[str, int]:
        self._stop.set()
        self._thread.join()
        return {"anonymous": self.peak, "max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def reading(data: Path, n: int) -> dict[str, Any]:
    """Every byte once."""
    files = [*data.glob("base/*.safetensors"), *data.glob("merged/*.safetensors")]
    files += [adapter(data, j) / "adapter_model.safetensors" for j in range(n)]
    step = 1 << 26

    def read(part: tuple[Path, int]) -> int:
        path, first = part
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            last = min(first + step, len(view)) // 8 * 8
            words = np.frombuffer(view, dtype=np.uint64, count=(last - first) // 8, offset=first)
            total = int(np.add.reduce(words))
            del words
            return total

    parts = [(path, first) for path in files for first in range(0, path.stat().st_size, step)]
    began = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        check = sum(pool.map(read, parts)) & (2**64 - 1)
    return {"seconds": time.perf_counter() - began, "bytes": sum(p.stat().st_size for p in files), "check": check}


def products(n: int, square: bool) -> dict[str, Any]:
    """D A' of one layer's modules, times the layers."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((HIDDEN, n * RANK), dtype=np.float32)
    seconds, flops = 0.0, 0
    for _, rows, cols in modules(square)[:4]:
        d = rng.standard_normal((rows, cols), dtype=np.float32)
        out = d @ a
        times = []
        for _ in range(3):
            began = time.perf_counter()
            np.matmul(d, a, out=out)
            times.append(time.perf_counter() - began)
        seconds += statistics.median(times) * LAYERS
        flops += 2 * rows * cols * n * RANK * LAYERS
    return {"seconds": seconds, "flops": flops}


def attribute(data: Path, n: int, replay: bool) -> dict[str, Any]:
    """unmerge.attribute from the files."""
    import unmerge

    memory = Memory()
    cpu = time.process_time()
    began = time.perf_counter()
    found = unmerge.attribute(
        base=data / "base", atoms=[adapter(data, j) for j in range(n)], target=data / "merged", replay=replay
    )
    seconds = time.perf_counter() - began
    truth = [WEIGHTS.get(j, 0.0) for j in range(n)]
    weights = {atom.name: atom.weight for atom in found.atoms if atom.present}
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "weights": weights,
        "right_names": {a.name for a in found.atoms if a.present} == {f"atom-{j:02d}" for j in WEIGHTS},
        "largest_error": max((abs(a.weight - w) for a, w in zip(found.atoms, truth) if w), default=0.0),
        "covered": all(a.low <= w <= a.high for a, w in zip(found.atoms, truth) if w),
        "method": found.method.name,
        "complete": found.complete,
        "proof": found.proof.equal / found.proof.compared if found.proof.compared else None,
        **memory.close(),
    }


def paper(data: Path, n: int) -> dict[str, Any]:
    """Mask to 999,936 entries, then scipy.optimize.nnls."""
    from scipy.optimize import nnls

    memory = Memory()
    began = time.perf_counter()
    base, merged = dict(tensors(data / "base")), dict(tensors(data / "merged"))
    adapters = [dict(tensors(adapter(data, j))) for j in range(n)]
    kept = MASKED // len(base)

    def mask(name: str) -> tuple[Floats, Floats]:
        module = "base_model.model." + name.removesuffix(".weight")
        low = [
            (to_floats(own[f"{module}.lora_B.weight"]), to_floats(own[f"{module}.lora_A.weight"])) for own in adapters
        ]
        largest: Floats = np.zeros(base[name].shape, dtype=np.float32)
        delta = np.empty_like(largest)
        for b, a in low:
            np.matmul(b, a, out=delta)
            np.abs(delta, out=delta)
            np.maximum(largest, delta, out=largest)
        flat = largest.reshape(-1)
        places = np.sort(np.argpartition(flat, flat.size - kept)[flat.size - kept :])
        i, k = np.divmod(places, largest.shape[1])
        rows = np.stack([np.einsum("pr,rp->p", b[i], a[:, k]) for b, a in low], axis=1)
        target = to_floats(merged[name].reshape(-1)[places]) - to_floats(base[name].reshape(-1)[places])
        return rows, target

    with ThreadPoolExecutor(CORES) as pool:
        parts = list(pool.map(mask, base))
    matrix = np.concatenate([rows for rows, _ in parts]).astype(np.float64)
    target = np.concatenate([y for _, y in parts]).astype(np.float64)
    masked = time.perf_counter() - began
    weights, _ = nnls(matrix, target)
    seconds = time.perf_counter() - began
    truth = [WEIGHTS.get(j, 0.0) for j in range(n)]
    return {
        "seconds": seconds,
        "mask_seconds": masked,
        "nnls_seconds": seconds - masked,
        "weights": {f"atom-{j:02d}": float(w) for j, w in enumerate(weights) if w > 0.01},
        "right_names": {j for j, w in enumerate(weights) if w > 0.01} == set(WEIGHTS),
        "largest_error": max(abs(float(w) - t) for w, t in zip(weights, truth) if t),
        **memory.close(),
    }


# ---------------------------------------------------------------- the run


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    # The paper's way splits modules over threads; a BLAS pool under each would fight for the same cores.
    environment["OPENBLAS_NUM_THREADS"] = "1" if task["what"] == "paper" else str(CORES)
    command = [sys.executable, __file__, "--one", json.dumps(task)]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return cast("dict[str, Any]", json.loads(out.stdout))


def one(task: dict[str, Any]) -> dict[str, Any]:
    """The measurement itself."""
    data, n = Path(task["data"]), task["n"]
    if task["what"] == "reading":
        return reading(data, n)
    if task["what"] == "products":
        return products(n, task["square"])
    if task["what"] == "paper":
        return paper(data, n)
    return attribute(data, n, task["what"] == "attribute")


def medians(task: dict[str, Any], runs: int) -> dict[str, Any]:
    """The run of median time, and all times; every run finds the files warm, whatever came before."""
    found = []
    for _ in range(runs):
        child({**task, "what": "reading"})
        found.append(child(task))
    all_of_them = sorted(found, key=lambda r: cast("float", r["seconds"]))
    middle = all_of_them[len(all_of_them) // 2]
    return middle | {"all_seconds": [round(r["seconds"], 3) for r in all_of_them]}


def gibibytes(x: int | None) -> str:
    return "" if x is None else f"{x / 2**30:.2f}"


def show(results: dict[int, dict[str, Any]]) -> None:
    """The table."""
    columns = ("n", "", "seconds", "/ reading", "/ products", "RssAnon GiB", "maxrss GiB", "names", "error", "proof")
    rows = []
    for n, row in results.items():
        read, product = row["reading"]["seconds"], row["products"]["seconds"]
        for what, r in row.items():
            right = r.get("right_names")
            rows.append(
                (
                    str(n),
                    what,
                    f"{r['seconds']:.2f}",
                    f"{r['seconds'] / read:.2f}",
                    f"{r['seconds'] / product:.2f}",
                    gibibytes(r.get("anonymous")),
                    gibibytes(r.get("max_rss")),
                    "" if right is None else "right" if right else "wrong",
                    f"{r['largest_error']:.5f}" if "largest_error" in r else "",
                    f"{r['proof']:.5f}" if r.get("proof") is not None else "",
                )
            )
    widths = [max(len(row[c]) for row in [columns, *rows]) for c in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.rjust(width) if c != 1 else cell.ljust(width) for c, (cell, width) in enumerate(zip(row, widths))))


def main() -> None:
    """Parse the command line, make the data, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder for the generated checkpoints")
    parser.add_argument("--square", action="store_true", help="all projections 3584x3584")
    parser.add_argument("--stored", action="store_true", help="task models are rounded to bfloat16 before they are added")
    parser.add_argument("--atoms", type=int, nargs="+", default=[8, 32], help=f"sizes of the dictionary, at most {ADAPTERS}")
    parser.add_argument("--runs", type=int, default=3, help="medians of so many")
    parser.add_argument("--only", nargs="+", default=["reading", "products", "attribute", "attribute, no replay", "paper"])
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--delete", action="store_true", help="remove the data at the end")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(json.loads(args.one))))
        return
    if args.data is None:
        parser.error("--data is needed")
    if not all(max(WEIGHTS) < n <= ADAPTERS for n in args.atoms):
        parser.error(f"--atoms must be between {max(WEIGHTS) + 1} and {ADAPTERS}")
    data = args.data / ("square" if args.square else "qwen") / ("stored" if args.stored else "direct")
    began = time.perf_counter()
    generate(data, args.square, args.stored)
    print(f"data ready after {time.perf_counter() - began:.0f} s; {CORES} cores", file=sys.stderr)
    results: dict[int, dict[str, Any]] = {}
    for n in args.atoms:
        results[n] = {}
        for what in ["reading", "products", *(w for w in args.only if w not in ("reading", "products"))]:
            results[n][what] = medians({"what": what, "data": str(data), "n": n, "square": args.square}, args.runs)
            print(f"n = {n}, {what}: {results[n][what]['all_seconds']}", file=sys.stderr)
    show(results)
    if args.json:
        args.json.write_text(json.dumps({"cores": CORES, "square": args.square, "stored": args.stored, "results": results}, indent=1))
    if args.delete:
        shutil.rmtree(data)


if __name__ == "__main__":
    main()
