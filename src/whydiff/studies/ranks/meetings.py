"""Whether ranks call the same collectives in the same order: what hangs, or mixes up numbers, if they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.records import Call, Collective, TensorSpec

_ALIKE = ("all-reduce", "reduce", "broadcast", "reduce-scatter", "send", "recv")
"""Kinds for which every rank gives as many elements, of one dtype."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is called in one order: a group's collectives, or what one of its ranks sends to another.

    Attributes:
        group: its name.
        ranks: of the group; or sender and receiver.
        is_sent: whether one rank sends it to another.
    """

    group: str
    ranks: tuple[int, ...]
    is_sent: bool = False

    def __str__(self) -> str:
        return (f"ranks {self.ranks[0]} to {self.ranks[1]} in " if self.is_sent else "") + f"group {self.group}"


@dataclass(frozen=True, slots=True)
class Step:
    """What a rank calls.

    Attributes:
        rank: which.
        site: where; empty: nothing more.
        what: collective and tensors, in words.
    """

    rank: int
    site: str = ""
    what: str = "nothing more"

    def __str__(self) -> str:
        return f"rank {self.rank} calls {self.what}" + (f" at {self.site}" if self.site else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The first place at which ranks that should call the same collective do not.

    Attributes:
        line: what they should call alike.
        number: of the collective among those of the line, from 1.
        steps: what each of its ranks calls there.
    """

    line: Line
    number: int
    steps: tuple[Step, ...]

    @property
    def place(self) -> str:
        """Which collective it is, in words."""
        return f"collective {self.number} of {self.line}"


@dataclass(frozen=True, slots=True)
class _Called:
    told: Collective
    call: Call

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        given = [event.spec for event in self.call.reads if not event.overwritten]
        return tuple(given or (event.spec for event in self.call.reads))

    @property
    def form(self) -> Any:
        """What has to be the same on all ranks."""
        alike = tuple((spec.dtype, spec.numel) for spec in self.given) if self.told.kind in _ALIKE else ()
        if self.told.kind in ("send", "recv"):
            return alike
        return self.told.kind, self.told.reduce, self.told.root, alike

    def step(self, rank: int) -> Step:
        given = ", ".join(f"{spec.dtype}{list(spec.shape)}" for spec in self.given)
        way = "to" if self.told.kind in ("send", "reduce", "gather") else "from"
        known = 0 <= self.told.root < len(self.told.ranks)
        root = f" {way} rank {self.told.ranks[self.told.root]}" if known else ""
        return Step(rank, str(self.call.site), f"{self.told}{root}" + (f" of {given}" if given else ""))


def mismatches(exchanges: Mapping[int, Sequence[Call]], ended: frozenset[int]) -> tuple[Meeting, ...]:
    """The first mismatch of every group; none where all that met are the same.

    Args:
        exchanges: rank → its collectives, in order.
        ended: ranks that came to their end: what they did not call by then they never will.
    """
    return tuple(found for line, ranks in _lines(exchanges).items() if (found := _first(line, ranks, ended)))


def last(exchanges: Mapping[int, Sequence[Call]]) -> tuple[Step, ...]:
    """The last collective that each rank began."""
    return tuple(
        _Called(told, calls[-1]).step(rank)
        for rank, calls in exchanges.items()
        if calls and (told := Collective.of(calls[-1].arguments)) is not None
    )


def _lines(exchanges: Mapping[int, Sequence[Call]]) -> dict[Line, dict[int, list[_Called]]]:
    found: dict[Line, dict[int, list[_Called]]] = {}
    for rank, calls in exchanges.items():
        for told, call in _told(calls):
            line = _line(told, rank)
            if line is not None:
                known = found.setdefault(line, {other: [] for other in line.ranks if other in exchanges})
                known.setdefault(rank, []).append(_Called(told, call))
    unordered = {
        rank for rank, calls in exchanges.items() if any(_line(told, rank) is None for told, _ in _told(calls))
    }
    return {line: ranks for line, ranks in found.items() if not (line.is_sent and unordered & {*ranks})}


def _told(calls: Sequence[Call]) -> Iterator[tuple[Collective, Call]]:
    for call in calls:
        told = Collective.of(call.arguments)
        if told is not None:
            yield told, call


def _line(told: Collective, rank: int) -> Line | None:
    """Where a collective belongs; None: it receives from anybody."""
    if told.kind not in ("send", "recv"):
        return Line(told.group, told.ranks)
    if not 0 <= told.root < len(told.ranks):
        return None
    other = told.ranks[told.root]
    ends = (rank, other) if told.kind == "send" else (other, rank)
    return Line(told.group, ends, is_sent=True)


def _first(line: Line, ranks: Mapping[int, Sequence[_Called]], ended: frozenset[int]) -> Meeting | None:
    for number in range(max(map(len, ranks.values()))):
        called = {rank: calls[number] for rank, calls in ranks.items() if number < len(calls)}
        never = ended & (ranks.keys() - called.keys())
        if len({one.form for one in called.values()}) > 1 or never:
            steps = {rank: one.step(rank) for rank, one in called.items()} | {rank: Step(rank) for rank in never}
            return Meeting(line=line, number=number + 1, steps=tuple(steps[rank] for rank in sorted(steps)))
    return None
