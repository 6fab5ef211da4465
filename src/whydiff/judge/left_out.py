"""What a comparison left out, counted, and the sentences about its runs that are worth reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from whydiff.explain.alike import alike
from whydiff.explain.case import Case
from whydiff.explain.local_test import LocalResult
from whydiff.explain.scaling import Scaling
from whydiff.judge.noise_floor import NoiseFloor
from whydiff.pair.align import explain
from whydiff.pair.scripts import read_out
from whydiff.pair.slices import Axis
from whydiff.records import GENERATORS, Cause, Count, Evidence, Origin, Verdict

_IN_PIECES = "SH001"
"""Its remedy names that study already."""


def not_tested(
    case: Case, scaling: Scaling | None, local: Mapping[int, LocalResult] | None, floor: NoiseFloor
) -> tuple[Count, ...]:
    """Tests of the difference's nature that could not be made, or not at every origin."""
    counts = [*not_examined(case, scaling, local), *(scaling.counts if scaling else ())]
    for what, why in (("scaling test", scaling.why_not if scaling else ""), ("noise floor", floor.why_not)):
        if why:
            counts.append(Count(what, why, 1))
    return tuple(counts)


def left_out(case: Case) -> tuple[Count, ...]:
    """Unpaired calls, values without a fingerprint, state that only one side has."""
    counts = [*explain(case.alignment, case.reference, case.candidate), *case.localization.counts]
    for name, trace in (("reference", case.reference), ("candidate", case.candidate)):
        reasons: dict[str, list[str]] = {}
        for call in trace.calls:
            for event in (*call.reads, *call.writes):
                if event.missing:
                    reasons.setdefault(event.skipped, []).append(str(event.site))
        for leaf in trace.leaves:
            if leaf.skipped:
                reasons.setdefault(leaf.skipped, []).append(leaf.name)
        counts += [
            Count(what="values without a fingerprint", reason=f"{name}: {why}", count=len(at), examples=tuple(at[:3]))
            for why, at in reasons.items()
        ]
        counts += [
            Count(
                what=f"holes in the capture ({hole.kind})",
                reason=f"{name}: {hole.why}",
                count=hole.count,
                examples=(hole.where,) if hole.where else (),
            )
            for hole in trace.holes
            if hole.kind not in ("opaque", "fake")  # told by their values above
        ]
    if case.alignment.scripts:
        counts.append(Count("texts, lists and files of the scripts", "a capture records tensors", 1, code="python"))
        counts += _read_out(case)
    for name, lone in zip(("reference", "candidate"), case.lone_leaves(), strict=True):
        if lone:
            counts.append(
                Count(
                    what="state tensors",
                    reason=f"only the {name} has them",
                    count=len(lone),
                    examples=tuple(leaf.name for leaf in lone[:3]),
                )
            )
    return tuple(counts)


def _read_out(case: Case) -> list[Count]:
    """Numbers that one script alone gives Python and that count as no output (`whydiff.pair.scripts.with_ends`)."""
    counts = []
    both = [case.reference.calls[p.reference] for p in case.alignment if read_out(case.reference.calls[p.reference])]
    if both:
        why = "they are totals over a part of a step's rows, and the other run takes the rows in other parts"
        counts.append(Count(what="numbers read out", reason=why, count=len(both), examples=(str(both[0].site),)))
    left = case.alignment.unpaired_reference, case.alignment.unpaired_candidate
    for name, trace, indices in zip(("reference", "candidate"), case.traces, left, strict=True):
        lone = [call for index in indices if read_out(call := trace.calls[index])]
        if lone:
            examples = tuple(str(call.site) for call in lone[:3])
            why = f"only the {name} gave them to Python; what both come to at their end is compared"
            counts.append(
                Count(what="numbers read out", reason=why, count=len(lone), examples=examples, code="read out")
            )
    return counts


def notes_on(case: Case, causes: Sequence[Cause] = ()) -> tuple[str, ...]:
    """Resumed steps, incomplete captures, an observer that changed something, an origin that was missed, other studies."""
    notes = []
    ahead = case.alignment.ahead
    if ahead:
        later, earlier = ("candidate", "reference") if ahead > 0 else ("reference", "candidate")
        notes.append(
            f"step 0 of the {later} is step {abs(ahead)} of the {earlier}: "
            "it begins from the weights or takes up the data that the other one takes up there"
        )
    for name, trace in (("reference", case.reference), ("candidate", case.candidate)):
        if not trace.complete:
            notes.append(f"the {name} is incomplete: {trace.note}")
        if trace.observer.unchanged is False:
            notes.append(f"observing changed the {name}: {trace.observer.note}")
    if case.localization.accounted is False and not _other_dtypes(case):
        notes.append("after resynchronising at every origin the outputs still differ: an origin was missed")
    if why := _is_ported(case):
        notes.append(f"{why}: `whydiff port` compares such programs layer by layer, by what reads each weight")
    if (axis := _one_of_many(case)) and not any(cause.code == _IN_PIECES for cause in causes):
        notes.append(
            f"one model at two sizes ({axis.name} {axis.large} and 1): `whydiff sweep` runs it at many, and tells which ops "
            "change what a row gives with them"
        )
    return tuple(notes)


def _one_of_many(case: Case) -> Axis | None:
    """The axis of which one run has a single row and the other one more, where both hold the same parameters and buffers."""
    held = [{leaf.name: leaf.fingerprint for leaf in trace.leaves if leaf.is_registered} for trace in case.traces]
    axes = case.localization.axes
    alike = held[0] == held[1] and None not in held[0].values()  # what has no fingerprint is not known to be the same
    return axes[0] if len(axes) == 1 and axes[0].small == 1 and alike else None


def seeded_alike(case: Case, verdict: Verdict) -> tuple[str, ...]:
    """That runs whose outputs agree drew from global generators, which both found in the same state."""
    checks = case.reference.observer, case.candidate.observer
    live = None not in case.runs
    states = case.reference.environment.rng, case.candidate.environment.rng
    names = [
        name
        for name in dict.fromkeys(name for check in checks for name in check.drew)
        if live or (name in states[0] and states[0][name] == states[1].get(name))
    ]
    if not names or verdict is not Verdict.IDENTICAL:
        return ()
    spoken = " and ".join(GENERATORS.get(name, name) for name in names)
    return (
        f"both sides began with the same random states and drew from {spoken} without seeding it, or seeded it as they "
        "found it: unseeded, runs that begin with other states give other numbers, each side from itself as well",
    )


def _is_ported(case: Case) -> str:
    """Why two programs that differ are one model written twice: in two frameworks, or with few calls in common."""
    if case.localization.silent or all(compared.status == "agrees" for _, compared in case.localization.outputs):
        return ""
    frameworks = case.reference.framework, case.candidate.framework
    if frameworks[0] != frameworks[1]:
        return f"one program is written in {frameworks[0]}, the other in {frameworks[1]}"
    left = len(case.alignment.unpaired_reference) + len(case.alignment.unpaired_candidate)
    ours, theirs = (
        {leaf.fingerprint for leaf in trace.leaves if leaf.is_state and leaf.fingerprint and leaf.spec.numel > 1}
        for trace in case.traces
    )
    if left <= len(case.alignment.pairs) or not ours & theirs:
        return ""
    return "most calls of the two programs have no counterpart, and they hold the same weights"


def _other_dtypes(case: Case) -> bool:
    """Whether an output has another dtype than its counterpart, so that no resynchronising makes the bits equal."""
    return any(ours.dtype != theirs.dtype for _, ours, theirs in case.localization.returned)


Kinds = Mapping[int, Sequence[int]]


def left_to_others(case: Case, scaling: Scaling, local: Mapping[int, LocalResult] | None) -> Kinds:
    """Position of each origin that a test passed over → the examined ones of its kind; empty if no test was asked."""
    return alike(case).left if scaling.alone or local is not None else {}


def like_others(origin: Origin, own: Verdict, others: Sequence[Origin]) -> tuple[Verdict, list[Evidence]]:
    """What an origin amounts to by the gravest of its kind, unless its own numbers say it.

    Differing state and inputs are held against each other tensor by tensor, and NaN on one side only is seen in the
    recorded values: neither needs a test.
    """
    if not others:
        return own, [Evidence("not examined: there are too many kinds of origins, and none of its kind was")]
    gravest = max(others, key=lambda other: other.verdict.severity)
    first, more = others[0].site, f" and {len(others) - 1} more" if len(others) > 1 else ""
    told = Evidence(
        f"not examined one by one: of its kind {first}{more} were, the gravest of which is {gravest.verdict}",
        {"like": [str(other.site) for other in others]},
    )
    own_numbers = own is Verdict.UNSTABLE or (origin.kind in ("state", "input") and own is not Verdict.INCONCLUSIVE)
    return (own if own_numbers else gravest.verdict), [told]


def not_examined(case: Case, scaling: Scaling | None, local: Mapping[int, LocalResult] | None) -> tuple[Count, ...]:
    """How many origins were left to others of their kind, and how many to nobody."""
    kinds = left_to_others(case, scaling, local) if scaling is not None else {}
    origins = case.localization.origins
    found = []
    for reason, numbers in (
        ("more of the same kind, not examined one by one", [number for number, like in kinds.items() if like]),
        ("none of their kind was examined: there are too many kinds", [n for n, like in kinds.items() if not like]),
    ):
        if numbers:
            examples = tuple(str(origins[number].site) for number in numbers[:3])
            found.append(Count(what="origins", reason=reason, count=len(numbers), examples=examples))
    return tuple(found)
