"""DS006: a reduction in a narrower dtype."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from whydiff.explain.assembling import apart
from whydiff.explain.causes._rank_runs import averaged, narrow, recorded, rounded_after, summed
from whydiff.explain.causes._ranks import RankedRule, exactly, tried
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.narrowing import narrowed
from whydiff.locate.ranked import Ranked, Seen
from whydiff.numbers.casts import rounded
from whydiff.records import Cause, Evidence, Intervention, Payload, Remedy, Verdict


class ReducedNarrower(RankedRule):
    """Ranks send their terms of a sum in a narrower dtype than they hold them in.

    What it detects:
        Collectives that put together terms of float values in a dtype that rounds more than the reference's.

    Why it happens:
        Sending half as many bytes is faster; every term, and the sum, is rounded to it.

    Evidence required:
        Where the terms are added as they are, the ranks give exactly what the reference gives with its sums split over
        the ranks; where the split terms and their sum are rounded to the dtype that is sent, it gives the ranks' outputs.

    Look-alikes:
        DS001 (terms are sent as they are), a model whose gradients are narrow already, a cast after the sum.

    Example:
        Gradients in float32 are sent in bfloat16.

    Remedy:
        Reduce in float32 (FSDP2: ``MixedPrecisionPolicy(reduce_dtype=torch.float32)``), or accept it.

    How it is verified:
        By replay at the run's precision, bit for bit.

    References:
        https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html;
        https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html
    """

    code = "DS006"
    name = "reduced-in-narrower-dtype"
    says = "terms of sums are sent in a narrower dtype than they are held in"

    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """One cause for all collectives that do."""
        sums = [start for start in ranked.shares if narrowed(start)]
        dtypes = {narrowed(start) for start in sums}
        if ranked.starts or len(dtypes) != 1:
            return
        (dtype,) = dtypes
        roots = {one.team.reference for start in sums for one in experiments.roots(start)}

        def sent(one: Seen, payload: Payload) -> Payload:
            return rounded(payload, dtype) if one.team.reference in roots else payload

        theirs = experiments.candidate()
        split = tried(lambda: experiments.split(ranked.shares))
        away = tried(lambda: experiments.put_together(sums, apart=True))
        put = tried(lambda: experiments.split(ranked.shares, sent))
        sites = [str(start.tie.shared.reference.site) for start in sums[:8]]
        steps = [Intervention("send-in", site, dtype) for site in sites]
        found = (
            exactly("take_away", steps, "the reference's with its sums split", split, away),
            exactly("put_in", steps, "the ranks'", theirs, put),
        )
        acts = split is not None and apart(split, theirs)[1] > 0
        confirmed = acts and all(one.status == "confirmed" for one in found)
        yield self.cause(
            site=str(sums[0].exchange.site) if sums[0].exchange is not None else "",
            verdict=Verdict.PRECISION,
            evidence=(
                Evidence(f"the terms of {len(sums)} values are sent in {dtype}", {"dtype": dtype, "values": len(sums)}),
            ),
            remedy=Remedy("Reduce in the dtype that the values have, or accept it.", undoes="either"),
            says=f"the ranks send terms of sums in {dtype}",
            status="confirmed" if confirmed else "inconclusive",
            reason=""
            if confirmed
            else next((o.outcome for o in found if o.status != "confirmed"), "it changes nothing"),
            experiments=found,
        )

    def example(self) -> tuple[Any, Any]:
        """Gradients are sent in bfloat16."""
        return recorded(averaged), recorded(narrow, 2)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The sum is rounded to bfloat16 after it was sent in float32; or it is not divided."""
        yield recorded(averaged), recorded(rounded_after, 2)
        yield recorded(averaged), recorded(summed, 2)


REGISTER = ReducedNarrower()
"""What the registry finds."""
