"""unmerge: which components are in a merged model, how much, how sure, and what is left.

    coef, report = unmerge.nnls((A, y))            # atoms in the columns of A
    gram = unmerge.Gram(A, y)                      # the one pass over the data, then as many methods as you like
    coef, report = unmerge.lasso(gram, alpha=0.01, relative=True)

    found = unmerge.attribute(base="base/", atoms=["medicine/", "law/"], target="merged/")
    print(found)                                   # which are inside, how much, how sure, merged how, is anything missing
    result = unmerge.decompose(base="base/", atoms=["medicine/", "law/"], target="merged/", method="omp")

Names are loaded when first used, so that ``import unmerge`` (and ``unmerge --help``) costs next to nothing; using them
needs NumPy only.  Files need the extra ``hf``, the command line ``cli``, plots ``plot``, scikit-learn estimators ``sklearn``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import demo, errors, files, plot, prox, pruning, terms
    from ._library import blas_description, version
    from ._run import Progress
    from .attributed import AttributedAtom, Attribution
    from .attribution import attribute
    from .bayes import (
        GarrotePath,
        SparseBayes,
        SpikeSlab,
        VariationalGarrote,
        garrote_path,
        sparse_bayes,
        spike_slab,
        variational_garrote,
    )
    from .certificate import refine, verify
    from .comparison import Compared, Comparison, compare
    from .composite import Consensus, minimise
    from .constrained import (
        basis_pursuit,
        bpdn,
        bvls,
        dantzig,
        lasso_knots,
        lasso_tau,
        refit,
        simplex,
    )
    from .conversions import convert_penalty, glmnet_weights
    from .decomposition import decompose
    from .errors import (
        Cancelled,
        DeadlinePassed,
        Infeasible,
        InvalidType,
        InvalidValue,
        OutOfMemory,
        UnmergeError,
    )

    # Exported, but not in __all__: `from unmerge import *` works without scikit-learn.
    from .estimators import NMF as NMF
    from .estimators import GSPTransformer as GSPTransformer
    from .gram import Accumulator, Gram
    from .greedy import (
        best_subset,
        best_subset_path,
        cosamp,
        htp,
        iht,
        matching_pursuit,
        ols_pursuit,
        pursuit,
        subspace_pursuit,
    )
    from .groups import (
        group_alpha_max,
        group_lasso,
        group_lasso_modules,
        group_lasso_path,
        sparse_group_lasso,
    )
    from .inference import (
        AtomIdentifiability,
        Identifiability,
        Inference,
        Inferred,
        identifiability,
        least_squares_inference,
    )
    from .masks import Mask, mask
    from .methods import (
        alpha_max,
        dot,
        elastic_net,
        lasso,
        lasso_path,
        nnls,
        omp,
        ridge,
    )
    from .models import Model, load_model, model_from_bytes
    from .factorisation import NMFModel, OnlineNMFModel, nmf
    from .nonconvex import cel0, lq, mcp, scad
    from .operator import Operator
    from .projections import (
        ProjectionReport,
        SparseGroup,
        group_sparse_projection,
        hoyer_projection,
        hoyer_sparsity,
    )
    from .recipe import Recipe, ReplayReport, merge, replay
    from .report import Report
    from .result import Atom, Decomposition, Module
    from .selection import (
        CrossValidation,
        InformationCriteria,
        StabilitySelection,
        cross_validate,
        elastic_net_cv,
        information_criteria,
        lasso_cv,
        ridge_cv,
        stability_selection,
    )
    from .semi_nmf import GramNMFModel, gram_nmf
    from .structured import (
        benjamini_hochberg_weights,
        fused_lasso,
        fused_lasso_modules,
        oscar_weights,
        slope,
    )

    __version__: str

_HOME = {
    "Accumulator": "gram",
    "Atom": "result",
    "AtomIdentifiability": "inference",
    "AttributedAtom": "attributed",
    "Attribution": "attributed",
    "Cancelled": "errors",
    "Consensus": "composite",
    "Compared": "comparison",
    "Comparison": "comparison",
    "CrossValidation": "selection",
    "DeadlinePassed": "errors",
    "Decomposition": "result",
    "GarrotePath": "bayes",
    "GSPTransformer": "estimators",
    "Gram": "gram",
    "GramNMFModel": "semi_nmf",
    "Identifiability": "inference",
    "Infeasible": "errors",
    "Inference": "inference",
    "Inferred": "inference",
    "InformationCriteria": "selection",
    "InvalidType": "errors",
    "InvalidValue": "errors",
    "Mask": "masks",
    "Model": "models",
    "Module": "result",
    "NMF": "estimators",
    "NMFModel": "factorisation",
    "OnlineNMFModel": "factorisation",
    "Operator": "operator",
    "OutOfMemory": "errors",
    "Progress": "_run",
    "ProjectionReport": "projections",
    "Recipe": "recipe",
    "ReplayReport": "recipe",
    "Report": "report",
    "SparseBayes": "bayes",
    "SparseGroup": "projections",
    "SpikeSlab": "bayes",
    "StabilitySelection": "selection",
    "UnmergeError": "errors",
    "VariationalGarrote": "bayes",
    "alpha_max": "methods",
    "attribute": "attribution",
    "basis_pursuit": "constrained",
    "benjamini_hochberg_weights": "structured",
    "best_subset": "greedy",
    "best_subset_path": "greedy",
    "blas_description": "_library",
    "bpdn": "constrained",
    "bvls": "constrained",
    "cel0": "nonconvex",
    "convert_penalty": "conversions",
    "cosamp": "greedy",
    "compare": "comparison",
    "cross_validate": "selection",
    "dantzig": "constrained",
    "decompose": "decomposition",
    "dot": "methods",
    "elastic_net": "methods",
    "elastic_net_cv": "selection",
    "fused_lasso": "structured",
    "fused_lasso_modules": "structured",
    "glmnet_weights": "conversions",
    "garrote_path": "bayes",
    "gram_nmf": "semi_nmf",
    "group_alpha_max": "groups",
    "group_lasso": "groups",
    "group_lasso_modules": "groups",
    "group_lasso_path": "groups",
    "group_sparse_projection": "projections",
    "hoyer_projection": "projections",
    "hoyer_sparsity": "projections",
    "htp": "greedy",
    "identifiability": "inference",
    "iht": "greedy",
    "information_criteria": "selection",
    "lasso": "methods",
    "lasso_cv": "selection",
    "lasso_knots": "constrained",
    "lasso_path": "methods",
    "lasso_tau": "constrained",
    "least_squares_inference": "inference",
    "load_model": "models",
    "lq": "nonconvex",
    "mask": "masks",
    "matching_pursuit": "greedy",
    "mcp": "nonconvex",
    "merge": "recipe",
    "minimise": "composite",
    "model_from_bytes": "models",
    "nmf": "factorisation",
    "nnls": "methods",
    "ols_pursuit": "greedy",
    "omp": "methods",
    "oscar_weights": "structured",
    "pursuit": "greedy",
    "refine": "certificate",
    "refit": "constrained",
    "replay": "recipe",
    "ridge": "methods",
    "ridge_cv": "selection",
    "scad": "nonconvex",
    "simplex": "constrained",
    "slope": "structured",
    "sparse_bayes": "bayes",
    "sparse_group_lasso": "groups",
    "spike_slab": "bayes",
    "stability_selection": "selection",
    "subspace_pursuit": "greedy",
    "variational_garrote": "bayes",
    "verify": "certificate",
    "version": "_library",
}
_MODULES = ("demo", "errors", "files", "plot", "prox", "pruning", "terms")

if not TYPE_CHECKING:  # a type checker that saw this would accept any name

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "__version__":
            from . import _ffi

            value: Any = f"{_ffi.UNMERGE_VERSION_MAJOR}.{_ffi.UNMERGE_VERSION_MINOR}.{_ffi.UNMERGE_VERSION_PATCH}"
        elif name in _HOME:
            value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        elif name in _MODULES:
            value = import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted([*globals(), *_HOME, *_MODULES, "__version__"])


__all__ = [
    "Accumulator",
    "Atom",
    "AtomIdentifiability",
    "AttributedAtom",
    "Attribution",
    "Cancelled",
    "Compared",
    "Comparison",
    "Consensus",
    "CrossValidation",
    "DeadlinePassed",
    "Decomposition",
    "GarrotePath",
    "Gram",
    "GramNMFModel",
    "Identifiability",
    "Infeasible",
    "Inference",
    "Inferred",
    "InformationCriteria",
    "InvalidType",
    "InvalidValue",
    "Mask",
    "Model",
    "Module",
    "NMFModel",
    "OnlineNMFModel",
    "Operator",
    "OutOfMemory",
    "Progress",
    "ProjectionReport",
    "Recipe",
    "ReplayReport",
    "Report",
    "SparseBayes",
    "SparseGroup",
    "SpikeSlab",
    "StabilitySelection",
    "UnmergeError",
    "VariationalGarrote",
    "__version__",
    "alpha_max",
    "attribute",
    "basis_pursuit",
    "benjamini_hochberg_weights",
    "best_subset",
    "best_subset_path",
    "blas_description",
    "bpdn",
    "bvls",
    "cel0",
    "compare",
    "convert_penalty",
    "cosamp",
    "cross_validate",
    "dantzig",
    "decompose",
    "demo",
    "dot",
    "elastic_net",
    "elastic_net_cv",
    "errors",
    "files",
    "fused_lasso",
    "fused_lasso_modules",
    "garrote_path",
    "glmnet_weights",
    "gram_nmf",
    "group_alpha_max",
    "group_lasso",
    "group_lasso_modules",
    "group_lasso_path",
    "group_sparse_projection",
    "hoyer_projection",
    "hoyer_sparsity",
    "htp",
    "identifiability",
    "iht",
    "information_criteria",
    "lasso",
    "lasso_cv",
    "lasso_knots",
    "lasso_path",
    "lasso_tau",
    "least_squares_inference",
    "load_model",
    "lq",
    "mask",
    "matching_pursuit",
    "mcp",
    "merge",
    "minimise",
    "model_from_bytes",
    "nmf",
    "nnls",
    "ols_pursuit",
    "omp",
    "oscar_weights",
    "plot",
    "prox",
    "pruning",
    "pursuit",
    "refine",
    "refit",
    "replay",
    "ridge",
    "ridge_cv",
    "scad",
    "simplex",
    "slope",
    "sparse_bayes",
    "sparse_group_lasso",
    "spike_slab",
    "stability_selection",
    "subspace_pursuit",
    "terms",
    "variational_garrote",
    "verify",
    "version",
]
