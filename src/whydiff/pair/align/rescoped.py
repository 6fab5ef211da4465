"""Pair ops that stand under unrelated scopes: modules on one side, functions on the other.

Between calls that are paired, what both sides call in the same order corresponds, whatever the scopes are; where they call
not quite the same, what every longest common subsequence has. Order alone takes one of several alike for another, so the
flow of values has its say:

- no read contradicts: both sides read what paired calls made, or both what unpaired ones did, or both what they found.
  Of two found tensors, the bits of one must not stand at another read of the other side;
- something that is paired speaks for it: what it reads, or what reads it.

Where a paired call reads at one place what two of these made crosswise, neither is taken. What is left stays unpaired.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from whydiff.pair.align import sequence
from whydiff.pair.align.sequence import Path
from whydiff.pair.align.side import Side, blocks, intern
from whydiff.records import Call, Event

HOW = "other scope"
"""How such calls were paired."""


def find(reference: Side, candidate: Side, paired: Path) -> Path:
    """Positions of further calls that correspond, in order; the result does not depend on which side is which.

    Args:
        reference, candidate: both sides, under the names that were found.
        paired: positions paired so far.
    """
    flow = _Flow.of(reference, candidate)
    known, found = dict(paired), Path()
    while new := flow.sound(known, _likely(reference, candidate, sorted(known.items()))):
        found += new
        known.update(new)
    return sorted(found)


def _likely(reference: Side, candidate: Side, paired: Path) -> Path:
    """What order says: gaps that hold the same functions pair one to one, others what all their best alignments have."""
    common = frozenset().union(*reference.states) & frozenset().union(*candidate.states)
    functions = intern(_functions(reference), _functions(candidate))
    shapes = intern(_shapes(reference, common), _shapes(candidate, common))
    found: Path = []
    for block in blocks(reference, candidate):
        inside = [(j, i) for j, i in paired if j in block[0] and i in block[1]]
        for gap in sequence.gaps(inside, block):
            ours, theirs = (slice(side.start, side.stop) for side in gap)
            if functions[0][ours] == functions[1][theirs]:
                found += zip(*gap, strict=True)
            elif sequence.cells(gap) <= sequence.CELLS:
                path = sequence.certain(*sequence.extremes(shapes[0][ours], shapes[1][theirs]))
                found += [(gap[0][j], gap[1][i]) for j, i in path]
    return [(j, i) for j, i in found if reference.calls[j].kind == candidate.calls[i].kind == "compute"]


def _functions(side: Side) -> list[Hashable]:
    """Per call what it computes in which phase and step, on how many tensors, and the parameter of both that it updates."""
    return [
        (function, call.kind, call.site.phase, step, len(call.reads), updated)
        for function, step, call, updated in zip(side.functions, side.steps, side.calls, side.updated, strict=True)
    ]


def _shapes(side: Side, common: frozenset[Hashable]) -> list[Hashable]:
    return list(zip(_functions(side), (call.site.op for call in side.calls), side.shapes(common), strict=True))


Bits = tuple[Hashable, ...]


@dataclass(frozen=True)
class _Flow:
    """What each call of both sides reads: the position of the call that made it, and the bits of what no call made.

    Attributes:
        calls: of both sides.
        at: index of a call in its trace → its position.
        told: bits of tensors from outside that stand in one storage on each side.
    """

    calls: tuple[tuple[Call, ...], tuple[Call, ...]]
    at: tuple[Mapping[int, int], Mapping[int, int]]
    told: frozenset[Bits]

    @staticmethod
    def of(reference: Side, candidate: Side) -> _Flow:
        sides = (reference.calls, candidate.calls)
        at = tuple({call.index: n for n, call in enumerate(calls)} for calls in sides)
        ours, theirs = (_once(calls) for calls in sides)
        return _Flow(sides, (at[0], at[1]), frozenset(ours & theirs))

    def sound(self, known: Mapping[int, int], likely: Path) -> Path:
        """Those of the likely pairs that no read contradicts and that something known speaks for, directly or over others."""
        taken = dict(likely)
        while bad := self._contradicted(known, taken):
            taken = {j: i for j, i in taken.items() if (j, i) not in bad}
        return self._supported(known, taken)

    def _contradicted(self, known: Mapping[int, int], taken: Mapping[int, int]) -> set[tuple[int, int]]:
        both = {**known, **taken}
        back = {i: j for j, i in both.items()}
        bad = set()
        for j, i in both.items():
            for ours, theirs in self._reads(j, i):
                made = self._maker(0, ours), self._maker(1, theirs)
                mate, other = both.get(made[0]), back.get(made[1])
                if self._found_otherwise(ours, theirs) or ((mate is not None or other is not None) and mate != made[1]):
                    bad.add((j, i))
                    if mate is not None and other is not None:
                        bad |= {(made[0], mate), (other, made[1])}
        return bad & set(taken.items())

    def _found_otherwise(self, ours: Event, theirs: Event) -> bool:
        """Whether one of two reads is of what no call made and the other is not, or is of something else."""
        if ours.producer != -1 or theirs.producer != -1:
            return ours.producer == -1 or theirs.producer == -1
        one, other = _bits(ours), _bits(theirs)
        return one != other and bool({one, other} & self.told)

    def _supported(self, known: Mapping[int, int], taken: Mapping[int, int]) -> Path:
        beside: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        waiting = []
        for j, i in (*known.items(), *taken.items()):
            for ours, theirs in self._reads(j, i):
                made = self._maker(0, ours), self._maker(1, theirs)
                if ours.producer == theirs.producer == -1:
                    if ours.spec.numel > 1 and _bits(ours) == _bits(theirs) is not None:
                        waiting.append((j, i))
                elif known.get(made[0], taken.get(made[0])) == made[1]:
                    beside[j, i].append(made)
                    beside[made].append((j, i))
        found: set[tuple[int, int]] = set()
        waiting += known.items()
        while waiting:
            pair = waiting.pop()
            if pair not in found:
                found.add(pair)
                waiting += beside[pair]
        return [pair for pair in taken.items() if pair in found]

    def _reads(self, j: int, i: int) -> Iterator[tuple[Event, Event]]:
        """What two calls read at the same places, where their old content matters."""
        both = self.calls[0][j].reads, self.calls[1][i].reads
        for ours, theirs in zip(*both, strict=True) if len(both[0]) == len(both[1]) else ():
            if not (ours.overwritten or theirs.overwritten):
                yield ours, theirs

    def _maker(self, side: int, event: Event) -> int:
        return self.at[side].get(event.producer, -1)


def _once(calls: Iterable[Call]) -> set[Bits]:
    """Bits of what no call made that stand in one storage."""
    held = {(bits, e.storage) for call in calls for e in call.reads if e.producer == -1 and (bits := _bits(e))}
    count = Counter(bits for bits, _ in held)
    return {bits for bits, n in count.items() if n == 1}


def _bits(event: Event) -> Bits | None:
    """What was read, bit for bit; None if that is not known."""
    spec = event.spec
    return None if event.fingerprint is None else (spec.dtype, spec.shape, spec.strides, event.fingerprint)
