"""Every registered cause: in the order in which they are asked, by code, and in words."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from whydiff import registry
from whydiff.errors import UsageError, guarded
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule, in_order
from whydiff.records import Cause


@functools.cache
def asked() -> tuple[CauseRule, ...]:
    """Every registered cause, in the order in which they are asked to explain a place."""
    return in_order(registry.parts("causes"))


def detectors() -> tuple[CauseRule, ...]:
    """Every registered cause, by code."""
    return tuple(sorted(asked(), key=lambda rule: rule.code))


def by_code(code: str) -> CauseRule:
    """The cause of a code or name.

    Raises:
        UsageError: there is none.
    """
    found = [d for d in detectors() if code.lower() in (d.code.lower(), d.name)]
    if not found:
        known = ", ".join(f"{d.code} {d.name}" for d in detectors())
        raise UsageError("There is no such cause.", actual=code, expected=known)
    return found[0]


def is_general(code: str) -> bool:
    """Whether a cause says what differs without knowing the mistake."""
    return by_code(code).general


@functools.cache
def who(rule: CauseRule) -> str:
    """A cause in words, for counting what it raised: where a third party's comes from."""
    name = next(name for name, part in registry.parts("causes").items() if part is rule)
    return registry.described("causes", name)


def proposed(rule: CauseRule, case: Case) -> list[Cause]:
    """What a cause proposes; what it had proposed before it raised."""
    found: list[Cause] = []
    with guarded(who(rule)):
        causes: Iterable[object] = rule.detect(case)
        for cause in causes:
            if not isinstance(cause, Cause) or cause.code != rule.code:
                raise TypeError(f"detect() gave {cause!r:.80}, not a whydiff.records.Cause of code {rule.code}")
            found.append(replace(cause, says=cause.says or rule.sentence()))
    return found
