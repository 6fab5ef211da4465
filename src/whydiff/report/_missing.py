"""What an inconclusive diagnosis lacks, and the command that gets it: the first rule that applies speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from whydiff.records import ByTolerance, Diagnosis, Side
from whydiff.records.finding import NOT_MADE_OF
from whydiff.report._effect import NOTHING, returned_nothing
from whydiff.report.words import bounds, clause, count, listed, place, plain, short

_AGAIN = "whydiff compare"


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing, and which command gets it."""

    what: str
    command: str


def missing(diagnosis: Diagnosis) -> Missing:
    """What is missing, by the first rule that applies."""
    return next(found for rule in _RULES if (found := rule(diagnosis)) is not None)


def _sides(diagnosis: Diagnosis) -> tuple[tuple[str, Side], ...]:
    return tuple(zip(("reference", "candidate"), diagnosis.sides, strict=True))


def _interrupted(diagnosis: Diagnosis) -> Missing | None:
    if not any(one.code == "interrupted" for one in diagnosis.not_compared):
        return None
    return Missing("it was interrupted; this is what was found until then", f"run {_AGAIN} to its end")


def _cut(diagnosis: Diagnosis) -> Missing | None:
    cut = [name for name, side in _sides(diagnosis) if not side.complete]
    if not cut:
        return None
    return Missing(
        f"the recording of the {' and the '.join(cut)} ended early",
        "record it to its end: whydiff capture -o new.trace -- python SCRIPT.py",
    )


def _stages(diagnosis: Diagnosis) -> Missing | None:
    found = next((one for one in diagnosis.not_compared if one.code == "stages"), None)
    if found is None:
        return None
    return Missing(
        found.reason, "let the one process take the same micro-batches, and tell each stage its shapes beforehand"
    )


def _nothing_compared(diagnosis: Diagnosis) -> Missing | None:
    if any(comparison.status != "not_compared" for _, comparison in diagnosis.outputs):
        return None
    what = NOTHING if returned_nothing(diagnosis) else "no output could be compared"
    return Missing(what, f"return tensors, arrays or numbers on both sides, then {_AGAIN} again")


def _looking(diagnosis: Diagnosis) -> Missing | None:
    changed = [name for name, side in _sides(diagnosis) if side.observer.unchanged is False]
    if not changed:
        return None
    why = next((side.observer.why for side in diagnosis.sides if side.observer.why), "")
    if why:
        return Missing(f"looking at the {' and the '.join(changed)} makes it give other numbers", plain(why))
    return Missing(
        f"looking at the {' and the '.join(changed)} makes it give other numbers",
        f"{_AGAIN} --level module REF CAND: it looks at modules only, and disturbs less",
    )


def _golden(diagnosis: Diagnosis) -> Missing | None:
    """A golden trace: the program that it was recorded from is gone, and nothing of it can be tried."""
    found = diagnosis.by_tolerance
    if found is None:
        return None
    meant = "if the change is meant, record it anew: pytest --whydiff-update"
    if found.others:
        names = plain(listed(found.others, 3))
        return Missing(
            f"{names} {'holds' if len(found.others) == 1 else 'hold'} other numbers than when the golden trace was recorded",
            f"load {names} from a file: what is drawn or computed anew differs between instruction sets and versions; {meant}",
        )
    changed = _changed(diagnosis, found)
    if found.suspect:
        says = clause(found.suspect)
        why = f"yet it may be that {says}" if found.within else f"probably {says}"
        return Missing(f"{changed}; {why}", f"set it back; {meant}")
    return Missing(changed, f"look at what has changed since then, in the code, the versions and the flags; {meant}")


def _changed(diagnosis: Diagnosis, found: ByTolerance) -> str:
    """By how much the outputs are others than those of a golden trace, and what is allowed."""
    largest = dict(diagnosis.outputs)[found.slot].value("max_abs") if found.slot in dict(diagnosis.outputs) else None
    by = f" by up to {short(largest)}" if largest else ""
    limit = f", {'no more' if found.within else 'more'} than rounding may make of them ({bounds(found)})"
    return (
        f"the outputs changed{by} since the golden trace was recorded"
        f"{limit if bounds(found) else ', and no tolerance was recorded for them'}"
    )


def _unseen(diagnosis: Diagnosis) -> Missing | None:
    if diagnosis.origins or not any(c.status == "differs" for _, c in diagnosis.outputs):
        return None
    return Missing(
        "every op agrees and the outputs differ: it is made outside of the ops",
        "look at what runs in Python, numpy, a thread or a library after the model",
    )


def _unread(diagnosis: Diagnosis) -> Missing | None:
    unread = [name for name, c in diagnosis.outputs if c.status == "not_compared"]
    if not unread or any(c.status == "differs" for _, c in diagnosis.outputs):
        return None
    return Missing(
        f"{count(len(unread), 'output')} could not be read; the others are bit-equal",
        f"return tensors, arrays or numbers on both sides, then {_AGAIN} again",
    )


def _modules_only(diagnosis: Diagnosis) -> Missing | None:
    if not any(side.level == "module" for side in diagnosis.sides):
        return None
    return Missing("only whole modules were recorded, so nothing could be tried", f"{_AGAIN} --level op REF CAND")


def _other_inputs(diagnosis: Diagnosis) -> Missing | None:
    found = [one.data for origin in diagnosis.origins for one in origin.evidence if NOT_MADE_OF in one.data]
    if not found:
        return None
    return Missing(
        f"on the {found[0][NOT_MADE_OF]}'s side an op gave what its recorded inputs do not give: memory was changed "
        "outside torch where nobody saw it, or the op is not the same one each time",
        "let torch or tensor.numpy() write it, which is seen; run that side twice to see whether it repeats",
    )


def _elsewhere(diagnosis: Diagnosis) -> Missing | None:
    """Recordings of two environments: to record them once more tells nothing."""
    changed = {where for where, *_ in diagnosis.environment_changes}
    open_ones = (
        c for c in diagnosis.causes if c.status == "inconclusive" and c.site in changed and c.remedy is not None
    )
    found = next(open_ones, None)
    if found is None or found.remedy is None:
        return None
    return Missing(
        f"the recordings are of two environments, of which {place(found.site)} may be why",
        f"{clause(found.remedy.text)}; whydiff matrix tells whether that is why",
    )


def _recorded(diagnosis: Diagnosis) -> Missing | None:
    disk = [side for side in diagnosis.sides if side.source != "live"]
    if not disk:
        return None
    if all(side.kept for side in disk):
        return Missing(
            "no experiment decides between these recordings",
            f"let the programs run where they can be changed: {_AGAIN} FILE.py:ref FILE.py:cand",
        )
    return Missing(
        "no experiment could run on what was recorded",
        "whydiff capture --payloads all -o new.trace -- python SCRIPT.py",
    )


def _undecided(diagnosis: Diagnosis) -> Missing | None:
    return Missing(
        "no experiment tells rounding from a defect here",
        f"run both sides in float64 and {_AGAIN} again: what stays is no rounding",
    )


_RULES: tuple[Callable[[Diagnosis], Missing | None], ...] = (
    _interrupted,
    _cut,
    _stages,
    _nothing_compared,
    _looking,
    _golden,
    _unseen,
    _unread,
    _modules_only,
    _other_inputs,
    _elsewhere,
    _recorded,
    _undecided,
)
