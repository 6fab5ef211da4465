"""A region carried out for some of its results: of what is read and computed on the way only that which they depend on.

Attention written out makes a matrix of scores that is larger than everything else together, and each of its rows depends
on one row of queries. Which part of what an op reads a part of its result depends on is told by the part that the op plays
(`whydiff.explain.local_test.steps_apart`); a region with an op of which nothing is told is not cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from whydiff.errors import ReplayError
from whydiff.explain.local_test.boxes import (
    Box,
    along,
    covered,
    gathered,
    holding,
    is_dense,
    joined,
    taken,
    volume,
    whole,
    within,
)
from whydiff.explain.local_test.looks import contiguous, layout_of, strided
from whydiff.explain.local_test.operation import Array
from whydiff.explain.local_test.replays import Region
from whydiff.explain.local_test.steps_apart import Step, step_of
from whydiff.records import Event, Payload

Pieces = dict[int, tuple[Array, Box]]
"""Storage → the part of what was written there that is held, and which part that is."""
_Plan = Mapping[int, Box]
"""Storage → what of it is made."""


class Cut:
    """Some results of a region.

    Args:
        region: of several calls.
        index: flat positions in its result.
        most: numbers that one call may make at once.

    Raises:
        ReplayError: of one of its calls it is not known what a part of the result depends on, or one result alone needs
            more numbers.
    """

    def __init__(self, region: Region, index: Array, most: int) -> None:
        self.region, self.index, self.most = region, index, most
        self._inputs = {id(event): position for position, event in enumerate(region.inputs)}
        self._steps = list(_steps(region))
        self._made = {step.event.storage: step for step in self._steps}
        self._last = {event.storage: step.call.index for step in self._steps for event in step.call.reads}
        self._needed: list[Box | None] = [None] * len(region.inputs)
        self._order = np.argsort(index, kind="stable")
        self._blocks = list(self._planned(index[self._order]))

    def reads(self, payloads: Sequence[Payload]) -> list[Payload]:
        """What is needed of the region's inputs; of numbers that stand for many, each once."""
        found = []
        for box, payload in zip(self._needed, payloads, strict=True):
            bits = np.zeros(0, payload.bits.dtype) if box is None else taken(payload.bits, box)
            found.append(Payload(np.ascontiguousarray(bits).reshape(bits.shape), payload.dtype))
        return found

    def run(self, arrays: Sequence[Array]) -> Array:
        """The results, float64, in blocks of which no call makes more than ``most`` numbers.

        Args:
            arrays: what `reads` gives, or others of the same shapes, in float64.

        Raises:
            ReplayError: an op cannot be executed in float64.
        """
        found = np.empty(self.index.size)
        done = 0
        with self.region.lifted.running():
            for part, plan in self._blocks:
                found[self._order[done : done + part.size]] = self._carried_out(arrays, part, plan)
                done += part.size
        return found

    # ------------------------------------------------------------------ what is needed

    def _planned(self, index: Array) -> Iterator[tuple[Array, _Plan]]:
        """Positions that are carried out together, and what each call makes for them."""
        plan = self._plan(index)
        most = max(map(volume, plan.values()))
        if most <= self.most:
            self._plan(index, self._needed)
            yield index, plan
        elif index.size < 2:
            raise ReplayError("One result alone needs too many numbers on the way.", actual=str(most))
        else:
            for half in np.array_split(index, 2):
                yield from self._planned(half)

    def _plan(self, index: Array, needed: list[Box | None] | None = None) -> dict[int, Box]:
        """Storage → what of it has to be made; ``needed``: also what is read of the inputs is noted."""
        plan: dict[int, Box] = {}
        self._demand(plan, needed, self.region.result, holding(index, self.region.result.spec.shape))
        for step in reversed(self._steps):
            wanted = plan.get(step.event.storage)
            if wanted is None:
                continue
            box = plan[step.event.storage] = step.gives(wanted)
            for event, part in zip(step.call.reads, step.needs(box), strict=True):
                self._demand(plan, needed, event, part)
        return plan

    def _demand(self, plan: dict[int, Box], needed: list[Box | None] | None, event: Event, box: Box) -> None:
        step = self._made.get(event.storage)
        if step is not None:
            ways = along(layout_of(event), box, layout_of(step.event))
            made = whole(step.event.spec.shape) if ways is None else covered(ways)
            plan[event.storage] = joined(plan.get(event.storage), made)
        elif needed is not None:
            at = self._inputs[id(event)]
            needed[at] = joined(needed[at], _once(event, box))

    # ------------------------------------------------------------------ carrying it out

    def _carried_out(self, arrays: Sequence[Array], index: Array, plan: _Plan) -> Array:
        pieces: Pieces = {}
        for step in self._steps:
            box = plan.get(step.event.storage)
            if box is None:
                continue
            reads = zip(step.call.reads, step.needs(box), strict=True)
            made = step.compute([self._shown(arrays, pieces, event, part) for event, part in reads])
            pieces[step.event.storage] = np.ascontiguousarray(made).reshape([part.size for part in box]), box
            for event in step.call.reads:
                if self._last[event.storage] == step.call.index and event.storage != self.region.result.storage:
                    pieces.pop(event.storage, None)
        shape = self.region.result.spec.shape
        box = holding(index, shape)
        found = self._shown(arrays, pieces, self.region.result, box)
        return np.asarray(found[within(index, shape, box)], dtype=np.float64)

    def _shown(self, arrays: Sequence[Array], pieces: Pieces, event: Event, box: Box) -> Array:
        """What a box shows of a look."""
        step = self._made.get(event.storage)
        if step is None:
            at = self._inputs[id(event)]
            known, wanted = self._needed[at], _once(event, box)
            assert known is not None
            places = tuple(np.searchsorted(have, part) for have, part in zip(known, wanted, strict=True))
            return np.broadcast_to(taken(arrays[at], places), [part.size for part in box])
        part, held = pieces[event.storage]
        written, (shape, strides, offset) = layout_of(step.event), layout_of(event)
        if part.shape == written[0] and written[1] == contiguous(written[0]):
            return taken(strided(part.reshape(-1), shape, strides, offset - written[2]), box)
        ways = along((shape, strides, offset), box, written)
        if ways is None:
            raise ReplayError("What a look shows of a part is not known.", where=str(event.site))
        return gathered(part, held, ways, box)


def _steps(region: Region) -> Iterator[Step]:
    """The calls of a region that can be cut.

    Raises:
        ReplayError: it cannot be.
    """
    given = {event.storage for event in region.inputs}
    made: dict[int, Event] = {}
    for call in region.calls:
        step = step_of(call, region.lifted)
        if step is None or not is_dense(layout_of(step.event)) or step.event.storage in given | made.keys():
            raise _not_told(call.site)
        made[step.event.storage] = step.event
        yield step
    for event in (*(event for call in region.calls for event in call.reads), region.result):
        known = made.get(event.storage)
        if known is not None and event.spec.dtype != known.spec.dtype:
            raise _not_told(event.site)
    if region.result.storage not in made:
        raise _not_told(region.result.site)


def _once(event: Event, box: Box) -> Box:
    """A box of an input in which numbers that stand for many are there once."""
    _, strides, _ = layout_of(event)
    return tuple(np.zeros(1, np.int64) if stride == 0 else part for stride, part in zip(strides, box, strict=True))


def _not_told(site: object) -> ReplayError:
    return ReplayError("It is not known what a part of the result depends on.", where=str(site))


__all__ = ["Cut"]
