"""Named tensors from files, memory-mapped: safetensors (one file, a folder, shards), .npy, .npz.

The official libraries judge whether a file is sound (safetensors validates every header, NumPy every .npy, and no
pickle is ever loaded); the tensors are then views of a memory map, so a checkpoint costs address space, not memory.
A file that somebody shortens while it is mapped ends the process with SIGBUS: that is the nature of memory maps.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn, Union

import numpy as np
import numpy.typing as npt

from .errors import InvalidValue, bad_format, bad_type

Array = npt.NDArray[Any]
PathLike = Union[str, "os.PathLike[str]"]

NEEDS_HF = 'reading safetensors needs the packages safetensors and ml_dtypes: pip install "unmerge[hf]"'
MAX_JSON = 64 << 20  # an index of a million tensors is half of that

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NUMBERS = "save an array of float64, float32 or float16"
_CONVERT = (
    "convert it where it can be trusted: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
)


@dataclass
class Tensors:
    """Floating-point tensors by name, and the names of the others with the reason why they are not used.

    ``vector``: the file says (by kind or metadata) that these are differences already, not a checkpoint.
    """

    path: str
    kind: str  # "safetensors", "npy", "npz", "arrays"
    arrays: dict[str, Array] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    vector: bool = False

    def add(self, name: str, array: Array) -> None:
        if array.dtype.name not in _FLOATS.values():
            self.other[name] = array.dtype.name
        elif array.size == 0:
            self.other[name] = "empty"
        else:
            self.arrays[name] = array


def as_matrix(array: Array, name: str) -> Array:
    """The rows x cols view of a tensor: (n,) is n x 1, more than two dimensions become (first, all the rest)."""
    if array.ndim == 2:
        return array
    if array.ndim < 2:
        return array.reshape(-1, 1)
    flat = array.reshape(array.shape[0], -1)
    if not np.shares_memory(flat, array):
        raise bad_type(f"{name} has {array.ndim} dimensions and is not in row-major order; save it with order C")
    return flat


# ---------------------------------------------------------------- safetensors


def read_safetensors(path: Path) -> Tensors:
    """One file.  bfloat16 stays bfloat16 (the dtype of ml_dtypes)."""
    refuse_foreign(path)
    try:
        import ml_dtypes
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(NEEDS_HF) from error
    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except SafetensorError as error:
        raise bad_format(f"{path} is not a sound safetensors file: {error}") from error

    data = np.memmap(path, dtype=np.uint8, mode="r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = parse_json(data[8 : 8 + length].tobytes(), f"the header of {path}")
    metadata = header.pop("__metadata__", None) or {}
    found = Tensors(str(path), "safetensors", vector=metadata.get("kind") == "task_vector")
    start = 8 + length
    for name, entry in header.items():
        dtype = _FLOATS.get(entry["dtype"])
        if dtype is None:
            found.other[name] = entry["dtype"]
            continue
        begin, end = entry["data_offsets"]
        kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        # safe_open has checked offsets, sizes and holes; view() would raise if they did not fit the shape.
        found.add(name, data[start + begin : start + end].view(kind).reshape(entry["shape"]))
    return found


def read_sharded(folder: Path, index: Path) -> Tensors:
    """A folder with model.safetensors.index.json.  Shard names stay inside the folder; every tensor is where it says."""
    content = parse_json(read_limited(index, MAX_JSON), str(index))
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise bad_format(f"{index} has no weight_map")
    shards: dict[str, set[str]] = {}
    for tensor, shard in places.items():
        if not isinstance(shard, str) or not _inside(shard):
            raise bad_format(f"{index} places {tensor!r} in {shard!r}, which is not a file name inside the folder")
        shards.setdefault(shard, set()).add(tensor)
    found = Tensors(str(folder), "safetensors")
    for shard, names in sorted(shards.items()):
        if not (folder / shard).is_file():
            raise bad_format(f"{folder} lacks the shard {shard}, which its index names")
        part = read_safetensors(folder / shard)
        held = part.arrays.keys() | part.other.keys()
        if missing := sorted(names - held):
            raise bad_format(f"{folder / shard} lacks {some(missing)}, which the index places there")
        if doubled := sorted(name for name in held - names if name in places):
            raise bad_format(f"{some(doubled)} is in {folder / shard}, and also in the shard the index names")
        found.arrays.update((name, array) for name, array in part.arrays.items() if name in names)
        found.other.update((name, reason) for name, reason in part.other.items() if name in names)
    return found


def _inside(name: str) -> bool:
    # Judged by the name alone: the caches of the Hugging Face hub are folders of symbolic links that lead outside.
    parts = PurePosixPath(name).parts
    bad = name.startswith("/") or "\\" in name or "\0" in name or ":" in name
    return bool(parts) and not bad and ".." not in parts


# ---------------------------------------------------------------- NumPy's own files


def read_npy(path: Path) -> Tensors:
    """A .npy file as one tensor named ""."""
    refuse_foreign(path)
    with open(path, "rb") as file:
        _check_npy(file, path.stat().st_size, str(path))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise bad_format(f"{path} is not a .npy file that can be mapped: {error}") from error
    found = Tensors(str(path), "npy", vector=True)
    found.add("", array)
    return found


def read_npz(path: Path) -> Tensors:
    """A .npz file: its members are tensors.  Zip archives cannot be mapped, so this one is read into memory."""
    found = Tensors(str(path), "npz", vector=True)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()]
            if any(not name.endswith(".npy") for name in names):
                refuse_foreign(path)
            if len(set(names)) != len(names):
                raise bad_format(f"{path} has two members of the same name")
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    _check_npy(file, info.file_size, f"{path}[{name!r}]")
                with archive.open(info) as file:
                    found.add(name, np.lib.format.read_array(io.BytesIO(file.read()), allow_pickle=False))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise bad_format(f"{path} is not a sound .npz file: {error}") from error
    return found


def _check_npy(file: IO[bytes], size: int, name: str) -> None:
    """Compare what the header promises with the size of the file before anything of that size is mapped or allocated."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
    except Exception as error:  # NumPy lets its tokenizer's errors through, and recursion, and missing keys
        raise bad_format(f"{name} is not a sound .npy file: {str(error)[:200]}") from error
    if dtype.hasobject:
        raise bad_format(f"{name} holds Python objects, which are pickles; {_NUMBERS}")
    body, promised = size - file.tell(), dtype.itemsize
    for n in shape:
        promised *= int(n)
    if promised != body or min(shape, default=0) < 0:
        raise bad_format(f"{name} holds {body} bytes, but its header promises {dtype} of the shape {shape}")
    check_dtype(np.empty(0, dtype), name)


def check_dtype(array: Array, name: str) -> None:
    if array.dtype.name.startswith("void"):
        raise bad_type(f"{name} has lost its element type ({array.dtype.str!r}); save bfloat16 as safetensors instead")
    if not array.dtype.isnative:
        raise bad_type(f"{name} is in the other byte order ({array.dtype.str!r}); save it again with .astype('<f4')")


# ---------------------------------------------------------------- refusals, JSON


def refuse_foreign(path: Path) -> None:
    """Refuse, by content, what would need a pickle to be executed, and other formats people have."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        _refuse(path, "a PyTorch (zip) file, which can run code when it is loaded")
    # A safetensors header of 0x0280 bytes begins like a pickle too; the brace behind the length tells them apart.
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5") and head[8:9] != b"{":
        _refuse(path, "a pickle, which can run code when it is loaded")
    if head[:4] == b"GGUF":
        raise bad_format(f"{path} is a GGUF file; use the safetensors checkpoint it was made from")


def _refuse(path: Path, what: str) -> NoReturn:
    raise bad_format(f"{path} is {what}; {_CONVERT}")


def read_limited(path: Path, limit: int) -> bytes:
    """A small file, whole; larger than ``limit`` bytes is refused before it is read."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise bad_format(f"{path} has more than {limit} bytes")
    return data


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object; duplicate keys, bad UTF-8, NUL in names and bottomless nesting are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise bad_format(f"{name} has the key {twice!r} twice")
        return found

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except InvalidValue:
        raise
    except (ValueError, RecursionError) as error:
        raise bad_format(f"{name} is not sound JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise bad_format(f"{name} is not a JSON object")
    if nul := next((key for key in content if "\0" in key), None):
        raise bad_format(f"{name} has the name {nul!r}, which contains a NUL character")
    return content


def from_arrays(arrays: Mapping[str, Any], name: str) -> Tensors:
    """Tensors that are in memory already."""
    found = Tensors(name, "arrays")
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise bad_type(f"{name}[{key!r}] is a {type(array).__name__}, expected a NumPy array")
        check_dtype(array, f"{name}[{key!r}]")
        found.add(key, array)
    return found


def some(names: list[str], most: int = 8) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
