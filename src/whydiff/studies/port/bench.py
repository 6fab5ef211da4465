"""Where hypotheses are tried: both programs on two inputs, any point of either under any rewriting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Role, executor_of, for_framework
from whydiff.errors import WhydiffError
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN
from whydiff.records import Call, Count, Event, Leaf, Payload, Trace
from whydiff.studies.port.judging import Judged, Walk, reading
from whydiff.studies.port.quantised import Quantised
from whydiff.studies.port.rewrites import NOTHING, Program, Rewrite
from whydiff.studies.port.weights import match_inputs, numbers, rearranged

Array = np.ndarray[Any, Any]
_REGION = 4096
"""Calls of a region that are looked through at most (a size, not a tolerance)."""


UNFIT = (WhydiffError, ArithmeticError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
"""What a rewritten step raises that does not fit where it is tried: no reason to end the check."""


@dataclass(frozen=True)
class Setting:
    """Both programs on one input.

    Attributes:
        programs: the reference's and the candidate's.
        mine: the reference's values at the points.
        results: point → both values, in the reference's layout, on the reference's values at all points before.
    """

    programs: tuple[Program, Program]
    mine: Mapping[int, Payload]
    results: Mapping[int, tuple[Array, Array]]


class Bench:
    """Tries rewritings.

    Args:
        traces: the reference's and the candidate's.
        judged: the points.
        excluded: those that are no counterparts.
        wide: numbers that the candidate takes for what it keeps in a narrower dtype.
        quantised: weights that the candidate keeps as small integers.
    """

    def __init__(
        self,
        traces: tuple[Trace, Trace],
        judged: Sequence[Judged],
        excluded: frozenset[int],
        *,
        wide: Mapping[str, Array],
        quantised: Sequence[Quantised],
    ) -> None:
        self.traces, self.judged, self.excluded = traces, judged, excluded
        self.wide, self.quantised = wide, quantised
        self._unfit: Counter[str] = Counter()

    def unfit(self, error: BaseException, what: str = "") -> None:
        """Note that something could not be carried out: what a step does not fit into, or a check of several together."""
        text = error.what if isinstance(error, WhydiffError) else f"{type(error).__name__}: {error}"
        self._unfit[f"{what}{text.partition(chr(10))[0]:.120}"] += 1

    @property
    def counts(self) -> tuple[Count, ...]:
        """What was tried and could not be carried out."""
        if not self._unfit:
            return ()
        examples = tuple(text for text, _ in self._unfit.most_common(3))
        reason = "they do not fit the step that they were tried at"
        return (Count(what="rewritings", reason=reason, count=self._unfit.total(), examples=examples),)

    @property
    def unit(self) -> float:
        """Roundoff of the programs' constants, see `Judged`."""
        return max((one.unit for one in self.judged), default=0.0)

    @cached_property
    def first(self) -> Setting:
        """The recorded input."""
        return self._setting(Program(self.traces[0]), Program(self.traces[1], self.wide))

    @cached_property
    def second(self) -> Setting | None:
        """The input's numbers in another order; None where that cannot be told or run."""
        inputs = _shuffled(*self.traces)
        if inputs is None:
            return None
        try:
            setting = self._setting(
                Program(self.traces[0], inputs[0]), Program(self.traces[1], {**self.wide, **inputs[1]})
            )
        except WhydiffError:
            return None
        return setting if all(np.isfinite(side).all() for some in setting.results.values() for side in some) else None

    def _setting(self, reference: Program, candidate: Program) -> Setting:
        mine: dict[int, Payload] = {}

        def see(executor: Executor, number: int) -> None:
            mine[number] = executor.payload(executor.read(self.judged[number].point.events[0]))

        before, watch = reading({n: one.point for n, one in enumerate(self.judged)}, 0, see)
        reference.run(before=before, watch=watch)
        walk = Walk(self.judged, mine, self.excluded)
        before, watch = walk.hooks()
        candidate.run(before=before, watch=watch)
        return Setting((reference, candidate), mine, walk.results)

    def value(self, side: int, number: int, rewrite: Rewrite, setting: Setting | None = None) -> Array | None:
        """A point's value under a rewriting of one side, in the reference's layout; None: it could not be had."""
        setting = setting or self.first
        one = self.judged[number]
        until = one.point.until(side)
        try:
            if side == 1:
                walk = Walk(self.judged, setting.mine, self.excluded)
                before, watch = walk.hooks()
                setting.programs[1].run(rewrite, before=before, watch=watch, until=until)
                found = walk.results.get(number)
                return None if found is None else found[1]
            seen: list[Array] = []
            before, watch = reading(
                {number: one.point},
                0,
                lambda executor, _: seen.append(numbers(executor.payload(executor.read(one.point.events[0])))),
            )
            setting.programs[0].run(rewrite, before=before, watch=watch, until=until)
            return seen[0] if seen else None
        except UNFIT as error:
            self.unfit(error)
            return None

    def outputs(self, side: int, rewrite: Rewrite = NOTHING, given: Mapping[int, Array] | None = None) -> list[Array]:
        """What a side returns in float64, not resynchronised; ``given``: points that are given a value."""
        program = self.first.programs[side]
        points = {n: self.judged[n].point for n in given or {}}

        def give(executor: Executor, number: int) -> None:
            one = self.judged[number]
            value = (given or {})[number]
            if side == 1 and one.layout is not None:
                value = rearranged(value, one.layout, one.point.events[1].spec.shape)
            executor.overwrite(one.point.events[side], executor.adopt_foreign(Payload(value, "float64")))

        before, watch = reading(points, side, give)
        return [numbers(payload) for payload in program.run(rewrite, before=before, watch=watch).outputs.values()]

    def region(self, side: int, number: int) -> list[Call]:
        """The calls between the points before and this one, the nearest first."""
        trace = self.traces[side]
        stops = {
            (one.point.events[side].producer, one.point.events[side].storage)
            for n, one in enumerate(self.judged[:number])
            if n not in self.excluded and one.layout is not None
        }
        event = self.judged[number].point.events[side]
        waiting, seen = [(event.producer, event.storage)], set[int]()
        found: list[Call] = []
        while waiting and len(found) < _REGION:
            index, storage = waiting.pop(0)
            if index < 0 or index in seen or ((index, storage) in stops and found):
                continue
            seen.add(index)
            call = trace.calls[index]
            found.append(call)
            waiting += [(read.producer, read.storage) for read in call.reads]
        return found

    @cached_property
    def constants(self) -> tuple[Mapping[int, tuple[Leaf, float]], ...]:
        """Per side: storage → a number of the code that reached the program as a tensor of no axes, and its value."""
        return tuple(map(_numbers_of_the_code, self.traces))

    def number(self, side: int, event: Event) -> tuple[Leaf, float] | None:
        """The number of the code that a call reads, as it was made or in another dtype; None: another tensor."""
        trace = self.traces[side]
        roles = for_framework(trace.framework).roles
        while event.producer >= 0 and len(trace.calls[event.producer].reads) == 1:
            (read,) = trace.calls[event.producer].reads
            carried = {Role.CAST, Role.CARRIES} & roles(trace.calls[event.producer].site.op)
            if not carried or read.spec.shape:
                break
            event = read
        return self.constants[side].get(event.storage) if event.producer == -1 else None


def _numbers_of_the_code(trace: Trace) -> Mapping[int, tuple[Leaf, float]]:
    executor = executor_of(trace)
    return {
        leaf.storage: (leaf, float(numbers(executor.payload(executor.leaf_value(leaf)))))
        for leaf in trace.leaves
        if leaf.role == "constant" and not leaf.spec.shape and not leaf.skipped and not is_integer(leaf.spec.dtype)
    }


def near(one: Array | None, other: Array, before: float, unit: float) -> bool:
    """Whether two values agree to the rounding of constants, and far better than before."""
    if one is None or one.shape != other.shape:
        return False
    after = distance(one, other)
    size = float(np.sqrt(np.square(other[np.isfinite(other)]).mean())) if np.isfinite(other).any() else 0.0
    special = int((np.isfinite(one) != np.isfinite(other)).sum())
    return not special and after <= unit * size and after * HYPOTHESIS_MARGIN <= before


def distance(one: Array, other: Array) -> float:
    """Mean absolute difference of what is finite on both sides."""
    both = np.isfinite(one) & np.isfinite(other)
    return float(np.abs(one[both] - other[both]).mean()) if both.any() else 0.0


def _shuffled(reference: Trace, candidate: Trace) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Another input for both sides: the same numbers in another order, in each side's layout."""
    inputs = match_inputs(reference, candidate)
    if not inputs:
        return None
    mixed = np.random.default_rng(2)
    found: tuple[dict[str, Array], dict[str, Array]] = {}, {}
    only_indices = all(is_integer(given.leaves[0].spec.dtype) for given in inputs)
    for given in inputs:
        array = given.array
        if only_indices or not is_integer(given.leaves[0].spec.dtype):
            array = mixed.permutation(array.reshape(-1)).reshape(array.shape)
        mine, other = given.leaves
        found[0][mine.name] = array
        found[1][other.name] = rearranged(array, given.layout, other.spec.shape)
    return found


def leaf_of(trace: Trace, event: Event) -> Leaf | None:
    """The state that an event looks at, directly or by a view."""
    return next((leaf for leaf in trace.leaves if leaf.is_state and leaf.storage == event.storage >= 0), None)
