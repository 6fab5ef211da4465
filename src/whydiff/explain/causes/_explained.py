"""Origins that a named function explains, worked out once per case: at most one explanation each.

A cause that explains single origins (another formula, another precision, another layout) has
``explain(view) -> Finding | None``. Every origin is offered to the causes in their order (`in_order` in `_rule`), and the
first that finds its pattern in the values gets it, so that two of them never explain the same origin. An origin whose argument
is a recorded setting (a module's attribute, a configuration key) is left to ST006, which says where to change it;
those in an optimizer's step that begins with other state or hyperparameters, and so may take other ops, to TR002, TR003;
those of an update that one side leaves out, with the numbers that follow from it, to TR004; those that follow from another
mode in two recorded runs to MD001; origins that read differing state or inputs to the state's and inputs' causes. Findings of
other functions are dropped if the whole programs agree in float64, those of another precision if a number is finite on one
side only (then the causes OV speak).

What is left, or was found to be another function, is then looked at together with its neighbours (`_joint`): such causes
also have ``explain_joint(view)``. General causes say what differs without knowing the mistake. Nothing is asked at any origin
if setting back what differs in settings and tensors is enough (`_settings.enough`), or tracing one side anew (`_stale`).
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from whydiff.explain.alike import alike
from whydiff.explain.arguments import differing_arguments, fits
from whydiff.explain.case import Case
from whydiff.explain.causes import _out_of_order, _uneven
from whydiff.explain.causes._activations import with_activations
from whydiff.explain.causes._again import repeated
from whydiff.explain.causes._joint import joints_of
from whydiff.explain.causes._left_out import is_of_a_round
from whydiff.explain.causes._modes import followed_by
from whydiff.explain.causes._one_number import of_one_number
from whydiff.explain.causes._optimizer import begins_otherwise
from whydiff.explain.causes._read_out import followed, told_of
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._settings import enough, restored
from whydiff.explain.causes._stale import as_traced_anew, is_stale
from whydiff.explain.causes._telling import answers, asked, by_no_op, is_open, moved, of_numbers, told_by
from whydiff.explain.causes._values import Array, distance, floating, narrow, number
from whydiff.explain.causes._view import Finding, JointView, View, consumers
from whydiff.explain.local_test import Examined, Joint, Operation, examine, examine_joints, far_apart
from whydiff.numbers.tolerance import SCALING_FLOOR
from whydiff.records import Cause, Evidence, Intervention, Origin, Remedy, Verdict
from whydiff.report.words import listed

_KINDS = ("implementation", "arguments", "layout", "region")
_BEHIND_ALL = (enough, as_traced_anew, _uneven.is_behind_all, _out_of_order.is_behind_all)
_FIRST, _ALL = 24, 256


def explained(case: Case) -> dict[int, Finding]:
    """Position of an origin → what explains it."""
    return case.shared("explained", lambda: _explained(case))


def named(case: Case) -> dict[int, Finding]:
    """`explained` without the general findings."""
    return {index: finding for index, finding in explained(case).items() if not finding.general}


def explained_calls(case: Case) -> set[tuple[int, int]]:
    """Call pairs of the explained origins, for causes that take what is left."""
    origins = case.localization.origins
    return {origins[index].calls for index in explained(case)}


def unjudged(case: Case) -> set[int]:
    """Positions of origins that were to be explained and could not be carried out in float64, nor others of their kind."""
    explained(case)
    return case.shared("unjudged origins", set[int])


class PlaceRule(CauseRule):
    """A cause that explains places (`explain`, `explain_joint`, `explain_number`); its findings of one key are one cause."""

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per key of its findings."""
        return causes_of(case, self, self.remedy)

    @abc.abstractmethod
    def remedy(self, finding: Finding) -> Remedy:
        """What to change, of the first of the places."""


def causes_of(case: Case, rule: CauseRule, remedy: Callable[[Finding], Remedy]) -> Iterator[Cause]:
    """One cause per key, and per experiment: the first origin's evidence, everybody's interventions.

    What is taken away by the very same interventions is one change that is seen at several origins.

    Args:
        case: the pair of runs.
        rule: the cause.
        remedy: finding → `Remedy`.
    """
    groups: dict[Any, list[tuple[Origin, Finding]]] = {}
    keys: dict[tuple[tuple[Intervention, ...], ...], Any] = {}
    for index, finding in explained(case).items():
        if finding.code == rule.code:
            done = (finding.interventions, finding.put_in)
            key = keys.setdefault(done, finding.key) if finding.interventions else finding.key
            groups.setdefault(key, []).append((case.localization.origins[index], finding))
    yield from grouped(groups.values(), rule, remedy)


def grouped(
    groups: Iterable[Sequence[tuple[Origin, Finding]]], rule: CauseRule, remedy: Callable[[Finding], Remedy]
) -> Iterator[Cause]:
    """One cause per group of origins and findings."""
    for found in groups:
        origin, finding = found[0]
        own = [of for _, of in found if not of.consequence] or [finding]
        sites = [str(one.place.at("")) for one, of in found if not of.consequence]
        evidence = list(finding.evidence)
        if len(sites) > 1:
            evidence.append(Evidence(f"{len(sites)} places are of this kind: {listed(sites)}", {"origins": sites}))
        evidence += _also(rule, own)
        evidence += told_of([of for _, of in found])
        interventions = tuple(dict.fromkeys(i for _, one in found for i in one.interventions))
        put_in = tuple(dict.fromkeys(i for _, one in found for i in one.put_in))
        yield rule.cause(
            site=str(origin.place.at("")),
            verdict=max((of.verdict for of in own), key=lambda one: one.severity),
            evidence=evidence,
            remedy=remedy(replace(finding, interventions=interventions)),
            interventions=interventions,
            put_in=put_in,
            says=finding.said(rule.says),
            after=finding.after,
        )


def _also(rule: CauseRule, found: Sequence[Finding]) -> Iterator[Evidence]:
    """What the same change also undoes, in the words of those that it is no more than one of."""
    said = list(dict.fromkeys(of.said(rule.says) for of in found))[1:]
    if said:
        yield Evidence(f"the same change also undoes what is more than this: {listed(said)}", {"also": said})


def argued(case: Case, origin: Origin, ours: Any, theirs: Any) -> bool:
    """Whether an argument of an origin's two calls changed from one value to the other."""
    reference, candidate = origin.calls
    if origin.kind != "arguments" or reference < 0 or candidate < 0:
        return False
    changes = differing_arguments(case.reference.calls[reference].arguments, case.candidate.calls[candidate].arguments)
    return any(fits(change, (ours, theirs)) for change in changes)


def _is_a_setting(case: Case, origin: Origin) -> bool:
    """Whether a setting that differs carries an argument; an attribute that only one side has is none to set back."""
    attributes = (pair for path, pair in case.scalar_changes.items() if path.rpartition(".")[2] != "__class__")
    pairs = [*(pair for pair in attributes if None not in pair), *case.config_changes.values()]
    return any(argued(case, origin, *pair) for pair in pairs)


def _explained(case: Case) -> dict[int, Finding]:
    eligible: dict[str, list[int]] = {}
    for index, origin in enumerate(case.localization.origins):
        if origin.kind not in _KINDS or min(origin.calls) < 0:
            continue
        others = _is_a_setting(case, origin) or begins_otherwise(case, origin) or is_of_a_round(case, index)
        if not (others or is_stale(case, index) or index in followed_by(case)):
            eligible.setdefault(_kind(case, origin), []).append(index)
    if not eligible or not case.repeats or case.localization.axes:
        return {}
    if not case.replayable or any(ask(case) for ask in _BEHIND_ALL):
        return {}
    rules = asked()
    found: dict[int, Finding] = {}

    seen_here: set[int] = set()

    def visit(seen: Examined) -> None:
        seen_here.add(seen.number)
        view = View(case, case.localization.origins[seen.number], seen)
        asked_here = [rule for rule in rules if rule.general or not by_no_op(seen)]
        finding = _first(case, answers(asked_here, view), tied=seen.result.tied)
        if finding is not None and not (seen.sampled and _hidden(case)):
            found[seen.number] = finding

    first = {index: indices[0] for indices in list(eligible.values())[:_FIRST] for index in indices}

    def wanted(index: int) -> bool:  # the first of every kind, and others where that is explained
        return first[index] == index or (first[index] in found and len(found) < _FIRST + _ALL)

    most = [index for indices in list(eligible.values())[:_FIRST] for index in indices[: _FIRST + _ALL]]
    judged = examine(case, chosen=sorted(most), visit=visit, wanted=wanted)
    late = [index for index in sorted(most) if index not in judged and wanted(index)]
    if late:  # the walk came to them before it came to the first of their kind
        examine(case, chosen=late, visit=visit)
    case.shared("unjudged origins", set[int]).update(index for index in first if first[index] not in seen_here)
    found = of_one_number(case, followed(case, repeated(case, _together(case, eligible | _folded(case), found, rules))))
    return _joined(dict(sorted(found.items())), _places(rules))


def _places(rules: Sequence[CauseRule]) -> dict[str, int]:
    """Code → place in the order."""
    return {rule.code: place for place, rule in enumerate(rules)}


def _first(case: Case, told: Iterator[Finding | None], *, tied: bool = False) -> Finding | None:
    return next((one for one in told if one is not None and not _idle(case, one.verdict, tied=tied)), None)


def _together(
    case: Case, eligible: dict[str, list[int]], found: dict[int, Finding], rules: Sequence[CauseRule]
) -> dict[int, Finding]:
    """Findings of other functions, after origins that belong together were looked at as one.

    What only both together tell (a known formula, a cast in another place) takes the place of what was found at
    each; where both together compute one function, nothing else is wrong with either.
    """
    examined = set(alike(case).examined)
    numbers = [i for indices in eligible.values() for i in indices[:_ALL] if i in examined]
    stored = {i for i in numbers if case.localization.origins[i].kind not in _KINDS}
    left = {i for i in numbers if i not in found or found[i].verdict is Verdict.SEMANTIC}
    joints = joints_of(case, sorted(left))
    unexplained = left - found.keys()
    if unexplained < left:  # what is explained already reaches into what follows, and would be taken for a part of it
        joints = [*joints_of(case, sorted(unexplained)), *joints]
    if not joints:
        return found
    firsts = {indices[0] for indices in eligible.values()}
    chosen = [joint for joint in joints if joint.members[0] in firsts][: 2 * _FIRST]
    kinds = {index: kind for kind, indices in eligible.items() for index in indices}
    told, places = dict(found), _places(rules)
    specific = [rule for rule in rules if not rule.general]
    done: set[int] = set()
    sizes: set[tuple[str, int]] = set()

    def visit(seen: Examined) -> None:
        joint = chosen[seen.number]
        if done & {*joint.members}:
            return
        view = JointView(case, case.localization.origins[joint.members[0]], seen, joint)
        here = [told[m] for m in joint.members if m in told]
        both = with_activations(specific, view, here) if len(joint.members) > 1 else ()
        if both and not _idle(case, Verdict.SEMANTIC):
            done.update(joint.members)
            told.update({m: replace(both[0], interventions=(), put_in=()) for m in joint.members})
            told.update(zip(joint.members, both, strict=False))
            return
        known = min((places[one.code] for one in here), default=len(specific))
        earlier = (rule for rule in specific if places[rule.code] < known)
        finding = _first(case, (told_by(rule, rule.explain_joint, view) for rule in earlier))
        if finding is None and is_open(here):
            finding = _first(case, of_numbers(rules, view, both=True))
        if finding is None and not view.one_function:
            before = left_open.get(joint.members[0])
            if before is None or len(before.joint.members) < len(joint.members):
                left_open[joint.members[0]] = view
            return
        settled = joint.members if finding is not None else tuple(joint.whole)  # a part says nothing of the rest
        done.update(settled)
        sizes.add((kinds[joint.members[0]], len(joint.calls[0])))
        for member in settled:
            told.pop(member, None)
            if finding is not None:
                told[member] = finding if member == joint.members[0] else replace(finding, interventions=(), put_in=())

    left_open: dict[int, JointView] = {}
    examine_joints(case, chosen, visit)
    for first, view in left_open.items():
        members = view.joint.members
        apart = moved(told, members) or not any(member in told for member in members)
        if done & {*members} or not (apart or stored & {*members}):
            continue
        general = (rule for rule in rules if rule.general)
        finding = _first(case, (told_by(rule, rule.explain_joint, view) for rule in general))
        if finding is not None:
            done.update(members)
            told |= {m: finding if m == first else replace(finding, interventions=(), put_in=()) for m in members}
    chosen = _alike(case, left - firsts, done, lambda joint: (kinds[joint.members[0]], len(joint.calls[0])) in sizes)
    if chosen:
        examine_joints(case, chosen, visit)
    return told


def _folded(case: Case) -> dict[str, list[int]]:
    """Origins that read other state because one side's holds more: a later step was folded into it.

    Only where one side has state and ops of its own, and giving the candidate the reference's tensors leads farther away:
    then tensors of one name are no counterparts, and are looked at together with the step.
    """
    unpaired = case.alignment.unpaired_reference or case.alignment.unpaired_candidate
    states = [i for i, origin in enumerate(case.localization.origins) if origin.kind == "state"]
    if not states or not unpaired or not any(case.lone_leaves()):
        return {}
    plain, given = (case.experiments.apart_if_told(items) for items in ((), restored(case)))
    farther = plain is not None and given is not None and given > plain
    return {f"state {i}": [i] for i in states} if farther else {}


def _alike(case: Case, left: set[int], done: set[int], wanted: Callable[[Joint], bool]) -> list[Joint]:
    """Further joints of a wanted form.

    What differs in one layer reaches into the next, whose origins would be taken for parts of the same: so the
    joints that were chosen are set aside, and the rest is looked at again.
    """
    chosen: list[Joint] = []
    claimed = set(done)
    while len(chosen) < _ALL and left - claimed:
        before = len(chosen)
        for joint in joints_of(case, sorted(left - claimed)):
            if wanted(joint) and not claimed & {*joint.members}:
                chosen.append(joint)
                claimed |= {*joint.members}
        if len(chosen) == before:
            break
    return chosen[:_ALL]


def _joined(found: dict[int, Finding], places: dict[str, int]) -> dict[int, Finding]:
    """Where one explanation's interventions are all among another one's, only the more specific one is kept."""
    joined = {}
    for index, finding in found.items():
        mine = set(finding.interventions)
        wider = (
            one for one in found.values() if places[one.code] < places[finding.code] and mine <= set(one.interventions)
        )
        joined[index] = next(wider, finding) if mine else finding
    return joined


def _idle(case: Case, verdict: Verdict, *, tied: bool = False) -> bool:
    """Whether a finding of this kind cannot be what makes the outputs differ; in float64 equal values may be so no longer."""
    if verdict is Verdict.SEMANTIC and tied:
        return not far_apart(case)
    if verdict is Verdict.SEMANTIC:
        return case.shared("one program", lambda: _one_program(case))
    return verdict is Verdict.PRECISION and out_of_range(case)


def out_of_range(case: Case) -> bool:
    """Whether a number is finite on one side only: then the causes about ranges say what the narrower dtype did."""
    local = case.localization
    comparisons = (
        *(o.comparison for o in local.origins),
        *(c for _, c in local.outputs),
        *(g.comparison for g in local.growth),
    )
    return any(c.value(metric) for c in comparisons for metric in ("inf_mismatch", "nan_mismatch"))


def _hidden(case: Case) -> bool:
    """Whether more may differ than a sample of a place's results shows: the whole programs do not agree in float64."""
    return not case.shared("one program", lambda: _one_program(case))


def _one_program(case: Case) -> bool:
    """Whether the outputs agree in float64, differing tensors restored: what differs on the way cancels then."""
    for interventions in dict.fromkeys(((), restored(case))):
        apart = case.experiments.apart_if_told(interventions)
        if apart is not None and apart <= SCALING_FLOOR:
            return True
    return False


def _kind(case: Case, origin: Origin) -> str:
    """Origins of one kind are explained alike: the same ops with the same arguments on the same dtypes."""
    reference, candidate = (trace.calls[index] for trace, index in zip(case.traces, origin.calls, strict=True))
    ops = [site.op for site in origin.region]
    calls = [[c.target, c.arguments, [e.spec.dtype for e in c.reads]] for c in (reference, candidate)]
    return json.dumps([origin.kind, ops, calls], default=repr)


__all__ = [
    "Array",
    "Finding",
    "Operation",
    "PlaceRule",
    "View",
    "argued",
    "causes_of",
    "consumers",
    "distance",
    "explained",
    "explained_calls",
    "floating",
    "grouped",
    "named",
    "narrow",
    "number",
    "out_of_range",
    "unjudged",
]
