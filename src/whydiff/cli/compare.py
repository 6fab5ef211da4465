"""``whydiff compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whydiff.cli._options import Allow, Level
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_reporters, reported, status
from whydiff.cli._values import value
from whydiff.errors import UsageError
from whydiff.records import Verdict

if TYPE_CHECKING:
    from whydiff.capturing.limits import Limits

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
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="I know who made these traces: replay them here, without limits and without a worker process.",
        ),
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="NAME=NUMBER",
            help="What replaying may take: seconds, call_seconds, memory (GiB), elements, operations; repeatable.",
        ),
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

    options = pipeline.Options(
        level=level.value, rename=rules, progress=progress, rows=rows, trust=trust, limits=_limits(limit or ())
    )
    diagnosis = pipeline.compare(loaded[reference], loaded[candidate], *given, options=options)
    return diagnosis, status(diagnosis.verdict, allow)


def _limits(texts: Sequence[str]) -> Limits:
    """The limits with some of them replaced."""
    from whydiff.capturing.limits import Limits

    known, given = asdict(Limits()), {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number) * (2**30 if name == "memory" else 1)
            given[name] = type(known[name])(value)
            right = value > 0
        except (KeyError, ValueError, OverflowError):
            right = False
        if not right:
            raise UsageError(
                "This is no limit.",
                where="--limit",
                actual=text,
                expected=f"NAME=NUMBER with one of {', '.join(known)}, for example memory=4",
            )
    return Limits(**given)


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
