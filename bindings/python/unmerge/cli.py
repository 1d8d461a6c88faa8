"""The command line: ``unmerge attribute``, ``unmerge decompose``, ``unmerge compare``, ``unmerge prune``, ``unmerge demo``.

Exit codes: 0 done; 2 refused (arguments, files, shapes: one sentence on stderr); 3 an answer that did not converge, or no
recipe where one was asked for; 130 interrupted.  The answer goes to stdout, everything else to stderr.  NumPy is imported
by the commands, not by --help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

REFUSED, NOT_CONVERGED, NO_RECIPE, INTERRUPTED = 2, 3, 3, 130
NEEDS_CLI = 'unmerge: the command line needs the packages typer and rich: pip install "unmerge[cli]"'
METHODS = (
    *("nnls", "omp", "lasso", "elastic-net", "ridge", "dot", "bvls", "simplex", "lasso-tau", "bpdn", "basis-pursuit", "dantzig"),
    *("ols-pursuit", "matching-pursuit", "htp", "iht", "cosamp", "subspace-pursuit", "best-subset", "mcp", "scad", "cel0", "lq"),
    *("group-lasso", "slope", "fused-lasso", "variational-garrote", "sparse-bayes"),
)


def spread(arguments: Sequence[str], option: str = "--atoms") -> list[str]:
    """``--atoms a b c`` as ``--atoms a --atoms b --atoms c``: click's options take a fixed number of values."""
    found: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*found, word, *rest]
        if word != option:
            found.append(word)
            continue
        values = []
        while rest and not rest[0].startswith("-"):
            values.append(rest.pop(0))
        found += [part for value in values for part in (option, value)] or [option]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    try:
        app = _app()
    except ImportError:
        print(NEEDS_CLI, file=sys.stderr)
        return REFUSED
    try:
        app(spread(spread(spread(sys.argv[1:] if arguments is None else arguments), "--methods"), "--without"), prog_name="unmerge")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0


def _guarded(work: Callable[[], int]) -> int:
    """Refusals and interrupts as one sentence and an exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        print("unmerge: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (OSError, ImportError, MemoryError) as error:
        print(f"unmerge: {error}", file=sys.stderr)
        return REFUSED
    except Exception as error:
        from .errors import UnmergeError

        if isinstance(error, UnmergeError):
            print(f"unmerge: {error}", file=sys.stderr)
            return REFUSED
        raise


def _json(path: Path) -> Any:
    import json

    from .errors import bad_format

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise bad_format(f"{path} is not JSON: {error}") from None


def _bar(quiet: bool) -> Any:
    """Progress on a terminal only."""
    return "rich" if sys.stderr.isatty() and not quiet else None


def _app() -> Any:
    import typer

    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        help="Which components are in a merged model, how much, how sure, and what is left.",
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            from . import _ffi

            print(f"unmerge {_ffi.UNMERGE_VERSION_MAJOR}.{_ffi.UNMERGE_VERSION_MINOR}.{_ffi.UNMERGE_VERSION_PATCH}")
            raise typer.Exit()

    @app.callback()
    def root(
        version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Show the version."),
    ) -> None:
        pass

    def check_method(value: str) -> str:
        if value not in METHODS:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(METHODS)}")
        return value

    method_option = typer.Option("nnls", callback=check_method, help=f"One of {', '.join(METHODS)}.", metavar="METHOD")
    quiet_option = typer.Option(False, "--quiet", help="No progress bar, and no table where there is --output.")
    threads_option = typer.Option(0, help="0 = one per core; the answer does not depend on it.")

    @app.command()
    def attribute(
        atoms: list[str] = typer.Option(..., metavar="PATH...", help="Adapters and checkpoints, mixed."),
        target: str = typer.Option(..., metavar="PATH", help="The merged model, or a merged adapter."),
        base: Optional[str] = typer.Option(None, metavar="PATH", help="The checkpoint the others are compared with."),
        fdr: float = typer.Option(0.05, help="False discovery rate at which atoms are called present."),
        confidence: float = typer.Option(0.9, help="Of the intervals."),
        rows: int = typer.Option(512, help="Rows of each module that are analysed."),
        replay: bool = typer.Option(True, help="Replay the recipe found over all entries."),
        deadline: float = typer.Option(0.0, help="Seconds; 0 = none."),
        threads: int = threads_option,
        seed: int = typer.Option(0, help="Chooses what is drawn at random."),
        quiet: bool = quiet_option,
        output: Optional[Path] = typer.Option(None, "--output", "-o", help="Write the JSON to this file."),
        as_json: bool = typer.Option(False, "--json", help="JSON on stdout instead of the table."),
        recipe: Optional[Path] = typer.Option(None, help="Write the recipe found, as YAML for mergekit, to this file."),
        plot: Optional[Path] = typer.Option(None, help="Write a picture of weights and evidence to this file."),
        html: Optional[Path] = typer.Option(None, help="Write the table as a page to this file."),
    ) -> None:
        """Which of these atoms are in the target, how much, how sure, merged how, and is anything missing.

        unmerge attribute --base base/ --atoms medicine/ law/ code/ --target merged/ -o out.json --recipe recipe.yml
        """

        def work() -> int:
            from .attribution import attribute as run

            found = run(
                base=base,
                atoms=atoms,
                target=target,
                fdr=fdr,
                confidence=confidence,
                rows=rows,
                replay=replay,
                deadline=deadline,
                threads=threads,
                seed=seed,
                progress=_bar(quiet),
            )
            text = found.to_json(output)
            if as_json:
                print(text, end="")
            elif not (quiet and output):
                print(found)
            if plot:
                found.plot(plot)
            if html:
                found.save_html(html)
            if recipe and found.rule is None:
                print("unmerge: no recipe: none of the methods known gives this target", file=sys.stderr)
                return NO_RECIPE
            if recipe:
                found.save_recipe(recipe)
            return 0

        raise typer.Exit(_guarded(work))

    @app.command()
    def decompose(
        atoms: list[str] = typer.Option(..., metavar="PATH...", help="Adapters, checkpoints or task vectors."),
        target: str = typer.Option(..., metavar="PATH", help="The merged model, or an adapter."),
        base: Optional[str] = typer.Option(None, metavar="PATH", help="The checkpoint the others are compared with."),
        method: str = method_option,
        alpha: Optional[float] = typer.Option(None, help="Penalty; default 0.01 alpha_max (ridge: 1e-6 mean ||a||^2)."),
        l1_ratio: Optional[float] = typer.Option(None, help="elastic-net, fused-lasso: default 0.5; group-lasso: default 0."),
        k: int = typer.Option(8, help="omp, the other pursuits, iht, htp, cosamp, best-subset: at most this many atoms."),
        lower: Optional[float] = typer.Option(None, help="bvls, simplex: no weight below this."),
        upper: Optional[float] = typer.Option(None, help="bvls, simplex: no weight above this."),
        total: float = typer.Option(1.0, help="simplex: what the weights sum to."),
        tau: Optional[float] = typer.Option(None, help="lasso-tau: what the sizes of the weights sum to at most."),
        sigma: Optional[float] = typer.Option(None, help="bpdn: the residual to reach, as a fraction of the target."),
        gamma: Optional[float] = typer.Option(None, help="mcp, scad: how soon they stop to shrink; variational-garrote: log odds."),
        q: Optional[float] = typer.Option(None, help="lq: the power; slope: the level of its weights, default 0.1."),
        effective: Optional[float] = typer.Option(None, help="variational-garrote, sparse-bayes: entries worth one; default all."),
        groups: Optional[Path] = typer.Option(None, metavar="FILE", help="group-lasso: JSON, name -> group (or list of groups)."),
        group_by: Optional[str] = typer.Option(None, metavar="PATTERN", help="group-lasso: its match in the name is the group."),
        compress: Optional[int] = typer.Option(None, help="Keep this many entries, the largest (paper: 999936)."),
        threshold: float = typer.Option(0.01, help="An atom is present when its weight is larger than this."),
        verify: bool = typer.Option(False, "--verify", help="Recompute the certificate from the data (one more pass)."),
        tol: float = typer.Option(1e-10, help="Relative duality gap to reach."),
        max_iter: int = typer.Option(10000, help="Sweeps or pivots."),
        deadline: float = typer.Option(0.0, help="Seconds; 0 = none."),
        threads: int = threads_option,
        seed: int = typer.Option(0, help="Chooses the folds."),
        quiet: bool = quiet_option,
        output: Optional[Path] = typer.Option(None, "--output", "-o", help="Write the JSON to this file."),
        as_json: bool = typer.Option(False, "--json", help="JSON on stdout instead of the table."),
    ) -> None:
        """Which of these atoms are in the target, and how much.

        unmerge decompose --base base/ --atoms medicine/ law/ code/ --target merged/ -o out.json
        """

        def work() -> int:
            from .decomposition import decompose as run

            found = run(
                base=base,
                atoms=atoms,
                target=target,
                method=method.replace("-", "_"),  # type: ignore[arg-type]
                alpha=alpha,
                l1_ratio=l1_ratio,
                k=k,
                lower=lower,
                upper=upper,
                total=total,
                tau=tau,
                sigma=sigma,
                gamma=gamma,
                q=q,
                effective=effective,
                groups=None if groups is None else _json(groups),
                group_by=group_by,
                compress=compress,
                threshold=threshold,
                verify=verify,
                tol=tol,
                max_iter=max_iter,
                deadline=deadline,
                threads=threads,
                seed=seed,
                progress=_bar(quiet),
            )
            text = found.to_json(output)
            if as_json:
                print(text, end="")
            elif not (quiet and output):
                print(found)
            if found.report.converged or "fully_explained" in found.report.flags:
                return 0
            print(f"unmerge: not converged: {found.report.outcome}", file=sys.stderr)
            return NOT_CONVERGED

        raise typer.Exit(_guarded(work))

    @app.command()
    def compare(
        atoms: list[str] = typer.Option(..., metavar="PATH...", help="Adapters, checkpoints or task vectors."),
        target: str = typer.Option(..., metavar="PATH", help="The merged model, or an adapter."),
        base: Optional[str] = typer.Option(None, metavar="PATH", help="The checkpoint the others are compared with."),
        methods: Optional[list[str]] = typer.Option(None, metavar="METHOD...", help="Some of them; default all that apply."),
        without: Optional[list[str]] = typer.Option(None, metavar="METHOD...", help="Methods to leave out."),
        criterion: Optional[str] = typer.Option(None, help="What sorts: cv, ebic or bic; default cv."),
        choose: str = typer.Option("ebic", help="What chooses penalties and numbers of atoms: ebic or bic."),
        effective: Optional[float] = typer.Option(None, help="Entries worth an independent one; default all."),
        folds: int = typer.Option(5, help="Of cross-validation."),
        deadline: float = typer.Option(0.0, help="Seconds; 0 = none."),
        threads: int = threads_option,
        seed: int = typer.Option(0, help="Chooses the folds."),
        quiet: bool = quiet_option,
        output: Optional[Path] = typer.Option(None, "--output", "-o", help="Write the JSON to this file."),
        as_json: bool = typer.Option(False, "--json", help="JSON on stdout instead of the table."),
    ) -> None:
        """Every method on this target, from one reading of the data, in one table.

        unmerge compare --base base/ --atoms medicine/ law/ code/ --target merged/
        """

        def work() -> int:
            from .comparison import compare as run

            found = run(
                base=base,
                atoms=atoms,
                target=target,
                methods=[m.replace("-", "_") for m in methods] if methods else None,
                without=[m.replace("-", "_") for m in without or ()],
                criterion=criterion,  # type: ignore[arg-type]
                choose=choose,  # type: ignore[arg-type]
                effective=effective,
                folds=folds,
                deadline=deadline,
                threads=threads,
                seed=seed,
                progress=_bar(quiet),
            )
            text = found.to_json(output)
            if as_json:
                print(text, end="")
            elif not (quiet and output):
                print(found)
            return 0

        raise typer.Exit(_guarded(work))

    @app.command()
    def prune(
        model: str = typer.Option(..., metavar="PATH", help="The model, a .safetensors file."),
        sparsity: Optional[float] = typer.Option(None, help="Hoyer's level to project to, in [0, 1]: not a fraction of zeros."),
        zeros: Optional[float] = typer.Option(None, help="Instead: the fraction of entries to zero, the smallest magnitudes."),
        grouping: str = typer.Option("filter", help="What shares the level: filter, layer, all or vector."),
        normalise: str = typer.Option("none", help="none, l2 or rms."),
        refit: bool = typer.Option(False, "--refit", help="Original values where entries stay, instead of shrunk ones."),
        output: Path = typer.Option(..., "--output", "-o", help="Write the pruned model to this file."),
        as_json: bool = typer.Option(False, "--json", help="JSON on stdout instead of the table."),
        quiet: bool = quiet_option,
    ) -> None:
        """Make entries of a model's layers zero, by group sparse projection or by magnitude.

        unmerge prune --model model.safetensors --sparsity 0.7 -o pruned.safetensors
        """

        def work() -> int:
            import json

            from .pruning import prune_file

            found = prune_file(
                model,
                output,
                sparsity=sparsity,
                zeros=zeros,
                grouping=grouping,  # type: ignore[arg-type]
                normalise=normalise,  # type: ignore[arg-type]
                refit=refit,
            )
            if as_json:
                print(json.dumps(found.to_dict(), indent=1))
            elif not quiet:
                print(found)
            return 0

        raise typer.Exit(_guarded(work))

    @app.command()
    def demo(
        data: Optional[Path] = typer.Option(None, metavar="DIR", help="The sample's folder (default: examples/data)."),
        method: str = method_option,
        threads: int = threads_option,
        quiet: bool = quiet_option,
    ) -> None:
        """Take every merge of the shipped sample apart and print the truth beside the answer."""

        def work() -> int:
            from . import demo as sample

            code = 0
            options = {"method": method.replace("-", "_"), "threads": threads, "progress": _bar(quiet)}
            for case in sample.cases(data, **options):
                print(sample.table(case), end="\n\n", flush=True)
                if not case.found.report.converged and "fully_explained" not in case.found.report.flags:
                    code = NOT_CONVERGED
            return code

        raise typer.Exit(_guarded(work))

    return app


if __name__ == "__main__":
    sys.exit(main())
