"""The package is fully typed, and mypy --strict agrees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_mypy_strict(root: Path) -> None:
    package = root / "bindings" / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", "unmerge", "generate_ffi.py"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (package / "unmerge" / "py.typed").exists()
