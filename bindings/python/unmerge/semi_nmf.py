"""Semi- and convex NMF of a collection, from its Gram: X (p x T) ~ X M H with M (T x k) and H (k x T) >= 0.

    M, H, report = unmerge.gram_nmf(X, k=4)

For collections whose columns are signed and long, task vectors say: what is computed lives in X'X, T x T, so that p costs one
pass.  The dictionary is W = X M and is not formed; ``X @ M`` does, for arrays that fit.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, Literal

import numpy as np

from . import _ffi
from ._arrays import output, view
from ._library import call, prepared
from ._options import boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_shape
from .gram import Gram
from .models import Matrix, Model
from .operator import Operator, as_operator
from .report import Report

Kind = Literal["semi", "convex"]
Init = Literal["auto", "random"]

KINDS = {"semi": _ffi.UNMERGE_GRAM_NMF_SEMI, "convex": _ffi.UNMERGE_GRAM_NMF_CONVEX}
INITS = {"auto": _ffi.UNMERGE_INIT_AUTO, "random": _ffi.UNMERGE_INIT_RANDOM}


class GramNMFModel(Model):
    """The factorisation as a model with state; data, options and formulas as in :func:`gram_nmf`.

    It keeps X'X, so it is stepped without data: ``model.step(max_iter=100)``.  ``components`` and ``transform`` would need X
    and raise; ``mixing`` is M, and the codes of new targets are
    ``unmerge.nnls(unmerge.Gram(X, y).transform(model.mixing))``.
    """

    _code = _ffi.UNMERGE_MODEL_GRAM_NMF

    def __init__(
        self,
        data: Any,
        *,
        k: int,
        kind: Kind = "semi",
        init: Init = "auto",
        H: Any = None,
        l1_h: float = 0,
        l2_h: float = 0,
    extrapolation: bool = True,
        seed: int = 0,
        threads: int = 0,
        deadline: float = 0,
        progress: ProgressOption = None,
    ) -> None:
        options = prepared(
            _ffi.unmerge_gram_nmf_options,
            components=integer(k, "k"),
            kind=choice(kind, "kind", KINDS),
            init=choice(init, "init", INITS) if H is None else _ffi.UNMERGE_INIT_GIVEN,
            l1_h=real(l1_h, "l1_h"),
            l2_h=real(l2_h, "l2_h"),
            extrapolation=boolean(extrapolation, "extrapolation"),
        )
        start = None if H is None else view(H, "H", ndim=(2,))
        if start is not None:
            options.h = ctypes.pointer(start.struct)
        handle = ctypes.c_void_p()
        with Run(seed=seed, threads=threads, deadline=deadline, progress=progress) as run:
            gram = data if isinstance(data, Gram) else _gram_of_columns(data, run)
            if start is not None and start.shape != (k, gram.atoms):
                raise bad_shape(f"H is {start.shape}, expected {(k, gram.atoms)}")
            run.call(
                "gram_nmf_create",
                (gram._handle, ctypes.byref(options)),
                (ctypes.byref(handle),),
                predicted=gram.atoms**3 / 1e9,
            )
        self._own(handle)

    @property
    def mixing(self) -> Matrix:
        """M (T x k): the components are X M."""
        found = np.zeros((self.columns, self.k))
        call("gram_nmf_mixing", self._handle, output(found).pointer)
        return found


def _gram_of_columns(data: Any, run: Run) -> Gram:
    """X'X with no target."""
    X = as_operator(data, "A")
    if X.modules == [""]:
        none: Any = np.empty((X.shape[0], 0))
    else:
        none = Operator()
        for name, (rows, cols) in zip(X.modules, X._sizes):
            none.add_module(name, rows, cols)
    gram = Gram.__new__(Gram)
    gram._create(X, none, run, blocks="one")
    return gram


def gram_nmf(
    data: Any,
    *,
    k: int,
    kind: Kind = "semi",
    init: Init = "auto",
    H: Any = None,
    l1_h: float = 0,
    l2_h: float = 0,
    extrapolation: bool = True,
    tol: float = 1e-6,
    max_iter: int = 1000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> tuple[Matrix, Matrix, Report]:
    """Minimise over M (T x k) and H (k x T) >= 0

        1/2 ||X - X M H||^2 + l1_h sum H + l2_h/2 ||H||^2

    Parameters
    ----------
    data : X as a p x T array or an Operator with T columns (one pass is made), or a Gram whose atoms are the columns of X.
    k : components, 1 to T.
    kind : "semi", M of any sign; "convex", M >= 0, so that every component is a sum of columns with readable weights.
    init : "auto" (semi: parts of the leading eigenvectors of X'X; convex: the columns that stand out most) or "random" (from
        ``seed``); or H itself (k x T, >= 0).
    l1_h, l2_h : >= 0; with either ||X m_l|| <= 1 is a constraint, without ||X m_l|| = 1 is how M and H are scaled.
    extrapolation : M answers to H moved on along its last step, restarted when that would not descend.
    tol : ends when the violation, the gradient that is left in units of ||X||, falls to it.

    Returns
    -------
    M (T x k), H (k x T), report : ``report.rss`` is ||X - X M H||^2, ``report.yy`` is ||X||^2.

    The answer is a stationary point, not the global minimum for certain: compare a few seeds.

    Ding, Li & Jordan 2010 (semi- and convex NMF); Kim & Park 2011 (H by block pivoting).
    """
    start = time.monotonic()
    model = GramNMFModel(
        data, k=k, kind=kind, init=init, H=H, l1_h=l1_h, l2_h=l2_h, extrapolation=extrapolation,
        seed=seed, threads=threads, deadline=deadline, progress=progress,
    )  # fmt: skip
    # One clock over the pass, the start and the steps.
    left = max(deadline - (time.monotonic() - start), 1e-9) if deadline > 0 else deadline
    with model:
        report = model.fit(max_iter=max_iter, tol=tol, deadline=left, threads=threads, progress=progress)
        return model.mixing, model.codes, report
