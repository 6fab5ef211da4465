"""``whydiff demo``."""

from __future__ import annotations

import json as jsons
from typing import Annotated

import typer

from whydiff.cli._guard import guard, user_code
from whydiff.cli._options import Color, ColorOption, Json, Quiet, Save, Traceback, Verbose
from whydiff.cli._progress import progress
from whydiff.cli._show import show
from whydiff.records import Diagnosis


@guard
def demo(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which demo.")] = "smollm",
    save: Save = None,
    json: Json = False,
    color: ColorOption = Color.AUTO,
    verbose: Verbose = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Run a real difference on real weights: one model loaded in two ways gives different logits.

    The difference is expected: exit status 0 if the demo ran, 2 on an error.
    """
    with progress(quiet or json) as report, user_code():
        from whydiff.cli import demos

        diagnosis = demos.run(name, progress=report)
    if isinstance(diagnosis, Diagnosis):
        show(diagnosis, json, save or (), color, verbose)
    elif json:
        typer.echo(jsons.dumps(diagnosis.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        diagnosis.print(color=color.value)
