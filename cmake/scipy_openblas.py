"""Prints the paths of libscipy_openblas.so and of its licence, one per line."""

import importlib.metadata
import pathlib

import scipy_openblas32

print(pathlib.Path(scipy_openblas32.get_lib_dir()) / "libscipy_openblas.so")
files = importlib.metadata.files("scipy-openblas32") or []
print(next(file.locate() for file in files if file.name.startswith("LICENSE")))
