"""Which of several processes this is, and where its part of a trace lies.

Every rank writes a trace of its own, alone: nothing is agreed on and nobody is waited for, so that a rank that dies
leaves the others' parts as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_VARIABLES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
"""How launchers tell a process which one it is: torchrun, Open MPI, MPICH with its kin, and srun.

Slurm tells a batch script, too, how many tasks the job may have; only srun says how many run together."""

MOST = 1 << 20
"""Ranks of a run that is believed: a damaged file may claim any number."""

_RESTARTS = "TORCHELASTIC_RESTART_COUNT"


@dataclass(frozen=True, slots=True)
class Rank:
    """One of several processes that run a program together.

    Attributes:
        number: from 0.
        size: how many there are.
    """

    number: int = 0
    size: int = 1

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1


def told(variables: Mapping[str, str] | None = None) -> Rank:
    """What the launcher says of this process; one that nobody launched is alone."""
    found = os.environ if variables is None else variables
    for number, size in _VARIABLES:
        texts = found.get(number, ""), found.get(size, "")
        if all(text.isascii() and text.isdigit() for text in texts) and int(texts[0]) < int(texts[1]):
            return Rank(int(texts[0]), int(texts[1]))
    return Rank()


def started_again(variables: Mapping[str, str] | None = None) -> bool:
    """Whether the launcher started this rank again after a failure: the part of the failed attempt is replaced."""
    text = (os.environ if variables is None else variables).get(_RESTARTS, "")
    return text.isascii() and text.isdigit() and int(text) > 0


def part(path: str | os.PathLike[str], rank: Rank) -> str | os.PathLike[str]:
    """Where a rank's part of a trace lies; the path itself for a process that is alone."""
    return Path(path) / folder(rank.number) if rank.several else path


def folder(number: int) -> str:
    """Name of a rank's folder, e.g. ``rank-00001``."""
    return f"rank-{number:05d}"


def parts(path: str | os.PathLike[str]) -> dict[int, Path]:
    """The ranks whose folders lie in a directory; none if there is no such directory."""
    root = Path(path)
    names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    numbers = [int(digits) for name in names if (digits := name.removeprefix("rank-")).isascii() and digits.isdigit()]
    return {number: root / folder(number) for number in sorted(numbers) if folder(number) in names}
