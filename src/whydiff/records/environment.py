"""What stood around a run, and whether looking changed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything outside the program that can change numbers. Values are JSON scalars.

    Attributes:
        versions: package → version (torch, numpy, python, BLAS, oneDNN, CUDA, cuDNN …).
        hardware: device names, CPU instruction set, core count.
        flags: determinism, TF32, reduced precision, SDPA backends, threads, autocast …
        variables: environment variables that frameworks read.
        rng: short digests of the random generators' states at the beginning.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    rng: Mapping[str, str] = field(default_factory=dict)


GENERATORS: Mapping[str, str] = {
    "python": "Python's global generator",
    "numpy": "numpy's global generator",
    "torch": "PyTorch's global generator",
}
"""Random states that a process has once, in words; a trace may name others."""


@dataclass(frozen=True, slots=True)
class ObserverCheck:
    """Proof that looking did not change the numbers (plain run twice, instrumented run once).

    Attributes:
        deterministic: the two plain runs agree bit for bit (H0 == H0′); None if not run.
        unchanged: the instrumented run agrees with the plain one (H1 == H0); None if not run.
        outputs: how many output tensors were compared.
        note: what differed, or why the check was not run.
        drew: global random generators (``"python"``, ``"numpy"``, ``"torch"``) that the run drew from as it found them:
            without seeding them, so that another run gives other numbers, or seeded to the state that they had already.
        why: where looking changed it and an experiment says what changes, and how to switch that off: a clause.
    """

    deterministic: bool | None
    unchanged: bool | None
    outputs: int = 0
    note: str = ""
    drew: tuple[str, ...] = ()
    why: str = ""
