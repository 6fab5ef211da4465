"""``whydiff artifacts``: two trees of index or checkpoint files."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._progress import Progress
from whydiff.cli._report import AGREES, DIFFERS, check_suffixes, reported
from whydiff.errors import UsageError


@reported(check_suffixes)
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
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Compare two trees of index or checkpoint files: integers exactly, floats by a tolerance.

    Exit status: 0 if everything is identical or within tolerance, 1 if not, 2 error.
    """
    from whydiff.studies.artifacts import compare_artifacts

    table = dict(_tolerance(text) for text in tolerance or ())
    found = compare_artifacts(reference, candidate, tolerances=table, explain=explain, progress=progress)
    return found, AGREES if found.status in ("identical", "within tolerance") else DIFFERS


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
