"""A cast beside mistakes that are proven: alone it moves the outputs less than they do, with them it can be told.

What a mistake's experiment computes by a formula leaves rounding of the wide dtype, so that not every bit is equal when
all is taken away; and beside a larger mistake the cast alone may even make the difference smaller. So the outputs with
all taken away are held against those with the mistakes alone taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes import by_code
from whydiff.explain.sides import Side
from whydiff.numbers.tolerance import PRECISION_CLASS_RATIO
from whydiff.records import Cause, Direction, Experiment, Intervention

_ON: tuple[tuple[Direction, Side], ...] = (("take_away", "candidate"), ("put_in", "reference"))


def with_the_mistakes(case: Case, cast: Cause, mistakes: Sequence[Cause]) -> Cause:
    """The cast, confirmed if in both directions it takes the outputs into another precision class beside the mistakes.

    Args:
        case: the pair of runs.
        cast: of a whole side, with its interventions; whatever else was tried with it alone is left out.
        mistakes: confirmed, with the cast.
    """
    tried = [_tried(case, cast, mistakes, direction, on) for direction, on in _ON]
    experiments = tuple(one for one in tried if one is not None)
    bare = replace(cast, experiments=experiments, status="inconclusive", effect=())
    if len(experiments) == len(_ON) and all(one.status == "confirmed" for one in experiments):
        return replace(bare, status="confirmed", reason="")
    return replace(
        bare, reason="what the mistakes beside it make is larger, and with them it was not told in both directions"
    )


def _tried(case: Case, cast: Cause, mistakes: Sequence[Cause], direction: Direction, on: Side) -> Experiment | None:
    """What is left with the cast changed too, against the mistakes alone; None: it could not be carried out."""
    own, others = _changes(case, [cast], direction), _changes(case, mistakes, direction)
    if not own or not others:
        return None
    try:
        before, after = (case.experiments.try_out(items, on=on) for items in (others, (*own, *others)))
    except WhydiffError:
        return None
    if before.failed or after.failed or before.mean_abs is None or after.mean_abs is None:
        return None
    holds = after.equal or after.mean_abs * PRECISION_CLASS_RATIO < before.mean_abs
    return Experiment(
        interventions=own,
        prediction="with the other causes changed, the rest of the difference falls by more than a class of precision",
        outcome=f"mean abs error {before.mean_abs:.1e} with the other causes changed, {after.mean_abs:.1e} with this one too",
        status="confirmed" if holds else "inconclusive",
        method=after.method,
        before=before.mean_abs,
        after=after.mean_abs,
        direction=direction,
        elements=after.elements,
    )


def _changes(case: Case, causes: Sequence[Cause], direction: Direction) -> tuple[Intervention, ...]:
    """What takes causes away, or puts them in, each change once."""
    found: list[Intervention] = []
    for cause in causes:
        rule = by_code(cause.code)
        items = rule.take_away(case, cause) if direction == "take_away" else rule.put_in(case, cause)
        found += [item for item in items if item not in found]
    return tuple(found)
