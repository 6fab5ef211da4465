"""Environments from what a user asks for, and what was found in one and for one pair, as inert frozen records."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from whydiff.errors import UsageError
from whydiff.records import Cause, Environment, Verdict


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment as it is asked for.

    Attributes:
        python: path of the interpreter, as given.
        variables: (name, value) of environment variables that are set; value None: taken away.
    """

    python: str
    variables: tuple[tuple[str, str | None], ...] = ()

    @property
    def variables_text(self) -> str:
        """``NAME=VALUE NAME=VALUE``; ``-NAME`` for one that is taken away; ``(as it is)`` for none."""
        words = (f"-{name}" if value is None else f"{name}={value}" for name, value in self.variables)
        return " ".join(words) or "(as it is)"

    def __str__(self) -> str:
        return f"{self.python} {self.variables_text}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A target's run in one environment.

    Attributes:
        setting: what was asked for.
        status: ``done``, ``failed`` (see note) or ``timeout``.
        note: why it failed; what the observer check saw if it is not clean.
        environment: what the process really saw.
        outputs: slot → what was returned there, as text: dtype, shape and 128 bits, or the text itself.
        program: digest of all calls and their fingerprints: equal digests, equal bits everywhere.
        deterministic: two plain runs in this process agree; None: not checked.
        payload_bytes: estimate of a capture with all full tensors, in bytes.
        trace: path of the fingerprint trace; empty if there is none.
        resumed: taken from an earlier run of the matrix.
    """

    setting: Setting
    status: Literal["done", "failed", "timeout"]
    note: str = ""
    environment: Environment = field(default_factory=Environment)
    outputs: Mapping[str, str] = field(default_factory=dict)
    program: str = ""
    deterministic: bool | None = None
    payload_bytes: int = 0
    trace: str = ""
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Responsible:
    """One difference of environment that changes the numbers, with the experiments that show it.

    Attributes:
        difference: what is changed: ``NAME=reference's → candidate's``, or the interpreter's path.
        changes: what the environment shows for it: (where, reference's, candidate's).
        alone: the reference's environment with only this change gives the candidate's bits (``reproduces``),
            other bits than the reference's (``differs``) or the reference's bits (``agrees``).
        without: the candidate's environment without this change gives the reference's bits (``agrees``) or
            not (``differs``); empty if that environment could not be run.
        name: what it is a difference of: a variable, or ``interpreter``.
    """

    difference: str
    changes: tuple[tuple[str, str, str], ...]
    alone: Literal["reproduces", "differs", "agrees"]
    without: Literal["agrees", "differs", ""]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two cells compared.

    Attributes:
        reference, candidate: indices of cells.
        verdict: a word of `whydiff.Verdict`, or ``not compared`` (see reason).
        reason: one sentence.
        changes: differences of environment: (where, reference's, candidate's), random states left out.
        origins: how many origins; None if not localized.
        first_origin: site of the first, empty if none.
        max_abs, mean_abs: of the outputs; None if not measured.
        responsible: differences of environment that change the numbers, by experiment.
        tried: how many differences of environment were candidates, and in how many extra cells they were
            tried.
        causes: what `responsible` means in the causes' words (EN001 …), with their experiments.
        diagnosis: the whole `Diagnosis` as data, as its JSON report has it; empty if it was not made.
    """

    reference: int
    candidate: int
    verdict: str
    reason: str
    changes: tuple[tuple[str, str, str], ...]
    origins: int | None = None
    first_origin: str = ""
    max_abs: float | None = None
    mean_abs: float | None = None
    responsible: tuple[Responsible, ...] = ()
    tried: tuple[int, int] = (0, 0)
    causes: tuple[Cause, ...] = ()
    diagnosis: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> Verdict | None:
        """The verdict; None if the two were not compared."""
        return next((verdict for verdict in Verdict if verdict.value == self.verdict), None)


def settings(pythons: Sequence[str], variables: Sequence[str], *, plain: bool = True) -> tuple[Setting, ...]:
    """All environments, the reference first: every interpreter with every set of variables.

    Args:
        pythons: paths or names of interpreters, at least one.
        variables: each a set that makes one environment per interpreter: ``"A=1 B=2"`` (shell quoting);
            ``-A`` takes a variable away.
        plain: also run without changed variables, first.

    Raises:
        UsageError: no such interpreter, no ``NAME=VALUE``, or fewer than two environments.
    """
    found = [_interpreter(python) for python in pythons]
    sets: list[tuple[tuple[str, str | None], ...]] = [()] if plain or not variables else []
    sets += [_variables(text) for text in variables]
    every = tuple(dict.fromkeys(Setting(python, chosen) for python in found for chosen in dict.fromkeys(sets)))
    if len(every) < 2:
        raise UsageError(
            "A matrix needs at least two environments.",
            actual=str(every[0]) if every else "none",
            next_step="Name a second --python, or --env NAME=VALUE.",
        )
    return every


def _interpreter(python: str) -> str:
    path = shutil.which(python)
    if path is None:
        raise UsageError("There is no such interpreter.", where="--python", actual=python)
    return path


def _variables(text: str) -> tuple[tuple[str, str | None], ...]:
    chosen: dict[str, str | None] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("The quotes of this set of variables do not match.", where="--env", actual=text) from error
    for word in words:
        name, equals, value = word.partition("=")
        taken_away = not equals and name.startswith("-")
        name = name[1:] if taken_away else name
        if not name.isidentifier() or not (equals or taken_away):
            raise UsageError(
                "This does not set an environment variable.",
                where="--env",
                actual=word,
                expected="NAME=VALUE, or -NAME to take it away",
            )
        chosen[name] = value if equals else None
    return tuple(sorted(chosen.items()))
