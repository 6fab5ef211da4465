"""DS002: a statistic of one rank's shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.explain.causes._rank_runs import centred, drifting, recorded, shifted
from whydiff.explain.causes._ranks import RankedRule, proof
from whydiff.explain.ranked import EXACT, RankedExperiments
from whydiff.locate.ranked import Ranked, Seen, Start, Tie
from whydiff.records import Cause, Evidence, Remedy, Verdict


class StatisticOfOneShard(RankedRule):
    """A rank takes a norm, a mean or another statistic of its own part for that of the whole.

    What it detects:
        A call at which the ranks part from the reference in float64, although what it reads is made up; and where either
        one of the values that it reads is each rank's statistic of its own part (the means' mean, or the root of the
        norms' squares, is the reference's), or the call itself mixes the rows that are split (a batch norm).

    Why it happens:
        Rows, or parameters, are split over the ranks, and what is computed over all of them is computed over a rank's own.

    Evidence required:
        With the statistic of all ranks in its place, made of what they hold, the ranks give the reference's outputs; with
        each part's own statistic in the reference, it gives theirs.

    Look-alikes:
        DS005 (it is a gradient that is not averaged), DS003 (replicas differ), another formula on the ranks.

    Example:
        Rows are centred by their mean; two ranks have half of the rows each, and centre by their own.

    Remedy:
        Compute the statistic over all ranks (SyncBatchNorm, an all-reduce of the sum, of the squared norm, of counts).

    How it is verified:
        By replay in float64, all ranks together and the reference. A norm over parameters that belong to other ranks
        cannot be put into one process: then it is located.

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html;
        https://docs.pytorch.org/docs/stable/fsdp.html (clip_grad_norm_)
    """

    code = "DS002"
    name = "statistic-of-one-shard"
    says = "a rank takes a statistic of its own part for that of the whole"

    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """One cause for all places of the first kind that is found."""
        found = list(_statistics(ranked))
        if found:
            yield self._of_values(ranked, experiments, found)
            return
        mixing = [start for start in ranked.starts if _mixes(ranked, start)]
        if mixing:
            places = tuple(Start(s.seen, tie, exact=True) for s in mixing for tie in s.seen.writes)
            yield self._cause(
                mixing[0],
                {"calls": len(mixing)},
                proof(
                    experiments,
                    "statistic-of-all",
                    places,
                    lambda: experiments.put_together(places, lift=EXACT),
                    lambda: experiments.split(places, lift=EXACT),
                ),
            )

    def _of_values(self, ranked: Ranked, experiments: RankedExperiments, found: list[tuple[Start, Tie]]) -> Cause:
        norm = any(tie.relation is not None and tie.relation.layout == "norm" for _, tie in found)
        places = tuple(place for start, tie in found for place in experiments.alike(Start(start.seen, tie, exact=True)))
        scale = next(tie.relation.scale for _, tie in found if tie.relation is not None)

        def whole(start: Start, replays: Mapping[int, Executor]) -> dict[int, Any]:
            held = [replays[rank].copy(replays[rank].read(event)) for rank, event in start.tie.shared.ranks.items()]
            terms = [value * value for value in held] if norm else held
            total = sum(terms[1:], start=terms[0])
            return dict.fromkeys(start.tie.shared.ranks, total**0.5 if norm else total * scale)

        makers = tuple(one for _, tie in found for one in _behind(ranked, tie))
        users = tuple(Start(start.seen, tie, exact=True) for start, _ in found for tie in start.seen.writes)
        return self._cause(
            found[0][0],
            {"values": len(found), "norm": norm},
            proof(
                experiments,
                "statistic-of-all",
                places,
                lambda: experiments.corrected(places, whole),
                None if norm else lambda: experiments.split(users, lift=EXACT, within=makers),
                "the parameters of other ranks are no part of what one process computes apart",
            ),
        )

    def _cause(self, start: Start, data: dict[str, Any], proven: dict[str, Any]) -> Cause:
        site = str(start.seen.writes[0].shared.reference.site) if start.seen.writes else ""
        return self.cause(
            site=site,
            verdict=Verdict.SEMANTIC,
            evidence=(Evidence("what this call reads is made up by the ranks, and what it gives is not", data),),
            remedy=Remedy("Compute this statistic over all ranks.", undoes="either"),
            **proven,
        )

    def example(self) -> tuple[Any, Any]:
        """Rows are centred by the mean of the rank's own."""
        return recorded(centred), recorded(centred, 2)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The ranks centre by twice the mean of all; or a replica's weight has drifted."""
        yield recorded(centred), recorded(shifted, 2)
        yield recorded(drifting), recorded(drifting, 2)


def _statistics(ranked: Ranked) -> Iterator[tuple[Start, Tie]]:
    """Places that read each rank's own statistic, and which of their reads it is."""
    for start in ranked.starts:
        if start.tie.slot != "writes" or not start.seen.agrees:
            continue
        for tie in start.seen.reads:
            relation = tie.relation
            if relation is None or tie.noise or relation.layout not in ("partial", "norm") or tie.lasting:
                continue
            if relation.layout == "norm" or relation.scale == 1 / len(ranked.teams.ranks):
                yield start, tie


def _mixes(ranked: Ranked, start: Start) -> bool:
    """Whether a call of the same arguments reads parts, and gives what is no part of the whole."""
    ours, theirs = ranked.teams.calls(start.seen.team)
    same = all((call.target, call.arguments) == (ours.target, ours.arguments) for call in theirs.values())
    split = any(tie.relation is not None and tie.relation.layout == "split" for tie in start.seen.reads)
    whole = all(tie.relation is not None and tie.relation.scale == 1 for tie in start.seen.reads)
    return start.tie.slot == "writes" and start.seen.agrees and same and split and whole


def _behind(ranked: Ranked, tie: Tie) -> tuple[Seen, ...]:
    """Teams that make a statistic of what is split, the first last."""
    found: dict[int, Seen] = {}
    line = [tie]
    while line:
        one = ranked.written.get(line.pop().shared.reference.producer)
        if one is not None and one.team.reference not in found:
            found[one.team.reference] = one
            line += [t for t in one.reads if t.relation is not None and t.relation.layout == "partial"]
    return tuple(found.values())


REGISTER = StatisticOfOneShard()
"""What the registry finds."""
