"""The result of a range audit, and how it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from whydiff.numbers.ranges.audit import Audit, SiteRange
from whydiff.records import Cause, Environment, Status, Verdict
from whydiff.report.blocks import Lines, Section, Table, Text
from whydiff.report.json import encode
from whydiff.report.words import MARKS, ranges
from whydiff.studies.base import Study, headline

_TIGHTEST = 12


@dataclass(frozen=True, slots=True, repr=False)
class RangeReport(Study):
    """What a range audit found.

    Attributes:
        verdict: ``unstable`` if a cause is there, ``identical`` (nothing to do) otherwise.
        reason: one sentence.
        audit: every site and alarm.
        causes: with their tried remedies, in order of first occurrence.
        environment: of the run.
    """

    title: ClassVar[str] = "range"
    verdict: Verdict
    reason: str
    audit: Audit
    causes: tuple[Cause, ...]
    environment: Environment

    @property
    def word(self) -> str:
        """The verdict."""
        return str(self.verdict)

    @property
    def best(self) -> Cause | None:
        """The cause that the answer names."""
        return min(self.causes, key=lambda cause: get_args(Status).index(cause.status), default=None)

    def remedy(self) -> str:
        """Code of the named cause's remedy."""
        best = self.best
        return best.remedy.code if best is not None and best.remedy is not None and best.status != "refuted" else ""

    def fields(self) -> dict[str, Any]:
        """The fields; sites are their text, and each has its headroom in bits by format."""
        document: dict[str, Any] = encode(self)
        for site, held in zip(document["audit"]["sites"], self.audit.sites, strict=True):
            site["site"] = str(held.site)
            formats = [held.range.dtype, "float16", "bfloat16"]
            site["headroom_bits"] = encode({name: held.range.headroom(name) for name in dict.fromkeys(formats)})
        for alarm, raised in zip(document["audit"]["alarms"], self.audit.alarms, strict=True):
            alarm["site"] = str(raised.site)
        return document

    def answer(self) -> Lines:
        """Five (label, sentence) pairs."""
        best = self.best
        alarms = self.audit.alarms
        where = f"{alarms[0].site} (first of {len(alarms)} alarms)" if alarms else "nowhere"
        healthy = self.verdict is Verdict.IDENTICAL
        verdict = "healthy" if healthy else str(self.verdict)
        if best is None:
            why = "nothing to explain" if healthy else "no known cause fits"
            proof = "every number written was measured" if healthy else "no experiment decided"
            return (
                headline(verdict, self.reason),
                ("where", where),
                ("why", why),
                ("proof", proof),
                ("fix", "nothing" if healthy else "look at the first alarm's inputs"),
            )
        proof = "; ".join(f"{e.method}: {e.outcome}" for e in best.experiments) or best.reason
        more = [cause for cause in self.causes if cause is not best]
        also = f"; also {', '.join(dict.fromkeys(f'{c.code} {c.name}' for c in more))}" if more else ""
        return (
            headline(verdict, self.reason),
            ("where", where),
            ("why", f"{best.code} {best.name} at {best.site} – {best.status}{also}"),
            ("proof", proof),
            ("fix", _fix(best) or "look at the first alarm's inputs: nothing that was tried helps"),
        )

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Alarms, causes, survival in other formats, sites by headroom, growth, what was not measured."""
        skipped = tuple(Text(f"{count} values: {reason}") for reason, count in self.audit.skipped.items())
        return (
            Section(f"Alarms ({len(self.audit.alarms)})", _alarms(self)),
            Section(f"Causes ({len(self.causes)})", tuple(t for cause in self.causes for t in _cause(cause))),
            Section("Would it survive in another format?", (_survival(self),)),
            Section("Sites by headroom (bits to overflow)", _sites(self, verbose)),
            Section("Growth over steps", _growth(self)),
            Section("Not measured", skipped),
        )


def _fix(cause: Cause) -> str:
    """A remedy and what came of it; none where trying it did not help."""
    if cause.remedy is None or cause.status == "refuted":
        return ""
    worked = next((e.outcome for e in cause.experiments if e.status == "confirmed"), "")
    return f"{cause.remedy.text.rstrip('.')} ({f'tried: {worked}' if worked else 'untried'})"


def _alarms(report: RangeReport) -> tuple[Table, ...]:
    if not report.audit.alarms:
        return ()
    columns = ("kind", "site", "dtype", "times", "steps", "measured")
    rows = []
    for alarm in report.audit.alarms:
        data = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in alarm.data.items())
        rows.append((alarm.kind, str(alarm.site), alarm.dtype, str(alarm.count), ranges(alarm.every, 8), data))
    return (Table(columns, tuple(rows), numeric=("times",)),)


def _cause(cause: Cause) -> tuple[Text, ...]:
    mark = MARKS[cause.status]
    reason = f" because {cause.reason}" if cause.reason else ""
    lines = [Text(f"{mark} {cause.code} {cause.name} at {cause.site}: {cause.status}{reason}")]
    lines += [Text(f"evidence: {evidence.statement}", 1) for evidence in cause.evidence]
    lines += [Text(f"{e.method}: {e.prediction}: {e.outcome}", 1) for e in cause.experiments]
    if fix := _fix(cause):
        lines.append(Text(f"remedy: {fix}", 1))
    return tuple(lines)


def _survival(report: RangeReport) -> Table:
    rows = []
    for dtype, failing in report.audit.survival().items():
        worst = f"{failing[0].site} ({_bits(failing[0].range.headroom(dtype))} bits)" if failing else "–"
        lost = max((site.range.under(dtype) for site in report.audit.sites), default=0.0)
        rows.append((dtype, f"{len(failing)} of {len(report.audit.sites)}", worst, f"{100 * lost:.1f} %"))
    columns = ("format", "sites that overflow", "worst", "most lost to underflow at a site")
    return Table(columns, tuple(rows), numeric=(columns[1], columns[3]))


def _sites(report: RangeReport, verbose: bool) -> tuple[Any, ...]:
    ordered = sorted(report.audit.sites, key=lambda site: site.range.headroom())
    shown = ordered if verbose else ordered[:_TIGHTEST]
    columns = (
        "site",
        "dtype",
        "calls",
        "largest",
        "smallest",
        "headroom",
        "in fp16",
        "zeros",
        "subnormal",
        "inf",
        "NaN",
        "cancelled bits",
    )
    table = Table(columns, tuple(_site(site) for site in shown), numeric=columns[2:])
    left = len(ordered) - len(shown)
    return (table, Text(f"{left} further sites have more headroom (all of them with --verbose).")) if left else (table,)


def _site(site: SiteRange) -> tuple[str, ...]:
    found = site.range
    share = max(found.elements, 1)
    return (
        str(site.site),
        found.dtype,
        str(site.calls),
        _number(found.max_abs),
        _number(found.min_abs),
        _bits(found.headroom()),
        _bits(found.headroom("float16")),
        f"{100 * found.zeros / share:.1f} %",
        f"{100 * found.subnormals / share:.1f} %",
        str(found.infs),
        str(found.nans),
        f"{site.cancelled:.1f}" if site.cancelled else "–",
    )


def _growth(report: RangeReport) -> tuple[Any, ...]:
    """Sites whose largest magnitude grew most from the first to the last step."""
    if report.audit.steps < 3:
        return ()
    grown = []
    for site in report.audit.sites:
        values = [value for _, value in site.growth if value]
        if len(values) >= 3 and site.growth[0][0] != site.growth[-1][0]:
            grown.append((math.log2(values[-1] / values[0]), site, values))
    grown.sort(key=lambda item: -item[0])
    rows = tuple(
        (str(site.site), _number(values[0]), _number(max(values)), _number(values[-1]), f"{bits:+.1f}", _spark(values))
        for bits, site, values in grown[:_TIGHTEST]
    )
    columns = ("site", "first", "largest", "last", "bits grown", "over steps")
    return (Table(columns, rows, numeric=columns[1:5]),) if rows else ()


def _spark(values: list[float], width: int = 24) -> str:
    picked = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    logs = [math.log2(value) for value in picked]
    low, high = min(logs), max(logs)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (log - low) / (high - low)) if high > low else 0] for log in logs)


def _bits(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "–"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else "–"
    return str(value)
