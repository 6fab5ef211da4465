"""The outputs as the programs really gave them, and what may be said of them: every rule stands here.

The *anchor* of a live side is what it returned when it ran plainly, before anything else; of a trace, what was
recorded. Where neither run returns anything (None and empty containers are nothing), what each wrote last and never
read stands for it. No verdict contradicts it. Of two scripts, what they came to (a number that Python was given, the
state as it was left, what nothing reads) is an output too: `whydiff.pair.scripts`. The first rule of `RULES` that
applies decides:

| rule | when | verdict |
|---|---|---|
| `does_not_repeat` | a plain run differs from another plain run | as found inside (nondeterministic) |
| `ended_early` | all compared is bit-equal, a trace is cut | inconclusive |
| `nothing_compared` | no output could be compared | inconclusive, or as found inside; incomparable if in other places |
| `not_all_readable` | all compared is bit-equal, some outputs could not be read | inconclusive |
| `other_structure` | all compared is bit-equal, one side has further outputs | incomparable |
| `ran_otherwise` | all compared is bit-equal, a trace's program ran in another way while it was recorded | inconclusive |
| `padding_differs` | all compared is bit-equal, rows found to be padding are not | incomparable |
| `equal` | every output is bit-equal | identical; what differs inside is a note |
| `other_nans` | every value is equal, and where both are NaN its bits are not | rounding |
| `another_dtype` | every value is equal, some in another dtype | precision |
| `other_inputs` | inputs have other sizes, and one run's stand nowhere in the other's | incomparable |
| `other_shapes` | outputs have other shapes or kinds, and nothing worse was found | incomparable |
| `more_is_returned` | one side returns more, and what both return is rounding or precision | incomparable |
| `other_points` | they differ, the observed runs agree, and returned values proved to be no counterparts | incomparable |
| `stale_code` | they differ, and compiled code is of another state of its program | semantic |
| `rerun_tells` | they differ, what was observed does not tell, and unobserved reruns do | rounding, precision or semantic |
| `looking_changed_it` | they differ, and observing changed a run | as found inside if that is severe, else inconclusive |
| `made_outside` | they differ mildly inside, and an output does not follow from that | semantic or inconclusive |
| `unseen` | they differ, and everything observed agrees | inconclusive: made where nobody looked |
| (none) | they differ, and so do the observed runs | as found inside |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whydiff.explain.case import Case
from whydiff.explain.causes import as_traced_anew
from whydiff.explain.interventions import TRANSPLANTS
from whydiff.explain.ladder import climbed
from whydiff.explain.reruns import Rerun, changed_by_looking
from whydiff.judge.outputs import Anchor, Compared
from whydiff.judge.outside import Outside
from whydiff.records import Cause, Verdict


@dataclass(frozen=True, slots=True)
class Inside:
    """What the observed runs say.

    Attributes:
        verdict, reason: of origins, causes and measurements.
        agree: no output differs in the observed runs, and no difference starts in them.
        varying: sides of which a plain run differs from another plain run.
        changed: sides that observing changed.
        cut: sides whose trace ended early.
        otherwise: sides whose recorded outputs are those of another way of running (uncompiled), which nothing checked.
        origins: how many places differ.
        unpaired: how many calls have no counterpart.
        missed: how many calls could not be executed again.
        proven: a cause was confirmed by running the program again unobserved.
        bits: running a program again with other roundings, and no part of the other one, gave the other side's outputs.
        rerun: how the difference behaves in unobserved runs at two precisions; None: it cannot be told.
        outside: differing outputs that no observed op returned, and that do not follow; None: there are none.
        stale: sides whose compiled code is of another state of the program.
        unplaced: nothing says which part of the larger run the smaller one is.
        apart: the confirmed cause by which returned values are no counterparts, as text; empty: there is none.
    """

    verdict: Verdict
    reason: str
    agree: bool = False
    varying: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()
    origins: int = 0
    unpaired: int = 0
    missed: int = 0
    proven: bool = False
    bits: bool = False
    rerun: Rerun | None = None
    outside: Outside | None = None
    stale: tuple[str, ...] = ()
    apart: str = ""
    unplaced: bool = False


def inside(case: Case, verdict: Verdict, reason: str, causes: Sequence[Cause] = ()) -> Inside:
    """The observed runs' verdict with what `RULES` ask for besides."""
    unobserved = [e for cause in causes if cause.status == "confirmed" and not cause.inert for e in cause.experiments]
    apart = (c for c in causes if c.status == "confirmed" and c.verdict is Verdict.INCOMPARABLE)
    local = case.localization
    sides = (("reference", case.reference), ("candidate", case.candidate))
    changed = changed_by_looking(case)
    bits = any(cause.verdict is Verdict.PRECISION and _shown(cause) for cause in causes)
    ladders = [] if unobserved or bits else [(side, climbed(case, side)) for side in changed]
    differing = any(comparison.status == "differs" for _, comparison in local.outputs)
    return Inside(
        verdict=verdict,
        reason=reason,
        agree=not differing and not local.origins,
        varying=tuple(name for name, trace in sides if trace.observer.deterministic is False),
        changed=tuple(name for name, trace in sides if trace.observer.unchanged is False),
        stale=tuple(
            side for side, ladder in ladders if (ladder is not None and ladder.stale) or as_traced_anew(case) == side
        ),
        cut=tuple(name for name, trace in sides if not trace.complete),
        otherwise=tuple(
            name for name, trace in sides if trace.observer.unchanged is False and not trace.observer.outputs
        ),
        origins=len(local.origins),
        unpaired=len(case.alignment.unpaired_reference) + len(case.alignment.unpaired_candidate),
        missed=sum(one.count for one in local.counts if one.code == "not replayed"),
        bits=bits,
        proven=any(experiment.method == "rerun" for experiment in unobserved),
        apart=next((f"{one.name} at {one.site}, proven by experiment" for one in apart), ""),
        unplaced=local.unplaced,
    )


def _shown(cause: Cause) -> bool:
    """Whether one of its two experiments did as predicted, and carried no part of one program into the other."""
    return cause.status in ("confirmed", "located") and any(
        experiment.status == "confirmed" and not any(item.name in TRANSPLANTS for item in experiment.interventions)
        for experiment in cause.experiments
    )


Judged = tuple[Verdict, str] | None
Rule = Callable[[Anchor, Inside], Judged]


def does_not_repeat(found: Anchor, inside: Inside) -> Judged:
    """A run differs from itself: what it returned once decides nothing."""
    return (inside.verdict, inside.reason) if inside.varying else None


def ended_early(found: Anchor, inside: Inside) -> Judged:
    """A cut trace is no agreement."""
    if not inside.cut or not (found.agree or not found.compared) or inside.verdict is not Verdict.IDENTICAL:
        return (inside.verdict, inside.reason) if inside.cut and found.agree else None
    return Verdict.INCONCLUSIVE, f"because the {_names(inside.cut)} ended early; zero bits differ until then"


def nothing_compared(found: Anchor, inside: Inside) -> Judged:
    """No output was compared: that is no agreement."""
    if found.compared:
        return None
    if inside.verdict is not Verdict.IDENTICAL and not (inside.agree and (found.hollow or not inside.unpaired)):
        return inside.verdict, inside.reason
    lone = found.having("lone")
    if len({one.comparison.only for one in lone}) > 1 and len(lone) == len(found.outputs):  # each side has its own
        return Verdict.INCOMPARABLE, f"no returned value has a counterpart: {_listed(lone)}"
    missing = _listed(found.having("unreadable", "undecided", "lone"))
    missing = missing or "neither side returned anything that holds numbers"
    return Verdict.INCONCLUSIVE, f"because nothing could be compared: {missing}"


def not_all_readable(found: Anchor, inside: Inside) -> Judged:
    """What was compared is equal, and something could not be."""
    unread = found.having("unreadable", "undecided")
    if not found.agree or not unread:
        return None
    if inside.verdict is not Verdict.IDENTICAL and not inside.agree:
        return inside.verdict, inside.reason
    return Verdict.INCONCLUSIVE, (
        f"because {_listed(unread)} could not be compared; the other {len(found.compared)} outputs are bit-equal"
    )


def other_structure(found: Anchor, inside: Inside) -> Judged:
    """What was compared is equal, and one side returns more."""
    lone = found.having("lone")
    if not found.agree or not lone:
        return None
    sides = _names(tuple(dict.fromkeys(one.comparison.only for one in lone)))
    return Verdict.INCOMPARABLE, (
        f"only the {sides} returned {_slots(lone)}; the other {len(found.compared)} outputs are bit-equal"
    )


def ran_otherwise(found: Anchor, inside: Inside) -> Judged:
    """What was recorded agrees, and is not what the program gives when nobody records it."""
    if not found.agree or not inside.otherwise:
        return None
    return Verdict.INCONCLUSIVE, (
        f"because the {_names(inside.otherwise)} ran in another way while it was recorded: what was recorded is bit-equal, "
        "what it gives otherwise is not known"
    )


def padding_differs(found: Anchor, inside: Inside) -> Judged:
    """What was compared is equal, and rows that hold padding, which nobody asked to leave out, are not."""
    padded = [one for one in found.outputs if one.padding]
    if not found.equal or not padded:
        return None
    rows = ", ".join(f"{one.padding} rows of {one.slot}" for one in padded[:3])
    return Verdict.INCOMPARABLE, (
        f"only what was found to be padding differs ({rows}); every other row is bit-equal. Name the rows to compare if "
        "nobody reads these"
    )


def equal(found: Anchor, inside: Inside) -> Judged:
    """Every output was compared and is bit-equal, whatever the insides say."""
    if not found.equal:
        return None
    what = "values that nothing reads" if found.substitute else "outputs"
    reason = f"zero bits differ in the {len(found.compared)} {what}"
    if inside.verdict is Verdict.IDENTICAL:
        return Verdict.IDENTICAL, inside.reason
    if inside.origins or inside.unpaired:
        reason += f"; inside, {inside.origins} places differ and {inside.unpaired} calls have no counterpart"
    return Verdict.IDENTICAL, reason


def other_nans(found: Anchor, inside: Inside) -> Judged:
    """NaN is NaN, whatever else its bits hold."""
    other = found.having("nan_bits")
    if not other or len(found.having("equal", "nan_bits")) != len(found.compared):
        return None
    if found.having("lone", "unreadable", "undecided"):
        return None
    return Verdict.ROUNDING, f"the outputs hold equal values; where both hold NaN, its bits differ: {_slots(other)}"


def another_dtype(found: Anchor, inside: Inside) -> Judged:
    """All values are equal; some are stored in another dtype."""
    if not found.compared or any(one.found not in ("equal", "dtype") for one in found.compared):
        return None
    if found.having("lone", "unreadable", "undecided"):
        return None
    if inside.verdict is Verdict.PRECISION:
        return inside.verdict, inside.reason
    return Verdict.PRECISION, f"the outputs hold equal values in other dtypes: {_slots(found.having('dtype'))}"


def other_inputs(found: Anchor, inside: Inside) -> Judged:
    """Runs of other sizes, whose inputs are no part of each other's: no number has a counterpart."""
    if not inside.unplaced:
        return None
    return Verdict.INCOMPARABLE, (
        "which part of the larger run is the smaller one's is not known: the inputs have other sizes, and those of one "
        "run stand nowhere in the other's"
    )


def other_shapes(found: Anchor, inside: Inside) -> Judged:
    """Outputs of other shapes or kinds are no counterparts."""
    other = found.having("shape", "kind")
    if not other or inside.verdict not in (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.PRECISION):
        return None
    return Verdict.INCOMPARABLE, f"outputs have other shapes or kinds: {_listed(other)}"


def more_is_returned(found: Anchor, inside: Inside) -> Judged:
    """What one side alone returns was compared with nothing, however near what both return is."""
    lone = found.having("lone")
    if not lone or inside.verdict not in (Verdict.ROUNDING, Verdict.PRECISION):
        return None
    sides = _names(tuple(dict.fromkeys(one.comparison.only for one in lone)))
    return Verdict.INCOMPARABLE, (
        f"only the {sides} returned {_slots(lone)}; the other {len(found.compared)} outputs are {inside.verdict}: "
        f"{inside.reason}"
    )


def other_points(found: Anchor, inside: Inside) -> Judged:
    """Both runs compute the same values and return different ones of them."""
    return (Verdict.INCOMPARABLE, inside.apart) if inside.agree and inside.apart else None


_CASTS = (Verdict.ROUNDING, Verdict.SEMANTIC)
"""What casts look like in float64 that vanish there, or that the program makes by itself: a proof of them says more."""
_WHERE_NOBODY_LOOKED = {
    Verdict.SEMANTIC: "the outputs differ at any precision, where nobody looked",
    Verdict.PRECISION: "the same function with another number of bits, where nobody looked",
    Verdict.ROUNDING: "the same function, rounded in another way where nobody looked",
}


def stale_code(found: Anchor, inside: Inside) -> Judged:
    """Compiled anew at another precision, code of another state of the program is not what gave the outputs."""
    if not inside.stale or not inside.agree:
        return None
    return Verdict.SEMANTIC, (
        f"the {_names(inside.stale)} runs compiled code of another state of the program: compiled anew it gives other outputs"
    )


def rerun_tells(found: Anchor, inside: Inside) -> Judged:
    """The observed runs are not the difference; the same values at another precision, unobserved, may tell."""
    numbers = inside.rerun
    blind = inside.verdict is Verdict.INCONCLUSIVE
    if numbers is None or not (inside.changed or inside.agree or blind):
        return None
    verdict = numbers.verdict
    if verdict in _CASTS and inside.proven and inside.verdict is Verdict.PRECISION:
        return inside.verdict, f"{inside.reason}; {numbers}"
    if verdict in (Verdict.ROUNDING, Verdict.INCONCLUSIVE) and inside.bits and inside.changed:
        verdict = Verdict.PRECISION
    if verdict is Verdict.INCONCLUSIVE:
        return None
    said = f"{inside.reason}; but" if blind and not inside.changed else f"{_WHERE_NOBODY_LOOKED[verdict]};"
    return verdict, f"{said} {numbers}"


def looking_changed_it(found: Anchor, inside: Inside) -> Judged:
    """The observed runs are other runs than those that gave the outputs."""
    if not inside.changed:
        return None
    severe = not inside.agree and inside.verdict.severity >= Verdict.SEMANTIC.severity
    if severe or inside.proven:
        return inside.verdict, inside.reason
    what = "makes the difference go away" if inside.agree else "changes the difference"
    return Verdict.INCONCLUSIVE, (
        f"because looking {what}: observing changed the {_names(inside.changed)}, and the plain outputs differ "
        f"({_listed(_differing(found))})"
    )


def made_outside(found: Anchor, inside: Inside) -> Judged:
    """What was observed explains some outputs; another one differs for a reason of its own, or nobody knows why."""
    if inside.outside is None or inside.agree:
        return None
    verdict, outputs = inside.outside.verdict, _listed(inside.outside.outputs)
    if verdict is Verdict.SEMANTIC:
        return (
            verdict,
            f"an output that no observed op returned differs at any precision ({outputs}); {inside.outside.reason}",
        )
    return Verdict.INCONCLUSIVE, (
        f"because outputs that no observed op returned differ, and nothing shows why: {outputs}; the others: {inside.reason}"
    )


def unseen(found: Anchor, inside: Inside) -> Judged:
    """The observed runs agree, and the outputs do not: the difference is made where nobody looked."""
    if not inside.agree and inside.verdict is not Verdict.IDENTICAL:
        return None
    if inside.missed:
        return Verdict.INCONCLUSIVE, (
            f"because {inside.missed} calls could not be executed again, and what follows them was compared with nothing; "
            f"{_listed(_differing(found))}"
        )
    return Verdict.INCONCLUSIVE, (
        "because every op that was observed agrees and the outputs differ: the difference is made outside of them "
        f"(in Python, numpy, another thread or a library); {_listed(_differing(found))}"
    )


RULES: tuple[Rule, ...] = (
    does_not_repeat,
    ended_early,
    nothing_compared,
    not_all_readable,
    other_structure,
    ran_otherwise,
    padding_differs,
    equal,
    other_nans,
    another_dtype,
    other_inputs,
    other_shapes,
    more_is_returned,
    other_points,
    stale_code,
    rerun_tells,
    looking_changed_it,
    made_outside,
    unseen,
)


def anchored(found: Anchor, inside: Inside) -> tuple[Verdict, str]:
    """The verdict on the outputs as they were, by the first rule that applies."""
    for rule in RULES:
        judged = rule(found, inside)
        if judged is not None:
            return judged
    return inside.verdict, inside.reason


def _differing(found: Anchor) -> tuple[Compared, ...]:
    return tuple(one for one in found.outputs if one.found not in ("equal", "left_out"))


def _names(sides: Sequence[str]) -> str:
    return " and the ".join(sides)


def _slots(outputs: Sequence[Compared]) -> str:
    return ", ".join(str(one.slot) for one in outputs[:3]) + (" …" if len(outputs) > 3 else "")


def _listed(outputs: Sequence[Compared]) -> str:
    text = "; ".join(f"{one.slot}: {one.comparison.reason}" for one in outputs[:3])
    return text + (" …" if len(outputs) > 3 else "")
