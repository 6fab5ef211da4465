"""``whydiff compare``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow, Level
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_reporters, reported, status
from whydiff.cli._values import value
from whydiff.errors import UsageError
from whydiff.records import Verdict

_SIDE = "FILE.py:name, package.module:name, or a trace."


@reported(check_reporters)
def compare(
    reference: Annotated[str, typer.Argument(metavar="REF", help=f"The trusted run: {_SIDE}")],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help=f"The run under suspicion: {_SIDE}")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Given to both sides: JSON where it is valid JSON, else text."),
    ] = None,
    allow: Allow = Verdict.IDENTICAL,
    level: Annotated[
        Level, typer.Option("--level", help="Compare every operator, or modules only: cheaper, nothing is replayed.")
    ] = Level.OP,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="PATTERN=TEXT", help="Rule for the candidate's scopes; repeatable."),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="NAME", help="Input whose nonzero entries are the outputs' rows to compare."),
    ] = None,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Find where and why two runs differ.

    Each side is a function without arguments, a model or function beside which the file defines inputs(),
    or a trace made by whydiff capture. Exit status: 0 agrees (see --allow), 1 differs, 2 error.
    """
    from whydiff.capturing import targets

    rules = [_rule(text) for text in rename or ()]
    given = [value(text) for text in arguments or ()]
    loaded = {side: targets.load(side, given) for side in dict.fromkeys((reference, candidate))}
    from whydiff import pipeline  # imports numpy, and whatever the sides need

    options = pipeline.Options(level=level.value, rename=rules, progress=progress, rows=rows)
    diagnosis = pipeline.compare(loaded[reference], loaded[candidate], *given, options=options)
    return diagnosis, status(diagnosis.verdict, allow)


def _rule(text: str) -> tuple[str, str]:
    pattern, equals, replacement = text.rpartition("=")  # a pattern may hold (?=…)
    if not equals:
        raise UsageError(
            "This is no rule to rename by.",
            where="--rename",
            actual=text,
            expected="PATTERN=TEXT, for example model.h=decoder.layers",
        )
    return pattern, replacement
