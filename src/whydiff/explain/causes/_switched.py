"""Settings that switch between ops: what they do is the cause, and the setting is where to change it.

A number that is set back is an argument of the same op (ST006). A flag or a name that is set back can exchange the
program: then 'it differs' is all that ST006 could say, and what ran instead is what the numbers are made by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whydiff.capturing.adapters import Role, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import argued
from whydiff.explain.causes._overwritten import overwritten
from whydiff.explain.causes._remedy import literal, module_at, standing_for
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._settings import enough, scalars, settable
from whydiff.explain.causes._state import target_name
from whydiff.explain.keys import draws
from whydiff.explain.sides import SIDES
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Cause, Evidence, Intervention, Remedy, Trace, Verdict
from whydiff.report.words import listed

Kind = Literal["casts", "leaves out", "exchanges", "draws", "overwrites"]


@dataclass(frozen=True, slots=True)
class Switch:
    """A setting that chooses which ops are carried out.

    Attributes:
        attribute, ours, theirs: what differs, and both values.
        paths: where, in the reference's naming.
        calls: what only the reference, only the candidate carries out.
        casts: whether those give whole values another dtype, and do nothing else.
        draws: whether they draw random numbers on one side, and do nothing but take these up.
        in_place: whether they are counterparts instead, of which one side's write over what they read.
    """

    attribute: str
    ours: Any
    theirs: Any
    paths: tuple[str, ...]
    calls: tuple[tuple[Call, ...], tuple[Call, ...]]
    casts: bool
    draws: bool
    in_place: bool

    @property
    def kind(self) -> Kind:
        """What it does: random numbers or a detour through another dtype on one side only, a step there, or other ops.

        Or the same ops, and one side's write over what is read later.
        """
        if self.draws:
            return "draws"
        if self.in_place:
            return "overwrites"
        return "casts" if self.casts else "exchanges" if all(self.calls) else "leaves out"


def switches(case: Case) -> tuple[Switch, ...]:
    """The settings that choose between ops, if setting back what differs in settings and tensors is enough."""
    return case.shared("switches", lambda: tuple(_switches(case)))


def _switches(case: Case) -> Iterator[Switch]:
    flags = {
        key: paths
        for key, paths in scalars(case).items()
        if any(isinstance(value, (bool, str)) for value in key[1:]) and settable(*key[1:])
        if not any(argued(case, origin, *key[1:]) for origin in case.localization.origins)
    }
    if not flags:
        return
    written_over = _in_place(case)
    in_place = any(written_over)
    alone = written_over if in_place else _alone(case)
    traces = case.traces
    drawn = any(draws(trace, call) for trace, calls in zip(traces, alone, strict=True) for call in calls)
    if drawn and not _only_draws(traces, alone):
        return
    if len(flags) > 1:
        flags = {key: paths for key, paths in flags.items() if _acts(case, key[1], paths)}
    found = {
        key: tuple(tuple(c for c in calls if len(flags) == 1 or _below(c, paths)) for calls in alone)
        for key, paths in flags.items()
    }
    for key, (mine, others) in found.items():
        (attribute, ours, theirs), paths = key, flags[key]
        rest = [calls for one, both in found.items() if one != key for calls in both]
        shared = any(call in calls for calls in rest for call in (*mine, *others))
        if (mine or others) and enough(case):
            roles = [for_framework(trace.framework).roles for trace in traces]
            casts = all(
                converts(c, of(c.site.op)) for of, calls in zip(roles, (mine, others), strict=True) for c in calls
            )
            if casts or not shared:  # else which of the settings does what is not seen
                yield Switch(attribute, ours, theirs, tuple(paths), (mine, others), casts, drawn, in_place)


def _alone(case: Case) -> tuple[list[Call], list[Call]]:
    """What only one side carries out."""
    ours = (case.reference.calls[index] for index in case.alignment.unpaired_reference)
    theirs = (case.candidate.calls[index] for index in case.alignment.unpaired_candidate)
    return [call for call in ours if call.kind == "compute"], [call for call in theirs if call.kind == "compute"]


def _in_place(case: Case) -> tuple[list[Call], list[Call]]:
    """Counterparts of which one side's are all that makes a difference: they write over what is read later."""
    found = [overwritten(case, origin.calls) for origin in case.localization.origins]
    writers = [{one.writer.index for one in found if one is not None and one.side == side} for side in (0, 1)]
    pairs = [
        (ours, theirs)
        for ours, theirs in case.paired()
        if None not in found and (ours.index in writers[0] or theirs.index in writers[1])
    ]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def _only_draws(traces: tuple[Trace, Trace], alone: Sequence[list[Call]]) -> bool:
    """Whether what one side has alone is what draws, what that is given, and what is made of the numbers drawn.

    A factor beside the noise, say, would be another function, whatever is drawn.
    """
    if all(alone):
        return False
    trace, calls = traces[int(bool(alone[1]))], alone[int(bool(alone[1]))]
    after, before = {call.index for call in calls if draws(trace, call)}, set[int]()
    for call in calls:
        after |= {call.index} if any(event.producer in after for event in call.reads) else set()
    for call in reversed(calls):
        if draws(trace, call) or call.index in before:
            before |= {event.producer for event in call.reads}
    return all(call.index in after | before for call in calls)


def _acts(case: Case, ours: Any, paths: Sequence[str]) -> bool:
    """Whether setting it back alone moves the outputs; True where that cannot be tried."""
    away = tuple(Intervention("set-scalar", target_name(case, path), ours) for path in paths)
    try:
        before, after = (case.experiments.try_out(items) for items in ((), away))
    except WhydiffError:
        return True
    return bool(after.failed) or (before.equal, before.comparisons) != (after.equal, after.comparisons)


def _below(call: Call, paths: Sequence[str]) -> bool:
    """Whether a call is carried out in a module that has one of these settings."""
    scopes = [path.rpartition(".")[0] for path in paths]
    return any(not scope or f"{call.site.scope}.".startswith(f"{scope}.") for scope in scopes)


def converts(call: Call, roles: frozenset[Role]) -> bool:
    """Whether a call does nothing but give one whole value another dtype."""
    if Role.CARRIES not in roles or len(call.reads) != 1 or len(call.writes) != 1 or call.mutates:
        return False
    ours, theirs = call.reads[0].spec, call.writes[0].spec
    return ours.dtype != theirs.dtype and ours.shape == theirs.shape


def causes_of_switches(case: Case, rule: CauseRule, kind: Kind) -> Iterator[Cause]:
    """One cause per switch of a kind."""
    for switch in switches(case):
        if switch.kind != kind:
            continue
        attribute, targets = switch.attribute, [target_name(case, path) for path in switch.paths]
        setting = f"{attribute} is {switch.theirs!r} in the candidate, {switch.ours!r} in the reference"
        ours, theirs = (listed(dict.fromkeys(call.site.op for call in calls)) for calls in switch.calls)
        side, other = ("reference", "candidate") if ours else ("candidate", "reference")
        what = f"the {side} carries out {ours or theirs}, the {other} does not"
        if kind == "casts":
            more = max(switch.calls, key=len)
            dtypes = [e.spec.dtype for call in more for e in (*call.reads, *call.writes)]
            through = max(dtypes, key=lambda dtype: UNIT_ROUNDOFF.get(dtype, 0.0))
            what = f"values of the {('reference', 'candidate')[more is switch.calls[1]]} pass through {through}"
        elif kind == "draws":
            what = f"only the {side} draws random numbers ({ours or theirs})"
        elif kind == "overwrites":
            own = int(bool(switch.calls[1][0].mutates))
            what = f"memory is shared in the {SIDES[own]}: {(ours, theirs)[own]} writes over a value that is read later"
        elif kind == "exchanges":
            what = f"the reference computes {ours}, the candidate {theirs}"
        place = next((o.site.at("") for o in case.localization.origins if o.kind == "region"), switch.paths[0])
        yield rule.cause(
            site=str(place),
            verdict=Verdict.PRECISION if kind == "casts" else Verdict.SEMANTIC,
            evidence=(
                Evidence(
                    f"{setting}, in {len(switch.paths)} module(s), and {what}",
                    {
                        "attribute": attribute,
                        "reference": switch.ours,
                        "candidate": switch.theirs,
                        "paths": list(switch.paths),
                        "ops": [[str(call.site) for call in calls] for calls in switch.calls],
                    },
                ),
            ),
            remedy=setting_back(case, attribute, switch.ours, targets),
            says=f"{setting}: {what}",
            interventions=tuple(Intervention("set-scalar", target, switch.ours) for target in targets),
        )


def setting_back(case: Case, attribute: str, value: Any, targets: list[str], *, known: bool = True) -> Remedy:
    """Give both sides the reference's setting; in code only where its value is ``known``, and not its text alone."""
    code = ""
    if known and case.candidate.framework == "torch":
        paths = [target.rpartition(".")[0] for target in targets]
        code = f"for path in {literal(paths)}:\n    candidate.get_submodule(path).{attribute} = {value!r}\n"
        if len(paths) == 1:
            code = f"{module_at(paths[0])}.{attribute} = {value!r}\n"
        code = standing_for(case, "candidate") + code
    return Remedy(f"Give both sides the same {attribute}; the reference has {value!r}.", code, undoes="either")
