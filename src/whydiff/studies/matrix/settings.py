"""From what a user asks for to environments: interpreters × sets of variables."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence

from whydiff.errors import UsageError
from whydiff.studies.matrix.records import Setting


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
