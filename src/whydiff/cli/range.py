"""``whydiff range``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._options import Arguments
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_suffixes, reported, status
from whydiff.cli._values import value
from whydiff.records import Verdict


@reported(check_suffixes)
def range_(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="FILE.py:name or package.module:name, run once and audited.")
    ],
    arguments: Arguments = None,
    remedies: Annotated[
        bool, typer.Option("--remedies/--no-remedies", help="Try the remedy of everything that is found.")
    ] = True,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Find what overflows or vanishes in one run, where first, and how many bits are left.

    Forward, backward and optimizer steps are measured in one pass; nothing of the tensors is kept. Exit
    status: 0 no alarm, 1 alarms, 2 error.
    """
    from whydiff.capturing import targets

    given = [value(text) for text in arguments or ()]
    run = targets.load(target, given)
    from whydiff.studies.ranging import range_audit

    found = range_audit(run, *given, try_remedies=remedies, progress=progress)
    return found, status(found.verdict, Verdict.IDENTICAL)
