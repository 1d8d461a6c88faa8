"""Bayesian selection: how probable is each atom, from the Gram alone.

    found = unmerge.spike_slab(gram)              # exact, up to 20 atoms
    found = unmerge.variational_garrote(gram)     # an approximation, any number of atoms
    found = unmerge.sparse_bayes(gram)            # automatic relevance determination
    print(found)                                  # atoms, probabilities, weights
    found.inclusion, found.coef

``data`` and the run options are as in :func:`unmerge.lasso`.  ``effective`` is q, how many independent entries the p of a
model are worth (None = all): likelihoods are to the power q / p.  With q = p = 10^6 every probability is 0 or 1; rows of
tensors, or tensors, are counts to try.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _ffi
from ._arrays import doubles, integers, numbers, output
from ._library import prepared
from ._options import boolean, choice, integer, real
from ._run import ProgressOption, Run
from .errors import bad_range, bad_shape
from .gram import Gram
from .methods import Coef, Data, _seconds
from .report import Report, from_c, report_array
from .selection import folded, table

ALGORITHMS = {"fast": _ffi.UNMERGE_EVIDENCE_FAST, "em": _ffi.UNMERGE_EVIDENCE_EM}
SHOWN = 10  # atoms of a printed table beyond those inside


@dataclass(frozen=True)
class VariationalGarrote:
    """What :func:`variational_garrote` found; ``print`` it.

    coef : m w, the expected coefficients.  inclusion : m, the probability of each atom.  weights : w, of an atom if inside.
    free_energy : a bound on -log P(y), in nats.  expected : sum of m.  entropy : mean entropy of the s_j, in [0, ln 2].
    sigma2 : variance of an entry's error.  selected : atoms with m > 1/2.
    """

    coef: Coef
    inclusion: Coef
    weights: Coef
    gamma: float
    free_energy: float
    sigma2: float
    expected: float
    entropy: float
    report: Report

    @property
    def selected(self) -> list[int]:
        """Atoms with m > 1/2."""
        return [int(j) for j in np.flatnonzero(self.inclusion > 0.5)]

    def __str__(self) -> str:
        head = f"{self.expected:.4g} atoms expected, {len(self.selected)} with m > 1/2; free energy {self.free_energy:.6g}, gamma {self.gamma:g}"
        return f"{head}\n{_atoms(self.inclusion, self.coef, ('weight if inside', self.weights))}"


def variational_garrote(
    data: Data,
    *,
    gamma: float = -3.0,
    sigma2: float | None = None,
    effective: float | None = None,
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> VariationalGarrote:
    """Variational Garrote: y = sum s_j w_j a_j + noise, s_j in {0, 1}, P(s_j = 1) = 1 / (1 + e^-gamma).

    q(s) = prod q_j(s_j), q_j(1) = m_j; m, w and sigma2 make the free energy of ``unmerge.h`` stationary.  gamma: finite; -3 is
    five atoms in a hundred.  sigma2: > 0, variance of an entry's error, or None: found.  effective: q > 0, None = all
    entries.  Of the minima found with gamma rising and with all atoms to begin with the lower; ``report.violation`` is the
    largest error of the equations for m.  Kappen & Gomez 2014.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _one(data, run)
        n = gram.atoms
        options = prepared(
            _ffi.unmerge_garrote_options,
            gamma=real(gamma, "gamma"),
            sigma2=_positive(sigma2, "sigma2"),
            effective=_positive(effective, "effective"),
            target=integer(target, "target"),
        )
        coef, inclusion, weights = np.zeros(n), np.zeros(n), np.zeros(n)
        result, report = prepared(_ffi.unmerge_garrote_result), report_array(1)
        run.call(
            "variational_garrote",
            (gram._handle, ctypes.byref(options)),
            (doubles(coef), doubles(inclusion), doubles(weights), ctypes.byref(result), report),
            predicted=_seconds(gram, 50),
        )
    return VariationalGarrote(
        coef=coef,
        inclusion=inclusion,
        weights=weights,
        gamma=result.gamma,
        free_energy=result.free_energy,
        sigma2=result.sigma2,
        expected=result.expected,
        entropy=result.entropy,
        report=from_c(report)[0],
    )


@dataclass(frozen=True)
class GarrotePath:
    """What :func:`garrote_path` found; ``print`` it.

    gammas, free_energies, expected, entropies, sigma2 : along the path (m).  coefs, inclusion : n x m.
    held_out, standard_error : mean squared error per entry on the folds left out, NaN without folds.
    best : index of the smallest held-out error.  transition : of the smallest gamma within one standard error of it; below, the
    error jumps.  bic : of the smallest q E / sigma2 + q ln(sigma2) + ln(q) sum m, which best and transition are without folds.
    (The free energy does not choose: w is fitted, not integrated over.)
    components : atoms with m > 1/2 at the transition.  unconverged : solutions that did not reach ``tol``.
    """

    gammas: npt.NDArray[np.float64]
    free_energies: npt.NDArray[np.float64]
    expected: npt.NDArray[np.float64]
    entropies: npt.NDArray[np.float64]
    sigma2: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.float64]
    standard_error: npt.NDArray[np.float64]
    coefs: Coef
    inclusion: Coef
    reports: list[Report]
    folds: int
    best: int
    transition: int
    bic: int
    components: int
    unconverged: int
    seconds: float

    @property
    def coef(self) -> Coef:
        """Expected coefficients at the transition."""
        return self.coefs[:, self.transition]

    @property
    def selected(self) -> list[int]:
        """Atoms with m > 1/2 at the transition."""
        return [int(j) for j in np.flatnonzero(self.inclusion[:, self.transition] > 0.5)]

    @property
    def report(self) -> Report:
        """The report of ``coef``."""
        return self.reports[self.transition]

    def __str__(self) -> str:
        marks = (("transition", self.transition), ("best", self.best), ("bic", self.bic))
        rows: list[tuple[str, ...]] = [("gamma", "free energy", "atoms", "entropy", "held out", "std error", "")]
        m = len(self.gammas)
        shown = {int(i) for i in np.linspace(0, m - 1, min(9, m))}
        for i in range(m):
            mark = " ".join(word for word, at in marks if at == i)
            if mark or i in shown:
                numbers_ = (self.gammas[i], self.free_energies[i], self.expected[i], self.entropies[i])
                tail = (f"{self.held_out[i]:.6g}", f"{self.standard_error[i]:.2g}") if self.folds else ("-", "-")
                rows.append((*(f"{x:.5g}" for x in numbers_), *tail, mark))
        return f"{self.components} components, {self.folds} folds\n{table(rows)}"


def garrote_path(
    data: Data,
    *,
    gammas: Any = None,
    n_gammas: int = 50,
    folds: int | Sequence[int] | None = None,
    held_out: bool = True,
    sigma2: float | None = None,
    effective: float | None = None,
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> GarrotePath:
    """:func:`variational_garrote` along increasing gamma, both ways with warm starts, and how many components it tells.

    gammas: increasing, or None: n_gammas of them, from where no set of atoms can pay for the prior of one to -1.
    folds: for a pair (A, y), their number (default 5); for a Gram, None (its folds where it has more than one, else its modules)
    or one number per block.  held_out: whether to leave folds out.  Where atoms of the target are lost as gamma falls, the held-out error jumps and
    the entropy of the selection rises before: ``transition`` is the last gamma before.  Kappen & Gomez 2014.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        given = None
        if isinstance(data, Gram):
            gram = data
            if isinstance(folds, int):
                raise bad_range("folds is a number, but the Gram is made already: Gram(A, y, folds=...), or one per block")
            if folds is not None:
                given = np.array([integer(f, "folds") for f in folds], dtype=np.int64)
                if given.size != len(gram.blocks):
                    raise bad_shape(f"folds has {given.size} numbers, expected {len(gram.blocks)}, one per block of the Gram")
        else:
            if folds is not None and not isinstance(folds, int):
                raise bad_range("folds is a list, which needs a Gram to name the blocks of; pass their number")
            gram = folded(data, run, 5 if folds is None else folds)
        grid = None if gammas is None else numbers(gammas, "gammas").reshape(-1)
        m = integer(n_gammas, "n_gammas") if grid is None else grid.size
        if not 1 <= m <= 1_000_000:
            raise bad_range(f"n_gammas is {m}; it must be between 1 and 1000000")
        n = gram.atoms
        options = prepared(
            _ffi.unmerge_garrote_path_options,
            n_gammas=m,
            sigma2=_positive(sigma2, "sigma2"),
            effective=_positive(effective, "effective"),
            target=integer(target, "target"),
            held_out=boolean(held_out, "held_out"),
        )
        options.gammas, options.folds = doubles(grid), integers(given)
        curve, coefs, inclusion = np.zeros((m, 7)), np.zeros((n, m)), np.zeros((n, m))
        result, reports = prepared(_ffi.unmerge_garrote_path_result), report_array(m)
        run.call(
            "garrote_path",
            (gram._handle, ctypes.byref(options)),
            (output(curve).pointer, output(coefs).pointer, output(inclusion).pointer, reports, ctypes.byref(result)),
            predicted=_seconds(gram, 100 * m),
        )
    columns = [curve[:, i].copy() for i in range(7)]
    return GarrotePath(
        gammas=columns[0],
        free_energies=columns[1],
        expected=columns[2],
        entropies=columns[3],
        sigma2=columns[4],
        held_out=columns[5],
        standard_error=columns[6],
        coefs=coefs,
        inclusion=inclusion,
        reports=from_c(reports),
        folds=result.folds,
        best=result.best,
        transition=result.transition,
        bic=result.bic,
        components=result.components,
        unconverged=result.unconverged,
        seconds=result.seconds,
    )


@dataclass(frozen=True)
class SparseBayes:
    """What :func:`sparse_bayes` found; ``print`` it.

    coef, variance : posterior mean and variance of each coefficient, 0 outside.  alphas : precisions of the prior, infinity outside.
    log_evidence : log P(y | alphas, sigma2), nats.  sigma2 : variance of an entry's error.  selected : atoms inside.
    """

    coef: Coef
    variance: Coef
    alphas: Coef
    log_evidence: float
    sigma2: float
    report: Report

    @property
    def selected(self) -> list[int]:
        """Atoms inside."""
        return [int(j) for j in np.flatnonzero(np.isfinite(self.alphas))]

    def __str__(self) -> str:
        rows = [("atom", "weight", "std error")]
        for j in sorted(self.selected, key=lambda j: float(-abs(self.coef[j]) / np.sqrt(max(float(self.variance[j]), 1e-300)))):
            rows.append((str(j), f"{self.coef[j]:.6g}", f"{math.sqrt(self.variance[j]):.2g}"))
        return f"{len(self.selected)} of {len(self.coef)} atoms inside, log evidence {self.log_evidence:.6g}\n{table(rows)}"


def sparse_bayes(
    data: Data,
    *,
    algorithm: Literal["fast", "em"] = "fast",
    sigma2: float | None = None,
    effective: float | None = None,
    target: int = 0,
    tol: float = 1e-10,
    max_iter: int = 10000,
    deadline: float = 0,
    threads: int = 0,
    seed: int = 0,
    progress: ProgressOption = None,
) -> SparseBayes:
    """Sparse Bayesian learning: w_j ~ N(0, 1 / alpha_j), alphas (and sigma2) where the evidence is largest.

    Most alphas are infinite: those atoms are out.  algorithm: "fast" (one alpha at a time, then Newton) or "em" (slow; all atoms
    to begin with).  sigma2: > 0, or None: found.  effective: q > 0, None = all entries.  ``report.violation`` is the largest error
    of the stationarity conditions, ``report.df`` the well-determined parameters.  Tipping 2001; Tipping & Faul 2003.
    """
    with Run(tol=tol, max_iter=max_iter, deadline=deadline, threads=threads, seed=seed, progress=progress) as run:
        gram = _one(data, run)
        n = gram.atoms
        options = prepared(
            _ffi.unmerge_sparse_bayes_options,
            sigma2=_positive(sigma2, "sigma2"),
            effective=_positive(effective, "effective"),
            target=integer(target, "target"),
            algorithm=choice(algorithm, "algorithm", ALGORITHMS),
        )
        coef, variance, alphas = np.zeros(n), np.zeros(n), np.zeros(n)
        result, report = prepared(_ffi.unmerge_sparse_bayes_result), report_array(1)
        run.call(
            "sparse_bayes",
            (gram._handle, ctypes.byref(options)),
            (doubles(coef), doubles(variance), doubles(alphas), ctypes.byref(result), report),
            predicted=_seconds(gram, 50),
        )
    return SparseBayes(
        coef=coef,
        variance=variance,
        alphas=alphas,
        log_evidence=result.log_evidence,
        sigma2=result.sigma2,
        report=from_c(report)[0],
    )


@dataclass(frozen=True)
class SpikeSlab:
    """What :func:`spike_slab` found; ``print`` it.

    inclusion : P(s_j = 1 | y).  coef : posterior mean over all sets.  best : posterior mean in the most probable set, 0 outside.
    sizes : n + 1, the posterior of the number of atoms.  log_evidence : log P(y); best_log_joint : log P(y, S) of the best set.
    """

    coef: Coef
    inclusion: Coef
    best: Coef
    sizes: Coef
    log_evidence: float
    best_log_joint: float
    best_probability: float
    sets: int
    seconds: float

    @property
    def selected(self) -> list[int]:
        """Atoms with a probability above 1/2: the median model (Barbieri & Berger 2004)."""
        return [int(j) for j in np.flatnonzero(self.inclusion > 0.5)]

    def __str__(self) -> str:
        inside = [int(j) for j in np.flatnonzero(self.best)]
        head = f"the most probable of {self.sets} sets is {inside}, with probability {self.best_probability:.3g}"
        return f"{head}; log evidence {self.log_evidence:.6g}\n{_atoms(self.inclusion, self.coef, ('in the best set', self.best))}"


def spike_slab(
    data: Data,
    *,
    prior: float = 0.5,
    slab: float = 1.0,
    sigma2: float | None = None,
    shape: float = 0.0,
    scale: float = 0.0,
    effective: float | None = None,
    target: int = 0,
    deadline: float = 0,
    threads: int = 0,
    progress: ProgressOption = None,
) -> SpikeSlab:
    """Spike and slab, exactly: the posterior over all sets of at most 20 atoms.

    P(s_j = 1) = prior, in (0, 1).  sigma2 given: w_j | s_j = 1 ~ N(0, slab).  sigma2 None: sigma2 ~ Inverse-Gamma(shape, scale) and
    w_j | s_j = 1 ~ N(0, sigma2 slab); with shape = scale = 0 (1 / sigma2) the log evidence is up to a constant.  slab > 0.
    effective: q > 0, None = all entries.  Mitchell & Beauchamp 1988; George & McCulloch 1993.
    """
    with Run(tol=1e-10, max_iter=0, deadline=deadline, threads=threads, seed=0, progress=progress) as run:
        gram = _one(data, run)
        n = gram.atoms
        options = prepared(
            _ffi.unmerge_spike_slab_options,
            prior=real(prior, "prior"),
            slab=real(slab, "slab"),
            shape=real(shape, "shape"),
            scale=real(scale, "scale"),
            effective=_positive(effective, "effective"),
            target=integer(target, "target"),
            noise=_ffi.UNMERGE_NOISE_INVERSE_GAMMA if sigma2 is None else _ffi.UNMERGE_NOISE_GIVEN,
        )
        if sigma2 is not None:
            options.sigma2 = real(sigma2, "sigma2")
        coef, inclusion, best, sizes = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n + 1)
        result = prepared(_ffi.unmerge_spike_slab_result)
        run.call(
            "spike_slab",
            (gram._handle, ctypes.byref(options)),
            (doubles(coef), doubles(inclusion), doubles(best), doubles(sizes), ctypes.byref(result)),
            predicted=1e-7 * 2.0 ** min(n, 20),
        )
    return SpikeSlab(
        coef=coef,
        inclusion=inclusion,
        best=best,
        sizes=sizes,
        log_evidence=result.log_evidence,
        best_log_joint=result.best_log_joint,
        best_probability=result.best_probability,
        sets=result.sets,
        seconds=result.seconds,
    )


# ---------------------------------------------------------------- shared


def _one(data: Data, run: Run) -> Gram:
    return data if isinstance(data, Gram) else folded(data, run, 1)


def _positive(value: float | None, name: str) -> float:
    """0 for None, which stands for the library's own."""
    if value is None:
        return 0.0
    number = real(value, name)
    if number == 0:
        raise bad_range(f"{name} is 0; it must be finite and > 0, or None")
    return number


def _atoms(inclusion: Coef, coef: Coef, other: tuple[str, Coef]) -> str:
    rows = [("atom", "probability", "weight", other[0])]
    order = np.argsort(-inclusion, kind="stable")
    for j in order[: max(int(np.sum(inclusion > 0.5)) + 3, SHOWN)]:
        rows.append((str(j), f"{inclusion[j]:.4f}", f"{coef[j]:.6g}", f"{other[1][j]:.6g}"))
    return table(rows)
