"""How a command shows its Diagnosis and which status it exits with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whydiff import registry
from whydiff.cli._options import Color
from whydiff.records import Verdict

if TYPE_CHECKING:
    from whydiff.records import Diagnosis

AGREES, DIFFERS = 0, 1


def check_reporters(paths: Sequence[str]) -> None:
    """Refuse a kind of file that no reporter writes, before a whole run is made for it.

    Raises:
        whydiff.errors.UsageError: an unknown suffix.
    """
    for path in paths:
        registry.reporter_for(path)


def show(diagnosis: Diagnosis, json: bool, save: Sequence[str], color: Color, verbose: bool) -> None:
    """Write the report to standard output and to every file in ``save``."""
    for path in save:
        diagnosis.save(path)
    if json:
        registry.get("reporters", "json")().print(diagnosis)
    else:
        diagnosis.print(color=color.value, verbose=verbose)


def status(verdict: Verdict, allow: Verdict) -> int:
    """0 if the verdict is no worse than what is allowed, else 1.

    ``inconclusive`` passes only where it was named: what nobody could decide was not allowed by allowing
    a decided difference.
    """
    if verdict is Verdict.INCONCLUSIVE and allow is not Verdict.INCONCLUSIVE:
        return DIFFERS
    return AGREES if verdict.severity <= allow.severity else DIFFERS
