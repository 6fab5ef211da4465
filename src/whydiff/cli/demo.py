"""``whydiff demo``."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

from whydiff.cli._progress import Progress
from whydiff.cli._report import AGREES, check_reporters, reported


class Name(str, enum.Enum):
    """Which demo (`whydiff.cli.demos.NAMES`)."""

    SMOLLM = "smollm"
    MEGATRON = "megatron"
    GEMMA = "gemma"


@reported(check_reporters)
def demo(
    name: Annotated[Name, typer.Argument(metavar="NAME", help="smollm, megatron or gemma.")] = Name.SMOLLM,
    *,
    progress: Progress,
) -> tuple[Any, int]:
    """Run a real difference on a real model.

    smollm: SmolLM2-135M loaded into bfloat16 in two ways gives different logits. megatron: attention scores in
    float16, scaled before or after the product. gemma: a prompt in a batch and alone, in JAX.

    The difference is expected: exit status 0 if the demo ran, 2 on an error.
    """
    from whydiff.cli import demos

    return demos.run(name.value, progress=progress), AGREES
