"""One number behind several arguments: as it is, as one minus it, and as one minus its powers (a rate of decay)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from whydiff.capturing.adapters import for_framework
from whydiff.explain.arguments import follows, given_otherwise
from whydiff.explain.case import Case
from whydiff.explain.causes._view import Finding
from whydiff.records import Evidence

_CODE, _FACTOR, _STEP = "FO008", "FO003", "FO007"
Pair = tuple[float, float]
"""The reference's number, the candidate's."""


def of_one_number(case: Case, found: Mapping[int, Finding]) -> dict[int, Finding]:
    """Findings, with those whose arguments follow from one number that differs as one, and those of one factor left out."""
    found = _of_one_factor(case, found)
    pairs = {index: pair for index, finding in found.items() if (pair := _given(case, index, finding)) is not None}
    left = dict(pairs)
    told = dict(found)
    while left:
        bases = [base for pair in dict.fromkeys(left.values()) for base in (pair, (1 - pair[0], 1 - pair[1]))]
        base = max(bases, key=lambda one: len({pair for pair in left.values() if follows(pair, one)}))
        members = {index: pair for index, pair in left.items() if follows(pair, base)}
        if len({*members.values()}) < 2:
            break
        shown = ", ".join(f"{ours:.9g} and {theirs:.9g}" for ours, theirs in dict.fromkeys(members.values()))
        text = f"one number behind several ops is {base[0]:.9g} in the reference and {base[1]:.9g} in the candidate"
        evidence = Evidence(
            f"{len(members)} ops are given it, 1 − it, or 1 − a power of it: {shown}",
            {"number": list(base), "given": [list(pair) for pair in members.values()]},
        )
        for index in members:
            one = replace(told[index], code=_CODE, key=("one number", base), facts={"text": text}, general=False)
            told[index] = replace(one, evidence=(evidence, *one.evidence), says=text)
        left = {index: pair for index, pair in left.items() if index not in members}
    return told


def _of_one_factor(case: Case, found: Mapping[int, Finding]) -> dict[int, Finding]:
    """Findings, with a step of one side alone that is a factor (FO003) at one tensor a factor at every other one too.

    A tensor of few numbers does not show it: what its step does is not told from the values.
    """
    steps = {index: step for index, finding in found.items() if (step := _alone(case, index, finding)) is not None}
    factors = {step: found[index] for index, step in reversed(steps.items()) if found[index].code == _FACTOR}
    told = dict(found)
    for index, step in steps.items():
        if step in factors:
            known, one = factors[step], found[index]
            told[index] = replace(known, interventions=one.interventions, put_in=one.put_in)
    return told


def _alone(case: Case, index: int, finding: Finding) -> tuple[str, str, str] | None:
    """What is inserted or removed, the op and its arguments, where a finding is one op of one side."""
    origin = case.localization.origins[index]
    if finding.code not in (_FACTOR, _STEP) or len(finding.interventions) != 1 or len(origin.region) != 1:
        return None
    (item,) = finding.interventions
    side = {"insert-step": 0, "remove-step": 1}.get(item.name)
    if side is None:
        return None
    call = case.traces[side].calls[origin.calls[side]]
    return item.name, call.target, repr(call.arguments)


def _given(case: Case, index: int, finding: Finding) -> Pair | None:
    """The two numbers, where a finding gives one other number to one op."""
    if [item.name for item in finding.interventions] != ["set-argument"] or finding.consequence or finding.after:
        return None
    at = case.localization.origins[index].calls
    ours, theirs = case.calls_at(at)
    changed = given_otherwise(ours, theirs, for_framework(case.reference.framework).default)
    if len(changed) != 1:
        return None
    _, one, other = changed[0]
    rates = all(type(value) is float and math.isfinite(value) for value in (one, other))  # integers count and place
    return (one, other) if rates else None
