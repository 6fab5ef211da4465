"""The document of two dumps, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from whydiff.records import Count
from whydiff.report.blocks import Block, Chart, Lines, Section, Table, Text, rest
from whydiff.report.words import count, number, plain
from whydiff.studies.base import Study, headline
from whydiff.studies.dumps.records import Place, Start, Status

_ROWS = 20
_WORDS = {
    "agree": "its inputs agree, so the difference starts there",
    "differ": "its inputs differ already: it starts before, where nothing was dumped",
    "unknown": "its inputs were not dumped: it starts there or before",
}


@dataclass(frozen=True, slots=True, repr=False)
class DumpComparison(Study):
    """Two dumps, compared.

    Attributes:
        reference, candidate: folders or files.
        tools: that wrote them.
        status: the most serious of all places; ``not compared`` where places that agree are not all there are.
        start: the first place that differs; None: none does, or the order is not known.
        ordered: whether the reference's order is that of execution.
        places: everything that was paired, in the reference's order.
        unknown: what these dumps do not say.
        not_paired: what was left out, counted.
    """

    title: ClassVar[str] = "dumps"
    reference: str
    candidate: str
    tools: tuple[str, str]
    status: Status
    start: Start | None
    ordered: bool
    places: tuple[Place, ...]
    unknown: tuple[str, ...] = ()
    not_paired: tuple[Count, ...] = ()

    @property
    def word(self) -> str:
        """The status."""
        return self.status

    @property
    def differing(self) -> tuple[Place, ...]:
        """Places that differ."""
        return tuple(place for place in self.places if place.status == "differs")

    def answer(self) -> Lines:
        """The answer in five labelled sentences."""
        lines = [headline(self.status, self._says())]
        if self.start is not None:
            lines.append(("where", f"{self.start.place.reference}: {_WORDS[self.start.inputs]}"))
            lines.append(("effect", f"{count(len(self.differing), 'place')} of {len(self.places)} differ"))
        if self.start is not None and self.start.before:
            between = f"; between them only one dump has {', '.join(self.start.between)}" if self.start.between else ""
            lines.append(("proof", f"{self.start.before} before it agrees{between}"))
        if self.unknown:
            lines.append(("unknown", "; ".join(self.unknown)))
        if self.differing:
            lines.append(("fix", "run both sides' module of that place on one input: whydiff compare"))
        return tuple((label, plain(text)) for label, text in lines)

    def _says(self) -> str:
        if self.start is not None:
            place = self.start.place
            size = "" if place.relative is None else f" (relative L2 error {number(place.relative)})"
            return f"the first place that differs is {place.reference}{size}: {place.reason}"
        if self.differing:
            return f"{count(len(self.differing), 'place')} of {len(self.places)} differ; which came first is not known"
        left = sum(one.count for one in self.not_paired)
        rest = f"; {left} values or files were left out" if left else ""
        words = {"identical": "no bit differs", "same summary": "no summary differs"}
        return (
            f"{words.get(self.status, 'nothing differs beyond rounding')} in {count(len(self.places), 'place')}{rest}"
        )

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """The places that are not equal, by depth; what was left out and cannot be known."""
        rows = [place for place in self.places if place.status not in ("identical", "same summary")]
        joined = [place for place in self.places if place.how not in ("name", "renamed")]
        return (
            Section(f"Places that are not equal ({len(rows)})", _table(rows, verbose)),
            Section("Error along the dump", _chart(self.places)),
            Section(f"Paired other than by name ({len(joined)})", _pairs(joined, verbose)),
            Section("Left out", tuple(_left(one) for one in self.not_paired)),
            Section("Not known", tuple(Text(plain(text)) for text in self.unknown)),
            Section("Read", tuple(Text(plain(f"{name}: {tool}")) for name, tool in self._read())),
        )

    def _read(self) -> Sequence[tuple[str, str]]:
        return list(zip((self.reference, self.candidate), self.tools, strict=True))


def _left(one: Count) -> Text:
    return Text(plain(f"{one.count} {one.what}: {one.reason}, e.g. {', '.join(one.examples)}"))


def _table(rows: Sequence[Place], verbose: bool) -> tuple[Block, ...]:
    if not rows:
        return ()
    shown = rows if verbose else rows[:_ROWS]
    table = Table(
        ("place", "tensor", "status", "max abs", "rel L2", "what"),
        tuple(
            (plain(p.reference), plain(p.spec), p.status, number(p.max_abs), number(p.relative), plain(p.reason))
            for p in shown
        ),
        numeric=("max abs", "rel L2"),
    )
    return (table, *rest(len(rows) - len(shown)))


def _pairs(rows: Sequence[Place], verbose: bool) -> tuple[Block, ...]:
    shown = rows if verbose else rows[:_ROWS]
    lines = tuple((p.how, plain(p.reference), plain(p.candidate), p.status) for p in shown)
    return (Table(("how", "reference", "candidate", "status"), lines),) if lines else ()


def _chart(places: Sequence[Place]) -> tuple[Block, ...]:
    outputs = [place for place in places if place.role == "output" and place.relative is not None]
    if not outputs:
        return ()
    chart = Chart(
        title="Relative L2 error of the outputs, in the dump's order",
        kind="line",
        x=tuple(plain(place.reference) for place in outputs),
        series=(("relative L2 error", tuple(place.relative or None for place in outputs)),),
        log=True,
    )
    largest = max(outputs, key=lambda place: place.relative or 0.0)
    return (Text(plain(f"largest {number(largest.relative)} at {largest.reference}")), chart)
