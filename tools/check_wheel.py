"""In an environment with nothing but the wheel and NumPy: it works, and with the libraries it brings."""

import importlib.metadata
import pathlib
import re
import sys

import numpy as np

import unmerge

package = pathlib.Path(unmerge.__file__).parent
assert pathlib.Path(sys.prefix) in package.parents, f"{package} is not the installed package"
installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
assert installed <= {"unmerge", "numpy", "pip", "setuptools"}, f"more is installed than was asked for: {sorted(installed)}"

names = sorted(p.name for p in (package / "lib").iterdir())
assert names == ["LICENSE.openblas.txt", "libscipy_openblas.so", "libunmerge.so.1"], names
assert sorted(p.name for p in (package / "include").iterdir()) == ["unmerge.h", "unmerge.hpp"]

rng = np.random.default_rng(0)
atoms = rng.normal(size=(1000, 5))
truth = np.array([0.5, 0.0, 0.25, 0.0, 1.0])
coef, report = unmerge.nnls((atoms, atoms @ truth))
assert np.allclose(np.ravel(coef), truth, atol=1e-9), coef

mapped = sorted({line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/" in line})
for name in ("libunmerge.so.1", "libscipy_openblas.so"):
    assert str(package / "lib" / name) in mapped, f"{name} of the package is not what was loaded"
linear_algebra = re.compile(r"/lib(blas|lapack|lapacke|cblas|openblas|atlas|blis|mkl|gfortran)[^/]*\.so")
strangers = [path for path in mapped if linear_algebra.search(path) and pathlib.Path(sys.prefix) not in pathlib.Path(path).parents]
assert not strangers, f"linear algebra of the machine is loaded: {strangers}"
print(f"the wheel works on its own: {coef.size} coefficients, {len(mapped)} files mapped, no BLAS or LAPACK of the machine")
