"""The shared library: where it is, whether it is the right one, and how its refusals become exceptions.

It is looked for in this order: the file named by the environment variable ``UNMERGE_LIBRARY``, ``lib/`` inside this
package (where the wheel puts it), then wherever the system's loader looks (``ctypes.util.find_library``).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import _ffi
from .errors import UnmergeError, from_status

_NAMES = ("libunmerge.so.1", "libunmerge.so", "libunmerge.1.dylib", "libunmerge.dylib")


def _candidates() -> Iterator[str]:
    if named := os.environ.get("UNMERGE_LIBRARY"):
        yield named
        return  # who names a file means that file
    folder = Path(__file__).resolve().parent / "lib"
    yield from (str(folder / name) for name in _NAMES if (folder / name).exists())
    if found := ctypes.util.find_library("unmerge"):
        yield found


@functools.cache
def library() -> ctypes.CDLL:
    """The library, loaded once, with every prototype of the header set."""
    tried = []
    for path in _candidates():
        try:
            lib = ctypes.CDLL(path)  # CDLL releases the GIL around every call
        except OSError as error:
            tried.append(f"{path}: {error}")
            continue
        for name, (result, arguments) in _ffi.PROTOTYPES.items():
            try:
                function = getattr(lib, name)
            except AttributeError:
                raise ImportError(f"{path} has no function {name}: it is not libunmerge {_wanted()}") from None
            function.restype = result
            function.argtypes = arguments
        _check_version(path, lib.unmerge_version().decode())
        return lib
    reason = "; ".join(tried) or "not in the package, not where the loader looks"
    raise ImportError(f"libunmerge was not found ({reason}); set UNMERGE_LIBRARY to the shared library")


def _wanted() -> str:
    return f"{_ffi.UNMERGE_VERSION_MAJOR}.{_ffi.UNMERGE_VERSION_MINOR}"


def _check_version(path: str, version: str) -> None:
    """Same major version, and a minor version that has everything these declarations name."""
    major, minor = (int(part) for part in version.split(".")[:2])
    if major != _ffi.UNMERGE_VERSION_MAJOR or minor < _ffi.UNMERGE_VERSION_MINOR:
        raise ImportError(f"{path} is libunmerge {version}; this package needs {_wanted()} or a later {major}.x")


def check(status: int, error: _ffi.unmerge_error | None = None) -> None:
    """Raise the exception that belongs to a negative status."""
    if status >= 0:
        return
    message = error.message.decode("utf-8", "replace") if error is not None else ""
    raise from_status(status, message or library().unmerge_status_name(status).decode())


def call(name: str, *arguments: Any) -> None:
    """``unmerge_<name>(*arguments, &error)`` for functions that answer at once."""
    error = _ffi.unmerge_error()
    check(getattr(library(), f"unmerge_{name}")(*arguments, ctypes.byref(error)), error)


def prepared(struct: type[Any], **fields: Any) -> Any:
    """A growable struct with the library's defaults (its ``_init`` function), then the given fields."""
    value = struct()
    check(getattr(library(), f"{struct.__name__}_init")(ctypes.byref(value), ctypes.sizeof(value)))
    for name, field in fields.items():
        setattr(value, name, field)
    return value


def version() -> str:
    """The version of the shared library, for example ``"1.0.0"``."""
    return str(library().unmerge_version().decode())


def blas_description() -> str:
    """What linear algebra is underneath, for bug reports."""
    return str(library().unmerge_blas_description().decode())


def destroy(kind: str, handle: int) -> None:
    """Destroy a handle; a module function so that a finaliser holds no reference to its owner."""
    getattr(library(), f"unmerge_{kind}_destroy")(handle)


__all__ = ["UnmergeError", "blas_description", "call", "check", "destroy", "library", "prepared", "version"]
