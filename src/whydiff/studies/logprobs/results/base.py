"""What a test found, as a record: fields for code, two sentences for people."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

from whydiff.records import Verdict

Side = Literal["reference", "candidate"]
SIDES = {"reference": "engine", "candidate": "trainer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(abc.ABC):
    """One test's outcome.

    Attributes:
        advice: what to do, where it is the same whatever was measured.
        found: whether the mistake that the test is for is there; the other fields hold what was measured either way.
        tested: whether the files hold what the test needs.
    """

    test: ClassVar[str]
    verdict: ClassVar[Verdict] = Verdict.SEMANTIC
    advice: ClassVar[str] = ""
    found: bool
    tested: bool = True

    @abc.abstractmethod
    def says(self) -> str:
        """What is wrong, as a clause for the first line."""

    def fix(self) -> str:
        """What to do."""
        return self.advice
