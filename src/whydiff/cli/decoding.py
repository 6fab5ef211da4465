"""``whydiff decoding``: one text in pieces against one pass."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_suffixes, reported, status
from whydiff.records import Verdict


@reported(check_suffixes)
def decoding(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="FILE.py:model or package.module:model, with inputs() beside it.")
    ],
    chunk: Annotated[int | None, typer.Option("--chunk", help="Positions of a piece of chunked prefill.")] = None,
    prompt: Annotated[
        int | None, typer.Option("--prompt", help="Positions read at once before the cache is used one by one.")
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option("--way", metavar="TARGET", help="Your own way: a function from inputs to scores; repeatable."),
    ] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose/--no-diagnose", help="Look for the cause of what is no rounding.")
    ] = True,
    allow: Allow = Verdict.IDENTICAL,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Decode one text in chunks and with a cache: the same as in one pass, token by token?

    Beside the model the file defines inputs(), which returns token ids [batch, tokens] or a mapping with
    input_ids. Exit status: 0 agrees (see --allow), 1 differs, 2 error.
    """
    from whydiff.capturing import targets
    from whydiff.studies.decoding import compare_decoding

    model, inputs = targets.with_inputs(target)
    ways: dict[str, Any] = {text: targets.load(text, ("inputs",)) for text in way or ()}
    found = compare_decoding(
        model, inputs(), chunk=chunk, prompt=prompt, ways=ways, diagnose=diagnose, progress=progress
    )
    return found, status(found.verdict, allow)
