"""The scaling test: does the difference shrink when both programs are carried out more precisely?

Both recorded programs are lifted, with the same values, to float32 and to float64 (`whydiff.records.Lift`),
and slope = log(D32 / D64) / log(u32 / u64) is taken of the mean absolute difference D: about 1 for a
difference that is rounding, about 0 for one that is not. Means, because a cast that is kept turns a tiny
difference into a rare flip by a whole unit. Source: ``docs/explanation/verdict-engine.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from whydiff.capturing.adapters import Progress, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.alike import alike, last_examined, made_by
from whydiff.explain.case import Case
from whydiff.explain.rounded_numbers import all_given_back
from whydiff.explain.scale import Difference, Scale, choices, coarse, difference, graver, profile, stays, worst
from whydiff.explain.sides import Side
from whydiff.locate.rows import compared
from whydiff.numbers.cancellation import Cancelled, cancelled
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF, unit_roundoff
from whydiff.pair.in_common import InCommon
from whydiff.pair.lockstep import Lockstep, matched
from whydiff.pair.replay import Outputs
from whydiff.pair.slices import counterparts
from whydiff.records import Call, Count, Event, Intervention, Lift, Origin, Payload, Slot, Trace


@dataclass(frozen=True, slots=True)
class Modes:
    """One difference under several ways of lifting; None: not needed or not possible.

    Attributes:
        lifted: no cast is kept.
        kept: casts to a narrower dtype are kept.
        restored: no cast is kept, and the candidate has the reference's state and inputs where they differ, and its
            numbers where they were rounded.
    """

    lifted: Scale | None = None
    kept: Scale | None = None
    restored: Scale | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the scaling test measured.

    Attributes:
        program: at the outputs, of the slot that shrinks least.
        origins: at each origin alone, all others substituted, in the localization's order; of those that were not
            examined (`whydiff.explain.alike`), nothing.
        regions: at the outputs, only the origins in ``together`` acting.
        together: positions of regions and layouts whose own difference stays: their values may mean different
            things on either side.
        alone: whether examined origins were measured alone; else every origin has the whole program's modes.
        profiles: output slot → mean absolute float64 difference at each position (last axis but one), casts
            lifted: the difference without any rounding.
        cancelled: one program loses digits of its outputs that the other keeps, in float32; None: it does not.
        counts: what could not be lifted, and discrete choices that flip.
        why_not: why the test was not run; empty if it was.
    """

    program: Modes = field(default_factory=Modes)
    origins: tuple[Modes, ...] = ()
    regions: Scale | None = None
    together: frozenset[int] = frozenset()
    alone: bool = False
    profiles: Mapping[Slot, tuple[float, ...]] = field(default_factory=dict)
    counts: tuple[Count, ...] = ()
    why_not: str = ""
    cancelled: Cancelled | None = None


def measure_scaling(case: Case, progress: Progress | None = None) -> Scaling:
    """Run the test as far as the verdict needs it: outputs first, origins where outputs do not settle it.

    Args:
        case: both traces with their alignment and origins.
        progress: called with (stage, done, total).
    """
    count = len(case.localization.origins)
    for name, trace in (("reference", case.reference), ("candidate", case.candidate)):
        why = replayable(trace)
        if why:
            return Scaling(origins=(Modes(),) * count, why_not=f"the {name} cannot run at another precision: {why}")
    try:
        return _Test(case, progress).run()
    except WhydiffError as error:
        return Scaling(origins=(Modes(),) * count, why_not=f"{error.what} {error.actual}".strip())


class _Test:
    def __init__(self, case: Case, progress: Progress | None) -> None:
        self.case, self.progress = case, progress
        self.origins = case.localization.origins
        self.counts: dict[tuple[str, str], Count] = {}
        self.everything = float64_throughout(case.reference, case.candidate)
        self.alike = alike(case)
        self.profiles: dict[Slot, tuple[float, ...]] = {}
        self._carried: dict[str, dict[Slot, tuple[Payload, Payload]]] = {}

    def run(self) -> Scaling:
        program = Modes(lifted=self._program("lifted"))
        natures = program.lifted.nature if program.lifted else "stays"
        if natures in ("equal", "rounding"):
            program = replace(program, kept=self._program("kept"))
        elif all_given_back(self.case):
            program = replace(program, restored=self._program("lifted", restored=True))
        origins: tuple[Modes, ...] = (program,) * len(self.origins)
        regions, together = None, frozenset[int]()
        settled = program.kept is not None and program.kept.nature in ("equal", "rounding")
        faint = _is_faint(program.lifted) and (self._rounds_by_itself or any(map(self._from_outside, self.origins)))
        infinite = any(origin.comparison.value("inf_mismatch") for origin in self.origins)  # in float64 as well?
        origins_alone = (not settled or infinite) and bool(
            len(self.origins) > 1 or infinite or faint or (self.origins and program.lifted is None)
        )
        if origins_alone:
            origins = self._each_origin(program)
            if faint and origins and all(not stays(modes.lifted) for modes in origins):
                program = replace(program, lifted=_as_coarse(program.lifted))
            together = self._together(origins)
            regions = self._regions(program, together)
        return Scaling(
            program=program,
            origins=origins,
            regions=regions,
            together=together,
            alone=origins_alone,
            profiles=self.profiles,
            counts=tuple(self.counts.values()),
            cancelled=self._cancelled() if natures == "rounding" else None,
        )

    # ------------------------------------------------------------------ the whole program

    def _program(self, casts: Literal["kept", "lifted"], *, restored: bool = False) -> Scale | None:
        found, chosen = [], []
        for dtype in ("float32", "float64"):
            lift = Lift(dtype, casts, self.everything)
            word = f"lift to {dtype}, casts {casts}" + (", state restored" if restored else "")
            ours = self._outputs("reference", lift, (), f"{word}: reference")
            theirs = self._outputs(
                "candidate", lift, all_given_back(self.case) if restored else (), f"{word}: candidate"
            )
            axes = self.case.localization.axes
            pairs = {slot: counterparts(ours[slot], theirs[slot], axes) for slot in ours if slot in theirs}
            if casts == "lifted" and not restored:
                self._carried[dtype] = {slot: self._compared(slot, pair) for slot, pair in pairs.items()}
            found.append({slot: difference(*self._compared(slot, pair)) for slot, pair in pairs.items()})
            chosen.append({slot: choices(*self._compared(slot, pairs[slot])) for slot in self._differing & set(pairs)})
            if (dtype, casts, restored) == ("float64", "lifted", False):
                self.profiles = {slot: profile(*pairs[slot]) for slot, one in found[-1].items() if one is not None}
        return graver(worst(*found), worst(*chosen) if casts == "lifted" else None)

    @functools.cached_property
    def _differing(self) -> set[Slot]:
        """Outputs that differ as recorded."""
        return {slot for slot, comparison in self.case.localization.outputs if comparison.status == "differs"}

    @property
    def _rounds_by_itself(self) -> bool:
        """Whether an op of either program gives a narrower dtype whatever it reads: float64 does not reach it."""
        return any(count.code == "not lifted" for count in self.counts.values())

    def _coarse(self, origin: Origin, both: tuple[Payload, Payload]) -> float:
        """Unit roundoff of what float64 does not reach at an origin: an op of its own precision, numbers made outside."""
        outside = self._from_outside(origin)
        if outside or origin.kind not in ("implementation", "arguments", "region"):
            return outside
        return coarse(*both) if self._rounds_by_itself else 0.0

    def _from_outside(self, origin: Origin) -> float:
        """Unit roundoff of the numbers that Python or numpy made, if an origin is that they differ; else 0."""
        read = [leaf for leaf in self.case.candidate.leaves if leaf.name in origin.leaves]
        if origin.kind != "arguments" or not read or any(leaf.role != "constant" for leaf in read):
            return 0.0
        return min(UNIT_ROUNDOFF.get(leaf.spec.dtype, 0.0) for leaf in read)

    def _cancelled(self) -> Cancelled | None:
        """Each program carried out in float32 against itself in float64: does one lose what the other keeps?"""
        units = (unit_roundoff("float32"),) * 2
        for slot, exact in self._carried.get("float64", {}).items():
            sides = self._carried["float32"].get(slot)
            found = [difference(*pair) for pair in zip(exact, sides, strict=True)] if sides else []
            errors = [one.mean / one.magnitude for one in found if one is not None and one.magnitude]
            if len(errors) == 2:
                lost = cancelled((errors[0], errors[1]), units, int(exact[0].bits.size))
                if lost is not None:
                    return lost
        return None

    def _compared(self, slot: Slot, pair: tuple[Payload, Payload]) -> tuple[Payload, Payload]:
        rows = self.case.localization.rows
        ours, theirs = (compared(rows, slot, payload) for payload in pair)
        return ours, theirs

    def _outputs(self, side: Side, lift: Lift, restoring: tuple[Intervention, ...], stage: str) -> Outputs:
        found = self.case.experiments.lifted(side, lift, restoring, (self.progress, stage))
        for call, why in found.failed:
            self._failed(side, lift, call, why)
        self._note(side, found.counts)
        return found.outputs

    # ------------------------------------------------------------------ every origin alone

    def _each_origin(self, program: Modes) -> tuple[Modes, ...]:
        lifted = self._scales("lifted")
        kept = self._scales("kept")
        restoring = all_given_back(self.case) if program.restored is not None else ()
        restored = self._scales("lifted", restoring) if restoring else [None] * len(self.origins)
        return tuple(Modes(*modes) for modes in zip(lifted, kept, restored, strict=True))

    def _scales(self, casts: Literal["kept", "lifted"], restoring: tuple[Intervention, ...] = ()) -> list[Scale | None]:
        everyone = frozenset(range(len(self.origins)))
        single, double = (
            self._walk(Lift(dtype, casts, self.everything), restoring, everyone, self._until)[0]
            for dtype in ("float32", "float64")
        )
        found: list[Scale | None] = []
        for i, origin in enumerate(self.origins):
            floats, chosen = (
                Scale(single[i, discrete], double[i, discrete], str(origin.site))
                if (i, discrete) in single and (i, discrete) in double
                else None
                for discrete in (False, True)
            )
            # a choice under casts that are kept may fall otherwise by their rounding
            found.append(graver(floats, chosen if casts == "lifted" else None))
        return found

    @functools.cached_property
    def _until(self) -> int | None:
        """The last call of the reference that is worth a walk; None: all are."""
        return last_examined(self.case)

    def _together(self, origins: Sequence[Modes]) -> frozenset[int]:
        """Origins whose value may mean something else; of those that were not examined, where one of their kind is so."""
        strange = {i for i in self.alike.examined if _strange(self.origins[i], origins[i])}
        unknown = {i for i, kind in self.alike.left.items() if not kind and _strange(self.origins[i], Modes())}
        return frozenset(strange | unknown | {i for i, kind in self.alike.left.items() if strange & {*kind}})

    def _regions(self, program: Modes, together: frozenset[int]) -> Scale | None:
        """Origins whose value may mean something else on either side, judged together at the outputs."""
        if not together or program.lifted is None or program.lifted.nature in ("equal", "rounding"):
            return None
        if len(together) == len(self.origins):
            return program.lifted
        others = frozenset(range(len(self.origins))) - together
        single, double = (
            self._walk(Lift(dtype, "lifted", self.everything), (), others)[1] for dtype in ("float32", "float64")
        )
        return worst(single, double)

    def _walk(
        self, lift: Lift, restoring: tuple[Intervention, ...], substituted: frozenset[int], until: int | None = None
    ) -> tuple[dict[tuple[int, bool], Difference], dict[Slot, Difference | None]]:
        """Both lifted programs in step; at the substituted origins the candidate takes the reference's value.

        Args:
            lift: of both programs.
            restoring: what the candidate is given before.
            substituted: positions of origins.
            until: the call of the reference after which the walk ends; None: the outputs.

        Returns:
            Difference at each examined origin, of floating values and of choices (True), just before it was substituted, and at
            the outputs.
        """
        kind = Lockstep if restoring else InCommon  # with other leaves the candidate is another program
        step = kind(
            self.case.experiments.executor("reference", lift),
            self.case.experiments.executor("candidate", lift, restoring),
            self.case.alignment,
            self.case.localization.axes,
        )
        if until is not None:
            step.begun = self.case.beginning.enter((step.reference, step.candidate)).calls
        by_calls: dict[tuple[int, int], list[int]] = {}
        for index, origin in enumerate(self.origins):
            by_calls.setdefault(origin.calls, []).append(index)
        local: dict[tuple[int, bool], Difference] = {}
        outputs: dict[Slot, Difference | None] = {}
        partner = {pair.reference: pair.candidate for pair in self.case.alignment.pairs}
        for call_r, call_c in step.walk(self.progress, f"lift to {lift.dtype}, casts {lift.casts}: origins alone"):
            for er, ec in matched(call_r, call_c, "reads"):
                at = by_calls.get(made_by(call_r, call_c, er, ec), [])
                if at and (call_r.kind == "return" or partner.get(er.producer, -1) != ec.producer):
                    self._at_origin(step, er, ec, at, substituted, local)
                if call_r.kind == "return":
                    slot = step.slot(call_r, er)
                    outputs[slot] = difference(*self._compared(slot, _payloads(step, er, ec)))
            step.execute(call_r, call_c)
            at = by_calls.get((call_r.index, call_c.index), [])
            if at and call_r.kind != "return":
                for er, ec in matched(call_r, call_c, "writes"):
                    self._at_origin(step, er, ec, at, substituted, local)
            if call_r.index == until:
                break
        for side, executor in (("reference", step.reference), ("candidate", step.candidate)):
            self._note(side, executor.counts())
        for why, sites in step.failed.items():
            self._add(Count(what="calls not run in float64", reason=why, count=len(sites), examples=tuple(sites[:3])))
        return local, outputs

    def _at_origin(
        self,
        step: Lockstep,
        er: Event,
        ec: Event,
        at: list[int],
        substituted: frozenset[int],
        local: dict[tuple[int, bool], Difference],
    ) -> None:
        examined = [index for index in at if index not in self.alike.left]
        apart = None
        try:
            if examined:
                both = _payloads(step, er, ec)
                apart = difference(*both) or choices(*both)
                if apart is not None:
                    apart = replace(apart, coarse=min(self._coarse(self.origins[index], both) for index in at))
            if substituted.issuperset(at):
                step.substitute(er, ec)
        except WhydiffError as error:
            self._add(Count(what="origins not scaled", reason=error.what, count=1, examples=(str(er.site),)))
            return
        if apart is None:
            return
        for index in examined:
            known = local.get((index, apart.discrete))
            if known is None or apart.mean > known.mean:
                local[index, apart.discrete] = apart

    # ------------------------------------------------------------------ counting

    def _note(self, side: str, counts: Sequence[Count]) -> None:
        for count in counts:
            self._add(replace(count, reason=f"{side}: {count.reason}"))

    def _failed(self, side: str, lift: Lift, call: Call, why: str) -> None:
        self._add(
            Count(
                what="calls not run in float64",
                reason=f"{side}, {lift.dtype}: {why}",
                count=1,
                examples=(str(call.site),),
            )
        )

    def _add(self, count: Count) -> None:
        key = (count.what, count.reason)
        known = self.counts.get(key)
        if known is None or known.count < count.count:
            self.counts[key] = count


def _payloads(step: Lockstep, er: Event, ec: Event) -> tuple[Payload, Payload]:
    payloads = (step.reference.payload(step.reference.read(er)), step.candidate.payload(step.candidate.read(ec)))
    return counterparts(*payloads, step.axes)


def float64_throughout(reference: Trace, candidate: Trace) -> bool:
    """Whether everything that either program computes is float64: then float32 is reached by narrowing."""
    seen = {
        event.spec.dtype
        for trace in (reference, candidate)
        for call in trace.calls
        if call.kind == "compute"
        for event in call.writes
        if not is_integer(event.spec.dtype)
    }
    return bool(seen) and seen <= {"float64", "complex128"}


def _is_faint(scale: Scale | None) -> bool:
    """Whether a difference that stays is no more than rounding in float32 can make of an output (`CANCELLED_SHARE`)."""
    unit = unit_roundoff("float32")
    return stays(scale) and scale is not None and scale.double.mean <= unit**CANCELLED_SHARE * scale.double.magnitude


def _as_coarse(scale: Scale | None) -> Scale | None:
    return scale and replace(scale, double=replace(scale.double, coarse=unit_roundoff("float32")))


def _strange(origin: Origin, modes: Modes) -> bool:
    scale = modes.lifted
    return origin.kind in ("region", "layout") and (scale is None or scale.nature in ("between", "stays"))
