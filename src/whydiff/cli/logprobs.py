"""``whydiff logprobs``: the same tokens, scored by an inference engine and by a trainer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_suffixes, reported, status
from whydiff.errors import UsageError
from whydiff.records import Verdict


@reported(check_suffixes)
def logprobs(
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="The engine's .jsonl, .parquet or .npz file.")],
    trainer: Annotated[str, typer.Argument(metavar="TRAINER", help="The trainer's.")],
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="ROLE=NAME",
            help="Which column is id, tokens, logprobs, position, mask, prompt, length, step, worker or entropy; "
            "engine:ROLE or trainer:ROLE for one file; repeatable. Others are guessed and printed.",
        ),
    ] = None,
    clip: Annotated[
        str, typer.Option("--clip", metavar="LOW,HIGH", help="Bounds of the ratio trainer / engine.")
    ] = "0.8,1.2",
    allow: Allow = Verdict.PRECISION,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Why do an inference engine and a trainer disagree about the same tokens?

    Pairs the log-probabilities by id and token and looks for a temperature, a shift, other tokens, a truncated
    distribution, prompt positions, stale weights, padding, one bad worker and outliers; else it says how large the
    noise is. Exit status: 0 benign (see --allow), 1 not, 2 error.
    """
    fields = [_fields(field or (), side) for side in ("engine", "trainer")]
    bounds = _bounds(clip)
    from whydiff.studies.logprobs import compare_logprobs  # imports numpy

    found = compare_logprobs(
        engine, trainer, fields=fields[0], trainer_fields=fields[1], clip=bounds, progress=progress
    )
    return found, status(found.verdict, allow)


def _fields(texts: list[str] | tuple[str, ...], side: str) -> dict[str, str]:
    found = {}
    for text in texts:
        role, equals, name = text.partition("=")
        if not equals or not name:
            raise UsageError("This names no field.", where="--field", actual=text, expected="ROLE=NAME")
        which, colon, own = role.partition(":")
        if not colon or which == side:
            found[own or role] = name
        elif which not in ("engine", "trainer"):
            raise UsageError("There is no such side.", where="--field", actual=which, expected="engine or trainer")
    return found


def _bounds(text: str) -> tuple[float, float]:
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError("These are no bounds.", where="--clip", actual=text, expected="LOW,HIGH") from error
    return low, high
