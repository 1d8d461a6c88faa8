"""Where the package and the library under test are: installed, or in this checkout."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bindings" / "python"

if importlib.util.find_spec("unmerge") is None:
    sys.path.insert(0, str(PACKAGE))
    # Subprocesses of the tests find the same package.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    built = ROOT / ".build" / "release" / "libunmerge.so"
    if "UNMERGE_LIBRARY" not in os.environ and built.exists():
        os.environ["UNMERGE_LIBRARY"] = str(built)


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT
