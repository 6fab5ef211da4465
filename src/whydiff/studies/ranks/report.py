"""What checking one run of several ranks found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from whydiff.records import Verdict
from whydiff.report.blocks import Lines, Section, Table, Text
from whydiff.report.words import count, listed
from whydiff.studies.base import Study, headline
from whydiff.studies.ranks.meetings import Meeting, Step
from whydiff.studies.ranks.replicas import Drift, Replicas

_NAMES = 6


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RanksReport(Study):
    """One run of several ranks.

    Attributes:
        verdict: ``semantic`` if ranks call different collectives or a replica drifts; ``identical`` if nothing does;
            ``inconclusive`` if a rank did not come to its end, nothing could be compared, or what began as zeros differs.
        ranks: whose parts were read.
        mismatches: the first one of each group.
        replicas: what became of state.
        collectives: how many each rank began; empty: not recorded.
        stands: the last collective of each rank, where a rank did not come to its end.
        ends: (rank, why) of those that did not.
        notes: sentences worth reading.
    """

    title: ClassVar[str] = "ranks"
    verdict: Verdict
    ranks: tuple[int, ...]
    mismatches: tuple[Meeting, ...]
    replicas: Replicas
    collectives: tuple[int, ...]
    stands: tuple[Step, ...] = ()
    ends: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The verdict."""
        return str(self.verdict)

    def answer(self) -> Lines:
        """(label, sentence) pairs."""
        if self.mismatches:
            return self._mismatch(self.mismatches[0])
        if self.replicas.drifts:
            return self._drift(self.replicas.drifts[0])
        held, most = self.replicas, max(self.collectives, default=0)
        called = ", no collective was called" if self.collectives else ""
        checked = (
            f"{count(len(held.equal) + len(held.partly), 'replica')} equal in {count(held.steps, 'step')}"
            if held.equal or held.partly
            else "no replica was compared"
        ) + (f", {count(most, 'collective')} the same on every rank" if most else called)
        checked += (
            f"; {len(held.never)} are the same on no two ranks: shards, or never made equal" if held.never else ""
        )
        checked += f"; {len(held.alone)} were not compared" if held.alone else ""
        if self.verdict is Verdict.IDENTICAL:
            return (headline(self.word, checked),)
        ends = "; ".join(self._ended())
        if held.parted and not ends:
            one = f"{listed(held.parted, 3)} began as zeros or ones on all ranks, and other values came of them"
            return (
                headline(self.word, f"{one}: shards, or replicas that are not kept equal ({checked})"),
                ("fix", "if these are replicas, average their gradients; if they are shards, nothing is wrong"),
            )
        return (headline(self.word, f"nothing differs so far ({checked})"), *((("where", ends),) if ends else ()))

    def _ended(self) -> list[str]:
        """How each rank that did not come to its end did end; ranks of one kind in one line."""
        ranks = dict[str, list[str]]()
        for rank, why in self.ends:
            ranks.setdefault(why, []).append(str(rank))
        return [f"rank{'s' if len(of) > 1 else ''} {listed(of, _NAMES)}: {why}" for why, of in ranks.items()]

    def _mismatch(self, found: Meeting) -> Lines:
        return (
            headline(self.word, f"ranks call different collectives: {'; '.join(map(str, found.steps))}"),
            ("where", f"{found.place}; all before it are the same on every rank"),
            ("fix", "let every rank of a group call the same collectives, of the same tensors, in the same order"),
        )

    def _drift(self, found: Drift) -> Lines:
        ranks = f"rank{'s' if len(found.ranks) > 1 else ''} {', '.join(map(str, found.ranks))}"
        more = len(self.replicas.drifts) - 1
        among = "all ranks" if found.among == self.ranks else f"ranks {', '.join(map(str, found.among))}"
        return (
            headline(self.word, f"{found.name} holds other bits on {ranks} from step {found.step} on"),
            (
                "where",
                f"{found.site or f'before the update of step {found.step}'}; equal on {among} up to step {found.since}",
            ),
            (
                "effect",
                f"{count(more, 'other replica')} drift later or in the same step" if more else "the only replica",
            ),
            ("fix", f"find what changes it on {ranks} alone, or broadcast it before step {found.step}"),
        )

    def sections(self, verbose: bool = False) -> tuple[Section, ...]:
        """Notes, mismatches, replicas that drift, where each rank stands, and what was not compared."""
        held, most = self.replicas, 10**9 if verbose else _NAMES
        named = (
            (held.equal, "stay equal on all ranks"),
            (held.never, "are other values on every rank from the first step on: shards, or never made equal"),
            (held.parted, "began as zeros or ones everywhere and are other values since: shards, or never kept equal"),
            (tuple(f"{name} ({_groups(groups)})" for name, groups in held.partly), "stay equal on some ranks"),
            (held.alone, "were not compared: no two ranks read them alike"),
        )
        rows = [(d.name, str(d.step), ", ".join(map(str, d.ranks)), str(d.since)) for d in held.drifts]
        return (
            Section("Notes", tuple(map(Text, self.notes))),
            Section(
                "Collectives that do not meet",
                tuple(Text(f"{m.place}: {'; '.join(map(str, m.steps))}") for m in self.mismatches),
            ),
            Section(
                "Replicas that drift",
                (Table(("name", "from step", "ranks", "equal up to"), tuple(rows)),) if rows else (),
            ),
            Section(
                "Where each rank stands",
                (*map(Text, self._ended()), *(Text(f"the last collective: {step}") for step in self.stands)),
            ),
            Section(
                "State", tuple(Text(f"{len(names)} {what}: {listed(names, most)}") for names, what in named if names)
            ),
        )


def _groups(groups: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join(", ".join(map(str, group)) for group in groups)
