"""Sparse coefficients from plain arrays: one pass over the data, then as many questions as you like."""

import numpy as np
import unmerge

rng = np.random.default_rng(0)
atoms = rng.standard_normal((50_000, 30), dtype=np.float32)  # p x n, one atom per column; read in place
truth = np.zeros(30)
truth[[2, 11, 17]] = [0.5, 0.3, 0.2]
target = (atoms @ truth + 0.05 * rng.standard_normal(50_000)).astype(np.float32)

gram = unmerge.Gram(atoms, target)  # the only pass over the data

coef, report = unmerge.lasso(gram, alpha=0.02, relative=True)  # 2 % of the alpha that gives all zeros
print("lasso   ", {int(j): round(float(coef[j]), 3) for j in np.flatnonzero(coef)})
print(report, end="\n\n")

for name, answer in {
    "nnls    ": unmerge.nnls(gram),
    "omp     ": unmerge.omp(gram, k=3),
}.items():
    coef, report = answer
    large = np.flatnonzero(np.abs(coef) > 0.01)
    print(name, {int(j): round(float(coef[j]), 3) for j in large}, f"explained {report.r2:.4f}")

# The certificate again, this time from the data instead of the Gram.
residual_correlation, checked = unmerge.verify(atoms, target, coef, support_only=True)
print(f"largest violation, from the data: {checked.violation:.1e}")
