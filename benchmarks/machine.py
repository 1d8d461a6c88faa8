"""The machine and the versions a table was made with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "scipy", "scikit-learn", "spams-bin", "celer", "skglm", "adelie", "abess", "osqp", "clarabel", "ml_dtypes")


def describe() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory (GiB)": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "BLAS of the peers": peer_blas(),
        "libunmerge": ours(),
        "load at the start": os.getloadavg()[0],
    }


def processor() -> str:
    model, flags = platform.processor() or platform.machine(), ""
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        fields = dict(line.split("\t", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if "\t" in line)
        fields = {k: v.lstrip("\t: ") for k, v in fields.items()}
        family = ", ".join(f"{k} {fields[k]}" for k in ("cpu family", "model") if k in fields)
        model = f"{fields.get('model name', model)} ({family})"
        flags = fields.get("flags", "")
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags.split()), "")
    return f"{model}, {widest}" if widest else model


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def peer_blas() -> list[str]:
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    found = [i for i in threadpool_info() if i["user_api"] == "blas"]
    return sorted({f"{i['internal_api']} {i['version']}, kernel {i.get('architecture', '?')}" for i in found})


def ours() -> str:
    try:
        from ours import package

        unmerge = package()
        return f"{unmerge.version()}, {unmerge.blas_description()}"
    except Exception as error:
        return f"not usable: {error}"
