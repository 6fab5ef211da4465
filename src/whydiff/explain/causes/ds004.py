"""DS004: another rank's shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.explain.assembling import as_presumed
from whydiff.explain.causes._rank_runs import averaged, everywhere, mirrored, recorded, swapped
from whydiff.explain.causes._ranks import RankedRule, proof
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.ranked import Ranked, Start, Tie, part
from whydiff.records import Cause, Evidence, Remedy, Verdict


class WrongShard(RankedRule):
    """Ranks have parts of the right whole, and not each its own: swapped, repeated, or in another order.

    What it detects:
        A value of which every rank holds, in float64, exactly one part of the reference's, in another order than the
        ranks'; parts may be missing and others held twice.

    Why it happens:
        A sampler, a chunk or a loader of shards is given the wrong rank, or ranks are numbered in another order.

    Evidence required:
        With each rank's own part in its place the ranks give the reference's outputs; with the parts in the ranks' order
        in the reference, it gives theirs.

    Look-alikes:
        Rows that are shuffled one by one, other data, DS003 (all ranks should hold the whole).

    Example:
        Two ranks take each other's rows, and their own rows' targets.

    Remedy:
        Take the part of this rank: the same rank for every tensor that is split.

    How it is verified:
        By replay in float64, all ranks together and the reference; the parts are exchanged where they are read.

    References:
        https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler
    """

    code = "DS004"
    name = "wrong-shard"
    says = "ranks have each other's part of the right whole"

    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """One cause for everything that is held in the same wrong order."""
        places = tuple(
            Start(one, tie, exact=True)
            for one in ranked.seen
            for tie in one.reads
            if tie.order and _made_right(ranked, tie)
        )
        orders = {place.tie.order for place in places}
        if not ranked.starts or len(orders) != 1:
            return
        (order,) = orders
        right = experiments.reference_values(places)

        def own(start: Start, replays: Mapping[int, Executor]) -> dict[int, Any]:
            whole, relation = right[start.tie.shared.reference.site], as_presumed(start.tie)
            assert relation is not None  # an order was found
            return {rank: part(whole, relation, i) for i, rank in enumerate(sorted(start.tie.shared.ranks))}

        def wrong(start: Start, value: Any) -> Any:
            relation = as_presumed(start.tie)
            assert relation is not None
            changed = value
            for position, which in enumerate(order):
                changed = experiments.tool.put(changed, relation.index(position), value[relation.index(which)])
            return changed

        held = ", ".join(
            f"rank {rank} has part {which}"
            for rank, which in zip(sorted(places[0].tie.shared.ranks), order, strict=True)
        )
        yield self.cause(
            site=str(places[0].tie.shared.reference.site),
            verdict=Verdict.SEMANTIC,
            evidence=(Evidence(held, {"order": str(order), "places": len(places)}),),
            remedy=Remedy("Give every rank its own part.", undoes="either"),
            says=held,
            **proof(
                experiments,
                "restore-input",
                places,
                lambda: experiments.corrected(places, own),
                lambda: experiments.reference_with(places, wrong),
            ),
        )

    def example(self) -> tuple[Any, Any]:
        """The ranks take each other's rows."""
        return recorded(averaged), recorded(swapped, 2)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Each rank's rows are in reverse order; or a weight is another one on every rank."""
        yield recorded(averaged), recorded(mirrored, 2)
        yield recorded(averaged), recorded(everywhere, 2)


def _made_right(ranked: Ranked, tie: Tie) -> bool:
    """Whether the value was right where it was made: it is only looked at elsewhere."""
    maker = ranked.written.get(tie.shared.reference.producer)
    return maker is None or all(write.relation is not None for write in maker.writes)


REGISTER = WrongShard()
"""What the registry finds."""
