"""A place to experiment: either run again under interventions, held against what the other gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whydiff.capturing.adapters import Executor, executor_of, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.activations import COMPUTE
from whydiff.explain.changed import Changed, Lifted, Watched, key_of
from whydiff.explain.draws import switched_on
from whydiff.explain.interventions import EXCHANGES
from whydiff.explain.mirror import mirrored
from whydiff.explain.moving import liftable
from whydiff.explain.scale import Difference, choices
from whydiff.explain.sides import Side, Sides, opposite
from whydiff.locate.origins import walk_origins
from whydiff.locate.rows import compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_choice, is_integer, measure_beside_fill
from whydiff.numbers.tolerance import SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.pair.lockstep import Lockstep, numbered_alike
from whydiff.pair.replay import Outputs, replay
from whydiff.pair.slices import counterparts
from whydiff.records import Comparison, Intervention, Lift, Origin, Payload, Slot


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one side gave under interventions, against what the other gives.

    Attributes:
        equal: every output agrees bit for bit.
        mean_abs: mean absolute difference over all compared output elements (0 if equal, None if unknown, infinite if one
            has another shape); of ids, whose distance means nothing, each that differs counts as 1.
        elements: how many elements were compared.
        comparisons: per output, under the reference's numbers.
        method: ``"rerun"`` of the user's program or ``"replay"`` of the recorded one.
        failed: why it could not be done; empty if it was.
        choices: all outputs hold ids: ``mean_abs`` is the share that differs.
        stopped: the first call of a replay that could not be executed: what comes of it is as recorded; empty: none.
    """

    equal: bool
    mean_abs: float | None
    elements: int
    comparisons: tuple[tuple[Slot, Comparison], ...]
    method: Literal["rerun", "replay"]
    failed: str = ""
    stopped: str = ""
    choices: bool = False


class Experiments:
    """Both runs of a pair under interventions.

    An experiment has a direction, which ``on`` names:

    - ``on="candidate"`` *takes a cause away*: the candidate is changed (``Intervention.target`` is its leaf, call,
      read or attribute), the reference gives tensors, ops and arguments, and the outcome is held against the
      reference's outputs;
    - ``on="reference"`` *puts a cause in*: everything the other way round. Targets are the reference's, donated
      values the candidate's, and the outcome is held against the candidate's outputs. `mirrored` writes a
      take-away's interventions for this side.

    A side that is live is run again unobserved where its adapter supports every intervention (``supports``: restored
    state and inputs, scalars, flags, modes); else the recorded program is replayed (``replays``: restored state
    and inputs, scalars that show as arguments, edited arguments and reads, changed dtypes, layouts and factors,
    replaced ops). Outcomes and lifted outputs are remembered: asking twice costs nothing.

    Args:
        sides: the pair.
    """

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._changed: dict[Side, Changed] = {}
        self._outcomes: dict[object, Outcome] = {}
        self._others: dict[Side, Outputs] = {}

    def _on(self, side: Side) -> Changed:
        if side not in self._changed:
            self._changed[side] = Changed(self._sides if side == "candidate" else self._sides.turned())
        return self._changed[side]

    def supports(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> bool:
        """Whether an experiment with these interventions can be carried out at all."""
        changed = self._on(on)
        return changed.reruns(interventions) or changed.replays(interventions)

    def replays(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> bool:
        """Whether a replay can do it, without a live run."""
        return self._on(on).replays(interventions)

    def mirrored(
        self, interventions: Sequence[Intervention], *, on: Side = "candidate"
    ) -> tuple[Intervention, ...] | None:
        """What put into the other side is the cause that ``interventions`` take away; None: it has no counterpart there."""
        return mirrored(self._on(on).sides, interventions)

    def drawing_alike(
        self, interventions: Sequence[Intervention], *, on: Side = "candidate"
    ) -> tuple[Intervention, ...]:
        """The same, and what they switch on draws as the other side does; unchanged where they alone are enough.

        A mode says that random numbers are drawn, not from which state: a run that drew before, or was seeded in
        between, draws others.
        """
        own, changed = tuple(interventions), self._on(on)
        if not changed.reruns(own):
            return own
        tried = [own, *((*own, *states) for states in switched_on(changed.sides, own) if changed.reruns(states))]
        try:
            found = (items for items in tried if len(tried) > 1 and self.try_out(items, on=on).equal)
            return next(found, tried[:2][-1])
        except WhydiffError:  # whoever tries it is told
            return own

    def try_out(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> Outcome:
        """One side's outputs under interventions against the other's; without interventions: the difference as it is.

        Raises:
            whydiff.errors.WhydiffError: an intervention cannot be carried out.
        """
        key = on, key_of(interventions)
        if key not in self._outcomes:
            self._outcomes[key] = self._try_out(interventions, on)
        return self._outcomes[key]

    def equal_if_told(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> bool:
        """Whether one side's outputs become the other's under interventions; False where these cannot be carried out."""
        try:
            return self.try_out(interventions, on=on).equal
        except WhydiffError:
            return False

    def _try_out(self, interventions: Sequence[Intervention], on: Side) -> Outcome:
        changed = self._on(on)
        method: Literal["rerun", "replay"] = "replay"
        stopped = ""
        if changed.reruns(interventions):
            method, outputs = "rerun", changed.rerun(interventions)
        elif changed.replays(interventions):
            outputs, stopped = changed.replayed(interventions)
        else:
            return Outcome(False, None, 0, (), method, f"the {on} is a trace on disk; this needs a live run")
        found = _outcome(changed.sides, self._wanted(on), self._numbered(on, outputs), method)
        return replace(found, stopped=stopped)

    def _wanted(self, on: Side) -> Outputs:
        """What a side's experiments are held against: the other's outputs, as walked, else from a replay.

        Where observing changed the other side, what it gives unobserved.
        """
        if on not in self._others:
            sides = self._on(on).sides
            other = opposite(on)
            looked_at = sides.runs[0] is not None and sides.reference.observer.unchanged is False
            walked = self.plain_outputs(other) if looked_at else sides.returned and sides.returned[0]
            self._others[on] = walked or self._numbered(other, replay(executor_of(sides.reference)).outputs)
        return self._others[on]

    def _numbered(self, side: Side, outputs: Outputs) -> Outputs:
        """A side's outputs under the reference's numbers."""
        sides = self._sides
        if side == "reference":
            return outputs
        return numbered_alike(outputs, sides.reference, sides.candidate, sides.alignment)

    def origins_after(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> set[str] | None:
        """Sites (the reference's) of the origins that remain in a replay under interventions; None: it cannot be told.

        Where an op of one side stands in the other's place, nothing remains. A value that was computed by a formula
        is right to rounding, and what remains of its origin then is none.
        """
        changed = self._on(on)
        if not changed.replays(interventions):
            return None
        sides = changed.sides
        executors = executor_of(sides.reference), changed.executor(interventions)
        step = Lockstep(*executors, sides.alignment, sides.axes)
        step.watch = changed.watching(interventions)
        if sides.beginning is not None and step.watch is None:
            step.begun = sides.beginning.enter(executors).calls
        computed = any(item.name == COMPUTE for item in interventions)
        found = walk_origins(step, measured=computed)
        gone = {
            (i.value[0] if isinstance(i.value, tuple) else i.value, i.target)
            for i in interventions
            if i.name in EXCHANGES
        }
        return {
            str(origin.site if on == "candidate" else origin.candidate_site)
            for origin in found.origins
            if not (computed and _is_rounding(origin))
            and (str(origin.site.at("")), str(origin.candidate_site.at(""))) not in gone
        }

    def plain_outputs(self, side: Side, interventions: Sequence[Intervention] = ()) -> Outputs:
        """What a live side returns when nothing observes it; empty for a trace on disk.

        Raises:
            whydiff.errors.TargetError: it raised, perhaps because of the interventions.
        """
        return self._numbered(side, self._on(side).rerun(interventions))

    def reruns(self, side: Side, interventions: Sequence[Intervention]) -> bool:
        """Whether a side is live and can be run again under these interventions."""
        return self._on(side).reruns(interventions)

    def executor(self, side: Side, lift: Lift | None = None, interventions: Sequence[Intervention] = ()) -> Executor:
        """A replay of a side, for a walk of one's own.

        Raises:
            whydiff.errors.ReplayError: an intervention cannot be carried out.
        """
        return self._on(side).executor(interventions, lift)

    def lifted(
        self, side: Side, lift: Lift, interventions: Sequence[Intervention] = (), progress: Watched = None
    ) -> Lifted:
        """What a side's recorded program returns at another precision, under the reference's numbers; remembered.

        Raises:
            whydiff.errors.ReplayError: it cannot be carried out so.
        """
        found = self._on(side).lifted(lift, interventions, progress)
        return replace(found, outputs=self._numbered(side, found.outputs))

    def apart_if_told(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> float | None:
        """The same as `apart_in_float64`; None also where an intervention cannot be carried out."""
        try:
            return self.apart_in_float64(interventions, on=on)
        except WhydiffError:
            return None

    def apart_in_float64(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> float | None:
        """How far the outputs of both programs, lifted to float64, lie apart under interventions on one side.

        Returns:
            The largest mean absolute difference of an output over the unchanged side's root mean square; None if
            it cannot be told.

        Raises:
            whydiff.errors.WhydiffError: an intervention cannot be carried out (a tensor of another shape).
        """
        changed = self._on(on)
        sides = changed.sides
        if False in (sides.reference.observer.unchanged, sides.candidate.observer.unchanged):
            return self._apart_plainly(changed, interventions)
        if not _can_be_lifted(changed, interventions) or replayable(sides.reference):
            return None
        wide = Lift("float64")
        ours = self.lifted(opposite(on), wide).outputs
        return _apart(sides, ours, self.lifted(on, wide, interventions).outputs)

    def unlike_in_float64(self, interventions: Sequence[Intervention]) -> bool:
        """Whether, lifted to float64, NaN or infinity stands on one side only with the candidate under interventions.

        `apart_in_float64` measures what is finite on both sides. False also where it cannot be told.
        """
        changed, wide = self._on("candidate"), Lift("float64")
        if not _can_be_lifted(changed, interventions) or replayable(changed.sides.reference):
            return False
        try:
            wanted = self.lifted("reference", wide).outputs
            given = self.lifted("candidate", wide, interventions).outputs
        except WhydiffError:
            return False
        pairs = [_counterparts(changed.sides, slot, one, given[slot]) for slot, one in wanted.items() if slot in given]
        alike = (both for both in pairs if both[0].bits.shape == both[1].bits.shape and not is_integer(both[0].dtype))
        return any(Difference.between(*both).special for both in alike)

    def moves_in_float64(self, interventions: Sequence[Intervention], *, on: Side = "candidate") -> float | None:
        """How far one side's outputs, lifted to float64, move under interventions on that side.

        Returns:
            The same measure as `apart_in_float64`, of the changed side against itself as it is; infinite if an
            index, a flag or a count changes, or what is finite. None if it cannot be told.
        """
        changed = self._on(on)
        if not _can_be_lifted(changed, interventions) or changed.sides.candidate.observer.unchanged is False:
            return None
        try:
            before, after = (changed.lifted(Lift("float64"), items) for items in ((), interventions))
        except WhydiffError:
            return None
        if before.failed or after.failed:
            return None
        return _moved(before.outputs, after.outputs)

    def _apart_plainly(self, changed: Changed, interventions: Sequence[Intervention]) -> float | None:
        """The same of the live programs, run plainly in float64: what was recorded is not what gave the outputs."""
        ours, theirs = changed.sides.runs
        if ours is None or theirs is None or not changed.reruns(interventions):
            return None
        given = ours.lifted("float64"), theirs.lifted("float64", interventions)
        wanted, other = (
            {one.slot: one.payload for one in outputs or () if one.payload is not None} for outputs in given
        )
        return None if None in given else _apart(changed.sides, wanted, other)


def _can_be_lifted(changed: Changed, interventions: Sequence[Intervention]) -> bool:
    """Whether a replay of the changed side under interventions can be carried out at another precision."""
    return liftable(interventions) and changed.replays(interventions) and not replayable(changed.sides.candidate)


def _outcome(sides: Sides, wanted: Outputs, outputs: Outputs, method: Literal["rerun", "replay"]) -> Outcome:
    comparisons = tuple(
        (slot, compare_payloads(*_counterparts(sides, slot, payload, outputs[slot])))
        for slot, payload in wanted.items()
        if slot in outputs
    )
    if len(comparisons) < len(wanted):
        missing = ", ".join(str(slot) for slot in sorted(set(wanted) - set(outputs)))
        return Outcome(False, None, 0, comparisons, method, f"outputs missing: {missing}")
    elements = sum(payload.bits.size for payload in wanted.values())
    equal = bool(comparisons) and all(comparison.status == "agrees" for _, comparison in comparisons)
    total = sum(_apart_by(comparison, wanted[slot]) * wanted[slot].bits.size for slot, comparison in comparisons)
    mean, chosen = total / elements if elements else None, all(is_choice(one.dtype) for one in wanted.values())
    return Outcome(equal, mean, elements, comparisons, method, choices=chosen)


def _apart_by(comparison: Comparison, wanted: Payload) -> float:
    """Mean absolute difference, of ids the share that differs; infinite of other shapes, which are no counterparts."""
    metric = "different" if is_choice(wanted.dtype) else "mean_abs"
    return math.inf if comparison.other_shape else comparison.value(metric) or 0.0


def _counterparts(sides: Sides, slot: Slot, wanted: Payload, given: Payload) -> tuple[Payload, Payload]:
    """What of two outputs corresponds: the larger one's counterpart, without the rows that are left out."""
    ours, theirs = (compared(sides.rows, slot, payload) for payload in counterparts(wanted, given, sides.axes))
    return ours, theirs


def _is_rounding(origin: Origin) -> bool:
    """Whether what is left at an origin is no more than rounding in float32 makes of a formula's result."""
    apart = origin.comparison.value("rel_l2")
    return apart is not None and apart <= SAME_FUNCTION * UNIT_ROUNDOFF["float32"]


def _apart(sides: Sides, wanted: Outputs, given: Outputs) -> float | None:
    """Largest mean absolute difference of an output over its root mean square; None: they cannot be compared.

    Where all outputs are choices (tokens, yes or no): the largest share of them that differs.
    """
    if not wanted:
        return None
    apart, chosen = list[float](), list[float]()
    for slot, payload in wanted.items():
        if slot not in given:
            return None
        ours, theirs = _counterparts(sides, slot, payload, given[slot])
        if ours.bits.shape != theirs.bits.shape:
            return None
        if is_integer(payload.dtype):
            chosen += [found.mean for found in [choices(ours, theirs)] if found is not None]
        else:
            apart.append(Difference.between(ours, theirs).relative)
    return max(apart or chosen, default=0.0)


def _moved(before: Outputs, after: Outputs) -> float | None:
    """The same of one program before and after a change; infinite: nothing but zeros moves, or what is not finite does."""
    if not before or before.keys() != after.keys():
        return None
    moved = 0.0
    for slot, payload in before.items():
        if payload.bits.shape != after[slot].bits.shape or payload.dtype != after[slot].dtype:
            return math.inf
        found = measure_beside_fill(payload, after[slot])
        apart = Difference.of(found)
        from_zero = apart.mean and not apart.magnitude
        if apart.special or from_zero or (is_integer(payload.dtype) and found.mismatched):
            return math.inf
        moved = max(moved, apart.relative)
    return moved
