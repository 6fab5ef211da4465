"""``whydiff port``: one model in two frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_reporters, reported, status
from whydiff.errors import UsageError
from whydiff.records import Verdict

_SIDE = "FILE.py:model or package.module:model, with inputs() beside it."


@reported(check_reporters)
def port(
    reference: Annotated[str, typer.Argument(metavar="REF", help=f"The trusted model: {_SIDE}")],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help=f"The port: {_SIDE}")],
    allow: Allow = Verdict.ROUNDING,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Check a port: one model in two frameworks, which layer first departs, and is it rounding?

    Beside each model its file defines inputs(), which returns the same inputs in that framework's form: one
    argument or a tuple. Exit status: 0 agrees (a correct port is rounding), 1 differs, 2 error.
    """
    from whydiff.capturing import targets

    sides = [targets.with_inputs(text) for text in (reference, candidate)]
    given = [_positional(inputs(), text) for (_, inputs), text in zip(sides, (reference, candidate), strict=True)]
    from whydiff.studies.port import check_port  # imports numpy, and whatever the sides need

    diagnosis = check_port(sides[0][0], sides[1][0], given[0], given[1], progress=progress)
    return diagnosis, status(diagnosis.verdict, allow)


def _positional(given: Any, text: str) -> tuple[Any, ...]:
    if isinstance(given, Mapping):
        raise UsageError(
            "A port is checked with positional arguments.",
            where=text,
            actual="inputs() returned a mapping",
            expected="one argument or a tuple",
            next_step="name a function that takes them in order and calls the model by keyword",
        )
    return given if isinstance(given, tuple) else (given,)
