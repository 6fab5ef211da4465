"""``whydiff port``: one model in two frameworks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_reporters, reported, status
from whydiff.errors import UsageError
from whydiff.records import Verdict

_SIDE = "FILE.py:model or package.module:model, with inputs() beside it; or FILE.onnx, which takes the other side's."


@reported(check_reporters)
def port(
    reference: Annotated[str, typer.Argument(metavar="REF", help=f"The trusted model: {_SIDE}")],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help=f"The port: {_SIDE}")],
    allow: Allow = Verdict.ROUNDING,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Check a port: one model in two frameworks, or exported; which layer first departs, and is it rounding?

    Beside each model its file defines inputs(), which returns the same inputs in that framework's form: one
    argument or a tuple. Exit status: 0 agrees (a correct port is rounding), 1 differs, 2 error.
    """
    from whydiff.capturing import targets

    texts = (reference, candidate)
    models: list[Any] = []
    given: list[Any] = []
    for text in texts:
        if text.endswith(".onnx"):
            models.append(text)
            given.append(None)
        else:
            model, inputs = targets.with_inputs(text)
            models.append(model)
            given.append(inputs())
    known = next((some for some in given if some is not None), None)
    if known is None:
        raise UsageError(
            "Nothing tells the inputs.",
            where=" and ".join(texts),
            expected="at least one side that is FILE.py:model, with inputs() beside it",
        )
    from whydiff.studies.port import check_port  # imports numpy, and whatever the sides need

    ours, theirs = (known if some is None else some for some in given)
    diagnosis = check_port(models[0], models[1], ours, theirs, progress=progress)
    return diagnosis, status(diagnosis.verdict, allow)
