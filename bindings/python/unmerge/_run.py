"""One call into the library: its run options, its progress, and Ctrl-C.

Python handles a signal only when the main thread runs Python code, and a call into C may last minutes.  So a long call
made from the main thread runs in a worker thread while the main thread waits in slices of 50 ms; an interrupt sets the
cancel flag, which the library reads every few milliseconds, and is raised again once the library has let go of the
caller's arrays.  Calls from other threads (which get no signals) and calls predicted to be short are made directly.
"""

from __future__ import annotations

import _thread
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Union

from . import _ffi
from ._library import check, library, prepared
from ._options import INT32, INT64, UINT64, integer, real
from .errors import bad_type

SHORT = 0.020  # seconds; a thread costs a tenth of a millisecond, a pause of 20 ms goes unnoticed
SLICE = 0.050

_PHASES: dict[int, Literal["pass", "solve"]] = {_ffi.UNMERGE_PHASE_PASS: "pass", _ffi.UNMERGE_PHASE_SOLVE: "solve"}


@dataclass(frozen=True)
class Progress:
    """What a progress callable is given, about ten times a second.

    ``phase`` is "pass" (reading the data; ``done``/``total`` count entries of one column) or "solve" (iterating;
    ``done`` counts targets); ``objective`` and ``relative_gap`` are NaN in a pass.
    """

    phase: Literal["pass", "solve"]
    pass_number: int
    done: int
    total: int
    objective: float
    relative_gap: float

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


# A true return value cancels; so does an exception, which then comes out of the call.
ProgressCallable = Callable[[Progress], Any]
ProgressOption = Union[ProgressCallable, Literal["rich"], None]


class Run:
    """The run options of one public call, which may make several calls into the library (a data pass, then a method).

    The deadline counts from the creation of this object, over all of them.
    """

    def __init__(
        self,
        *,
        tol: float = 1e-10,
        max_iter: int = 10000,
        deadline: float = 0,
        threads: int = 0,
        seed: int = 0,
        progress: ProgressOption = None,
    ) -> None:
        self._start = time.monotonic()
        self._tol = real(tol, "tol")
        self._max_iter = integer(max_iter, "max_iter", INT64)
        self._deadline = real(deadline, "deadline")
        self._threads = integer(threads, "threads", INT32)
        self._seed = integer(seed, "seed", UINT64)
        self._bar: Any = None
        self.reporter: ProgressCallable | None
        if progress == "rich":
            self.reporter = self._rich
        elif progress is None or callable(progress):
            self.reporter = progress
        else:
            raise bad_type(f'progress is {progress!r}, expected a callable, "rich" or None')

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, value, tb)

    def _rich(self, progress: Progress) -> None:
        if self._bar is None:
            from ._terminal import ProgressBar

            self._bar = ProgressBar()
            self._bar.__enter__()
        self._bar(progress)

    def call(self, name: str, before: tuple[Any, ...], after: tuple[Any, ...], *, predicted: float) -> None:
        """``unmerge_<name>(*before, run, *after, error)``; ``predicted`` is a guess of its length in seconds."""
        on_main = threading.current_thread() is threading.main_thread()
        in_worker = on_main and (predicted >= SHORT or self.reporter is not None)
        call = _Call(getattr(library(), f"unmerge_{name}"), self._struct(), before, after)
        if self.reporter is not None:
            call.listen(self.reporter, direct=not in_worker)
        if in_worker:
            call.in_worker()
        else:
            call.work()
        call.finish()

    def _struct(self) -> Any:
        deadline = self._deadline
        if deadline > 0:  # what is left of it; 0 would mean none
            deadline = max(deadline - (time.monotonic() - self._start), 1e-9)
        return prepared(
            _ffi.unmerge_run,
            tol=self._tol,
            max_iter=self._max_iter,
            deadline=deadline,
            threads=self._threads,
            seed=self._seed,
        )


class _Call:
    def __init__(self, function: Any, run: Any, before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
        self.cancel = ctypes.c_int32(0)
        self.error = _ffi.unmerge_error()
        self.run = run
        self.run.cancel = ctypes.pointer(self.cancel)
        self.function = function
        self.arguments = (*before, ctypes.byref(run), *after, ctypes.byref(self.error))
        self.status: int = 0
        self.failure: BaseException | None = None
        self.callback: Any = None  # keeps the C callback alive
        self.report: ProgressCallable | None = None
        self.pending: deque[Progress] = deque()
        self.lock = threading.Lock()
        self.entered = False
        self.abandoned = False
        self.done = threading.Event()
        self.wake = threading.Event()

    def listen(self, report: ProgressCallable, *, direct: bool) -> None:
        """Deliver progress to ``report`` in the caller's thread: from the callback, or from the waiting main thread."""
        self.report = report

        def callback(_user: object, pointer: Any) -> int:
            # Nothing may be thrown through C: an exception is kept and cancels the call.
            try:
                p = pointer.contents
                phase = _PHASES.get(p.phase, "solve")
                self.pending.append(Progress(phase, p.pass_, p.done, p.total, p.objective, p.relative_gap))
                if direct:
                    self.deliver()
                else:
                    self.wake.set()
            except BaseException as error:  # noqa: BLE001
                self.failure = error
            return int(self.failure is not None or self.cancel.value != 0)

        self.callback = _ffi.unmerge_progress_fn(callback)
        self.run.progress = self.callback

    def deliver(self) -> None:
        while self.pending and self.report is not None:
            if self.report(self.pending.popleft()):
                self.cancel.value = 1

    def work(self) -> None:
        with self.lock:
            if self.abandoned:
                return
            self.entered = True
        try:
            self.status = self.function(*self.arguments)
        except BaseException as error:  # noqa: BLE001  (a wrong ctypes argument; raised by finish)
            self.failure = error
        finally:
            self.done.set()
            self.wake.set()

    def in_worker(self) -> None:
        try:
            _thread.start_new_thread(self.work, ())
            while not self.done.is_set():
                self.wake.wait(SLICE)
                self.wake.clear()
                self.deliver()
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Cancel, and wait until C no longer uses the caller's memory, however often Ctrl-C is pressed meanwhile."""
        while True:
            try:
                self.cancel.value = 1
                with self.lock:  # an interrupt may have come before the worker began: then it must not begin
                    self.abandoned = True
                    entered = self.entered
                while entered and not self.done.is_set():
                    self.done.wait(SLICE)
                return
            except KeyboardInterrupt:
                continue

    def finish(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.deliver()
        check(self.status, self.error)
