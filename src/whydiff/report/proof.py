"""How a cause is known, in one sentence: what was undone in the candidate, and what was done to the reference."""

from __future__ import annotations

import math
from dataclasses import replace

from whydiff.records import GENERATORS, Cause, Diagnosis, Experiment, Verdict
from whydiff.report._effect import has_more, returned_nothing
from whydiff.report.words import bounds, clause, listed, plain, short

_OTHERS = "the other causes"
_DONE = {"take_away": "undone in the candidate", "put_in": "done to the reference"}


def proof(diagnosis: Diagnosis, cause: Cause | None) -> str:
    """Both directions of a proven cause; of others what was tried, or what stands in for it."""
    if diagnosis.verdict is Verdict.IDENTICAL or has_more(diagnosis):
        return _observed(diagnosis)
    if cause is not None and cause.status == "located":
        return _located(cause)
    tried = {e.direction: e for e in reversed(cause.experiments) if e.status == "confirmed"} if cause else {}
    if cause is not None and cause.status == "confirmed" and tried:
        ways = [tried[way] for way in ("take_away", "put_in") if way in tried]
        rest = others(diagnosis, cause)
        if len(ways) == 2 and ways[0].left == ways[1].left in ("nothing", "others", "others_rounding", "nowhere"):
            return f"{done(ways[0])}: {result(ways[0], rest)}; {done(ways[1])}: the same"
        alone = len({replace(origin.place, step=0) for origin in diagnosis.origins}) == 1
        return "; ".join(f"{done(e)}: {result(e, rest, alone=alone)}" for e in ways)
    if cause is not None and cause.status == "confirmed":
        return "read off the values themselves"
    if diagnosis.verdict is Verdict.NONDETERMINISTIC:
        return _repeated(diagnosis)
    maybe = (
        f"; it may be that {clause(cause.says)}" if cause is not None and cause.says and not _said(diagnosis) else ""
    )
    if diagnosis.verdict is Verdict.ROUNDING and diagnosis.by_tolerance is not None:
        parts = ("versions", "hardware", "flags")
        changes = [where for where, *_ in diagnosis.environment_changes if where.partition(".")[0] in parts]
        there = f", in another environment ({plain(listed(changes, 2))})" if changes else ""
        return f"every output is within {bounds(diagnosis.by_tolerance)}, measured when the golden trace was recorded{there}"
    if diagnosis.verdict is Verdict.ROUNDING:
        return f"held against float64, the difference is rounding and no more{maybe}"
    if cause is not None and any(e.status == "confirmed" for e in cause.experiments):
        return _unproven(diagnosis, cause)
    proven = [c.code for c in diagnosis.causes if c.status in ("confirmed", "located") and not c.inert]
    if proven:
        return f"of what {' and '.join(dict.fromkeys(proven))} does not explain no experiment decided{maybe}"
    if cause is None and any(c.experiments for c in diagnosis.causes if c.status == "refuted"):
        return "the experiments rule out what was suspected; nothing else was tried"
    if diagnosis.by_tolerance is not None:
        return "held against the recorded outputs; the code of then was not recorded, so no experiment decided why"
    return f"no experiment decided{maybe}"


def _said(diagnosis: Diagnosis) -> bool:
    """Whether what may be why stands in the headline already, as it does of a golden trace."""
    return diagnosis.by_tolerance is not None and bool(diagnosis.by_tolerance.suspect)


def _unproven(diagnosis: Diagnosis, cause: Cause) -> str:
    """What an open cause's experiments gave, of which one did as it should."""
    rest = others(diagnosis, cause)
    given = "; ".join(f"{done(e)}: {result(e, rest)}" for e in cause.experiments)
    if may_follow(cause):
        return f"{given}; it may only follow from what Python was given before"
    says = cause.says if not _said(diagnosis) else ""
    return f"{given}; {f'it may be that {clause(says)}' if says else 'that leaves it open'}"


def open_fix(cause: Cause) -> bool:
    """Whether the fix of a cause that is not proven was tried all the same, and nothing of the difference was left."""
    remedy = cause.remedy
    if cause.status != "inconclusive" or cause.inert or may_follow(cause) or remedy is None or not remedy.undoes:
        return False
    return any(
        e.status == "confirmed" and e.direction == remedy.direction and e.left == "nothing" for e in cause.experiments
    )


def may_follow(cause: Cause) -> bool:
    """Whether a cause that an experiment speaks for may only follow from another one."""
    return (
        bool(cause.after) and cause.status == "inconclusive" and any(e.status == "confirmed" for e in cause.experiments)
    )


def others(diagnosis: Diagnosis, cause: Cause) -> str:
    """In words, what else was changed where all causes were."""
    rest = [c for c in diagnosis.causes if c is not cause and not c.inert and c.status in ("confirmed", "located")]
    follows = any(may_follow(c) for c in diagnosis.causes if c is not cause)
    return "what may only follow from it" if follows and not rest else _OTHERS


def tried(cause: Cause, rest: str = _OTHERS) -> str:
    """Whether a cause's fix was carried out, and what was then left, as ' (…)'; empty if nothing is to be carried out."""
    if cause.remedy is None or cause.remedy.accepts:
        return ""
    made = _mended(cause)
    return " (untried)" if made is None else f" (tried: {result(made, rest)})"


def _mended(cause: Cause) -> Experiment | None:
    """The experiment in which a cause's fix was carried out, if one did as it should."""
    remedy = cause.remedy
    if remedy is None or remedy.accepts or not (remedy.carried_out or remedy.undoes):
        return None
    ways = [e for e in cause.experiments if e.direction == remedy.direction]
    return next((e for e in ways if e.status == "confirmed"), None)


def fix(cause: Cause) -> str:
    """A cause's fix in words, and whether it was tried; empty if it has none."""
    return "" if cause.remedy is None else f"{cause.remedy.text.rstrip('.')}{tried(cause)}"


def done(experiment: Experiment) -> str:
    """In which direction it was tried."""
    return _DONE[experiment.direction]


def result(experiment: Experiment, rest: str = _OTHERS, *, alone: bool = False) -> str:
    """What is left of the difference after it.

    Args:
        experiment: what was done.
        rest: what else was changed where that is more than the cause.
        alone: the difference starts at one place, so that what is left is what the change itself makes.
    """
    if experiment.left == "nothing":
        return _agree(experiment)
    if experiment.left == "others":
        return f"with {rest} {_agree(experiment)}"
    if experiment.left == "others_rounding":
        return f"with {rest} only rounding is left"
    if experiment.left == "rounding":
        return "only rounding is left"
    if experiment.left == "nowhere":
        return "no place differs any more"
    if experiment.left == "elsewhere" and alone:
        return "the place agrees; what else the change reaches does not"
    if experiment.left == "elsewhere":
        return "its places agree; what is left starts elsewhere"
    if experiment.before is not None and experiment.after is not None:
        apart = experiment.before, experiment.after
        if experiment.choices and all(map(math.isfinite, apart)):
            before, after = (round(share * experiment.elements) for share in apart)
            return f"of {experiment.elements:,} elements {before} differ → {after}"
        return f"mean difference {short(experiment.before)} → {short(experiment.after)}"
    return clause(experiment.outcome)


def _agree(experiment: Experiment) -> str:
    return f"all {experiment.elements:,} numbers agree" if experiment.elements > 1 else "the outputs agree"


def _located(cause: Cause) -> str:
    if (mended := _mended(cause)) is not None:
        return f"{done(mended)}: {result(mended)}; it was not tried the other way"
    found = next((e for e in cause.experiments if e.status == "confirmed"), None)
    if found is None:
        return "the values show where it starts, not why"
    if (
        found.before is None and found.direction == "take_away"
    ):  # an experiment of the cause's own: nothing was exchanged
        return f"{result(found)}; that shows where, not why"
    how = done(found) if found.direction == "put_in" else "made as in the reference there"
    return f"{how}: {result(found)}; that shows where, not why"


def _observed(diagnosis: Diagnosis) -> str:
    checks = [side.observer for side in diagnosis.sides]
    if all(check.deterministic and check.unchanged for check in checks):
        drew = dict.fromkeys(name for check in checks for name in check.drew)
        if drew and diagnosis.verdict is Verdict.IDENTICAL:
            spoken = " and ".join(GENERATORS.get(name, name) for name in drew)
            return (
                f"both sides ran twice, each time from the same random states, and gave the same bits; they drew from {spoken} "
                "unseeded, or seeded as it was already: unseeded, other states give other numbers"
            )
        return "both sides ran twice and gave the same bits each time"
    what = "what each computed last was" if returned_nothing(diagnosis) else "the outputs were"
    return f"{what} compared bit for bit"


def _repeated(diagnosis: Diagnosis) -> str:
    names = ("reference", "candidate")
    sides = [name for name, side in zip(names, diagnosis.sides, strict=True) if side.observer.deterministic is False]
    return f"the {' and the '.join(sides)} ran twice and differed" if sides else "a run was repeated and differed"
