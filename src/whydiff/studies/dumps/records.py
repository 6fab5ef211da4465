"""What a dump holds, and what was found of two of them, as inert records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from whydiff.studies.artifacts.records import Relation
from whydiff.studies.artifacts.sources import Stored

Role = Literal["input", "output"]
Status = Literal["identical", "same summary", "within tolerance", "differs", "not compared"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Entry:
    """One value of a dump.

    Attributes:
        scope: path of the module, or of the modules around an operator; without the tool's own decoration.
        op: class or operator, with the number of its call: ``LayerNorm#0``; empty: not known.
        part: which of its values: ``0``, ``1.k`` …
        role: an input or an output.
        order: place in the dump's order.
        around: step, pass (forward or backward) and whatever else must be equal.
        rank: of the process that dumped it; empty: there is one, or it is not known.
        stored: the numbers, if they were dumped.
        summary: statistics, hashes or printed numbers, where the numbers themselves are not there.
        spec: dtype and shape, as far as they are known.
    """

    scope: str
    op: str = ""
    part: str = "0"
    role: Role = "output"
    order: int = 0
    around: str = ""
    rank: str = ""
    stored: Stored | None = None
    summary: Mapping[str, float | str] = field(default_factory=dict)
    spec: str = ""

    @property
    def name(self) -> str:
        """The place in words."""
        place = " ".join(part for part in (self.scope or "(the whole program)", self.op) if part)
        return f"{place} {self.role} {self.part}" + (f" [{self.during}]" if self.during else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes; none where its numbers were not dumped."""
        return self.stored.shape if self.stored is not None else ()

    @property
    def numbers(self) -> int:
        """How many numbers were dumped of it."""
        return self.stored.numbers if self.stored is not None else 0

    @property
    def during(self) -> str:
        """Step, pass and rank in words."""
        return " ".join(word for word in (self.around, self.rank) if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """One dump, opened.

    Attributes:
        source: folder or file.
        tool: that wrote it.
        entries: in the dump's order.
        ordered: whether that is the order of execution.
        unknown: sentences on what this kind of dump does not say.
        skipped: reason → names of what could not be read.
    """

    source: str
    tool: str
    entries: tuple[Entry, ...]
    ordered: bool = True
    unknown: tuple[str, ...] = ()
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Values of both dumps that correspond, compared.

    Attributes:
        reference, candidate: their names; several are joined by `` + ``.
        scope: of the reference's module.
        call: the reference's operator, and step, rank and pass: with the scope it tells calls apart.
        role: of the values.
        how: how they were paired: ``name``, ``renamed``, ``shape``, ``ranks`` (parts of one value), ``fused``, ``split``,
            ``sum`` or ``tokens`` (row by row, by the tokens' contexts).
        status: what the comparison says.
        reason: a sentence.
        spec: dtype and shape.
        relative: relative L2 error, where numbers were compared.
        max_abs: largest absolute difference.
        relation: what turns one side into the other.
        order: when the value was complete, in the reference's order.
    """

    reference: str
    candidate: str
    scope: str
    call: tuple[str, str]
    role: Role
    how: Literal["name", "renamed", "shape", "ranks", "fused", "split", "sum", "tokens"]
    status: Status
    reason: str = ""
    spec: str = ""
    relative: float | None = None
    max_abs: float | None = None
    relation: Relation | None = None
    order: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The first place that differs.

    Attributes:
        place: it.
        inputs: ``agree``, ``differ`` or ``unknown``: the inputs of the same module.
        before: name of the last place before it that agrees; empty: there is none.
        between: modules between the two that only one dump has.
    """

    place: Place
    inputs: Literal["agree", "differ", "unknown"]
    before: str = ""
    between: tuple[str, ...] = ()
