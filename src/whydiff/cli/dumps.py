"""``whydiff dumps``: what other tools dumped of two runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._progress import Progress
from whydiff.cli._report import AGREES, DIFFERS, check_suffixes, reported


@reported(check_suffixes)
def dumps(
    reference: Annotated[str, typer.Argument(metavar="REF", help="The trusted run's dump: a folder or a file.")],
    candidate: Annotated[str, typer.Argument(metavar="CAND", help="The dump of the run under suspicion.")],
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Where do two runs part first, by what another tool dumped of them?

    Reads dumps of msprobe, SGLang's dumper, torch's DebugMode (debug_string() in a .txt file), transformers' model
    debugger, and folders of .pt, .npy and .safetensors files named by module. Nothing is unpickled.
    Exit status: 0 no place differs beyond rounding, 1 one does or something was left out, 2 error.
    """
    from whydiff.studies.dumps import compare_dumps

    found = compare_dumps(reference, candidate, progress=progress)
    return found, AGREES if found.status in ("identical", "same summary", "within tolerance") else DIFFERS
