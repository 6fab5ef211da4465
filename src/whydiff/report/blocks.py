"""What a report is made of, as data: sections of sentences, tables and code, without any rendering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "bad", "dim"]


@dataclass(frozen=True, slots=True)
class Bar:
    """A small bar in a table. ``fraction`` is between 0 (nothing) and 1 (the largest of its column)."""

    fraction: float


Cell = str | Bar


@dataclass(frozen=True, slots=True)
class Text:
    """One sentence or list item; ``depth`` indents it, ``tone`` is a hint for colour only."""

    text: str
    depth: int = 0
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; the columns in ``numeric`` are aligned right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """Code to paste."""

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Numbers to be drawn where there is a canvas; what it shows stands in sentences or a table too.

    Attributes:
        title: what is drawn.
        kind: a line or a bar per series, or a heat map with a row per series.
        x: label of every point.
        series: (name, values); None where there is nothing to draw.
        unit: of the values, or what a heat map's rows are.
        log: draw the values on a logarithmic axis.
        marks: points at which a difference starts.
        opens: a point leads to its ops.
    """

    title: str
    kind: Literal["line", "bar", "heat"]
    x: tuple[str, ...]
    series: tuple[tuple[str, tuple[float | None, ...]], ...]
    unit: str = ""
    log: bool = False
    marks: tuple[int, ...] = ()
    opens: bool = False


Lines = tuple[tuple[str, str], ...]
"""(label, sentence) pairs, the report in short; the headline comes first and has no label."""

Readable = Text | Table | Code
Block = Readable | Chart


def rest(left: int, what: str = "") -> tuple[Block, ...]:
    """How many more there are than are shown, and where; nothing where all are."""
    return (Text(f"and {left} more{what and f' {what}'} (--verbose, --json)"),) if left > 0 else ()


def readable(blocks: Iterable[Block]) -> tuple[Readable, ...]:
    """Blocks without those that need a canvas."""
    return tuple(block for block in blocks if not isinstance(block, Chart))


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the report."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class View:
    """The whole report: the answer in five lines, the code that remedies it, then the sections.

    Attributes:
        verdict: the verdict's word, for colour.
        answer: (label, sentence) pairs: headline, where, effect, proof, fix.
        remedy: code to paste; empty if there is none.
        sections: everything else, in reading order; none is empty.
        title: what made the report.
        more: how to see what is not shown; empty if everything is.
    """

    verdict: str
    answer: Lines
    remedy: str
    sections: tuple[Section, ...]
    title: str = "whydiff"
    more: str = ""
