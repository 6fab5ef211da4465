"""``whydiff ranks``: one run of several ranks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._progress import Progress
from whydiff.cli._report import check_suffixes, reported, status
from whydiff.records import Verdict


@reported(check_suffixes)
def ranks(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="What whydiff capture made of several ranks.")],
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Do replicas stay equal, and do all ranks call the same collectives?

    Reads what was recorded, also of a run that hung or was killed; nothing is executed. Exit status: 0 both, 1 not, or it
    could not be said, 2 error.
    """
    from whydiff.studies.ranks import check_ranks

    found = check_ranks(trace)
    return found, status(found.verdict, Verdict.IDENTICAL)
