"""What causes of several ranks share: how they are asked, and how they are proven in float64, where nothing is rounded."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from whydiff.errors import ReplayError
from whydiff.explain.assembling import Outputs, apart, far
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.ranked import Ranked, Start
from whydiff.numbers.tolerance import SCALING_FLOOR
from whydiff.records import Cause, Direction, Experiment, Intervention


class RankedRule(CauseRule):
    """A cause that is asked where several ranks are compared with one process."""

    several_ranks = True

    def detect(self, case: Case) -> Iterator[Cause]:
        """What this cause says of the ranks; nothing where there are none."""
        if case.ranked is not None:
            yield from self.among(case.ranked, case.together)

    @abstractmethod
    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """What this cause says of several ranks, with its experiments."""


Work = Callable[[], Outputs]


def tried(work: Work) -> Outputs | None:
    """What an experiment gives; None: it cannot be carried out."""
    try:
        return work()
    except ReplayError:
        return None


def proof(
    experiments: RankedExperiments, name: str, places: Sequence[Start], away: Work, put: Work | None, why_not: str = ""
) -> dict[str, Any]:
    """Status, reason and experiments of a cause, as fields of a `whydiff.records.Cause`.

    Args:
        experiments: of this pair.
        name: of the intervention.
        places: where something is changed.
        away: the ranks' outputs without the cause.
        put: the reference's outputs with it; None: it is not known how.
        why_not: why it is not known.
    """
    reference, candidate = experiments.exact
    before = far(reference, candidate)
    done = [_experiment("take_away", name, places, before, reference, tried(away))]
    if put is not None:
        done.append(_experiment("put_in", name, places, before, candidate, tried(put)))
    works = [one.status == "confirmed" for one in done]
    if not before > SCALING_FLOOR:
        status, reason = "refuted", "in float64 the outputs agree as they are"
    elif done[0].after is None:
        status, reason = "inconclusive", f"taking it away: {done[0].outcome}"
    elif not works[0]:
        status, reason = "refuted", f"taking it away does not give the reference's outputs: {done[0].outcome}"
    elif put is None:
        status, reason = "located", f"taking it away gives the reference's outputs; putting it in: {why_not}"
    elif not works[1]:
        status, reason = "located", f"taking it away gives the reference's outputs; putting it in: {done[1].outcome}"
    else:
        status, reason = "confirmed", ""
    return {"status": status, "reason": reason, "experiments": tuple(done)}


def _experiment(
    direction: Direction, name: str, places: Sequence[Start], before: float, wanted: Outputs, found: Outputs | None
) -> Experiment:
    after = far(wanted, found) if found is not None else math.inf
    side = "the reference" if direction == "take_away" else "the ranks"
    equal = after <= SCALING_FLOOR
    told = f"the outputs lie {after:.1e} of their size apart" if math.isfinite(after) else "outputs do not correspond"
    return Experiment(
        interventions=tuple(Intervention(name, str(start.tie.shared.reference.site)) for start in places[:8]),
        prediction=f"in float64 the outputs are those of {side}",
        outcome=f"in float64 {told}, {before:.1e} before" if found is not None else "it cannot be carried out",
        status="confirmed" if equal else "refuted",
        before=before if math.isfinite(before) else None,
        after=after if math.isfinite(after) else None,
        direction=direction,
        left="rounding" if equal else "",
    )


def exactly(
    direction: Direction,
    interventions: Sequence[Intervention],
    whose: str,
    wanted: Outputs | None,
    found: Outputs | None,
    before: float | None = None,
) -> Experiment:
    """An experiment at the run's precision: it succeeds if no bit of any output differs.

    Args:
        direction: taken away from the ranks, or put into the reference.
        interventions: what was done.
        whose: whose outputs it is to give, in words.
        wanted, found: these outputs, and what the experiment gives; None: it cannot be carried out.
        before: mean absolute difference of the outputs as they are, if that is what it is to remove.
    """
    carried_out = wanted is not None and found is not None
    after, differing, count = apart(wanted, found) if wanted is not None and found is not None else (None, 0, 0)
    equal = count > 0 and not differing
    told = f"{differing} of {count} output elements differ from {whose}"
    return Experiment(
        interventions=tuple(interventions),
        prediction=f"outputs equal {whose} bit for bit",
        outcome=(f"bit-equal: {told}" if equal else told) if carried_out else "it cannot be carried out",
        status="confirmed" if equal else "inconclusive",
        before=before,
        after=after if before is not None else None,
        direction=direction,
        left="nothing" if equal else "",
        elements=count,
    )
