"""One origin, or several together, with everything that was measured there: what a cause explains."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.arguments import as_given, given_otherwise
from whydiff.explain.case import Case
from whydiff.explain.causes._looks import constants, equal_leaves, one_value
from whydiff.explain.causes._values import Array, distance, number
from whydiff.explain.local_test import Examined, Joint, Otherwise, Sides, judge_outputs, narrowed, otherwise
from whydiff.explain.read_alike import given_instead
from whydiff.numbers.tolerance import SAME_FUNCTION, SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Call, Event, Evidence, Intervention, Leaf, Origin, Trace, Verdict


@dataclass(frozen=True, slots=True)
class Finding:
    """What explains one origin.

    Attributes:
        code: of the cause.
        key: findings of equal key become one cause.
        verdict: of the cause.
        evidence: measured; that of the first finding is shown.
        interventions: what would remove it.
        put_in: what would put it into the reference; empty: the mirror of ``interventions``.
        facts: for the remedy's words.
        general: it says what differs, and not which known mistake it is: settings may lie behind it.
        says: what happened, in one plain sentence; empty: what the cause says of itself.
        consequence: the origin follows from one that this finding explains: its argument is made of what was read out.
        after: the site of what Python was given before, of which the origin's argument may be made; empty: of none.
    """

    code: str
    key: Any
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    interventions: tuple[Intervention, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    general: bool = False
    put_in: tuple[Intervention, ...] = ()
    says: str = ""
    consequence: bool = False
    after: str = ""

    def said(self, otherwise: str) -> str:
        """What happened; ``otherwise``: what its cause says of itself, where the finding does not, with its facts."""
        return self.says or otherwise.format_map(self.facts)


@dataclass(frozen=True, eq=False)
class View:
    """One origin with everything that was measured there.

    Attributes:
        case: the pair of runs.
        origin: the origin.
        seen: calls, values, float64 operations and the local test's result.
    """

    case: Case
    origin: Origin
    seen: Examined

    @functools.cached_property
    def exact(self) -> tuple[Array, Array]:
        """Both sides' results in float64, each on its own (agreeing) inputs."""
        reference, candidate = (op.run(op.reads, op.arguments) for op in self.seen.operations)
        return np.asarray(reference, np.float64), np.asarray(candidate, np.float64)

    @functools.cached_property
    def apart(self) -> float:
        """Root mean square of the difference of `exact`, over that of the reference."""
        ours, theirs = self.exact
        if ours.shape != theirs.shape or not ours.size:
            return float("inf")
        return distance(ours, theirs)

    @property
    def one_function(self) -> bool:
        """Whether both sides compute the same function (constants may be rounded to float32)."""
        return self.apart <= SAME_FUNCTION * UNIT_ROUNDOFF["float32"]

    @property
    def other_function(self) -> bool:
        """Whether both sides compute different functions, also by the local test, which knows of cancellation.

        What is infinite or NaN on one side in float64 too is not so for want of range: the function makes it.
        """
        verdict = self.seen.result.verdict
        infinite = verdict is Verdict.UNSTABLE and not np.isfinite(self.apart)
        return not self.one_function and (infinite or verdict in (Verdict.SEMANTIC, Verdict.INCONCLUSIVE))

    @functools.cached_property
    def sides(self) -> Sides:
        """Both sides, to be carried out otherwise."""
        return Sides(self.case, self.seen)

    @functools.cached_property
    def outputs(self) -> tuple[Array, Array]:
        """Both sides' recorded results as float64."""
        reference, candidate = (number(payload) for payload in self.seen.outputs)
        return reference, candidate

    @property
    def single(self) -> tuple[Call, Call] | None:
        """Both calls if either side is one op of the same function."""
        ours, theirs = self.seen.calls
        if len(ours) != 1 or len(theirs) != 1:
            return None
        traces = self.case.traces
        one, other = (
            for_framework(trace.framework).function(call.site.op)
            for trace, call in zip(traces, (ours[0], theirs[0]), strict=True)
        )
        return (ours[0], theirs[0]) if one == other else None

    @property
    def changed_arguments(self) -> list[tuple[int | str, Any, Any]]:
        """(position or name, reference's, candidate's) plain arguments that differ between calls of one target."""
        default = for_framework(self.case.reference.framework).default
        return given_otherwise(*self.single, default) if self.single is not None else []

    def give_argument(self) -> tuple[Intervention, ...]:
        """The reference's argument, if exactly one differs and nothing else, and the program did not make it itself."""
        changed = self.changed_arguments
        if len(changed) != 1 or self.single is None or not self.same_numbers_left:
            return ()
        given = as_given(*self.single, changed[0])
        return (given,) if given is not None else ()

    @functools.cached_property
    def same_numbers_left(self) -> bool:
        """Whether the same numbers left both programs before this origin: what is made of them is an argument later."""
        left = [
            [(event.spec, event.fingerprint) for call in trace.calls[:index] if call.gives for event in call.reads]
            for trace, index in zip(self.case.traces, self.origin.calls, strict=True)
        ]
        return left[0] == left[1]

    def give_arguments(self) -> tuple[Intervention, ...]:
        """All the reference's arguments, if the op reads nothing else: they are all that its result is made from."""
        changed, single = self.changed_arguments, self.single
        if not changed or single is None or single[0].reads or single[1].reads:
            return self.give_argument()
        given = [as_given(*single, one) for one in changed]
        return tuple(step for step in given if step is not None) if None not in given else ()

    @functools.cached_property
    def constants(self) -> tuple[tuple[Leaf, Leaf], ...]:
        """Tensors that enter here from outside of the recorded program, and differ: the reference's, the candidate's."""
        ours, theirs = self.seen.reads
        reads = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else ()
        return tuple(pair for both in reads if (pair := constants(self.case, both)) is not None)

    def give_constants(self) -> tuple[Intervention, ...]:
        """The reference's `constants` in the place of the candidate's."""
        return tuple(given_instead(*pair) for pair in self.constants)

    def replace_op(self) -> tuple[Intervention, ...]:
        """The reference's op, or region, on the candidate's inputs."""
        ours, theirs = self.origin.site.at(""), self.origin.candidate_site.at("")
        return (Intervention("replace-op", str(theirs), str(ours)),)

    def exchange_step(self) -> tuple[Intervention, ...]:
        """Insert the step that only the reference has, or remove the one that only the candidate has, where it is one.

        One side takes up a value as it is, and the ops of the other side begin at that value; else the op is replaced.
        """
        side = int(bool(self.seen.calls[1]))
        if self.origin.kind != "region" or self.seen.calls[1 - side] or not self.seen.calls[side]:
            return self.replace_op()
        end = self.seen.results[1 - side]
        pairs = [(event, end) if side == 0 else (end, event) for event in self.seen.reads[side] if event.storage >= 0]
        if not any(one_value(self.case, *pair) and equal_leaves(self.case, *pair) for pair in pairs):
            return self.replace_op()
        ours, theirs = self.origin.site.at(""), self.origin.candidate_site.at("")
        return (Intervention("remove-step" if side else "insert-step", str(theirs), str(ours)),)

    @functools.cached_property
    def step(self) -> tuple[Call, ...]:
        """Where one side has no ops: all that the other alone carries out for this value, what its places share too."""
        side = int(bool(self.seen.calls[1]))
        trace = self.case.traces[side]
        alone = {*(self.case.alignment.unpaired_candidate if side else self.case.alignment.unpaired_reference)}
        found = {call.index for call in self.seen.calls[side]} if not self.seen.calls[1 - side] else set[int]()
        left = list(found)
        while left:
            producers = {event.producer for event in trace.calls[left.pop()].reads}
            left += (producers & alone) - found
            found |= producers & alone
        return tuple(trace.calls[index] for index in sorted(found))

    @functools.cached_property
    def measures(self) -> bool:
        """Whether the `step` works with a statistic of what the run is given or computes (a norm, a maximum)."""
        trace = self.case.traces[int(bool(self.seen.calls[1]))]
        roles = for_framework(trace.framework).roles
        return any(
            event.spec.numel > max(one.spec.numel for one in call.writes) and _is_of_the_run(trace, event)
            for call in self.step
            if call.writes and Role.TABLE not in roles(call.site.op)
            for event in call.reads
        )

    def give_number(self) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
        """The reference's argument, or number in the code, in the candidate; the candidate's in the reference."""
        given = self.give_argument()
        if given or self.numbers is None or not all(self.numbers.numbers):
            return given, ()
        return self.numbers.set(1), self.numbers.set(0)

    def give_factor(self, factor: float) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
        """As `give_number`; where only one side's code has the number, the other's result is multiplied.

        Args:
            factor: what the candidate's result is the reference's times.
        """
        given, put = self.give_number()
        if given or self.numbers is None:
            return given, put
        found = [self.numbers.set(0), self.numbers.set(1)]
        lone = 0 if found[0] else 1
        written = self._written(1 - lone)
        if written is None:
            return (), ()
        found[1 - lone] = (Intervention("scale", str(written.site), 1 / factor if lone == 0 else factor),)
        return found[1], found[0]

    def _written(self, side: int) -> Event | None:
        """What an op of a side writes as the result; None: no op of it does."""
        result = self.seen.results[side]
        if result.producer < 0 or not (self.seen.calls[side] or isinstance(self, NarrowedView)):
            return None
        made = self.case.traces[side].calls[result.producer].writes
        return next((one for one in made if one.storage == result.storage and not one.is_look), None)

    def compute(self, x: Array, names: tuple[str, str]) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
        """The other side's activation of the values x in each side's place: on the candidate, on the reference.

        Args:
            x: what both sides' ops make their result of, flat.
            names: the candidate's activation, the reference's (see `whydiff.explain.activations`).
        """
        found = []
        for side in (0, 1):
            pairs = zip(self.seen.reads[side], self.seen.operations[side].reads, strict=False)
            read = next((event for event, values in pairs if distance(values.reshape(-1), x) <= SCALING_FLOOR), None)
            written = self._written(side)
            if read is None or written is None or read.spec.shape != written.spec.shape:
                return (), ()
            found.append(Intervention("compute", str(written.site), (str(read.site), names[side])))
        return (found[1],), (found[0],)

    def inputs_like_output(self) -> Iterator[Array]:
        """Floating inputs of the reference's operation that have as many elements as the result, flat."""
        size = self.exact[0].size
        for operation in self.seen.operations:
            for read in operation.reads:
                if read.dtype == np.float64 and read.size == size:
                    yield read.reshape(-1)

    @functools.cached_property
    def numbers(self) -> Otherwise | None:
        """The number in the code by which the ops of a region differ, and in nothing else; see `otherwise`."""
        return otherwise(self.sides) if self._is_spelt else None

    @functools.cached_property
    def narrowed(self) -> View | None:
        """The part of a region that makes its whole difference; None: no smaller one is known to."""
        found = narrowed(self.sides) if self._is_spelt else None
        return None if found is None else NarrowedView(self.case, self.origin, found, self)

    @property
    def _is_spelt(self) -> bool:
        return self.origin.kind == "region" and all(self.seen.calls) and self.other_function


@dataclass(frozen=True, eq=False)
class NarrowedView(View):
    """A part of a region, see `whydiff.explain.local_test.narrowed`.

    Attributes:
        whole: the region, which is exchanged as one.
    """

    whole: View

    @property
    def narrowed(self) -> None:
        """It is cut down already."""

    @functools.cached_property
    def numbers(self) -> Otherwise | None:
        """Those of the part, else those of the whole; rather of both sides than of one."""
        own = super().numbers
        if own is not None and all(own.numbers):
            return own
        whole = self.whole.numbers
        return whole if own is None or (whole is not None and all(whole.numbers)) else own

    @functools.cached_property
    def step(self) -> tuple[Call, ...]:
        """The part itself, where one side has no ops."""
        return () if all(self.seen.calls) else (*self.seen.calls[0], *self.seen.calls[1])

    @property
    def _is_spelt(self) -> bool:
        return any(self.seen.calls) and self.other_function

    def replace_op(self) -> tuple[Intervention, ...]:
        """The reference's region in the candidate's place."""
        return self.whole.replace_op()

    def exchange_step(self) -> tuple[Intervention, ...]:
        """Both regions have other ops too."""
        return self.whole.replace_op()


@dataclass(frozen=True, eq=False)
class JointView(View):
    """Several origins and the paired ops between them, as one.

    Attributes:
        joint: its members and calls; ``seen`` holds both sides as float64 operations, and outputs in float64.
    """

    joint: Joint

    def replace_op(self) -> tuple[Intervention, ...]:
        """The reference's ops, those with counterparts too, on the candidate's inputs."""
        paired = self.case.partners[0]
        inside = [str(call.site) for call in self.joint.calls[0] if call.index in paired]
        traces = self.case.traces
        ours, theirs = (str(t.calls[e.producer].site) for t, e in zip(traces, self.joint.events, strict=True))
        return (Intervention("replace-op", theirs, (ours, *inside)),)

    @functools.cached_property
    def other_function(self) -> bool:
        """As `View.other_function`; the local test, which knows of cancellation, is asked now."""
        if self.one_function:
            return False
        try:
            (ours, theirs), (one, other) = self.seen.operations, self.seen.outputs
            if not {ours.dtype, theirs.dtype} <= UNIT_ROUNDOFF.keys():  # integers are not rounded: no local test
                return False
            return judge_outputs(ours, one, other, theirs).verdict in (Verdict.SEMANTIC, Verdict.INCONCLUSIVE)
        except WhydiffError:  # no oracle: nothing is known, nothing is named
            return False

    def give_argument(self) -> tuple[Intervention, ...]:
        """None: the calls between are several."""
        return ()

    def compute(self, x: Array, names: tuple[str, str]) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
        """None: ops that both sides share are among them."""
        return (), ()

    def exchange_step(self) -> tuple[Intervention, ...]:
        """Both sides have ops of their own."""
        return self.replace_op()


def _is_of_the_run(trace: Trace, event: Event) -> bool:
    """Whether a value was given or computed: no state that a model holds, and no constant that an op makes of nothing."""
    if event.producer >= 0:
        return bool(trace.calls[event.producer].reads)
    return all(leaf.storage != event.storage for leaf in trace.leaves if leaf.is_registered)


def consumers(case: Case, side: int, call: Call, most: int = 3) -> list[Call]:
    """Calls that read what a call wrote, directly or over at most ``most`` others, in execution order."""
    trace = case.traces[side]
    reached = {call.index: 0}
    found = []
    for later in trace.calls[call.index + 1 :]:
        if later.kind == "view":
            continue
        steps = [reached[event.producer] for event in later.reads if event.producer in reached]
        if steps and min(steps) < most:
            reached[later.index] = min(steps) + 1
            found.append(later)
    return found
