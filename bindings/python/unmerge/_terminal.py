"""The terminal: a progress bar and tables through rich, which comes with the extra ``cli``."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ._run import Progress

NEEDS_CLI = 'this needs the packages typer and rich: pip install "unmerge[cli]"'


class ProgressBar:
    """A bar on stderr for the passes over the data and the iterations; gone when it is closed."""

    def __init__(self) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress
        except ImportError as error:
            raise ImportError(NEEDS_CLI) from error
        self._bar: Any = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[tuple[str, int], Any] = {}

    def __enter__(self) -> ProgressBar:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.__exit__(kind, value, tb)

    def __call__(self, progress: Progress) -> None:
        key = (progress.phase, progress.pass_number)
        if key not in self._tasks:
            words = f"pass {progress.pass_number} over the data" if progress.phase == "pass" else "solving"
            self._tasks[key] = self._bar.add_task(words, total=None)
        self._bar.update(self._tasks[key], completed=progress.done, total=progress.total or None)
