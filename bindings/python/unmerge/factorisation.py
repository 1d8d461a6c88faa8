"""Non-negative matrix factorisation: X (p x T) ~ W (p x k) H (k x T), W >= 0, H >= 0.

    W, H, report = unmerge.nmf(X, k=8)

In the rest of the library's terms W is a dictionary that is learned, with its atoms in the columns, and H holds the codes of
the T targets.  For data with samples in the rows pass ``X.T``, which costs nothing; the names swap with it.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, Literal

from . import _ffi
from ._arrays import view
from ._library import prepared
from ._options import boolean, choice, integer, real
from ._run import ProgressOption, Run
from .models import Matrix, Model, start_views
from .report import Report

Algorithm = Literal["hals", "anls", "mu", "projected"]
Loss = Literal["frobenius", "kl"]
Init = Literal["auto", "random", "nndsvd", "nndsvda"]
Unit = Literal["auto", "none", "w", "h"]
SparsityMode = Literal["average", "each"]

ALGORITHMS = {
    "hals": _ffi.UNMERGE_NMF_HALS,
    "anls": _ffi.UNMERGE_NMF_ANLS,
    "mu": _ffi.UNMERGE_NMF_MU,
    "projected": _ffi.UNMERGE_NMF_PROJECTED,
}
LOSSES = {"frobenius": _ffi.UNMERGE_LOSS_FROBENIUS, "kl": _ffi.UNMERGE_LOSS_KL}
INITS = {
    "auto": _ffi.UNMERGE_INIT_AUTO,
    "random": _ffi.UNMERGE_INIT_RANDOM,
    "nndsvd": _ffi.UNMERGE_INIT_NNDSVD,
    "nndsvda": _ffi.UNMERGE_INIT_NNDSVDA,
}
UNITS = {
    "auto": _ffi.UNMERGE_UNIT_AUTO,
    "none": _ffi.UNMERGE_UNIT_NONE,
    "w": _ffi.UNMERGE_UNIT_W,
    "h": _ffi.UNMERGE_UNIT_H,
}
MODES = {"average": _ffi.UNMERGE_SPARSITY_AVERAGE, "each": _ffi.UNMERGE_SPARSITY_EACH}


class NMFModel(Model):
    """A factorisation as a model with state; options and formulas as in :func:`nmf`.  Reads X for the start only."""

    _code = _ffi.UNMERGE_MODEL_NMF

    def __init__(
        self,
        X: Any,
        *,
        k: int,
        algorithm: Algorithm = "hals",
        loss: Loss = "frobenius",
        init: Init = "auto",
        W: Any = None,
        H: Any = None,
        l1_w: float = 0,
        l2_w: float = 0,
        group_w: float = 0,
        l1_h: float = 0,
        l2_h: float = 0,
        group_h: float = 0,
        unit: Unit = "auto",
        sparsity_w: float = 0,
        sparsity_h: float = 0,
        sparsity_mode: SparsityMode = "average",
        nonnegative_w: bool = True,
        missing: bool = False,
        extrapolation: bool = True,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        data = view(X, "x", ndim=(2,))
        k = integer(k, "k")
        w, h = start_views(W, H, data.shape[0], k, data.shape[1])
        options = prepared(
            _ffi.unmerge_nmf_options,
            components=k,
            algorithm=choice(algorithm, "algorithm", ALGORITHMS),
            loss=choice(loss, "loss", LOSSES),
            init=choice(init, "init", INITS) if w is None else _ffi.UNMERGE_INIT_GIVEN,
            unit=choice(unit, "unit", UNITS),
            l1_w=real(l1_w, "l1_w"),
            l2_w=real(l2_w, "l2_w"),
            group_w=real(group_w, "group_w"),
            l1_h=real(l1_h, "l1_h"),
            l2_h=real(l2_h, "l2_h"),
            group_h=real(group_h, "group_h"),
            sparsity_w=real(sparsity_w, "sparsity_w"),
            sparsity_h=real(sparsity_h, "sparsity_h"),
            sparsity_mode=choice(sparsity_mode, "sparsity_mode", MODES),
            nonnegative_w=boolean(nonnegative_w, "nonnegative_w"),
            missing=boolean(missing, "missing"),
            extrapolation=boolean(extrapolation, "extrapolation"),
        )
        if w is not None:
            options.w, options.h = ctypes.pointer(w.struct), ctypes.pointer(h.struct)
        handle = ctypes.c_void_p()
        with Run(seed=seed, threads=threads) as run:
            run.call(
                "nmf_create",
                (data.pointer, ctypes.byref(options)),
                (ctypes.byref(handle),),
                predicted=data.shape[0] * data.shape[1] * (k + 10) / 1e9,
            )
        self._own(handle)


class OnlineNMFModel(Model):
    """A factorisation of a stream, in memory that does not depend on its length.

    Minimises over W (p x k) >= 0 the sum over the columns x of min over h >= 0 of 1/2 ||x - Wh||^2 + l1_h sum h + l2_h/2
    ||h||^2.  ``step(X, max_iter=n)`` takes n batches of ``batch`` columns in order, from where the last call ended, round and
    round; or give each batch to a call of its own.  The past counts with (1 - 1/t)^decay at the t-th batch.  With a penalty the
    columns of W have norm at most 1.  X is read for the start only.  Codes are not kept: :meth:`transform` gives them.

    The report's objective, rss and yy are of the batches of that call, each with the W of before it.

    Mairal, Bach, Ponce & Sapiro 2010.
    """

    _code = _ffi.UNMERGE_MODEL_ONLINE_NMF

    def __init__(
        self,
        X: Any,
        *,
        k: int,
        batch: int = 256,
        decay: float = 2,
        l1_h: float = 0,
        l2_h: float = 0,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        data = view(X, "x", ndim=(2,))
        options = prepared(
            _ffi.unmerge_online_nmf_options,
            components=integer(k, "k"),
            batch=integer(batch, "batch"),
            decay=real(decay, "decay"),
            l1_h=real(l1_h, "l1_h"),
            l2_h=real(l2_h, "l2_h"),
        )
        handle = ctypes.c_void_p()
        with Run(seed=seed, threads=threads) as run:
            run.call(
                "online_nmf_create",
                (data.pointer, ctypes.byref(options)),
                (ctypes.byref(handle),),
                predicted=data.shape[0] * data.shape[1] * (k + 10) / 1e9,
            )
        self._own(handle)


def nmf(
    X: Any,
    *,
    k: int,
    algorithm: Algorithm = "hals",
    loss: Loss = "frobenius",
    init: Init = "auto",
    W: Any = None,
    H: Any = None,
    l1_w: float = 0,
    l2_w: float = 0,
    group_w: float = 0,
    l1_h: float = 0,
    l2_h: float = 0,
    group_h: float = 0,
    unit: Unit = "auto",
    sparsity_w: float = 0,
    sparsity_h: float = 0,
    sparsity_mode: SparsityMode = "average",
    nonnegative_w: bool = True,
    missing: bool = False,
    extrapolation: bool = True,
    tol: float = 1e-4,
    max_iter: int = 500,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Matrix, Matrix, Report]:
    """Minimise over W (p x k) >= 0, H (k x T) >= 0

        D(X, WH) + l1_w sum W + l2_w/2 ||W||^2 + group_w/2 sum_i (sum_l W_il)^2 + the same of H, by its columns

    Parameters
    ----------
    X : p x T, float64, float32, float16 or bfloat16, any strides; >= 0 unless ``nonnegative_w`` is False.  Read in place.
    loss : "frobenius", D = 1/2 ||X - WH||^2, or "kl", the Kullback-Leibler divergence sum x log(x/wh) - x + wh (then
        ``algorithm="mu"``).
    algorithm : "hals" (extrapolated coordinate descent, never ascends), "anls" (exact alternating least squares
        by block pivoting; with group_h and l2_w Kim & Park's SNMF/R, with group_w and l2_h SNMF/L), "mu" (multiplicative
        updates), "projected" (for factors held at a sparsity).
    init : "nndsvd", "nndsvda" (zeros replaced by the mean), "random", "auto"; or W and H themselves.
    unit : the factor whose vectors (columns of W, rows of H) have norm at most 1; "auto": the one without penalty where the
        other has one, since the scale would run into it.
    sparsity_w, sparsity_h : Hoyer sparsity in [0, 1) held by the columns of W, the rows of H: (sqrt n - ||x||_1/||x||_2) /
        (sqrt n - 1), on average or each; 0 = not held.  It is not the share of zeros.
    nonnegative_w : False: semi-NMF, W signed.
    missing : True: a NaN in X is an entry that is not there.
    tol : ends when the violation, the step a projected gradient would still make in units of ||X||, falls to it.

    Returns
    -------
    W (p x k), H (k x T), report : rss and yy are ||X - WH||^2 and ||X||^2, computed from the data at the end.

    Gillis & Glineur 2012; Ang & Gillis 2019; Kim & Park 2008, 2011; Lee & Seung 2001; Ohib et al. 2022 (group sparse).
    """
    start = time.monotonic()
    model = NMFModel(
        X, k=k, algorithm=algorithm, loss=loss, init=init, W=W, H=H, l1_w=l1_w, l2_w=l2_w, group_w=group_w,
        l1_h=l1_h, l2_h=l2_h, group_h=group_h, unit=unit, sparsity_w=sparsity_w, sparsity_h=sparsity_h,
        sparsity_mode=sparsity_mode, nonnegative_w=nonnegative_w, missing=missing, extrapolation=extrapolation,
        seed=seed, threads=threads,
    )  # fmt: skip
    left = max(deadline - (time.monotonic() - start), 1e-9) if deadline > 0 else deadline
    with model:
        report = model.fit(X, max_iter=max_iter, tol=tol, deadline=left, threads=threads, progress=progress)
        return model.components, model.codes, report
