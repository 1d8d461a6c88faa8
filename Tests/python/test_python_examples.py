"""The examples run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["lasso_on_arrays.py", "decompose_adapters.py"])
def test_example(root: Path, name: str) -> None:
    script = root / "examples" / "python" / name
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
