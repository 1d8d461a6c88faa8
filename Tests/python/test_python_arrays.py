"""Arrays are read in place, in any layout, or refused with the conversion to write; never copied."""

from __future__ import annotations

import array as stdlib_array
import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unmerge import Accumulator, Gram, Operator, UnmergeError
from unmerge._arrays import CODES, View, view

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def contents(v: View) -> np.ndarray:
    """What C sees: every element fetched by pointer arithmetic alone."""
    rows, cols = v.shape
    found = np.empty((rows, cols))
    dtype = {code: np.dtype(getattr(ml_dtypes, name, name)) for name, code in CODES.items()}[v.struct.dtype]
    for i in range(rows):
        for j in range(cols):
            address = v.struct.data + i * v.struct.strides[0] + j * v.struct.strides[1]
            found[i, j] = np.frombuffer(ctypes.string_at(address, dtype.itemsize), dtype=dtype)[0]
    return found


def layouts(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """The same kind of matrix in every layout NumPy can make."""
    unaligned = np.frombuffer(b"\0" + matrix.tobytes(), dtype=np.uint8)[1:].view(matrix.dtype).reshape(matrix.shape)
    return {
        "C": matrix,
        "Fortran": np.asfortranarray(matrix),
        "reversed": matrix[::-1, ::-1],
        "strided": matrix[::2, ::3],
        "transposed": matrix.T,
        "broadcast": np.broadcast_to(matrix[:1], matrix.shape),
        "unaligned": unaligned,
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_of_every_type_and_layout(dtype: Any) -> None:
    matrix = np.arange(-17, 18).reshape(5, 7).astype(dtype)
    for name, x in layouts(matrix).items():
        v = view(x, "x")
        assert v.shape == x.shape
        assert v.struct.data == x.__array_interface__["data"][0], f"{name} was copied"
        np.testing.assert_array_equal(contents(v), x.astype(np.float64), err_msg=name)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_views_of_arbitrary_slices(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    rows, cols = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    base = np.arange(rows * cols).reshape(rows, cols).astype(dtype)

    def cut(n: int) -> slice:
        step = data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3]))
        return slice(data.draw(st.integers(0, n - 1)), None, step)

    x = base[cut(rows), cut(cols)]
    x = x.T if data.draw(st.booleans()) else x
    np.testing.assert_array_equal(contents(view(x, "x")), x.astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_every_type_and_layout(dtype: Any) -> None:
    matrix = np.random.default_rng(0).integers(-8, 9, (40, 6)).astype(dtype)
    for name, A in layouts(matrix).items():
        y = np.asarray(A, dtype=np.float64)[:, 0].astype(dtype)[::-1]
        exact = A.astype(np.float64)
        with Gram(A, y, precision="exact") as gram:
            G, C, yy = gram.arrays()
        np.testing.assert_allclose(G, exact.T @ exact, rtol=1e-14, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(C[:, 0], exact.T @ y.astype(np.float64), rtol=1e-14, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(yy[0], y.astype(np.float64) @ y.astype(np.float64), rtol=1e-14)


def test_vectors_are_columns() -> None:
    y = np.arange(10.0)[::-2]
    v = view(y, "y")
    assert v.shape == (5, 1) and v.ndim == 1
    np.testing.assert_array_equal(contents(v)[:, 0], y)


def test_memmap_buffer_and_array_interface(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(contents(view(mapped, "x")), mapped)

    buffer = stdlib_array.array("d", [1.0, 2.0, 3.0])
    v = view(buffer, "x")
    buffer[1] = 7.0
    assert contents(v)[1, 0] == 7.0

    class Interface:
        values = np.arange(4.0)
        __array_interface__ = values.__array_interface__

    assert view(Interface(), "x").struct.data == Interface.values.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (np.arange(4), "astype(np.float64)"),
        (np.ones(4, dtype=bool), "astype(np.float64)"),
        (np.ones(4, dtype=np.complex128), ".real"),
        (np.array([1.0, None]), "Python objects"),
        (np.ones(4, dtype=">f8"), "byte order"),
        (np.ones(4, dtype=">f2"), "byte order"),
        (np.ones(4, dtype=np.longdouble), "astype(np.float64)"),
        (np.ones(4, dtype=ml_dtypes.float8_e4m3fn), "astype(np.float64)"),
        (np.ones(4, dtype="V2"), "bfloat16"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "mask"),
        ([1.0, 2.0], "np.asarray"),
        (3.0, "np.asarray"),
        (None, "np.asarray"),
        ("text", "np.asarray"),
        (b"bytes", "astype(np.float64)"),
    ],
)
def test_refusals_name_the_conversion(x: Any, word: str) -> None:
    with pytest.raises(TypeError, match="y ") as caught:
        view(x, "y")
    assert word in str(caught.value)
    assert isinstance(caught.value, UnmergeError) and caught.value.name == "UNMERGE_E_DTYPE"


def test_wrong_dimensions_are_value_errors() -> None:
    for x in (np.array(1.0), np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match="expected 1-D or 2-D"):
            view(x, "y")
    with pytest.raises(ValueError, match="A is 1-D, expected 2-D"):
        Gram(np.ones(3), np.ones(3))


def test_scipy_sparse_names_toarray() -> None:
    import scipy.sparse

    with pytest.raises(TypeError, match="toarray"):
        view(scipy.sparse.eye(3).tocsr(), "A")


# ---------------------------------------------------------------- DLPack


class Producer:
    """A tensor of some other library: DLPack and nothing else."""

    def __init__(self, array: np.ndarray, device: int = 1, requires_grad: bool = False) -> None:
        self.array, self.device, self.requires_grad = array, device, requires_grad

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


class OldProducer(Producer):
    """A producer from before max_version."""

    def __dlpack__(self) -> Any:  # type: ignore[override]
        return self.array.__dlpack__()


@pytest.mark.parametrize("producer", [Producer, OldProducer])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_dlpack(producer: Any, dtype: Any) -> None:
    matrix = np.arange(12).reshape(4, 3).astype(dtype)
    for x in (matrix, matrix.T, matrix[::2, 1:], matrix[:, 0]):
        v = view(producer(x), "x")
        assert v.struct.data == x.__array_interface__["data"][0]
        np.testing.assert_array_equal(contents(v), x.reshape(x.shape[0], -1).astype(np.float64))


def test_dlpack_refusals() -> None:
    x = np.ones((3, 2))
    with pytest.raises(TypeError, match=r"\.detach\(\)"):
        view(Producer(x, requires_grad=True), "A")
    with pytest.raises(TypeError, match=r"\.cpu\(\)"):
        view(Producer(x, device=2), "A")
    with pytest.raises(TypeError, match="int64"):
        view(Producer(np.ones((3, 2), dtype=np.int64)), "A")
    with pytest.raises(ValueError, match="3-D"):
        view(Producer(np.ones((3, 2, 1))), "A")

    class Broken(Producer):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("not today")

    with pytest.raises(TypeError, match="not today"):
        view(Broken(x), "A")

    class NoCapsule(Producer):
        def __dlpack__(self, **options: Any) -> Any:
            return 42

    with pytest.raises(TypeError, match="no DLPack capsule"):
        view(NoCapsule(x), "A")


_DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class BFloat16:
    """What torch.bfloat16 gives: DLPack type code 4, which NumPy has no name for; no strides, a byte offset."""

    def __init__(self, values: list[float]) -> None:
        from unmerge._arrays import _DLManagedTensor

        self.memory = np.array([0.0, *values], dtype=ml_dtypes.bfloat16)
        self.shape = (ctypes.c_int64 * 2)(len(values) // 2, 2)
        self.managed = _DLManagedTensor()
        t = self.managed.dl_tensor
        t.data, t.byte_offset = self.memory.__array_interface__["data"][0], 2
        t.device.device_type, t.ndim, t.shape = 1, 2, self.shape
        t.dtype.code, t.dtype.bits, t.dtype.lanes = 4, 16, 1
        self.released: list[bool] = []
        released = self.released
        self.destructor = _DESTRUCTOR(lambda _: released.append(True))

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, stream: object = None) -> Any:
        destructor = ctypes.cast(self.destructor, ctypes.c_void_p)
        return _new_capsule(ctypes.addressof(self.managed), b"dltensor", destructor)


def test_dlpack_bfloat16_and_release() -> None:
    producer = BFloat16([1.0, -2.0, 3.0, 4.0])
    released = producer.released
    v = view(producer, "x")
    assert v.dtype == "bfloat16" and v.shape == (2, 2)
    np.testing.assert_array_equal(contents(v), [[1, -2], [3, 4]])
    assert not released
    del v
    gc.collect()
    assert released == [True]


# ---------------------------------------------------------------- lifetimes


def test_owners_live_as_long_as_the_operator() -> None:
    class Owner(np.ndarray):
        pass

    x = np.ones((5, 2)).view(Owner)
    alive = weakref.ref(x)
    op = Operator.from_matrix(x)
    del x
    gc.collect()
    assert alive() is not None
    del op
    gc.collect()
    assert alive() is None


def test_columns_on_demand_keep_the_data() -> None:
    rng = np.random.default_rng(1)
    A = rng.standard_normal((300, 80))
    reference = weakref.ref(A)
    y = A[:, 3] * 2.0
    gram = Gram(A, y, columns="on_demand")
    assert gram.columns < 80
    del A
    gc.collect()
    assert reference() is not None
    gram.close()


def test_accumulator_takes_views() -> None:
    A = np.asfortranarray(np.random.default_rng(2).standard_normal((50, 4)).astype(np.float32))
    y = A[:, 1].copy()
    acc = Accumulator(4)
    acc.add(A[:20], y[:20])
    acc.add(A[20:], y[20:])
    whole = A.astype(np.float64)
    np.testing.assert_allclose(acc.gram().arrays().G, whole.T @ whole, rtol=1e-14, atol=1e-13)
