"""DS001: a reduction across ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from whydiff.explain.assembling import apart
from whydiff.explain.causes._rank_runs import averaged, kept, recorded, summed
from whydiff.explain.causes._ranks import RankedRule, exactly, tried
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.narrowing import narrowed
from whydiff.locate.ranked import Ranked, Start
from whydiff.records import Cause, Evidence, Experiment, Intervention, Measurement, Remedy, Verdict


class ReductionAcrossRanks(RankedRule):
    """The ranks add up their terms of a sum that one process takes at once.

    What it detects:
        Values that, in float64, are what the ranks make up together, and whose bits differ once a collective has put
        terms of a sum together (gradients of a batch that is split, products of a weight that is split).

    Why it happens:
        Each rank rounds its own term, and the terms are added afterwards: the same numbers in another order.

    Evidence required:
        In float64 nothing differs. Where the reference's own call is executed on what all ranks hold together, the
        ranks give the reference's outputs; where the reference's call is split over the ranks' parts, it gives theirs.

    Look-alikes:
        DS002 (a rank takes its own part for the whole), DS005 (the sum is not divided, or twice), DS006 (the terms are
        sent in a narrower dtype): in float64 something differs, or the terms themselves are rounded.

    Example:
        A linear layer's gradient over 16 rows, and over two ranks with 8 rows each, averaged.

    Remedy:
        Accept it: neither order is more right. The averaging is needed; leave it as it is.

    How it is verified:
        By replay of all ranks together, the sums put together by the reference's own calls, and of the reference, its
        sums split; bit for bit. Calls that see other sizes on a rank are put together, or split, likewise; they alone
        do not explain it.

    References:
        https://docs.pytorch.org/docs/stable/notes/ddp.html; Goldberg, What Every Computer Scientist Should Know About
        Floating-Point Arithmetic, ACM Computing Surveys 23(1), 1991
    """

    code = "DS001"
    name = "reduction-across-ranks"
    says = "the ranks add up their terms of sums that one process takes at once"

    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """One cause for all collectives that put terms together, if nothing differs in float64."""
        sums = [start for start in ranked.shares if start.exchange is not None]
        if ranked.starts or not sums or any(map(narrowed, sums)):
            return
        alone = [start for start in ranked.shares if start.exchange is None]
        ours, theirs = experiments.of_both(experiments.reference()), experiments.candidate()
        before = apart(ours, theirs)
        away = tried(lambda: experiments.put_together(ranked.shares))
        put = tried(lambda: experiments.split(ranked.shares))
        others = tried(lambda: experiments.put_together(alone)) if alone else theirs
        found = (
            exactly("take_away", _at(sums, "put-together"), "the reference's", ours, away, before[0]),
            exactly("put_in", _at(sums, "split"), "the ranks'", theirs, put, before[0]),
        )
        matters = others is not None and apart(ours, others)[1] > 0
        confirmed = before[1] > 0 and matters and all(one.status == "confirmed" for one in found)
        calls = {start.exchange.index for start in sums if start.exchange is not None}
        data = {"collectives": len(calls), "sums": len(sums), "other calls": len(alone)}
        yield self.cause(
            site=str(sums[0].exchange.site) if sums[0].exchange is not None else "",
            verdict=Verdict.ROUNDING,
            evidence=(
                Evidence(f"{len(calls)} collectives put together the terms of {len(sums)} values", data),
                Evidence("in float64 the ranks' values make up all of the reference's", {"starts": 0}),
            ),
            remedy=Remedy("Accept it: the same sum in another order. Averaging over ranks must stay.", accepts=True),
            status="confirmed" if confirmed else "inconclusive",
            reason="" if confirmed else _why(before, matters, found),
            experiments=found,
            effect=(Measurement("one_in", before[0]),) if confirmed else (),
        )

    def example(self) -> tuple[Any, Any]:
        """One step of a small model by one process, and by two with half of the rows each, gradients averaged."""
        return recorded(averaged), recorded(averaged, 2)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The gradients are summed and not averaged; or each rank keeps its own."""
        yield recorded(averaged), recorded(summed, 2)
        yield recorded(averaged), recorded(kept, 2)


def _at(sums: Sequence[Start], name: str) -> list[Intervention]:
    return [Intervention(name, str(start.tie.shared.reference.site)) for start in sums[:8]]


def _why(before: tuple[float, int, int], matters: bool, found: Sequence[Experiment]) -> str:
    if not before[1]:
        return "the outputs agree as they are, so nothing can be proven"
    if not matters:
        return "the outputs agree without putting the sums together"
    failed = [one for one in found if one.status != "confirmed"]
    return f"{'taking it away' if failed[0].direction == 'take_away' else 'putting it in'}: {failed[0].outcome}"


REGISTER = ReductionAcrossRanks()
"""What the registry finds."""
