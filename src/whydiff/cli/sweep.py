"""``whydiff sweep``: one program at many sizes."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from whydiff.cli._options import Allow
from whydiff.cli._progress import Progress
from whydiff.cli._report import check_suffixes, reported, status
from whydiff.records import Verdict


@reported(check_suffixes)
def sweep(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="FILE.py:name or package.module:name, with inputs() beside it.")
    ],
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="SIZES", help="Batch sizes, such as 1,2,4 or 1..8.")
    ] = None,
    length: Annotated[str | None, typer.Option("--length", metavar="SIZES", help="Lengths, such as 61..128.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="NAMES",
            help="Memory layouts of the inputs: transposed, channels_last, strided, offset.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="AXIS", help="Compare along batch, length or layout; else the first given."),
    ] = None,
    row: Annotated[int, typer.Option("--row", help="Row of the batch that is the single run's counterpart.")] = 0,
    workers: Annotated[
        int, typer.Option("--workers", help="Processes; each uses as many threads as one run would.")
    ] = 1,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="FILE", help="Keep finished cells here and do not run them again.")
    ] = None,
    remedies: Annotated[
        bool, typer.Option("--remedies/--no-remedies", help="Try what makes the sizes agree, and its cost.")
    ] = True,
    kernels: Annotated[bool, typer.Option("--kernels/--no-kernels", help="Ask which kernels ran.")] = True,
    orders: Annotated[
        bool, typer.Option("--orders/--no-orders", help="Reveal in which order each class of sizes adds up.")
    ] = True,
    allow: Allow = Verdict.IDENTICAL,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Run one program at many sizes: which ops change their bits with the size, and what makes them stop?

    Beside the target the file defines inputs(batch, length) (or only the sizes that are swept), whose first rows
    and positions are the same at every size. Exit status: 0 agrees (see --allow), 1 differs, 2 error.
    """
    from whydiff.capturing import targets
    from whydiff.errors import UsageError
    from whydiff.studies.sweep import study as studies
    from whydiff.studies.sweep.program import Program

    if against not in (None, "batch", "length", "layout"):
        raise UsageError(
            "There is no such axis.", where="--against", actual=against or "", expected="batch, length or layout"
        )
    found = studies.sweep(
        Program(functools.partial(targets.with_inputs, target), target),
        batch=batch,
        length=length,
        layout=layout,
        against=against,  # type: ignore[arg-type]
        row=row,
        workers=workers,
        resume=resume,
        remedies=remedies,
        kernels=kernels,
        orders=orders,
        progress=progress,
    )
    return found, status(found.verdict, allow)
