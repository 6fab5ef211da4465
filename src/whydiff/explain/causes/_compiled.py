"""Programs that observing made uncompiled: what the causes of the family CP share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.experiments import Outcome
from whydiff.explain.ladder import Climb, climbed
from whydiff.explain.reruns import changed_by_looking, computes_in, rerun
from whydiff.explain.sides import SIDES, Side, opposite
from whydiff.records import Direction, Evidence, Intervention, Verdict

DIRECTIONS: dict[Side, Direction] = {"candidate": "take_away", "reference": "put_in"}


def compiled_sides(case: Case) -> Iterator[Side]:
    """Sides that give other outputs when their compiler stands back."""
    for side in changed_by_looking(case):
        eager = uncompiled(side)
        if case.experiments.reruns(side, (eager,)) and not same_outputs(case, (eager,), side):
            yield side


def stale_sides(case: Case) -> list[Side]:
    """Live sides that repeat themselves and give other outputs when what was traced before is traced anew."""
    anew = (Intervention("trace-anew", "the program"),)
    sides = ((name, trace) for name, trace in zip(SIDES, case.traces, strict=True))
    return [
        name
        for name, trace in sides
        if trace.observer.deterministic is not False
        and case.experiments.reruns(name, anew)
        and not same_outputs(case, anew, name)
    ]


def uncompiled(side: Side) -> Intervention:
    """The program runs op by op."""
    return Intervention("compile-as", side, "eager")


def rounding_changes(side: Side) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
    """What takes excess precision away, and what puts it in, if this side is the compiled one."""
    place, wide = (Intervention("round-in-place", side),), (Intervention("keep-wide", "the program"),)
    return (place, wide) if side == "candidate" else (wide, place)


def mirrored_pair(
    side: Side, compiled: Intervention, eager: Intervention
) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
    """What takes a cause away and puts it in, of a change to the compiled side and one to the other side."""
    return ((compiled,), (eager,)) if side == "candidate" else ((eager,), (compiled,))


def nature(case: Case) -> Verdict:
    """What unobserved runs at two precisions say of the difference."""
    found = rerun(case)
    return Verdict.INCONCLUSIVE if found is None else found.verdict


def ladders(case: Case) -> Iterator[tuple[Side, Climb]]:
    """Compiled sides whose difference no excess precision explains, with what the ladder says of them."""
    for side in compiled_sides(case):
        if not (keeps_wide(case, side) or rounds_in_place(case, side)):
            ladder = climbed(case, side)
            if ladder is not None:
                yield side, ladder


def autocasts(case: Case, side: Side) -> bool:
    """Whether a compiled side without autocast gives the other side's outputs, and its own ops one by one stay as they are."""
    off, eager = Intervention("autocast-off", side), uncompiled(side)
    run = case.runs[SIDES.index(side)]
    if run is not None and not run.autocasts():
        return False
    return all(case.experiments.equal_if_told(way, on=side) for way in ((off,), (eager,), (off, eager)))


def autocasts_to(case: Case, side: Side) -> str:
    """The dtype under autocast to which the other side gives the compiled side's outputs; the first, if none does."""
    on = opposite(side)
    ways = {dtype: (Intervention("autocast-on", "the program", dtype),) for dtype in ("bfloat16", "float16")}
    return next((dtype for dtype, way in ways.items() if case.experiments.equal_if_told(way, on=on)), "bfloat16")


def explained(case: Case, side: Side) -> bool:
    """Whether a cause that knows its mistake stands for what a compiler does to this side."""
    if keeps_wide(case, side) or rounds_in_place(case, side):
        return True
    ladder = climbed(case, side)
    if ladder is None:
        return False
    named = ladder.part_name == "random" or (ladder.part_name == "decomposition" and bool(ladder.item))
    return ladder.stale or named or autocasts(case, side)


def keeps_wide(case: Case, side: Side) -> bool:
    """Whether the other side gives the compiled side's outputs bit for bit when it keeps 16-bit values wide."""
    on = opposite(side)
    wide = Intervention("keep-wide", "the program")
    return bool(computes_in(case.trace(side))) and case.experiments.equal_if_told((wide,), on=on)


def rounds_in_place(case: Case, side: Side) -> bool:
    """Whether a compiled side, compiled anew with every rounding in place, gives the other side's outputs bit for bit."""
    place = Intervention("round-in-place", side)
    return bool(computes_in(case.trace(side))) and case.experiments.equal_if_told((place,), on=side)


def on_the_ladder(ladder: Climb) -> Evidence:
    """What the ladder says, as evidence: the part of the compiler, and every way that was tried."""
    data = {
        "component": ladder.component,
        "part": ladder.part_name,
        "item": ladder.item,
        "unfinished": ladder.unfinished,
        "steps": [f"{step.way}: {step.failed or step.apart}" for step in ladder.steps],
    }
    return Evidence(str(ladder), data)


def tried(case: Case, interventions: Sequence[Intervention], on: Side) -> Outcome | None:
    """The outcome of an experiment; None if it cannot be carried out."""
    try:
        return (
            case.experiments.try_out(interventions, on=on) if case.experiments.supports(interventions, on=on) else None
        )
    except WhydiffError:  # the program does not run so: nothing is shown
        return None


def same_outputs(case: Case, interventions: Sequence[Intervention], side: Side) -> bool:
    """Whether a side's outputs are no others under interventions, as far as can be told."""
    plain, other = tried(case, (), side), tried(case, interventions, side)
    return plain is None or other is None or (plain.equal, plain.comparisons) == (other.equal, other.comparisons)
