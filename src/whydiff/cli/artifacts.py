"""``whydiff artifacts``: two trees of index or checkpoint files."""

from __future__ import annotations

from typing import Annotated

import typer

from whydiff.cli._guard import guard
from whydiff.cli._options import Color, ColorOption, Json, Quiet, Save, Traceback, Verbose
from whydiff.cli._progress import progress
from whydiff.errors import UsageError


@guard
def artifacts(
    reference: Annotated[str, typer.Argument(metavar="REF", help="The trusted folder, file or URL.")],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help="The one under suspicion.")],
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance", metavar="DTYPE=ATOL,RTOL", help="For floats of this dtype; 'other' for the rest; repeatable."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Look for the near ties behind changed codes.")
    ] = True,
    save: Save = None,
    json: Json = False,
    color: ColorOption = Color.AUTO,
    verbose: Verbose = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Compare two trees of index or checkpoint files: integers exactly, floats by a tolerance.

    Exit status: 0 if everything is identical or within tolerance, 1 if not, 2 error.
    """
    from whydiff.cli._artifacts_view import artifact_lines, artifact_sections
    from whydiff.cli._study import check_suffixes, show_study
    from whydiff.studies.artifacts import compare_artifacts

    check_suffixes(save or ())
    table = dict(_tolerance(text) for text in tolerance or ())
    with progress(quiet or json) as report:
        found = compare_artifacts(reference, candidate, tolerances=table, explain=explain, progress=report)
    sections = artifact_sections(found, verbose)
    show_study(found, artifact_lines(found), sections, json=json, save=save or (), color=color)
    raise typer.Exit(0 if found.status in ("identical", "within tolerance") else 1)


def _tolerance(text: str) -> tuple[str, tuple[float, float]]:
    dtype, _, numbers = text.partition("=")
    try:
        atol, rtol = (float(word) for word in numbers.split(","))
    except ValueError as error:
        raise UsageError(
            "This is no tolerance.",
            where="--tolerance",
            actual=text,
            expected="DTYPE=ATOL,RTOL, for example float16=1e-3,1e-2",
        ) from error
    return ("" if dtype == "other" else dtype), (rtol, atol)
