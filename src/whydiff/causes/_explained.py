"""Origins that a named function explains, worked out once per case: at most one explanation each.

A cause that explains single origins (another formula, another precision, another layout) has ``rank`` and
``explain(view) -> Finding | None``. Every origin is offered to them in the order of their ranks, and the first that
finds its pattern in the values gets it, so that two of them never explain the same origin. An origin whose argument
is a recorded setting (a module's attribute, a configuration key) is left to ST006, which says where to change it;
origins that read differing state or inputs are left to the state's and inputs' causes. Findings of other functions
are dropped if the whole programs agree in float64, those of another precision if a number is finite on one side only
(then the causes OV speak).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whydiff import registry
from whydiff.case import Case, differing_arguments, fits, replayable
from whydiff.causes._joint import joints_of
from whydiff.causes._settings import enough, restored
from whydiff.causes._state import listed, remember
from whydiff.errors import WhydiffError
from whydiff.local_test import Examined, Joint, Operation, examine, examine_joints
from whydiff.metrics import is_integer, values
from whydiff.records import Call, Cause, Event, Evidence, Intervention, Origin, Payload, Remedy, Verdict
from whydiff.tolerance import SAME_FUNCTION, SCALING_FLOOR, UNIT_ROUNDOFF

Array = np.ndarray[Any, Any]
_KINDS = ("implementation", "arguments", "layout", "region")
_FIRST = 24
_ALL = 256


@dataclass(frozen=True, slots=True)
class Finding:
    """What explains one origin.

    Attributes:
        code: of the cause.
        key: findings of equal key become one cause.
        verdict: of the cause.
        evidence: measured; that of the first finding is shown.
        interventions: what would remove it.
        facts: for the remedy's words.
        general: it says what differs, and not which known mistake it is: settings may lie behind it.
    """

    code: str
    key: Any
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    interventions: tuple[Intervention, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    general: bool = False


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
        """Whether both sides compute different functions, also by the local test, which knows of cancellation."""
        return not self.one_function and self.seen.result.verdict in (Verdict.SEMANTIC, Verdict.INCONCLUSIVE)

    @functools.cached_property
    def outputs(self) -> tuple[Array, Array]:
        """Both sides' recorded results as float64."""
        reference, candidate = (number(payload) for payload in self.seen.outputs)
        return reference, candidate

    @property
    def single(self) -> tuple[Call, Call] | None:
        """Both calls if either side is one op of the same name."""
        ours, theirs = self.seen.calls
        if len(ours) == len(theirs) == 1 and ours[0].site.op == theirs[0].site.op:
            return ours[0], theirs[0]
        return None

    @property
    def changed_arguments(self) -> list[tuple[int | str, Any, Any]]:
        """(position or name, reference's, candidate's) plain arguments that differ between calls of one target."""
        if self.single is None or self.single[0].target != self.single[1].target:
            return []
        (args, kwargs), (others, named) = (call.arguments for call in self.single)
        pairs: list[tuple[int | str, Any, Any]] = [
            (i, a, b) for i, (a, b) in enumerate(zip(args, others, strict=False)) if a != b
        ]
        return pairs + [(n, kwargs.get(n), named.get(n)) for n in {**kwargs, **named} if kwargs.get(n) != named.get(n)]

    def give_argument(self) -> tuple[Intervention, ...]:
        """The reference's argument, if exactly one differs and nothing else."""
        changed = self.changed_arguments
        if len(changed) != 1 or self.single is None:
            return ()
        (args, named), (others, _) = (call.arguments for call in self.single)
        which, ours, _ = changed[0]
        if len(args) != len(others) or isinstance(ours, dict):
            return ()
        given = _as_tuple(ours)
        if given is None:
            return ()
        value = (which,) if isinstance(which, str) and which not in named else (which, *given)
        return (Intervention("set-argument", str(self.single[1].site), value),)

    def replace_op(self) -> tuple[Intervention, ...]:
        """The reference's op, or region, on the candidate's inputs."""
        ours, theirs = self.origin.site.at(""), self.origin.candidate_site.at("")
        return (Intervention("replace-op", str(theirs), str(ours)),)

    def inputs_like_output(self) -> Iterator[Array]:
        """Floating inputs of the reference's operation that have as many elements as the result, flat."""
        size = self.exact[0].size
        for operation in self.seen.operations:
            for read in operation.reads:
                if read.dtype == np.float64 and read.size == size:
                    yield read.reshape(-1)

    def dtypes(self, side: int) -> list[str]:
        """Floating dtypes that a side's ops write."""
        return [e.spec.dtype for call in self.seen.calls[side] for e in call.writes if e.spec.dtype in UNIT_ROUNDOFF]


@dataclass(frozen=True, eq=False)
class JointView(View):
    """Several origins and the paired ops between them, as one.

    Attributes:
        joint: its members and calls; ``seen`` holds both sides as float64 operations, and outputs in float64.
    """

    joint: Joint

    def replace_op(self) -> tuple[Intervention, ...]:
        """The reference's ops, those with counterparts too, on the candidate's inputs."""
        paired = {pair.reference for pair in self.case.alignment.pairs}
        inside = [str(call.site) for call in self.joint.calls[0] if call.index in paired]
        traces = self.case.reference, self.case.candidate
        ours, theirs = (str(t.calls[e.producer].site) for t, e in zip(traces, self.joint.events, strict=True))
        return (Intervention("replace-op", theirs, (ours, *inside)),)

    def give_argument(self) -> tuple[Intervention, ...]:
        """None: the calls between are several."""
        return ()


def number(payload: Payload) -> Array:
    """A payload as float64 (integers too)."""
    return np.asarray(values(payload.bits, payload.dtype), dtype=np.float64)


def distance(ours: Array, theirs: Array) -> float:
    """Root mean square of the difference over that of the first, where both are finite; inf if they are not alike."""
    known = np.isfinite(ours) & np.isfinite(theirs)
    if not known.any() or np.any(np.isfinite(ours) != np.isfinite(theirs)):
        return float("inf")
    size = float(np.sqrt(np.mean(np.square(ours[known]))))
    apart = float(np.sqrt(np.mean(np.square((theirs - ours)[known]))))
    return apart / size if size else (0.0 if apart == 0 else float("inf"))


def explained(case: Case) -> dict[int, Finding]:
    """Position of an origin → what explains it."""
    return remember(case, "explained", lambda: _explained(case))


def named(case: Case) -> dict[int, Finding]:
    """`explained` without the general findings."""
    return {index: finding for index, finding in explained(case).items() if not finding.general}


def explained_calls(case: Case) -> set[tuple[int, int]]:
    """Call pairs of the explained origins, for causes that take what is left."""
    origins = case.localization.origins
    return {origins[index].calls for index in explained(case)}


def causes_of(case: Case, code: str, name: str, remedy: Any) -> Iterator[Cause]:
    """One cause per key: the first origin's evidence, everybody's interventions.

    Args:
        case: the pair of runs.
        code: of the cause.
        name: of the cause.
        remedy: finding → `Remedy`.
    """
    groups: dict[Any, list[tuple[Origin, Finding]]] = {}
    for index, finding in explained(case).items():
        if finding.code == code:
            groups.setdefault(finding.key, []).append((case.localization.origins[index], finding))
    for found in groups.values():
        origin, finding = found[0]
        sites = [str(one.site.at("")) for one, _ in found]
        evidence = list(finding.evidence)
        if len(found) > 1:
            evidence.append(Evidence(f"{len(found)} origins are of this kind: {listed(sites)}", {"origins": sites}))
        interventions = tuple(dict.fromkeys(i for _, one in found for i in one.interventions))
        made: Remedy = remedy(finding)
        yield Cause(code, name, str(origin.site.at("")), finding.verdict, tuple(evidence), made,
                    interventions=interventions)  # fmt: skip


def argued(case: Case, origin: Origin, ours: Any, theirs: Any) -> bool:
    """Whether an argument of an origin's two calls changed from one value to the other."""
    reference, candidate = origin.calls
    if origin.kind != "arguments" or reference < 0 or candidate < 0:
        return False
    changes = differing_arguments(case.reference.calls[reference].arguments, case.candidate.calls[candidate].arguments)
    return any(fits(change, (ours, theirs)) for change in changes)


def _is_a_setting(case: Case, origin: Origin) -> bool:
    pairs = [
        *(pair for path, pair in case.scalar_changes.items() if path.rpartition(".")[2] != "__class__"),
        *case.config_changes.values(),
    ]
    return any(argued(case, origin, *pair) for pair in pairs)


def _explained(case: Case) -> dict[int, Finding]:
    eligible: dict[str, list[int]] = {}
    for index, origin in enumerate(case.localization.origins):
        if origin.kind in _KINDS and min(origin.calls) >= 0 and not _is_a_setting(case, origin):
            eligible.setdefault(_kind(case, origin), []).append(index)
    repeats = not any(trace.observer.deterministic is False for trace in (case.reference, case.candidate))
    if not eligible or not repeats or case.localization.axes:
        return {}
    if replayable(case.reference) or replayable(case.candidate):
        return {}
    rules = sorted((d for d in registry.parts("causes").values() if hasattr(d, "explain")), key=lambda d: d.rank)
    found: dict[int, Finding] = {}

    def visit(seen: Examined) -> None:
        view = View(case, case.localization.origins[seen.number], seen)
        for rule in rules:
            finding = rule.explain(view)
            if finding is not None and not _idle(case, finding.verdict):
                found[seen.number] = finding
                return

    examine(case, chosen=[indices[0] for indices in eligible.values()][:_FIRST], visit=visit)
    alike = [i for indices in eligible.values() if indices[0] in found for i in indices[1:]][:_ALL]
    if alike:
        examine(case, chosen=alike, visit=visit)
    found = _together(case, eligible, found, rules)
    if any(finding.general for finding in found.values()) and enough(case):
        found = {index: finding for index, finding in found.items() if not finding.general}
    return _joined(dict(sorted(found.items())), {rule.code: rule.rank for rule in rules})


def _together(
    case: Case, eligible: dict[str, list[int]], found: dict[int, Finding], rules: Sequence[Any]
) -> dict[int, Finding]:
    """Findings of other functions, after origins that belong together were looked at as one.

    What only both together tell (a known formula, a cast in another place) takes the place of what was found at
    each; where both together compute one function, nothing else is wrong with either.
    """
    numbers = [i for indices in eligible.values() for i in indices[:_ALL]]
    left = {i for i in numbers if i not in found or found[i].verdict is Verdict.SEMANTIC}
    joints = joints_of(case, sorted(left))
    if not joints:
        return found
    firsts = {indices[0] for indices in eligible.values()}
    chosen = [joint for joint in joints if joint.members[0] in firsts][: 2 * _FIRST]
    kinds = {index: kind for kind, indices in eligible.items() for index in indices}
    told = found | {}
    done: set[int] = set()
    sizes: set[tuple[str, int]] = set()

    def visit(seen: Examined) -> None:
        joint = chosen[seen.number]
        if done & {*joint.members}:
            return
        view = JointView(case, case.localization.origins[joint.members[0]], seen, joint)
        finding = next((f for rule in rules if hasattr(rule, "explain_joint")
                        and (f := rule.explain_joint(view)) is not None and not _idle(case, f.verdict)), None)  # fmt: skip
        if finding is None and not view.one_function:
            return
        done.update(joint.members)
        sizes.add((kinds[joint.members[0]], len(joint.calls[0])))
        for member in joint.members:
            told.pop(member, None)
            if finding is not None:
                told[member] = finding if member == joint.members[0] else replace(finding, interventions=())

    examine_joints(case, chosen, visit)
    chosen = [joint for joint in joints if joint.members[0] not in firsts
              and (kinds[joint.members[0]], len(joint.calls[0])) in sizes][:_ALL]  # fmt: skip
    if chosen:
        examine_joints(case, chosen, visit)
    return told


def _joined(found: dict[int, Finding], ranks: dict[str, int]) -> dict[int, Finding]:
    """Where one explanation's interventions are all among another one's, only the more specific one is kept."""
    joined = {}
    for index, finding in found.items():
        mine = set(finding.interventions)
        wider = (one for one in found.values()
                 if ranks[one.code] < ranks[finding.code] and mine <= set(one.interventions))  # fmt: skip
        joined[index] = next(wider, finding) if mine else finding
    return joined


def _idle(case: Case, verdict: Verdict) -> bool:
    """Whether a finding of this kind cannot be what makes the outputs differ."""
    if verdict is Verdict.SEMANTIC:
        return remember(case, "one program", lambda: _one_program(case))
    return verdict is Verdict.PRECISION and _out_of_range(case)


def _out_of_range(case: Case) -> bool:
    """Whether a number is finite on one side only: then the causes about ranges say what the narrower dtype did."""
    local = case.localization
    comparisons = (*(o.comparison for o in local.origins), *(c for _, c in local.outputs),
                   *(g.comparison for g in local.growth))  # fmt: skip
    return any(c.value(metric) for c in comparisons for metric in ("inf_mismatch", "nan_mismatch"))


def _one_program(case: Case) -> bool:
    """Whether the outputs agree in float64, differing tensors restored: what differs on the way cancels then."""
    for interventions in dict.fromkeys(((), restored(case))):
        try:
            apart = case.apart_in_float64(interventions)
        except WhydiffError:  # a tensor of another shape: nothing is known
            continue
        if apart is not None and apart <= SCALING_FLOOR:
            return True
    return False


def _kind(case: Case, origin: Origin) -> str:
    """Origins of one kind are explained alike: the same ops with the same arguments on the same dtypes."""
    reference, candidate = (
        trace.calls[index] for trace, index in zip((case.reference, case.candidate), origin.calls, strict=True)
    )
    ops = [site.op for site in origin.region]
    calls = [[c.target, c.arguments, [e.spec.dtype for e in c.reads]] for c in (reference, candidate)]
    return json.dumps([origin.kind, ops, calls], default=repr)


def consumers(case: Case, side: int, call: Call, most: int = 3) -> list[Call]:
    """Calls that read what a call wrote, directly or over at most ``most`` others, in execution order."""
    trace = (case.reference, case.candidate)[side]
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


def narrow(event: Event, than: str) -> bool:
    """Whether a floating value is stored with fewer bits than a dtype has."""
    units = UNIT_ROUNDOFF.get(event.spec.dtype), UNIT_ROUNDOFF.get(than)
    return units[0] is not None and units[1] is not None and units[0] > units[1]


def floating(payloads: Sequence[Payload]) -> bool:
    """Whether all of them hold real floating-point numbers."""
    return all(not is_integer(p.dtype) and not p.dtype.startswith("complex") for p in payloads)


__all__ = [
    "Array", "Finding", "Operation", "View", "argued", "causes_of", "consumers", "distance", "explained",
    "explained_calls", "floating", "named", "narrow", "number",
]  # fmt: skip


def _as_tuple(argument: Any) -> tuple[Any] | None:
    """An argument that can be part of an intervention: lists as tuples; None if it holds tensors or records."""
    if isinstance(argument, dict):
        return None
    if not isinstance(argument, (list, tuple)):
        return (argument,)
    items = [_as_tuple(item) for item in argument]
    if any(item is None for item in items):
        return None
    return (tuple(item[0] for item in items if item is not None),)
