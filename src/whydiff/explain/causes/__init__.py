"""Causes: one file each, found by listing this folder (`whydiff.registry`).

A cause's file defines ``REGISTER``, an object with

- ``code`` (family + number) and ``name`` (kebab-case, the bad pattern, never the fix);
- ``__doc__`` with the headings *What it detects / Why it happens / Evidence required / Look-alikes / Example /
  Remedy / How it is verified / References*: the documentation page, and what ``whydiff cause CODE`` prints;
- ``detect(case) -> Iterable[Cause]``: hypotheses from measured evidence, status ``inconclusive``, with the
  ``interventions`` that would remove the difference; `whydiff.judge.verify` runs them;
- ``example() -> (reference, candidate)``: a minimal pair of zero-argument targets; it may import a framework
  inside.

A cause that explains single origins also has ``rank`` and ``explain`` (`whydiff.explain.causes._explained`); from rank
`GENERAL` on it says what differs without knowing the mistake.

File names are the codes in lower case (``st003.py``); files that begin with ``_`` are shared parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from whydiff import registry
from whydiff.errors import UsageError
from whydiff.explain.case import Case
from whydiff.records import Cause

GENERAL = 80
"""From this rank on, causes say what differs without knowing the mistake."""


class Detector(Protocol):
    """What a cause's file registers."""

    code: str
    name: str

    def detect(self, case: Case) -> Iterable[Cause]:
        """Hypotheses with their evidence and interventions."""

    def example(self) -> tuple[Any, Any]:
        """A minimal (reference, candidate)."""


def detectors() -> tuple[Detector, ...]:
    """Every registered cause, by code."""
    return tuple(sorted(registry.parts("causes").values(), key=lambda detector: detector.code))


def by_code(code: str) -> Detector:
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
    return getattr(by_code(code), "rank", 0) >= GENERAL
