"""Which part of a compiler makes a difference: the plain program is compiled anew, a part more each time.

Every rung is a rerun that nobody observes. What a rung gives is held against what the same program gives uncompiled;
from the top down the last one that makes the larger part of the whole difference (`LADDER_SHARE`) is named: what lies
below a rung that makes none of it need not be compiled. Of its parts the first without which that share is gone is
named, and of what that part is done to (ops, passes) the one with which the share comes in, found by halving. Time is
bounded: what is not reached is said.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from whydiff.capturing.adapters import Part, Progress, Run, Rung, Way
from whydiff.explain.case import Case
from whydiff.explain.reruns import rerun
from whydiff.explain.scale import choices, difference
from whydiff.explain.sides import SIDES, Side
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import LADDER_SECONDS, LADDER_SHARE, PARTS_SECONDS
from whydiff.records import Output, Slot, Verdict

STALE = "stale"
_EAGER = "eager"
_ALL = 1 << 30


@dataclass(frozen=True, slots=True)
class Step:
    """One way of compiling that was tried.

    Attributes:
        way: which.
        apart: how far its outputs lie from the uncompiled program's, see `apart`; None: it raised.
        failed: why it raised.
    """

    way: Way
    apart: float | None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Climb:
    """What the ladder says of one side.

    Attributes:
        whole: how far the side's outputs lie from what it gives uncompiled.
        rung: with which the difference comes in; None: none makes the larger part of it.
        below: the last rung before it up to which the difference is not there.
        larger: rungs between them, which make another, larger difference that is mended further up.
        part: of that rung, without which the difference is gone; None: none that can be left out alone.
        item: what the part is done to (an op, a pass) where the difference comes in; empty: it was not found.
        stale: compiled anew in the same way, the program gives what it gives uncompiled.
        steps: everything that was tried, in order.
        unfinished: why the search ended early; empty: it did not.
    """

    whole: float
    rung: Rung | None = None
    below: str = _EAGER
    larger: tuple[str, ...] = ()
    part: Part | None = None
    item: str = ""
    stale: bool = False
    steps: tuple[Step, ...] = ()
    unfinished: str = ""

    @property
    def component(self) -> str:
        """What makes the difference, as the compiler calls it; empty: it was not found."""
        if self.stale:
            return STALE
        return "" if self.rung is None else self.rung.name

    @property
    def part_name(self) -> str:
        """The part's name; empty: none was found."""
        return "" if self.part is None else self.part.name

    @property
    def mended_below(self) -> bool:
        """Whether compiling up to the rung below was tried, and gives what the program gives uncompiled, bit for bit."""
        return any(step.way == Way(self.below) and step.apart == 0 for step in self.steps)

    def __str__(self) -> str:
        if self.stale:
            return (
                "compiled anew, it gives what it gives uncompiled: the compiled code is of another state of the program"
            )
        if self.rung is None:
            return "no part of the compiler makes the larger part of the difference" + self._end()
        text = f"the difference comes in where {self.rung.adds}: up to {self.below!r} it is not there"
        if self.larger:
            text += f" ({' and '.join(map(repr, self.larger))} make another, larger one, which is mended further up)"
        if self.part is not None:
            text += f"; without {self.part.says} ({self.part.name}) it is gone"
        if self.item:
            text += f"; it comes in at {self.item}"
        return text + self._end()

    def _end(self) -> str:
        return f" ({self.unfinished})" if self.unfinished else ""


def climb(
    run: Run, side: Side, progress: Progress | None = None, *, seconds: float = LADDER_SECONDS, items: bool = True
) -> Climb | None:
    """Climb the ladder of one live program.

    Args:
        run: the program.
        side: which one it is.
        progress: told of every rung.
        seconds: no further rung is tried after this time.
        items: also find the op or pass; of rounding many make a little each, and no single one is to blame. Then less time
            is spent on parts, too.

    Returns:
        What makes the difference; None if nothing is compiled, or nothing differs.
    """
    rungs = run.rungs()
    if not rungs:
        return None
    climbing = _Climbing(run, side, progress, seconds, items)
    eager = run.compiled_as(Way(_EAGER)).outputs
    if eager is None:
        return None
    climbing.eager = numbers(eager)
    climbing.whole = apart(climbing.eager, numbers(run.anchor()))
    return climbing.found(rungs) if climbing.whole else None


@dataclass
class _Climbing:
    run: Run
    side: Side
    progress: Progress | None
    seconds: float
    items: bool
    eager: Mapping[Slot, Output] = field(default_factory=dict)
    whole: float = 0.0
    steps: list[Step] = field(default_factory=list)
    larger: list[str] = field(default_factory=list)
    unfinished: str = ""
    done: dict[Way, tuple[str, ...]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def found(self, rungs: Sequence[Rung]) -> Climb:
        anew = self.differs(Way(rungs[-1].name))
        if anew is False:
            return self._climb(stale=self.steps[-1].apart == 0)
        if anew is None:
            return self._climb()
        first, below = rungs[-1], _EAGER
        for rung in reversed(rungs[:-1]):
            differs = self.differs(Way(rung.name))
            if differs is False:
                below = rung.name
                break
            if differs and (self.steps[-1].apart or 0.0) * LADDER_SHARE <= self.whole:
                first, self.larger = rung, []
            elif differs:
                self.larger.insert(0, rung.name)
        return self._within(first, below)

    def _within(self, rung: Rung, below: str) -> Climb:
        if not self.items:
            self.seconds = min(self.seconds, time.monotonic() - self.began + PARTS_SECONDS)
        for part in rung.parts:
            if part.group or self.differs(Way(rung.name, (part.name,))) is not False:
                continue
            if not self.items:
                return self._climb(rung=rung, below=below, part=part)
            item = self._item(rung, part) if part.counted else ""
            return self._climb(rung=rung, below=below, part=self._finer(rung, part), item=item)
        return self._climb(rung=rung, below=below)

    def _finer(self, rung: Rung, part: Part) -> Part:
        """The part of a group without which the difference is gone as well; the group, if there is none."""
        inner = (one for one in rung.parts if one.group == part.name)
        return next((one for one in inner if self.differs(Way(rung.name, (one.name,))) is False), part)

    def _item(self, rung: Rung, part: Part) -> str:
        """The first application of a counted part with which the difference comes in, by halving."""
        if not self.differs(Way(rung.name, (part.name,), _ALL)):
            return ""
        items = self.done[Way(rung.name, (part.name,), _ALL)]  # what is left out is not done to what it is made of
        low, high = 0, len(items)  # with the first `low` it is gone, with the first `high` it is there
        while high - low > 1:
            middle = (low + high) // 2
            differs = self.differs(Way(rung.name, (part.name,), middle))
            if differs is None:
                return ""
            low, high = (low, middle) if differs else (middle, high)
        return items[high - 1] if items else ""

    def differs(self, way: Way) -> bool | None:
        """Whether a way of compiling makes the larger part of the difference; None: it cannot be told."""
        if time.monotonic() - self.began > self.seconds:
            self.unfinished = "time ran out"
            return None
        if self.progress is not None:
            self.progress(f"compile the {self.side} anew: {way}", len(self.steps), len(self.steps) + 1)
        given = self.run.compiled_as(way)
        self.done[way] = given.done
        far = None if given.outputs is None else apart(self.eager, numbers(given.outputs))
        self.steps.append(Step(way, far, given.failed))
        return None if far is None else far >= LADDER_SHARE * self.whole

    def _climb(
        self,
        *,
        rung: Rung | None = None,
        below: str = _EAGER,
        part: Part | None = None,
        item: str = "",
        stale: bool = False,
    ) -> Climb:
        return Climb(
            whole=self.whole,
            rung=rung,
            below=below,
            larger=tuple(self.larger),
            part=part,
            item=item,
            stale=stale,
            steps=tuple(self.steps),
            unfinished=self.unfinished,
        )


def numbers(outputs: Sequence[Output]) -> dict[Slot, Output]:
    """What can be compared of what a program gave back."""
    return {one.slot: one for one in outputs if one.kind in ("numbers", "text", "empty")}


def apart(ours: Mapping[Slot, Output], theirs: Mapping[Slot, Output]) -> float:
    """How far two results of one program lie apart: 0 if no bit differs, infinite if they are no counterparts.

    Of numbers: the mean difference over the root mean square (of indices and flags: the share that differs), and 1 for
    every element of which one side is NaN or infinite and the other is not; of all outputs the largest.
    """
    if ours.keys() != theirs.keys():
        return float("inf")
    return max((_apart(ours[slot], theirs[slot]) for slot in ours), default=0.0)


def _apart(ours: Output, theirs: Output) -> float:
    if ours.kind != theirs.kind or ours.text != theirs.text:
        return float("inf")
    if ours.payload is None or theirs.payload is None:
        return 0.0 if ours.fingerprint == theirs.fingerprint else float("inf")
    if ours.payload.dtype == theirs.payload.dtype and compare_payloads(ours.payload, theirs.payload).status == "agrees":
        return 0.0
    found = difference(ours.payload, theirs.payload) or choices(ours.payload, theirs.payload)
    if found is None or ours.payload.dtype != theirs.payload.dtype:
        return float("inf")
    return found.special + found.mean / (found.magnitude or 1.0)


def climbed(case: Case, side: Side) -> Climb | None:
    """What the ladder says of one side of a pair, climbed once; None: it is a trace, or nothing is compiled."""
    run = case.runs[SIDES.index(side)]
    if run is None:
        return None

    def make() -> Climb | None:
        found = rerun(case)
        return climb(run, side, case.progress, items=found is None or found.verdict is not Verdict.ROUNDING)

    return case.shared(f"ladder {side}", make)
