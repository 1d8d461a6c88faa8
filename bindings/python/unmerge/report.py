"""Report: how a method ended, and a certificate that other code can recompute."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from . import _ffi
from ._library import library

FLAGS = {
    _ffi.UNMERGE_FLAG_RANK_DEFICIENT: "rank_deficient",
    _ffi.UNMERGE_FLAG_ZERO_ATOM: "zero_atom",
    _ffi.UNMERGE_FLAG_CLIPPED: "clipped",
    _ffi.UNMERGE_FLAG_FULLY_EXPLAINED: "fully_explained",
    _ffi.UNMERGE_FLAG_REDUCED_ACCURACY: "reduced_accuracy",
    _ffi.UNMERGE_FLAG_LOCAL_MINIMUM: "local_minimum",
    _ffi.UNMERGE_FLAG_CONVEX: "convex",
    _ffi.UNMERGE_FLAG_SWAP_OPTIMAL: "swap_optimal",
}


@dataclass(frozen=True)
class Report:
    """One target's report.

    outcome : "converged", "iteration limit", "time limit", "cancelled" or "stalled" (rounding stops progress above tol).
    flags : any of "rank_deficient" (dependent atoms: the fit is unique, the coefficients are not), "zero_atom",
        "clipped" (k was larger than the number of usable atoms), "fully_explained" (the residual is at the rounding
        floor), "reduced_accuracy" (condition too high for the precision of the Gram: refine, or use ridge); of methods
        that are not convex "local_minimum" (certified to be a strict one), "convex" (on the support the problem is),
        "swap_optimal" (no exchange of one atom for another lowers the objective).
    iterations : sweeps, pivots or selected atoms.
    passes : over the data, that this answer has needed so far.
    objective : 1/2 ||Aw-y||^2 + penalty, at the returned coefficients.
    duality_gap : bound on objective - optimum; NaN where no bound is known.
    relative_gap : duality_gap / max(objective, rounding floor of ||y||^2).
    violation : largest optimality (KKT) violation as a correlation in [0, 1].
    rss, yy, r2 : ||Aw-y||^2, ||y||^2, 1 - rss/yy (0 when y = 0).
    condition : estimate for the unit-diagonal Gram of the atoms in use; NaN where not computed.
    df : effective degrees of freedom of the fit, the trace of d(Aw)/dy; NaN where not known.
    multiplier : of the constraint, for methods that have one; NaN elsewhere.
    primal, dual : relative residuals of a composite problem (minimise); NaN elsewhere.
    streamed : the certificate was recomputed from the data (verify, refine), not from the Gram.
    order : for omp and pursuit, the atoms (or groups) in the order of selection; else None.
    """

    outcome: str
    flags: set[str]
    iterations: int
    nonzeros: int
    passes: int
    objective: float
    duality_gap: float
    relative_gap: float
    violation: float
    rss: float
    yy: float
    r2: float
    condition: float
    seconds: float
    streamed: bool
    order: list[int] | None = field(default=None)
    df: float = math.nan
    multiplier: float = math.nan
    primal: float = math.nan
    dual: float = math.nan

    @property
    def converged(self) -> bool:
        """Whether the requested tolerance was reached."""
        return self.outcome == "converged"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: None for NaN and infinity, sorted flags."""
        values = asdict(self) | {"flags": sorted(self.flags)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    def __str__(self) -> str:
        rows = [
            ("outcome", self.outcome + (f" ({', '.join(sorted(self.flags))})" if self.flags else "")),
            ("iterations", str(self.iterations)),
            ("nonzeros", str(self.nonzeros) + (f", in the order {self.order}" if self.order else "")),
            ("objective", f"{self.objective:.6g}"),
            ("duality gap", f"{self.duality_gap:.3g} (relative {self.relative_gap:.3g})"),
            ("violation", f"{self.violation:.3g}"),
            ("explained (r2)", f"{self.r2:.6f}"),
            ("condition", f"{self.condition:.3g}"),
            ("data", f"{self.passes} pass{'' if self.passes == 1 else 'es'}" + (", certificate from the data" if self.streamed else "")),
            ("seconds", f"{self.seconds:.3g}"),
        ]
        return "\n".join(f"{name:<15} {value}" for name, value in rows)


def report_array(count: int) -> Any:
    """An array of C reports, ready to be filled."""
    reports = (_ffi.unmerge_report * count)()
    for report in reports:  # struct_size is read from the first; the rest is filled for tidiness
        report.struct_size = _ffi.LAYOUT["unmerge_report"][0]
    return reports


def from_c(reports: Any, orders: Any = None) -> list[Report]:
    """Python reports from C ones; ``orders``: k x T indices, padded with -1."""
    found = []
    for t, r in enumerate(reports):
        order = None if orders is None else [int(j) for j in orders[:, t] if j >= 0]
        found.append(
            Report(
                outcome=library().unmerge_outcome_name(r.outcome).decode(),
                flags={name for bit, name in FLAGS.items() if r.flags & bit},
                iterations=r.iterations,
                nonzeros=r.nonzeros,
                passes=r.passes,
                objective=r.objective,
                duality_gap=r.duality_gap,
                relative_gap=r.relative_gap,
                violation=r.violation,
                rss=r.rss,
                yy=r.yy,
                r2=r.r2,
                condition=r.condition,
                seconds=r.seconds,
                streamed=bool(r.streamed),
                order=order,
                df=r.df,
            )
        )
    return found
