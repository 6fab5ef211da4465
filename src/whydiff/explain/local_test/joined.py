"""Several origins together with the paired ops between them, as one float64 operation per side.

Two programs may carry out one op on either side of another (a cast, a factor, a product): each of the two places
alone then computes another function, and both together compute the same. What lies between agreeing inputs and the
last of the places is one operation here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.local_test.examine import _ELEMENTS, _FAILURES, Examined, Visit
from whydiff.explain.local_test.judge import undecided
from whydiff.explain.local_test.operation import Operation
from whydiff.explain.local_test.replays import Region
from whydiff.locate.origins import walk_origins
from whydiff.locate.resynchronised import Watcher
from whydiff.pair.lockstep import Lockstep
from whydiff.records import Call, Event, Lift, Payload


@dataclass(eq=False)
class Joint:
    """Origins that are looked at together.

    Attributes:
        members: positions in the localization, ascending.
        events: what it results in, per side, as the same paired call reads it.
        calls: all ops of it, per side, in execution order.
        whole: the members all of whose ops are among these; of the others it holds a part.
    """

    members: tuple[int, ...]
    events: tuple[Event, Event]
    calls: tuple[Sequence[Call], Sequence[Call]]
    whole: frozenset[int] = frozenset()


def examine_joints(case: Case, joints: Sequence[Joint], visit: Visit) -> None:
    """Replay both programs once, resynchronised, and tell of every joint that can be carried out in float64.

    Args:
        case: with its localization; both sides must be replayable.
        joints: what to look at.
        visit: told of each in the given order, with ``number`` its position in ``joints`` and outputs in float64
            (resynchronising hides what the joint as a whole gave).
    """
    traces = case.traces
    plain = [for_framework(trace.framework).executor(trace) for trace in traces]
    try:
        lifted = [for_framework(trace.framework).executor(trace, lift=Lift("float64")) for trace in traces]
    except WhydiffError:  # no oracle in this framework: nothing to tell
        return
    step = Lockstep(plain[0], plain[1], case.alignment)
    held = [_Held(joint, (lifted[0], lifted[1])) for joint in joints]
    walk_origins(step, stage="origins together", watcher=_Keeper(step, held), measured=False)
    with lifted[0].running(), lifted[1].running():
        for number in range(len(joints)):
            found = held.pop(0).examined(number)  # what it holds goes with it
            if found is not None:
                visit(found)


class _Held:
    """A joint with what its ops read."""

    def __init__(self, joint: Joint, lifted: tuple[Any, Any]) -> None:
        self.joint = joint
        self.regions = [Region(joint.calls[i], joint.events[i], lifted[i]) for i in (0, 1)]
        self.reads: list[dict[int, Payload]] = [{}, {}]

    def inputs_from(self, side: int, producer: int) -> list[tuple[int, Event]]:
        """Positions and looks of the inputs that a call made (-1: that no call made)."""
        return [(i, event) for i, event in enumerate(self.regions[side].inputs) if event.producer == producer]

    def examined(self, number: int) -> Examined | None:
        """The joint in float64; None if that cannot be done."""
        try:
            if any(
                len(region.inputs) != len(reads) or sum(p.bits.size for p in reads.values()) > _ELEMENTS
                for region, reads in zip(self.regions, self.reads, strict=True)
            ):
                return None
            made = [
                region.operation([reads[i] for i in range(len(reads))])
                for region, reads in zip(self.regions, self.reads, strict=True)
            ]
            outputs = [_exact(operation) for operation in made]
        except _FAILURES:  # an op that float64 cannot do: the joint says nothing
            return None
        finally:
            self.reads = [{}, {}]
        inputs = self.regions[0].inputs, self.regions[1].inputs
        return Examined(
            number=number,
            calls=self.joint.calls,
            reads=inputs,
            results=self.joint.events,
            operations=(made[0], made[1]),
            outputs=(outputs[0], outputs[1]),
            result=undecided("several origins together"),
        )


def _exact(operation: Operation) -> Payload:
    found = operation.run(operation.reads, operation.arguments)
    return Payload(np.asarray(found, dtype=np.float64, order="C"), "float64")


class _Keeper(Watcher):
    """Keeps the inputs of joints when they are made: a reader that finds another value in their place would change them."""

    def __init__(self, step: Lockstep, held: Sequence[_Held]) -> None:
        self.sides = (step.reference, step.candidate)
        self.begun = False
        self.done = False
        self.wanted: tuple[dict[int, list[_Held]], dict[int, list[_Held]]] = ({}, {})
        for one in held:
            for side in (0, 1):
                for producer in {event.producer for event in one.regions[side].inputs}:
                    self.wanted[side].setdefault(producer, []).append(one)
        self.last = [max(wanted, default=-1) for wanted in self.wanted]

    def entering(self, reference: Call, candidate: Call) -> None:
        """What no call makes is there from the beginning."""
        if not self.begun:
            self._keep((-1, -1))
        self.begun = True

    def resynchronised(self, reference: Call, candidate: Call) -> None:
        """What these calls make."""
        self._keep((reference.index, candidate.index))
        self.done = reference.index >= self.last[0] and candidate.index >= self.last[1]

    def _keep(self, producers: tuple[int, int]) -> None:
        for side, executor in enumerate(self.sides):
            for one in self.wanted[side].get(producers[side], ()):
                for position, event in one.inputs_from(side, producers[side]):
                    try:
                        one.reads[side][position] = executor.payload(executor.read(event))
                    except WhydiffError:  # without its inputs the joint is left out
                        continue


__all__ = ["Joint", "examine_joints"]
