"""DS005: a gradient that is not averaged, or averaged twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.explain.causes._rank_runs import averaged, recorded, scaled, stepped, summed
from whydiff.explain.causes._ranks import RankedRule, proof
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.ranked import Ranked, Seen, Start, Tie
from whydiff.records import Cause, Evidence, Remedy, Verdict


class GradientNotAveraged(RankedRule):
    """Gradients over the ranks' own rows are not averaged over the ranks, or twice.

    What it detects:
        What changes a parameter is, in float64, the reference's times the number of ranks or divided by it; or every
        rank changes its replica by its own rows' gradient.

    Why it happens:
        A loss is a mean over a rank's rows: gradients have to be added and divided once by the number of ranks. The
        division is forgotten, or made by the loss and the wrapper both; or nothing is exchanged at all.

    Evidence required:
        The ranks' terms are means over their rows, or sums; the value that arrives at the parameter is not divided as
        they need. With the factor put right the ranks give the reference's outputs, with it put in the reference theirs.

    Look-alikes:
        Another learning rate or loss scale: the terms themselves are scaled. DS001: nothing differs in float64.

    Example:
        Three steps of gradient descent on two ranks; the summed gradients are not divided.

    Remedy:
        Divide by the number of ranks exactly once.

    How it is verified:
        By replay in float64, all ranks together and the reference: the value that is read is multiplied. Where ranks
        exchange nothing, one process cannot be given as many replicas: then it is located.

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
    """

    code = "DS005"
    name = "gradient-not-averaged"
    says = "gradients over the ranks' own rows are not averaged over the ranks exactly once"

    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """One cause for all parameters that are changed so."""
        ranks = len(ranked.teams.ranks)
        wrong = list(_wrong(ranked))
        found = [one for one in wrong if not one[-1]] or wrong
        scales = {scale for _, _, scale, _ in found}
        kinds = {partial for _, _, _, partial in found}
        if len(scales) != 1 or len(kinds) != 1:
            return
        (scale,), (partial,) = scales, kinds
        places = tuple(place for one, tie, _, _ in found for place in experiments.alike(Start(one, tie, exact=True)))
        terms_are_sums = scale == 1 if partial else all(_terms(ranked, tie) == 1 for _, tie, _, _ in found)
        often = "though the ranks' terms are sums" if terms_are_sums else "twice"
        how = "added up and not divided" if scale < 1 else f"divided {often}"
        says = "every rank uses its own rows' gradients alone" if partial else f"gradients are {how}"

        def right(start: Start, replays: Mapping[int, Executor]) -> dict[int, Any]:
            held = {
                rank: replays[rank].copy(replays[rank].read(event)) for rank, event in start.tie.shared.ranks.items()
            }
            if not partial:
                return {rank: value * scale for rank, value in held.items()}
            total = sum(list(held.values())[1:], start=next(iter(held.values()))) * scale
            return dict.fromkeys(held, total)

        yield self.cause(
            site=str(found[0][1].shared.reference.site),
            verdict=Verdict.SEMANTIC,
            evidence=(
                Evidence(
                    f"{len(found)} parameters are changed by {'one rank only' if partial else f'1/{scale:g} of it'}",
                    {"scale": scale, "partial": partial, "parameters": len(found)},
                ),
            ),
            remedy=Remedy(
                "Add the gradients up and do not divide them: the ranks' losses are sums over their rows."
                if terms_are_sums
                else f"Divide the summed gradients by the number of ranks ({ranks}) exactly once.",
                undoes="either",
            ),
            says=says,
            **proof(
                experiments,
                "average",
                places,
                lambda: experiments.corrected(places, right),
                None if partial else lambda: experiments.reference_with(places, lambda _, value: value / scale),
                "one process has one replica only",
            ),
        )

    def example(self) -> tuple[Any, Any]:
        """Gradients are averaged by hand; the division is missing on the candidate's side."""
        return recorded(averaged), recorded(summed, 2)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The loss is three times as large, or the learning rate is twice as large, on the ranks."""
        yield recorded(averaged), recorded(scaled, 2)
        yield recorded(averaged), recorded(stepped, 2)


def _wrong(ranked: Ranked) -> Iterator[tuple[Seen, Tie, float, bool]]:
    """Reads by which calls change a parameter that is right until then: (team, tie, factor, whether it is a term)."""
    ranks = len(ranked.teams.ranks)
    if not ranked.starts:
        return
    for one in ranked.seen:
        ours, _ = ranked.teams.calls(one.team)
        changed = {ours.reads[i].site for i in ours.mutates}
        state = [tie for tie in one.reads if tie.shared.reference.site in changed]
        if not state or any(tie.relation is None or tie.relation.scale != 1 or tie.noise for tie in state):
            continue
        for tie in one.reads:
            relation = tie.relation
            if tie.shared.reference.site in changed or relation is None or tie.noise:
                continue
            if relation.layout == "partial" and relation.scale in (1.0, 1 / ranks):
                yield one, tie, relation.scale, True
            elif relation.scale in (1 / ranks, float(ranks)) and _terms(ranked, tie) in (1.0, 1 / ranks):
                yield one, tie, relation.scale, False


def _terms(ranked: Ranked, tie: Tie) -> float:
    """By which factor the ranks' own terms of a value make it up; 0: it is made of no terms."""
    line, known = [tie.shared.reference.producer], set[int]()
    while line:
        index = line.pop()
        one = ranked.written.get(index)
        if one is None or index in known:
            continue
        known.add(index)
        for write in one.writes:
            if write.relation is not None and write.relation.layout == "partial" and not write.noise:
                return write.relation.scale
        line += [read.shared.reference.producer for read in one.reads]
    return 0.0


REGISTER = GradientNotAveraged()
"""What the registry finds."""
