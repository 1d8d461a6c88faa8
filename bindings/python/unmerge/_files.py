"""Writing a file so that a reader sees the old one or the new one, never half."""

from __future__ import annotations

import os
import secrets
from typing import Union


def write_atomically(path: Union[str, os.PathLike[str]], data: bytes) -> None:
    """A temporary file in the same folder, fsync, rename, fsync of the folder."""
    target = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    with open(temporary, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the rename itself survives a power cut only with its folder
    finally:
        os.close(handle)
