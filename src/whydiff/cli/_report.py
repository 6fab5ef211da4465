"""What every command that shows a report shares: its options, the progress line, the report, the exit status."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import typer

from whydiff import registry
from whydiff.cli._guard import guard, user_code
from whydiff.cli._options import Color, ColorOption, Json, Quiet, Save, Traceback, Verbose
from whydiff.cli._progress import progress
from whydiff.errors import INTERRUPTED, Interrupted
from whydiff.records import Verdict
from whydiff.report.base import check_file

AGREES, DIFFERS = 0, 1
Command = Callable[..., tuple[Any, int]]
"""A command's work: gets its own options and ``progress``, returns a Diagnosis or a Study, and the exit status."""


def _shared(
    *,
    save: Save = None,
    json: Json = False,
    color: ColorOption = Color.AUTO,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """The options of every report."""


def check_reporters(paths: Sequence[str]) -> None:
    """Refuse a kind of file that no reporter writes, before a whole run is made for it.

    Raises:
        whydiff.errors.UsageError: an unknown suffix.
    """
    for path in paths:
        registry.reporter_for(path)


def check_suffixes(paths: Sequence[str]) -> None:
    """The same for a study, which is no Diagnosis.

    Raises:
        whydiff.errors.UsageError: an unknown suffix.
    """
    from whydiff.studies.base import check_suffixes as check

    check(paths)


def reported(check: Callable[[Sequence[str]], None]) -> Callable[[Command], Callable[..., None]]:
    """Give a command the options of every report, and show what it returns.

    Args:
        check: refuses files that the report cannot be saved as.
    """
    shared = inspect.signature(_shared, eval_str=True).parameters

    def decorate(command: Command) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            own = {name: value for name, value in given.items() if name not in shared}
            paths = given["save"] or ()
            check(paths)
            for path in paths:
                check_file(path)
            try:
                with progress(given["quiet"] or given["json"]) as report, user_code():
                    found, code = command(**own, progress=report)
            except Interrupted as stop:
                typer.echo("interrupted; this is what was found until then", err=True)
                found, code = stop.found, INTERRUPTED
            _show(found, json=given["json"], color=given["color"].value, verbose=given["verbose"])
            for path in paths:  # last: whatever fails here, the report was seen
                found.save(path)
            raise typer.Exit(code)

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "progress"]
        every = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared.values())]
        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]  # typer reads both
        run.__annotations__ = {p.name: p.annotation for p in every}
        return guard(run)

    return decorate


def _show(found: Any, *, json: bool, color: str, verbose: bool) -> None:
    if json:
        from whydiff.report.json import write

        typer.echo(write(found.to_dict()), nl=False)
    else:
        found.print(color=color, verbose=verbose, command=True)


def status(verdict: Verdict, allow: Verdict) -> int:
    """0 if the verdict is within what is allowed, else 1."""
    return AGREES if verdict.within(allow) else DIFFERS
