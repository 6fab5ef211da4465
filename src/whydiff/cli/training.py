"""``whydiff training``: two training runs, step by step."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_suffixes, reported, status
from whydiff.records import Verdict

_SIDE = '"SCRIPT.py ARGS", FILE.py:name, or a folder made by --log or by whydiff capture --level step.'


@reported(check_suffixes)
def training(
    reference: Annotated[str, typer.Argument(metavar="REF", help=f"The trusted run: {_SIDE}")],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help=f"The run under suspicion: {_SIDE}")],
    from_step: Annotated[
        int | None,
        typer.Option("--from-step", metavar="N", help="Step of REF at which CAND begins; else found from its state."),
    ] = None,
    band: Annotated[
        int, typer.Option("--band", metavar="RUNS", help="Runs of REF rounded at random: would rounding part them too?")
    ] = 0,
    diagnose: Annotated[
        bool, typer.Option("--diagnose/--no-diagnose", help="Run both up to the step that parts, and explain it.")
    ] = True,
    log: Annotated[
        str | None, typer.Option("--log", metavar="FOLDER", help="Keep the logs of both runs, step by step.")
    ] = None,
    allow: Allow = Verdict.IDENTICAL,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """At which step do two training runs part, and why?

    Each program runs once with a cheap look at every step; then both run up to the first step that differs, which is
    recorded in full and explained. Exit status: 0 agrees (see --allow), 1 differs, 2 error.
    """
    from whydiff.studies.training import TrainingOptions, compare_training

    options = TrainingOptions(from_step=from_step, band=band, diagnose=diagnose, log=log, progress=progress)
    found = compare_training(reference, candidate, options)
    return found, status(found.verdict, allow)
