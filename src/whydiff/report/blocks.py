"""What a report is made of, as data: sections of sentences, tables and code, without any rendering."""

from __future__ import annotations

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


Lines = tuple[tuple[str, str], ...]
"""(label, sentence) pairs, the report in short; the headline comes first and has no label."""

Block = Text | Table | Code


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
