"""Arrays in place: pointer, element type, shape and byte strides of whatever the caller has, without a copy.

Taken as they are, in any memory layout (C, Fortran, sliced, reversed, broadcast, unaligned, memory-mapped):

* NumPy arrays of float64, float32, float16, and bfloat16 (the dtype of the package ml_dtypes);
* anything with ``__dlpack__`` whose memory the CPU can read (PyTorch, JAX, …); the capsule is read here and not by
  NumPy, because NumPy has no bfloat16 of its own;
* anything else with ``__array_interface__`` or a buffer.

Everything that could only be read after a conversion is refused with the conversion to write: a copy of a model is
never made behind the caller's back.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ffi
from .errors import bad_shape, bad_type

CODES = {
    "float64": _ffi.UNMERGE_F64,
    "float32": _ffi.UNMERGE_F32,
    "float16": _ffi.UNMERGE_F16,
    "bfloat16": _ffi.UNMERGE_BF16,
}
SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class View:
    """A 2-D view for the library, with everything that must stay alive while C has the pointer."""

    struct: _ffi.unmerge_view
    owner: object
    ndim: int  # of the caller's array: 1 or 2
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.struct.shape[0]), int(self.struct.shape[1])

    @property
    def pointer(self) -> Any:
        return ctypes.byref(self.struct)

    def transposed(self) -> View:
        """The same memory, rows and columns exchanged."""
        s = self.struct
        return _view(s.data, self.dtype, (s.shape[1], s.shape[0]), (s.strides[1], s.strides[0]), self.owner, 2)


def view(x: Any, name: str, *, ndim: tuple[int, ...] = (1, 2)) -> View:
    """``x`` as a view; a vector of length p becomes p x 1.  ``name`` is what error messages call it.

    Raises ``TypeError`` for what cannot be read in place, ``ValueError`` for the wrong number of dimensions.
    """
    if isinstance(x, View):
        found = x
    elif isinstance(x, np.ndarray):
        found = _from_numpy(x, name)
    elif hasattr(x, "__dlpack__"):
        found = _from_dlpack(x, name)
    elif hasattr(x, "__array_interface__") or _has_buffer(x):
        # For these two protocols asarray is defined to share the memory.
        found = _from_numpy(np.asarray(x if hasattr(x, "__array_interface__") else memoryview(x)), name)
    else:
        raise bad_type(
            f"{name} is a {type(x).__name__}, which is not an array in memory; "
            f"{_remedy(x)} gives one that can be read in place"
        )
    if found.ndim not in ndim:
        wanted = " or ".join(f"{n}-D" for n in ndim)
        raise bad_shape(f"{name} is {found.ndim}-D, expected {wanted}")
    return found


def output(array: npt.NDArray[np.float64]) -> View:
    """The view of an array the library writes to."""
    return _from_numpy(array, "output")


def _from_numpy(x: npt.NDArray[Any], name: str) -> View:
    if isinstance(x, np.ma.MaskedArray):
        raise bad_type(f"{name} is a masked array, whose mask would be ignored; use {name}.filled(0) or select the rows")
    dtype = x.dtype.name
    if dtype not in CODES:
        raise bad_type(_dtype_refusal(name, dtype, x.dtype))
    if not x.dtype.isnative:
        raise bad_type(
            f"{name} is {dtype} in the other byte order ({x.dtype.str!r}); use {name}.astype(np.{dtype}), "
            "which makes a copy in the byte order of this machine"
        )
    if x.ndim not in (1, 2):
        raise bad_shape(f"{name} is {x.ndim}-D, expected 1-D or 2-D; use {name}.reshape(len({name}), -1)")
    address = x.__array_interface__["data"][0]
    return _view(address, dtype, x.shape, x.strides, x, x.ndim)


def _dtype_refusal(name: str, dtype: str, descr: np.dtype[Any]) -> str:
    if descr.kind == "c":
        return f"{name} is {dtype}; the library is for real numbers: pass {name}.real, or stack real and imaginary rows"
    if descr.kind == "O":
        return f"{name} holds Python objects; use {name}.astype(np.float64), which makes an array of numbers"
    if dtype == "void16":  # bfloat16 and its relatives are void to NumPy as well, but have names
        return (
            f"{name} has the type {descr.str!r} without a meaning; if it is bfloat16, use "
            f"{name}.view(ml_dtypes.bfloat16), which makes no copy"
        )
    wanted = "float64, float32, float16 or bfloat16"
    return f"{name} is {dtype}, expected {wanted}; use {name}.astype(np.float64), which makes a copy"


def _view(
    data: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], owner: object, ndim: int
) -> View:
    if len(shape) == 1:
        shape, strides = (shape[0], 1), (strides[0], SIZES[dtype])
    struct = _ffi.unmerge_view()
    struct.data = data
    struct.dtype = CODES[dtype]
    struct.shape[:] = shape
    struct.strides[:] = strides
    return View(struct, owner, ndim, dtype)


def _has_buffer(x: Any) -> bool:
    try:
        memoryview(x)
    except TypeError:
        return False
    return True


def _remedy(x: Any) -> str:
    if hasattr(x, "toarray"):
        return ".toarray()"  # scipy.sparse
    if hasattr(x, "to_numpy"):
        return ".to_numpy()"  # pandas, polars
    return "np.asarray(x, dtype=np.float64)"


# ---------------------------------------------------------------- DLPack
#
# The layout of the two capsules is fixed by https://dmlc.github.io/dlpack/latest/c_api.html.


class _DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [("dl_tensor", _DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", _DLTensor),
    ]


_IS_COPIED = 2  # DLPACK_FLAG_BITMASK_IS_COPIED
_READABLE_DEVICES = (1, 3)  # kDLCPU, kDLCUDAHost (pinned memory)
_DLPACK_TYPES = {(2, 64): "float64", (2, 32): "float32", (2, 16): "float16", (4, 16): "bfloat16"}
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}

_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _from_dlpack(x: Any, name: str) -> View:
    if getattr(x, "requires_grad", False):
        raise bad_type(f"{name} is a tensor that requires grad; pass {name}.detach()")
    try:
        device = int(x.__dlpack_device__()[0]) if hasattr(x, "__dlpack_device__") else 1
        capsule = _capsule(x) if device in _READABLE_DEVICES else None
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise bad_type(f"{name} does not let its memory be read through DLPack: {error}") from error
    if device not in _READABLE_DEVICES:
        raise bad_type(f"{name} is on a device the CPU cannot read (DLPack device type {device}); pass {name}.cpu()")

    copied = False
    if _is_valid(capsule, b"dltensor_versioned"):
        versioned = _DLManagedTensorVersioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
        if versioned.major > 1:
            raise bad_type(f"{name} comes as DLPack {versioned.major}.x; this library reads 0.x and 1.x")
        tensor, copied = versioned.dl_tensor, bool(versioned.flags & _IS_COPIED)
    elif _is_valid(capsule, b"dltensor"):
        tensor = _DLManagedTensor.from_address(_get_pointer(capsule, b"dltensor")).dl_tensor
    else:
        raise bad_type(f"{name}.__dlpack__() gave no DLPack capsule")
    if copied:
        raise bad_type(f"{name} can only be read through DLPack as a copy; copy it to a NumPy array yourself")
    if tensor.device.device_type not in _READABLE_DEVICES:
        raise bad_type(f"{name} is on a device the CPU cannot read; pass {name}.cpu()")

    kind, bits = tensor.dtype.code, tensor.dtype.bits
    dtype = _DLPACK_TYPES.get((kind, bits)) if tensor.dtype.lanes == 1 else None
    if dtype is None:
        came = f"{_DLPACK_KINDS.get(kind, f'DLPack type {kind} of ')}{bits}"
        raise bad_type(
            f"{name} is {came}, expected float64, float32, float16 or bfloat16; convert it first "
            f"({name}.double() in PyTorch), which makes a copy"
        )
    ndim = int(tensor.ndim)
    if ndim not in (1, 2):
        raise bad_shape(f"{name} is {ndim}-D, expected 1-D or 2-D")
    shape = tuple(int(tensor.shape[i]) for i in range(ndim))
    size = SIZES[dtype]
    if tensor.strides:
        strides = tuple(int(tensor.strides[i]) * size for i in range(ndim))
    else:  # no strides means compact, row-major
        strides = (size,) if ndim == 1 else (shape[1] * size, size)
    # The capsule is kept as it is: its own destructor calls the producer's deleter when the view goes.
    return _view((tensor.data or 0) + tensor.byte_offset, dtype, shape, strides, (x, capsule), ndim)


def _capsule(x: Any) -> object:
    try:
        return x.__dlpack__(max_version=(1, 0))  # 1.0 can carry read-only arrays
    except TypeError:  # a producer from before max_version
        return x.__dlpack__()


# ---------------------------------------------------------------- small numbers: coefficients, penalties, grids


def numbers(x: Any, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
    """Coefficients, penalty weights or alphas as a fresh contiguous float64 array.

    These are n numbers, not p: here converting integers or lists is a convenience, not a hidden cost.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise bad_type(f"{name} is {array.dtype.name}, expected real numbers")
    array = np.array(array, dtype=np.float64, order="C")
    if shape is not None and array.shape != shape:
        raise bad_shape(f"{name} is {_shape(array.shape)}, expected {_shape(shape)}")
    return array


def doubles(array: npt.NDArray[np.float64] | None) -> Any:
    """The pointer of a contiguous float64 array, or NULL."""
    if array is None:
        return None
    return ctypes.cast(array.__array_interface__["data"][0], ctypes.POINTER(ctypes.c_double))


def integers(array: npt.NDArray[np.int64] | None) -> Any:
    """The pointer of a contiguous int64 array, or NULL."""
    if array is None:
        return None
    return ctypes.cast(array.__array_interface__["data"][0], ctypes.POINTER(ctypes.c_int64))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) if shape else "a single number"
