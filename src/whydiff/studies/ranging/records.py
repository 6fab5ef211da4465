"""The result of a range audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Cause, Environment, Verdict
from whydiff.report.json import encode

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RangeReport:
    """What a range audit found.

    Attributes:
        verdict: ``unstable`` if a cause is there, ``identical`` (nothing to do) otherwise.
        reason: one sentence.
        audit: every site and alarm.
        causes: with their tried remedies, in order of first occurrence.
        environment: of the run.
    """

    verdict: Verdict
    reason: str
    audit: Audit
    causes: tuple[Cause, ...]
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON data; numbers that JSON cannot write are strings, sites their text."""
        document = {"schema_version": SCHEMA_VERSION, **encode(self)}
        for site, held in zip(document["audit"]["sites"], self.audit.sites, strict=True):
            site["site"] = str(held.site)
            formats = [held.range.dtype, "float16", "bfloat16"]
            site["headroom_bits"] = encode({name: held.range.headroom(name) for name in dict.fromkeys(formats)})
        for alarm, raised in zip(document["audit"]["alarms"], self.audit.alarms, strict=True):
            alarm["site"] = str(raised.site)
        return document

    def print(self, *, verbose: bool = False, color: Any = "auto") -> None:
        """Print the report: the answer in five lines, then the tables."""
        from whydiff.report.terminal import write_sections
        from whydiff.studies.ranging.rendering import answer, sections

        write_sections(answer(self), sections(self, verbose), color)
