"""Models: what is learned from data and has a state.  Created, stepped, asked, saved and resumed.

    model = unmerge.NMFModel(X, k=8)               # a start; the data is not kept
    report = model.step(X, max_iter=100)           # n iterations in one call or in several leave the same bits
    W, H = model.components, model.codes
    model.save("nmf.unmerge")
    model = unmerge.load_model("nmf.unmerge")      # goes on as if nothing had happened
    codes, report = model.transform(new_data)
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import output, view
from ._files import write_atomically
from ._handle import Handle
from ._library import call, prepared
from ._options import integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_shape
from .report import Report, from_c, report_array

Matrix = npt.NDArray[np.float64]


class Model(Handle):
    """Base of the models.  Calls on one model from several threads queue."""

    _kind = "model"
    _cached: Any = None
    _code: int  # UNMERGE_MODEL_...
    _kinds: ClassVar[dict[int, type[Model]]] = {}

    def __init_subclass__(cls) -> None:
        Model._kinds[cls._code] = cls

    @property
    def rows(self) -> int:
        """p, of the data."""
        return int(self._shape().rows)

    @property
    def columns(self) -> int:
        """T, of the data the model was created for."""
        return int(self._shape().columns)

    @property
    def k(self) -> int:
        """Number of components."""
        return int(self._shape().components)

    @property
    def iterations(self) -> int:
        """Iterations of its whole life."""
        return int(self._info().iterations)

    @property
    def components(self) -> Matrix:
        """W (p x k), the dictionary."""
        return self._read("components", (self.rows, self.k))

    @property
    def codes(self) -> Matrix:
        """H (k x T), of the data it was stepped with."""
        return self._read("codes", (self.k, self.columns))

    def step(
        self,
        X: Any = None,
        *,
        max_iter: int = 1,
        tol: float = 1e-4,
        deadline: float = 0,
        threads: int = 0,
        progress: ProgressOption = None,
    ) -> Report:
        """At most ``max_iter`` more iterations on the data (p x T); fewer when the violation falls to ``tol``.

        Ctrl-C, the deadline and a true value from ``progress`` end between two iterations; the state is then that of the
        last one (Ctrl-C still raises ``KeyboardInterrupt``).
        """
        data = None if X is None else view(X, "x")
        reports = report_array(1)
        with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, progress=progress) as run:
            shape = (self.columns, self.columns) if data is None else data.shape
            run.call(
                "model_step",
                (self._handle, None if data is None else data.pointer),
                (reports,),
                predicted=max(max_iter, 1) * shape[0] * shape[1] * (self.k + 10) / 2e9,
            )
        return from_c(reports)[0]

    def fit(
        self,
        X: Any = None,
        *,
        max_iter: int = 500,
        tol: float = 1e-4,
        deadline: float = 0,
        threads: int = 0,
        progress: ProgressOption = None,
        callback: Callable[[Model, Report], Any] | None = None,
        every: int = 10,
    ) -> Report:
        """:meth:`step` until it converges or the iterations are used up.

        callback: called with the model and the report after every ``every`` iterations; a true value ends the fit.
        """
        if callback is None:
            return self.step(X, max_iter=max_iter, tol=tol, deadline=deadline, threads=threads, progress=progress)
        every, deadline = integer(every, "every"), real(deadline, "deadline")
        if every < 1:
            raise bad_range(f"every is {every}; it must be >= 1")
        start, done = time.monotonic(), 0
        while True:
            left = max(deadline - (time.monotonic() - start), 1e-9) if deadline > 0 else deadline
            report = self.step(
                X, max_iter=min(every, max_iter - done), tol=tol, deadline=left, threads=threads, progress=progress
            )
            done += report.iterations
            if callback(self, report) or report.outcome != "iteration limit" or done >= max_iter:
                return report

    def transform(
        self,
        X: Any,
        *,
        max_iter: int = 10000,
        tol: float = 1e-8,
        deadline: float = 0,
        threads: int = 0,
        progress: ProgressOption = None,
    ) -> tuple[Matrix, Report]:
        """Codes (k x columns of X) of any data for the dictionary as it is; the model does not change."""
        data = view(X, "x")
        found = np.zeros((self.k, data.shape[1]))
        reports = report_array(1)
        with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, progress=progress) as run:
            run.call(
                "model_transform", (self._handle, data.pointer), (output(found).pointer, reports), predicted=found.size / 1e5
            )
        return found, from_c(reports)[0]

    def to_bytes(self) -> bytes:
        """Versioned, little-endian bytes with a checksum."""
        size = ctypes.c_int64()
        call("model_saved_size", self._handle, ctypes.byref(size))
        buffer = bytearray(size.value)
        target = (ctypes.c_char * size.value).from_buffer(buffer)
        call("model_save", self._handle, ctypes.addressof(target), size.value)
        del target
        return bytes(buffer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file: a temporary file beside it, fsync, rename; the old file stays whole until then."""
        write_atomically(path, self.to_bytes())

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return model_from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._handle is None:
            return f"<unmerge.{name}, closed>"
        info = self._info()
        return f"<unmerge.{name}: {info.rows} x {info.columns}, k = {info.components}, {info.iterations} iterations>"

    def _shape(self) -> Any:
        if self._cached is None or self._handle is None:
            self._cached = self._info()
        return self._cached

    def _info(self) -> Any:
        info = prepared(_ffi.unmerge_model_info)
        call("model_get_info", self._handle, ctypes.byref(info))
        return info

    def _read(self, what: str, shape: tuple[int, int]) -> Matrix:
        found = np.zeros(shape)
        call(f"model_{what}", self._handle, output(found).pointer)
        return found


def model_from_bytes(data: bytes) -> Model:
    """A model from :meth:`Model.to_bytes`."""
    from . import factorisation, semi_nmf  # noqa: F401  (every kind must have been named once)

    handle = ctypes.c_void_p()
    call("model_load", ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), ctypes.byref(handle))
    model = Model.__new__(Model)
    model._own(handle)
    model.__class__ = Model._kinds[int(model._info().kind)]
    return model


def load_model(path: str | os.PathLike[str]) -> Model:
    """A model from a file :meth:`Model.save` wrote."""
    with open(path, "rb") as file:
        return model_from_bytes(file.read())


def start_views(W: Any, H: Any, p: int, k: int, columns: int) -> tuple[Any, Any]:
    """Views of a given start, both or neither, of the right shapes."""
    if (W is None) != (H is None):
        raise bad_shape(f"{'H' if W is not None else 'W'} is missing; give both W (p x k) and H (k x T), or neither")
    if W is None:
        return None, None
    w, h = view(W, "W", ndim=(2,)), view(H, "H", ndim=(2,))
    if w.shape != (p, k) or h.shape != (k, columns):
        raise bad_shape(f"W is {w.shape} and H is {h.shape}, expected {(p, k)} and {(k, columns)}")
    return w, h
