"""The declarations in _ffi.py are those of the header, and a C compiler agrees on every size and offset."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from unmerge import _ffi


def test_generated_file_is_current(root: Path) -> None:
    script = root / "bindings" / "python" / "generate_ffi.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_layout_agrees_with_a_c_compiler(root: Path, tmp_path: Path) -> None:
    lines = ['#include "unmerge.h"', "#include <stdio.h>", "int main(void) {"]
    for struct, (_, fields) in _ffi.LAYOUT.items():
        lines.append(f'  printf("{struct} %zu\\n", sizeof({struct}));')
        for field in fields:
            lines.append(f'  printf("{struct}.{field} %zu\\n", offsetof({struct}, {field}));')
    (tmp_path / "layout.c").write_text("\n".join([*lines, "  return 0;", "}"]))
    program = tmp_path / "layout"
    subprocess.run(["gcc", f"-I{root / 'include'}", str(tmp_path / "layout.c"), "-o", str(program)], check=True)
    answers = dict(line.rsplit(" ", 1) for line in subprocess.check_output([program], text=True).splitlines())
    for struct, (size, fields) in _ffi.LAYOUT.items():
        assert int(answers[struct]) == size == ctypes.sizeof(getattr(_ffi, struct))
        for field, offset in fields.items():
            assert int(answers[f"{struct}.{field}"]) == offset, f"{struct}.{field}"


def test_every_function_of_the_header_is_declared_and_exported(root: Path) -> None:
    import re

    from unmerge._library import library

    header = (root / "include" / "unmerge.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    names = set(re.findall(r"\b(unmerge_\w+)\(", code))
    assert names == set(_ffi.PROTOTYPES)
    for name in names:
        assert getattr(library(), name)


def test_version_agrees() -> None:
    import unmerge

    assert unmerge.version().split(".")[0] == unmerge.__version__.split(".")[0]
    assert unmerge.blas_description()
