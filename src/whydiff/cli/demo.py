"""``whydiff demo``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whydiff.cli._progress import Progress
from whydiff.cli._report import AGREES, check_reporters, reported


@reported(check_reporters)
def demo(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which demo.")] = "smollm", *, progress: Progress
) -> tuple[Any, int]:
    """Run a real difference on real weights: one model loaded in two ways gives different logits.

    The difference is expected: exit status 0 if the demo ran, 2 on an error.
    """
    from whydiff.cli import demos

    return demos.run(name, progress=progress), AGREES
