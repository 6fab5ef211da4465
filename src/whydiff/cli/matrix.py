"""``whydiff matrix``: one program in several environments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow, Arguments
from whydiff.cli._progress import Progress
from whydiff.cli._report import AGREES, DIFFERS, check_suffixes, reported, status
from whydiff.cli._values import size_in_bytes, value
from whydiff.records import Verdict


@reported(check_suffixes)
def matrix(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="FILE.py:name or package.module:name.")],
    arguments: Arguments = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Traces and answers; a second run resumes here.")
    ] = ...,  # type: ignore[assignment]
    python: Annotated[
        list[str] | None, typer.Option("--python", metavar="PATH", help="An interpreter; repeatable. None: this one.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="'NAME=VALUE …'", help="One set of variables (-NAME takes one away); repeatable."
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain/--no-plain", help="Also run without changed variables, as the reference.")
    ] = True,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Compare all pairs, not only each with the first.")
    ] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect/--no-bisect", help="Find the responsible difference by experiments.")
    ] = True,
    max_bytes: Annotated[
        str, typer.Option("--max-bytes", metavar="SIZE", help="Most full tensors per reference: 8GiB, 500MB, 0.")
    ] = "8GiB",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds per process.")] = 600.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run finished environments again.")] = False,
    allow: Allow = Verdict.IDENTICAL,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Run one program in several environments: which verdict, and which difference is responsible?

    Every environment (interpreter × set of variables) is a process of its own; one that fails does not lose
    the others. Exit status: 0 if every pair is within --allow, 1 if not, 2 error.
    """
    from whydiff.studies.matrix import MatrixOptions, run_matrix, settings

    environments = settings(python or [sys.executable], env or (), plain=plain)
    options = MatrixOptions(
        Path(output),
        tuple(value(text) for text in arguments or ()),
        timeout=timeout,
        max_bytes=size_in_bytes(max_bytes),
        every_pair=all_pairs,
        bisect=bisect,
        fresh=fresh,
        progress=progress,
    )
    found = run_matrix(target, environments, options)
    worst = max((DIFFERS if p.judged is None else status(p.judged, allow) for p in found.pairings), default=AGREES)
    return found, worst
