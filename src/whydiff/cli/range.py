"""``whydiff range``."""

from __future__ import annotations

from typing import Annotated

import typer

from whydiff.cli._guard import guard, user_code
from whydiff.cli._options import Color, ColorOption, Json, Quiet, Save, Traceback, Verbose
from whydiff.cli._progress import progress
from whydiff.records import Verdict


@guard
def range_(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="FILE.py:name or package.module:name, run once and audited.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Given to the target: JSON where it is valid JSON, else text."),
    ] = None,
    remedies: Annotated[
        bool, typer.Option("--remedies/--no-remedies", help="Try the remedy of everything that is found.")
    ] = True,
    save: Save = None,
    json: Json = False,
    color: ColorOption = Color.AUTO,
    verbose: Verbose = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Find what overflows or vanishes in one run, where first, and how many bits are left.

    Forward, backward and optimizer steps are measured in one pass; nothing of the tensors is kept. Exit
    status: 0 no alarm, 1 alarms, 2 error.
    """
    with progress(quiet or json) as report, user_code():
        from whydiff.capturing import targets
        from whydiff.cli._study import check_suffixes, show_study
        from whydiff.cli._values import value

        check_suffixes(save or ())
        given = [value(text) for text in arguments or ()]
        run = targets.load(target, given)
        from whydiff.studies.ranging import range_audit
        from whydiff.studies.ranging.rendering import answer, sections

        found = range_audit(run, *given, try_remedies=remedies, progress=report)
    show_study(found.to_dict(), answer(found), sections(found, verbose), json=json, save=save or (), color=color)
    raise typer.Exit(0 if found.verdict is Verdict.IDENTICAL else 1)
