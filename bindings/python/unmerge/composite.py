"""Composite problems, where no method of its own fits: sums of penalties and sets, on w or on K w.

``coef, report = unmerge.minimise(data, terms=[…])``; data and run options as in :mod:`unmerge.methods`, terms in
:mod:`unmerge.terms`.  :class:`Consensus` does the same over machines that hold different rows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, numbers, output, view
from ._library import call, prepared
from ._options import INT64, boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_shape, bad_type
from .gram import Gram, pass_seconds
from .methods import Coef, Data, Reports, _gram, _seconds
from .operator import Operator, as_operator
from .report import from_c, report_array
from .terms import Term

ENGINES = {"auto": _ffi.UNMERGE_ENGINE_AUTO, "admm": _ffi.UNMERGE_ENGINE_ADMM, "fista": _ffi.UNMERGE_ENGINE_FISTA}


def _terms(terms: Any) -> list[Term]:
    found = [terms] if isinstance(terms, Term) else list(terms) if isinstance(terms, Iterable) else None
    if found is None:
        raise bad_type(f"terms is a {type(terms).__name__}, expected a list of unmerge.terms")
    for i, term in enumerate(found):
        if not isinstance(term, Term):
            raise bad_type(f"terms[{i}] is a {type(term).__name__}, expected one of unmerge.terms, for example L1(alpha)")
    return found


def minimise(
    data: Data,
    *,
    terms: Any = (),
    linear: Any = None,
    engine: str = "auto",
    rho: float = 0.0,
    relaxation: float = 1.6,
    polish: bool = True,
    start: Any = None,
    stream: bool = False,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Coef, Reports]:
    """min 1/2 ||Aw-y||^2 + linear'w + sum_i g_i(K_i w), g_i convex: one :mod:`unmerge.terms` each.

    terms: a term or a list.  linear: n numbers.  engine: "admm" ("auto" is that), or "fista" for terms on disjoint atoms
    without matrix.  rho: ADMM's penalty in units of ||a||^2, > 0 fixes it; 0 adapts it.  relaxation in [1, 1.8].  polish:
    Newton on the face that the iteration has found.

    stream: without a Gram, by passes over the data, for a pair (A, y) or an Operator with a target: O(n) numbers where the Gram has
    n^2.  "auto" is then "fista" where that can be; where all terms are norms ``duality_gap`` is known, and ends it too.

    The report's ``primal`` and ``dual`` are the relative residuals of K w = z and of stationarity; ``violation``, the larger
    one, is what ``tol`` is about.  Raises :class:`Infeasible` where the sets have no point in common.

    Boyd, Parikh, Chu, Peleato & Eckstein 2011; O'Donoghue & Candès 2015 (restart); Li, Sun & Toh 2018 (Newton on the prox).
    """
    chosen = _terms(terms)
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        options = prepared(
            _ffi.unmerge_composite_options,
            rho=real(rho, "rho"),
            relaxation=real(relaxation, "relaxation"),
            engine=choice(engine, "engine", ENGINES),
            polish=boolean(polish, "polish"),
        )
        source = _streamed(data) if boolean(stream, "stream") else _gram(data, run, "all")
        n, targets, vector = source.atoms, source.targets, source._vector
        tilt = None if linear is None else numbers(linear, "linear", (n,))
        options.linear = doubles(tilt)
        array = (_ffi.unmerge_term * max(len(chosen), 1))()
        failures: list[BaseException] = []
        keep = []
        for i, term in enumerate(chosen):
            array[i] = prepared(_ffi.unmerge_term)
            keep.append(term._write(array[i], n, f"terms[{i}]", failures))
        if start is None:
            coef = np.zeros((n, targets))
        else:
            coef = numbers(start, "start", (n,) if vector else (n, targets)).reshape(n, targets)
            options.warm_start = 1
        residuals = np.full((targets, 2), np.nan)
        reports = report_array(targets)
        try:
            name = "composite_operator" if isinstance(source, _Streamed) else "composite"
            handles = source.handles if isinstance(source, _Streamed) else (source._handle,)
            run.call(
                name,
                (*handles, array, len(chosen), ctypes.byref(options)),
                (output(coef).pointer, doubles(residuals.reshape(-1)), reports),
                predicted=source.seconds if isinstance(source, _Streamed) else _seconds(source, targets),
            )
        except Exception:
            if failures:
                raise failures[0] from None
            raise
        del keep
        found = [
            replace(report, primal=float(r[0]), dual=float(r[1])) for report, r in zip(from_c(reports), residuals)
        ]
        return (coef[:, 0], found[0]) if vector else (coef, found)


class _Streamed:
    """Atoms and targets that are read pass by pass."""

    def __init__(self, a: Operator, y: Operator) -> None:
        self.a, self.y = a, y
        self.handles = (a._handle, y._handle)
        self.atoms, self.targets = a.shape[1], y.shape[1]
        self._vector = y.is_vector and self.targets == 1
        self.seconds = 100 * pass_seconds(a, y)


def _streamed(data: Any) -> _Streamed:
    if isinstance(data, Operator) and data._target is not None:
        data = (data, data._target)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise bad_type(f"data is a {type(data).__name__}, and stream is True: it must be a pair (A, y) or an Operator with a target")
    return _Streamed(as_operator(data[0], "A"), as_operator(data[1], "y"))


class Consensus:
    """The same problem over row blocks that stay where they are: several machines agree on w.

    Machine b holds the Gram of its rows and calls :meth:`local`, which gives n x T numbers; whoever collects them calls
    :meth:`agree` with all of them and sends z back.  In one process :meth:`solve` plays all parts.

        x_b = argmin 1/2 ||A_b x - y_b||^2 + rho/2 ||x - z + u_b||^2
        z   = argmin sum_i g_i(K_i z) + rho/2 sum_b ||x_b + u_b - z||^2
        u_b = u_b + x_b - z

    Where n x n numbers may be sent, adding the Grams (``gram_1 + gram_2``) gives the answer at once.  Boyd et al. 2011, ch. 7.
    """

    def __init__(self, blocks: int, *, rho: float, terms: Any = (), linear: Any = None) -> None:
        self.blocks = integer(blocks, "blocks", INT64)
        if self.blocks < 1:
            raise bad_range(f"blocks is {self.blocks}; it must be >= 1")
        self.rho = real(rho, "rho")
        if not 0 < self.rho < np.inf:
            raise bad_range(f"rho is {self.rho}; it must be finite and > 0")
        self.terms = _terms(terms)
        self.linear = linear

    def local(self, gram: Gram, z: Any, u: Any) -> Coef:
        """What one machine answers; z and u as long as w (n x T for several targets)."""
        n, targets = gram.atoms, gram.targets
        shape = (n,) if gram._vector else (n, targets)
        zs, us = (numbers(v, name, shape).reshape(n, targets) for v, name in ((z, "z"), (u, "u")))
        x = np.zeros((n, targets))
        call("consensus_step", gram._handle, self.rho, view(zs, "z").pointer, view(us, "u").pointer, output(x).pointer)
        return x.reshape(shape)

    def agree(self, sums: Sequence[Any], *, start: Any = None, tol: float = 1e-12) -> Coef:
        """z, from x_b + u_b of every machine."""
        if len(sums) != self.blocks:
            raise bad_shape(f"sums has {len(sums)} entries, expected {self.blocks}: one per block")
        total = np.sum([np.asarray(s, dtype=np.float64) for s in sums], axis=0)
        n = len(total)
        weight = self.blocks * self.rho
        c = self.rho * total
        gram = Gram.from_arrays(weight * np.eye(n), c, np.sum(c * c, axis=0) / weight, n)
        z, _ = minimise(gram, terms=self.terms, linear=self.linear, start=start, tol=tol)
        return z

    def solve(
        self,
        grams: Sequence[Gram],
        *,
        tol: float = 1e-10,
        max_iter: int = 10000,
        watch: Callable[[int, float, float], Any] | None = None,
    ) -> tuple[Coef, int]:
        """All machines in one process: (w, rounds).

        Ends when the x_b agree with z and z stands still, both to ``tol`` of the norm of the largest, or after ``max_iter``
        rounds.  watch(round, primal, dual) is told after every round; a true answer ends it.
        """
        if len(grams) != self.blocks:
            raise bad_shape(f"grams has {len(grams)} entries, expected {self.blocks}: one per block")
        shape: tuple[int, ...] = (grams[0].atoms,) if grams[0]._vector else (grams[0].atoms, grams[0].targets)
        z: npt.NDArray[np.float64] = np.zeros(shape)
        u = [np.zeros(shape) for _ in grams]
        rounds = 0
        while rounds < max_iter:
            rounds += 1
            x = [self.local(gram, z, ub) for gram, ub in zip(grams, u)]
            before, z = z, self.agree([xb + ub for xb, ub in zip(x, u)], start=z)
            u = [ub + xb - z for xb, ub in zip(x, u)]
            size = max(float(np.linalg.norm(z)), max(float(np.linalg.norm(xb)) for xb in x), 1e-300)
            primal = max(float(np.linalg.norm(xb - z)) for xb in x) / size
            dual = float(np.linalg.norm(z - before)) / size
            if (watch is not None and watch(rounds, primal, dual)) or max(primal, dual) <= tol:
                break
        return z, rounds
