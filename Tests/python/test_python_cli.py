"""The command line: exit codes, JSON, refusals in one sentence, interrupts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_python_models import toy
from unmerge.cli import spread


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unmerge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return toy(tmp_path_factory.mktemp("toy"))


def test_spread() -> None:
    assert spread(["--atoms", "a", "b", "--target", "c"]) == ["--atoms", "a", "--atoms", "b", "--target", "c"]
    assert spread(["--atoms", "a", "--atoms", "b", "-o", "c"]) == ["--atoms", "a", "--atoms", "b", "-o", "c"]
    assert spread(["--atoms=a", "--atoms"]) == ["--atoms=a", "--atoms"]
    assert spread(["--", "--atoms", "a", "b"]) == ["--", "--atoms", "a", "b"]


def test_table_and_json(made: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["decompose", "--base", made["base"], "--atoms", *made["atoms"], "--target", made["target"]]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 atoms present" in done.stdout and not done.stderr

    done = run(*arguments, "--json", "-o", tmp_path / "out.json", "--threads", 2)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content == json.loads((tmp_path / "out.json").read_text())
    assert [a["name"] for a in content["atoms"]] == ["medicine", "law", "code"]
    assert [a["present"] for a in content["atoms"]] == [True, False, True]
    assert [f.name for f in tmp_path.iterdir()] == ["out.json"]

    done = run(*arguments, "--quiet", "-o", tmp_path / "out.json")
    assert done.returncode == 0 and not done.stdout


@pytest.mark.parametrize(
    "method",
    [
        *("nnls", "omp", "lasso", "elastic-net", "ridge", "dot"),
        *("htp", "cosamp", "subspace-pursuit", "best-subset"),
        *("bvls --upper 1", "simplex --total 1.3", "lasso-tau --tau 1", "bpdn --sigma 0.1", "basis-pursuit", "dantzig"),
        *("group-lasso --group-by ^.", "slope --q 0.2", "fused-lasso --l1-ratio 0.3", "mcp --gamma 2", "lq --q 0.7"),
        *("variational-garrote --gamma -2 --effective 50", "iht", "ols-pursuit"),
    ],
)
def test_methods(made: dict[str, Any], method: str) -> None:
    arguments = ["--base", made["base"], "--target", made["target"], "--method", *method.split(), "--json", "--k", 2]
    done = run("decompose", "--atoms", *made["atoms"], *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == method.split()[0].replace("-", "_")


def test_options(made: dict[str, Any]) -> None:
    arguments = ["decompose", "--base", made["base"], "--atoms", *made["atoms"], "--target", made["target"], "--json"]
    done = run(*arguments, "--method", "elastic-net", "--alpha", "1e-3", "--l1-ratio", 0.9, "--compress", 200, "--verify")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["options"]["alpha"] == 1e-3 and content["options"]["l1_ratio"] == 0.9
    assert content["data"]["entries"] == 200 and content["report"]["streamed"] is True


def test_groups_from_a_file(made: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["decompose", "--base", made["base"], "--atoms", *made["atoms"], "--target", made["target"], "--method", "group-lasso"]
    (tmp_path / "groups.json").write_text(json.dumps({"medicine": "health", "law": "health", "code": "code"}))
    done = run(*arguments, "--groups", tmp_path / "groups.json", "--l1-ratio", 0.1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["options"]["groups"] == {"health": ["medicine", "law"], "code": ["code"]}
    (tmp_path / "groups.json").write_text("medicine: health")
    for path, word in ((tmp_path / "groups.json", "is not JSON"), (tmp_path / "none.json", "none.json")):
        done = run(*arguments, "--groups", path)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr


def test_refusals_are_one_sentence_and_exit_2(made: dict[str, Any], tmp_path: Path) -> None:
    sound = {"--base": made["base"], "--target": made["target"], "--atoms": made["atoms"][0]}

    def attempt(**changes: Any) -> subprocess.CompletedProcess[str]:
        arguments = {**sound, **{"--" + key.replace("_", "-"): value for key, value in changes.items()}}
        return run("decompose", *(part for pair in arguments.items() if pair[1] is not None for part in pair))

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\xff" * 20)
    for changes, word in (
        ({"target": tmp_path / "missing"}, "does not exist"),
        ({"target": tmp_path / "broken"}, "sound safetensors"),
        ({"alpha": -1, "method": "lasso"}, "alpha"),
        ({"compress": 0}, "total"),
        ({"output": tmp_path / "no" / "where.json"}, "where.json"),
        ({"method": "magic"}, "magic"),
        ({"target": None}, "target"),
        ({"alpha": "many"}, "--alpha"),
    ):
        done = attempt(**changes)
        assert done.returncode == 2, (changes, done.stdout, done.stderr)
        assert word in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert run("decompose", "--nonsense").returncode == 2
    assert run("nonsense").returncode == 2


def test_not_converged_is_exit_3(made: dict[str, Any]) -> None:
    arguments = ["decompose", "--base", made["base"], "--atoms", *made["atoms"], "--target", made["target"]]
    done = run(*arguments, "--method", "lasso", "--max-iter", 0, "--json")
    assert done.returncode == 3 and "not converged" in done.stderr
    assert json.loads(done.stdout)["converged"] is False


def test_interrupted_is_exit_130(tmp_path: Path) -> None:
    """Atoms that are one sparse file of zeros: large to read, nothing on the disk."""
    rows = 100_000_000
    names = [f"atom{i}.safetensors" for i in range(8)]
    save_file({"w": np.zeros((1, 1), np.float32)}, tmp_path / "small.safetensors")
    header = json.dumps({"w": {"dtype": "F32", "shape": [rows, 1], "data_offsets": [0, 4 * rows]}}).encode()
    for name in [*names, "y.safetensors"]:
        with open(tmp_path / name, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + 4 * rows)
    command = [sys.executable, "-m", "unmerge", "decompose", "--atoms", *names, "--target", "y.safetensors", "-o", "o.json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)
    assert process.poll() is None, process.communicate()
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    print("seconds from SIGINT to the end of the process:", time.monotonic() - began)
    assert process.returncode == 130, (out, err)
    assert "interrupted" in err and "Traceback" not in err
    assert not (tmp_path / "o.json").exists()


def test_help_and_version_are_fast_and_need_no_numpy() -> None:
    for argument in ("--help", "--version"):
        began = time.monotonic()
        done = run(argument)
        assert done.returncode == 0 and "unmerge" in done.stdout
        assert time.monotonic() - began < 2  # aim: half a second on an idle machine
    code = "import sys\nfrom unmerge.cli import main\nassert main(['--help']) == 0\nassert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_missing_extra_is_one_sentence() -> None:
    code = "import sys\nsys.modules['typer'] = None\nfrom unmerge.cli import main\nsys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and 'pip install "unmerge[cli]"' in done.stderr


def test_demo_of_a_sample(made: dict[str, Any], tmp_path: Path) -> None:
    """The layout of the shipped sample, in small."""
    root = Path(os.path.commonpath([made["base"], *made["atoms"]]))
    adapters = [{"name": p.name, "path": str(p.relative_to(root)), "in_dictionary": p.name != "law"} for p in made["atoms"]]
    merges = [{"name": "m1", "path": "merged", "method": "linear", "category": "known", "truth": made["truth"]}]
    content = {"base": {"path": "base"}, "adapters": adapters, "merges": merges}
    (root / "manifest.json").write_text(json.dumps(content))
    done = run("demo", "--data", root)
    assert done.returncode == 0, done.stderr
    assert "m1 (linear, known)" in done.stdout and "0.5000" in done.stdout and "(not an atom)" in done.stdout
    (root / "manifest.json").write_text(json.dumps(content | {"base": "base"}))
    done = run("demo", "--data", root)
    assert done.returncode == 2 and "lacks base" in done.stderr
    done = run("demo", "--data", tmp_path)
    assert done.returncode == 2 and "manifest.json" in done.stderr


def test_prune(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    r = np.random.default_rng(0)
    net = {"w": r.standard_normal((20, 30)).astype(np.float32), "b": np.ones(20, np.float32), "n": np.arange(4)}
    save_file(net, tmp_path / "in.safetensors", metadata={"format": "np"})
    done = run("prune", "--model", tmp_path / "in.safetensors", "--sparsity", 0.7, "-o", tmp_path / "out.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    told, made = json.loads(done.stdout), load_file(tmp_path / "out.safetensors")
    assert np.array_equal(made["b"], net["b"]) and np.array_equal(made["n"], net["n"])
    assert told["kept"] == np.count_nonzero(made["w"]) and told["reports"]["w"]["sparsity"] == pytest.approx(0.7, abs=1e-12)
    done = run("prune", "--model", tmp_path / "in.safetensors", "--zeros", 0.9, "-o", tmp_path / "out.safetensors")
    assert done.returncode == 0 and "90.00% zeros" in done.stdout
    made = load_file(tmp_path / "out.safetensors")["w"]
    assert np.count_nonzero(made) == 60 and np.array_equal(made[made != 0], net["w"][made != 0])
    for arguments in (["--sparsity", 2], ["--sparsity", 0.5, "--zeros", 0.5], [], ["--sparsity", 0.5, "--grouping", "rows"]):
        done = run("prune", "--model", tmp_path / "in.safetensors", *arguments, "-o", tmp_path / "no.safetensors")
        assert done.returncode == 2 and done.stderr.startswith("unmerge: ") and not (tmp_path / "no.safetensors").exists()
