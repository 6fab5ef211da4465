"""What the HTML report holds, as data: blocks, charts, causes as cards, and the compact table of ops."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from whydiff.records import STANDING, Cause, Comparison, Diagnosis, Experiment, Growth, OpRow, Picture
from whydiff.report._effect import cause_effect
from whydiff.report.answer import sentence
from whydiff.report.blocks import Block, Chart, Section, Text, View
from whydiff.report.json import encode
from whydiff.report.proof import done, result, tried
from whydiff.report.view import build
from whydiff.report.words import clause, count, listed, place, plain, short

_POINTS = 4000
"""Most points of the chart by depth; of more, evenly spread ones."""
OPS = ("scope", "op", "suffix", "state", "target", "source")
"""Columns of the table of ops that hold an index into a list of texts; ``spec`` is shared by reads and writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A titled part of the page: blocks, a widget that the page's script fills, or cards of causes."""

    title: str
    blocks: tuple[Block, ...] = ()
    widget: str = ""
    hint: str = ""
    cards: tuple[Card, ...] = ()

    @property
    def id(self) -> str:
        """For links within the page."""
        return "part-" + (re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole page; ``ops`` is None where there is no table of ops."""

    view: View
    parts: tuple[Part, ...]
    ops: dict[str, Any] | None = None


def of_view(view: View) -> Page:
    """The page of anything that is an answer and sections."""
    return Page(view=view, parts=tuple(_part(section) for section in view.sections))


def of_diagnosis(diagnosis: Diagnosis) -> Page:
    """The page of a diagnosis: what to look at first, then everything that the other reporters show too."""
    view = build(diagnosis)
    rest = {section.title: _part(section) for section in view.sections}
    shown = [rest.pop(title) for title in [*rest] if title.startswith(("Environment", "Not compared"))]
    left = [part for title, part in rest.items() if not title.startswith("Causes")]
    parts = [*_depth(diagnosis), *_ops(diagnosis), *_pictures(diagnosis.pictures), *_causes(diagnosis), *shown, *left]
    return Page(view=view, parts=tuple(parts), ops=table(diagnosis) if diagnosis.ops else None)


def _part(section: Section) -> Part:
    return Part(title=section.title, blocks=section.blocks)


# --------------------------------------------------------------------------- depth


def _depth(diagnosis: Diagnosis) -> Iterable[Part]:
    growth = [one for one in diagnosis.growth if one.comparison.status != "not_compared"]
    if not growth:
        return
    if len(growth) > _POINTS:
        growth = [growth[round(i * (len(growth) - 1) / (_POINTS - 1))] for i in range(_POINTS)]
    starts = {origin.site.scope for origin in diagnosis.origins}
    marked: dict[str, int] = {}
    for index, one in enumerate(growth):
        if one.site.scope in starts:
            marked.setdefault(one.site.scope, index)
    chart = Chart(
        title="Relative L2 error of what each module gives, in the order of execution",
        kind="line",
        x=tuple(plain(one.site.scope) or "(the whole program)" for one in growth),
        series=(("relative L2 error", tuple(map(_relative, growth))),),
        unit="relative L2 error",
        log=True,
        marks=tuple(marked.values()),
        opens=bool(diagnosis.ops),
    )
    yield Part(
        title="Difference by depth",
        blocks=(chart,),
        hint="Nothing is drawn where both sides agree bit for bit. A point opens its ops below.",
    )


def _relative(growth: Growth) -> float | None:
    value = growth.comparison.value("rel_l2")
    return None if not value or not math.isfinite(value) else value


# --------------------------------------------------------------------------- ops


def _ops(diagnosis: Diagnosis) -> Iterable[Part]:
    if not diagnosis.ops:
        return
    yield Part(title="Modules", widget="tree", hint="Coloured by how far the two sides are apart.")
    yield Part(
        title="Ops",
        widget="ops",
        hint=f"{count(len(diagnosis.ops), 'op')} of both sides in the order of execution. Errors are measured at the last "
        "op of every module and where a difference starts.",
    )


def table(diagnosis: Diagnosis) -> dict[str, Any]:
    """The ops as rows of indices into lists of texts, so that a hundred thousand of them stay small."""
    texts: dict[str, dict[str, int]] = {name: {} for name in (*OPS, "spec")}
    found = [(one.site, one.comparison) for one in diagnosis.growth]
    found += [(origin.site, origin.comparison) for origin in diagnosis.origins]
    measured: dict[tuple[str, str, str, int, int], Comparison] = {
        (s.scope, s.op, s.phase, s.step, s.occurrence): comparison for s, comparison in found
    }

    def index(name: str, text: str) -> int:
        return texts[name].setdefault(text, len(texts[name]))

    rows = []
    for op in diagnosis.ops:
        compared = measured.get((op.scope, op.op, op.phase, op.step, op.occurrence))
        if op.state in ("reference only", "candidate only"):
            compared = None
        rows.append(
            (
                index("scope", op.scope),
                index("op", op.op),
                index("suffix", _suffix(op)),
                index("state", op.state),
                index("target", op.target),
                index("source", op.source),
                op.occurrence,
                [index("spec", spec) for spec in op.writes],
                [index("spec", spec) for spec in op.reads],
                encode(compared.value("max_abs")) if compared is not None else None,
                encode(compared.value("rel_l2")) if compared is not None else None,
            )
        )
    columns = (*OPS, "occurrence", "writes", "reads", "max", "rel")
    return {
        "columns": columns,
        "rows": rows,
        **{name: [plain(text) for text in found] for name, found in texts.items()},
    }


def _suffix(op: OpRow) -> str:
    phase = "" if op.phase == "forward" else f", {op.phase}"
    return f"{phase}, step {op.step}" if op.step else phase


# --------------------------------------------------------------------------- tensors and causes


def _pictures(pictures: Sequence[Picture]) -> Iterable[Part]:
    blocks: list[Block] = []
    for one in pictures:
        name = plain(one.name)
        seen, whole = one.seen
        part = f" (the first {seen:,} of {whole:,} numbers)" if seen < whole else ""
        at = ", ".join(map(str, one.first))
        blocks += [
            Text(f"{name}, {plain(one.spec)}{part}: first mismatch at [{at}]: {one.values[0]} ↔ {one.values[1]}"),
            Chart(
                title=f"{name}: largest absolute difference",
                kind="heat",
                x=tuple(str(i * one.columns) for i in range(len(one.grid[0]))),
                series=tuple((str(i * one.rows), row) for i, row in enumerate(one.grid)),
                unit="row",
            ),
            Chart(
                title=f"{name}: how many numbers differ by so many units in the last place",
                kind="bar",
                x=tuple(f"≥ {short(units)}" if units > 1 else "below 2" for units, _ in one.ulps),
                series=(("numbers", tuple(float(n) for _, n in one.ulps)),),
                unit="numbers",
                log=True,
            ),
        ]
    if blocks:
        yield Part(title="Tensors", blocks=tuple(blocks), hint="Outputs that differ, then the first places.")


def _causes(diagnosis: Diagnosis) -> Iterable[Part]:
    if diagnosis.causes:
        yield Part(title=f"Causes ({len(diagnosis.causes)})", widget="causes", cards=cards(diagnosis.causes))
    else:
        yield Part(title="Causes", blocks=(Text("No known cause fits."),))


@dataclass(slots=True)
class Numbered:
    """Blocks as the template wants them; charts are numbered and collected."""

    charts: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, block: Block) -> dict[str, Any]:
        """One block with its kind."""
        kind = type(block).__name__.lower()
        if isinstance(block, Chart):
            self.charts.append(
                {
                    "kind": block.kind,
                    "x": block.x,
                    "series": [(name, [encode(value) for value in values]) for name, values in block.series],
                    "unit": block.unit,
                    "log": block.log,
                    "marks": block.marks,
                    "opens": block.opens,
                }
            )
        return {"kind": kind, "block": block, "number": len(self.charts) - 1}


_STANDING = {**STANDING, "refuted": "ruled out", "inconclusive": "open"}
_CAME = {
    "confirmed": "as predicted",
    "located": "as predicted",
    "refuted": "not as predicted",
    "inconclusive": "undecided",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One experiment in words."""

    way: str
    status: str
    outcome: str
    done: str
    predicted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One cause in words."""

    status: str
    standing: str
    says: str
    name: str
    site: str
    effect: str
    reason: str
    evidence: tuple[str, ...]
    experiments: tuple[Tried, ...]
    fix: str
    code: str
    tried: str


def cards(causes: Sequence[Cause]) -> tuple[Card, ...]:
    """A card for every cause, in the diagnosis' order."""
    return tuple(map(_card, causes))


def _card(cause: Cause) -> Card:
    return Card(
        status=cause.status,
        standing="no effect here" if cause.inert else _STANDING[cause.status],
        says=sentence(cause),
        name=plain(f"{cause.code} {cause.name}, {cause.status}"),
        site=place(cause.site),
        effect=cause_effect(cause).removeprefix(": "),
        reason=clause(cause.reason) if cause.status != "confirmed" else "",
        evidence=tuple(plain(one.statement) for one in cause.evidence),
        experiments=tuple(map(_tried, cause.experiments)),
        fix=plain(cause.remedy.text) if cause.remedy else "",
        code=plain(cause.remedy.code) if cause.remedy else "",
        tried=tried(cause).strip(),
    )


def _tried(experiment: Experiment) -> Tried:
    return Tried(
        way=done(experiment),
        status=_CAME[experiment.status],
        outcome=result(experiment),
        done=listed((plain(str(one)) for one in experiment.interventions), 4) or "nothing was changed",
        predicted=plain(experiment.prediction),
    )
