"""A progress line on standard error; nothing where nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Progress(Protocol):
    """Told the stage in words, and how much of it is done of how much (0 of 0: unknown)."""

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None: ...


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A line that shows the present stage and vanishes at the end.

    Args:
        quiet: show nothing; so it is too if standard error is not a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    with RichProgress(
        *columns, MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as shown:
        task = shown.add_task("load and run the programs", total=None)
        stages: list[str] = []

        def report(stage: str, done: int = 0, total: int = 0) -> None:
            if stages != [stage]:
                stages[:] = [stage]
                shown.reset(task, description=stage, total=total or None, completed=done)
            else:
                shown.update(task, total=total or None, completed=done)

        yield report


def silent(stage: str, done: int = 0, total: int = 0) -> None:
    """The `Progress` that says nothing."""
