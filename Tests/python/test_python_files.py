"""Readers: right on sound files, without copies; a sentence for hostile ones."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_python_models import BF16, write_model, write_shards
from safetensors.numpy import save_file
from unmerge import UnmergeError
from unmerge._tensors import as_matrix
from unmerge.files import read


def header(entries: dict[str, Any] | str, body: bytes = b"") -> bytes:
    """A safetensors file with a header written by hand."""
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_every_type_is_mapped_without_a_copy(tmp_path: Path) -> None:
    tensors = {
        t: np.arange(6).reshape(2, 3).astype(d)
        for t, d in {"d": np.float64, "s": np.float32, "h": np.float16, "b": BF16}.items()
    }
    save_file(tensors | {"i": np.arange(3), "e": np.zeros((0, 4))}, tmp_path / "m.safetensors")
    found = read(tmp_path / "m.safetensors")
    assert set(found.arrays) == {"d", "s", "h", "b"} and found.other == {"i": "I64", "e": "empty"}
    for name, array in tensors.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name].astype(float), array.astype(float))
        owner: Any = found.arrays[name]
        while not isinstance(owner, np.memmap):
            owner = owner.base
        assert not found.arrays[name].flags.owndata and not found.arrays[name].flags.writeable


def test_folder_shards_and_single_file(tmp_path: Path) -> None:
    a, b = np.ones((2, 2), np.float32), np.full(3, 2, np.float32)
    one = read(write_model(tmp_path / "one", {"a": a, "b": b}))
    many = read(write_shards(tmp_path / "many", {"m-1.safetensors": {"a": a}, "m-2.safetensors": {"b": b}}))
    assert set(one.arrays) == set(many.arrays) == {"a", "b"}
    np.testing.assert_array_equal(many.arrays["b"], b)
    # The caches of the hub are links that lead out of the folder; that is not an attack.
    link = tmp_path / "linked"
    link.mkdir()
    for file in (tmp_path / "many").iterdir():
        (link / file.name).symlink_to(file)
    assert set(read(link).arrays) == {"a", "b"}


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.arange(5, dtype=np.float16))
    v = read(tmp_path / "v.npy")
    assert v.vector and isinstance(v.arrays[""], np.memmap)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "v.npz", a=np.eye(2), b=np.asfortranarray(np.ones((2, 3))), n=np.arange(3))
        z = read(tmp_path / "v.npz")
        assert z.vector and set(z.arrays) == {"a", "b"} and z.other == {"n": "int64"}
        np.testing.assert_array_equal(z.arrays["a"], np.eye(2))


def test_matrices_of_tensors() -> None:
    assert as_matrix(np.ones(4), "x").shape == (4, 1)
    assert as_matrix(np.ones(()), "x").shape == (1, 1)
    x = np.arange(24.0).reshape(2, 3, 4)
    assert as_matrix(x, "x").shape == (2, 12) and np.shares_memory(as_matrix(x, "x"), x)
    with pytest.raises(TypeError, match="row-major"):
        as_matrix(np.asfortranarray(x), "x")


SOUND = header({"a": entry([2], 0, 8)}, b"\0" * 8)
HOSTILE = {
    "empty file": b"",
    "three bytes": b"abc",
    "header length 2^64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header of 200 MB in a small file": struct.pack("<Q", 200 << 20) + b"{}",
    "truncated body": SOUND[:-1],
    "trailing bytes": SOUND + b"\0",
    "overlap": header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),
    "hole": header({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, b"\0" * 20),
    "shape overflow": header({"a": entry([2**40, 2**40], 0, 8)}, b"\0" * 8),
    "negative dimension": header({"a": entry([-2], 0, 8)}, b"\0" * 8),
    "unknown type": header({"a": entry([2], 0, 8, "F31")}, b"\0" * 8),
    "metadata of numbers": header({"__metadata__": {"a": 1}, "a": entry([2], 0, 8)}, b"\0" * 8),
    "200 kB of brackets": header("[" * 200_000),
    "not an object": header("[1, 2]"),
    "bad UTF-8": struct.pack("<Q", 4) + b'{"\xff"',
    "duplicate key": header(
        '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "NUL in a name": header({"a\0b": entry([2], 0, 8)}, b"\0" * 8),
    "pickle": pickle.dumps({"a": 1}),
    "old pickle": pickle.dumps({"a": 1}, protocol=2),
    "GGUF": b"GGUF" + b"\0" * 60,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors(tmp_path: Path, case: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(HOSTILE[case])
    with pytest.raises(ValueError) as caught:
        read(path)
    assert isinstance(caught.value, UnmergeError) and str(path) in str(caught.value)
    if "pickle" in case:
        assert "save_file" in str(caught.value)


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    text = json.dumps({"a": entry([2], 0, 8)}).encode().ljust(0x280)
    data = struct.pack("<Q", len(text)) + text + b"\0" * 8
    assert data[:2] == b"\x80\x02"
    (tmp_path / "m.safetensors").write_bytes(data)
    assert set(read(tmp_path / "m.safetensors").arrays) == {"a"}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_safetensors_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sound = bytearray(header({"a": entry([2, 2], 0, 16), "b": entry([3], 16, 28)}, bytes(range(28))))
    for _ in range(data.draw(st.integers(1, 4))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "m.safetensors"
    path.write_bytes(bytes(sound[: data.draw(st.integers(0, len(sound)))]))
    try:
        found = read(path)
    except UnmergeError:
        return
    for array in found.arrays.values():
        array.astype(float).sum()


def zip_of(**members: bytes) -> Any:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name.replace("__", "/").replace("_npy", ".npy"), content)

    return write


def test_pytorch_files_are_refused_by_content(tmp_path: Path) -> None:
    for name in ("m.bin", "m.pt", "m.safetensors", "m.npz", "m.ckpt"):
        zip_of(archive__data_pkl=b"\x80\x02.")(tmp_path / name)
        with pytest.raises(ValueError, match="save_file"):
            read(tmp_path / name)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="pickle"):
        read(tmp_path / "m.pkl")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="pickle"):
        read(folder)


def npy(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", b"\0" * 8),  # truncated
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}", b"\0" * 16),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"\0" * 16),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([1])),
        npy("__import__('os').system('true')"),
        npy("(" * 9000),
        npy("{'descr': '<f4'}"),
        npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}", b"\0" * 8),
        npy("{'descr': '<V2', 'fortran_order': False, 'shape': (2,)}", b"\0" * 4),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"\0" * 8, b"\x09\x00"),
    ],
)
def test_hostile_npy_and_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises((ValueError, TypeError)) as caught:
        read(tmp_path / "v.npy")
    assert isinstance(caught.value, UnmergeError) and "v.npy" in str(caught.value)
    zip_of(a_npy=content)(tmp_path / "v.npz")
    with pytest.raises((ValueError, TypeError)) as caught:
        read(tmp_path / "v.npz")
    assert isinstance(caught.value, UnmergeError) and "v.npz" in str(caught.value)


def test_hostile_zip(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    for content in (b"", b"PK\x03\x04", b"not a zip"):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"x")
        with pytest.warns(UserWarning):
            archive.writestr("a.npy", b"y")
    with pytest.raises(ValueError, match="same name"):
        read(path)


@pytest.mark.parametrize(
    ("weight_map", "word"),
    [
        ({"a": "../m-1.safetensors"}, "inside the folder"),
        ({"a": "/etc/passwd"}, "inside the folder"),
        ({"a": "sub/../../x.safetensors"}, "inside the folder"),
        ({"a": "..\\x.safetensors"}, "inside the folder"),
        ({"a": "C:x.safetensors"}, "inside the folder"),
        ({"a": ""}, "inside the folder"),
        ({"a": 3}, "inside the folder"),
        ({"a": "m-9.safetensors"}, "lacks the shard m-9.safetensors"),
        ({"a": "m-2.safetensors", "b": "m-2.safetensors"}, "lacks 'a'"),
        ({"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-2.safetensors"}, "lacks 'c'"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_hostile_index(tmp_path: Path, weight_map: Any, word: str) -> None:
    one = np.ones(2, np.float32)
    shards = {"m-1.safetensors": {"a": one}, "m-2.safetensors": {"b": one}}
    with pytest.raises(ValueError, match=word):
        read(write_shards(tmp_path / "m", shards, weight_map))


def test_index_with_a_tensor_in_two_shards_or_broken_json(tmp_path: Path) -> None:
    one = np.ones(2, np.float32)
    shards = {"m-1.safetensors": {"a": one}, "m-2.safetensors": {"a": one, "b": one}}
    folder = write_shards(tmp_path / "m", shards, {"a": "m-1.safetensors", "b": "m-2.safetensors"})
    with pytest.raises(ValueError, match="'a' is in .*m-2.safetensors"):
        read(folder)
    for text in ("{", '{"weight_map": {"a": "m-1.safetensors", "a": "m-2.safetensors"}}', "[" * 100_000, "[]"):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match="index.json"):
            read(folder)


def test_paths_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing")
    with pytest.raises(ValueError, match="no adapter_config.json"):
        read(tmp_path)
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(ValueError, match="is not .safetensors"):
        read(tmp_path / "text.txt")
    with pytest.raises(TypeError):
        read(3)  # type: ignore[arg-type]
    for name in ("x.safetensors", "y.safetensors"):
        save_file({"a": np.ones(2)}, tmp_path / name)
    with pytest.raises(ValueError, match="index.json"):
        read(tmp_path)
