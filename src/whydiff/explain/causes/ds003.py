"""DS003: replicas that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.explain.causes._rank_runs import averaged, centred, drifting, everywhere, recorded
from whydiff.explain.causes._ranks import RankedRule, proof
from whydiff.explain.ranked import RankedExperiments
from whydiff.locate.ranked import Ranked, Start
from whydiff.records import Cause, Evidence, Remedy, Verdict


class ReplicasDisagree(RankedRule):
    """A value that every rank should hold alike, and that lasts over steps, is another one on some ranks.

    What it detects:
        A parameter or buffer that is, in float64, the reference's on at least one rank and not on another, although
        nothing before it differs.

    Why it happens:
        A rank is started from another checkpoint or seed, is not told of a change, or changes its replica alone.

    Evidence required:
        With the agreeing rank's value on all ranks, from there on, they give the reference's outputs.

    Look-alikes:
        DS005 (the ranks' gradients are not averaged, so that all replicas leave the reference), all ranks having another
        value, dropout on one rank only.

    Example:
        Two ranks train together; a weight of one is doubled before the second step.

    Remedy:
        Broadcast the parameters and buffers, or find what changes them on one rank.

    How it is verified:
        By replay in float64, all ranks together. One process has one replica only, so that it cannot be put in there.

    References:
        https://docs.pytorch.org/docs/stable/notes/ddp.html
    """

    code = "DS003"
    name = "replicas-disagree"
    says = "a value that lasts over steps is another one on some ranks"

    def among(self, ranked: Ranked, experiments: RankedExperiments) -> Iterator[Cause]:
        """One cause for the first such value."""
        start = next((s for s in ranked.starts if s.leaf and s.tie.agreeing and s.tie.slot == "reads"), None)
        if start is None:
            return
        order = sorted(start.tie.shared.ranks)
        good, bad = order[start.tie.agreeing[0]], [r for i, r in enumerate(order) if i not in start.tie.agreeing]

        def alike(place: Start, replays: Mapping[int, Executor]) -> dict[int, Any]:
            value = replays[good].copy(replays[good].read(place.tie.shared.ranks[good]))
            return dict.fromkeys(order, value)

        site = start.tie.shared.ranks[bad[0]].site
        step = site.step
        ranks = ", ".join(map(str, bad))
        yield self.cause(
            site=str(site),
            verdict=Verdict.SEMANTIC,
            evidence=(
                Evidence(
                    f"{start.leaf} is the reference's on rank {good} and not on rank {ranks}, from step {step} on",
                    {"good": good, "bad": bad[0], "step": step},
                ),
            ),
            remedy=Remedy(f"Give rank {ranks} the value of rank {good} before step {step}.", undoes="either"),
            says=f"{start.leaf} differs on rank {ranks} from step {step} on",
            **proof(
                experiments,
                "replicate",
                (start,),
                lambda: experiments.corrected((start,), alike, lasting=True),
                None,
                "one process has one replica only",
            ),
        )

    def example(self) -> tuple[Any, Any]:
        """A weight of the second rank is doubled before the second step."""
        return recorded(averaged), recorded(drifting, 2)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The weight is doubled on every rank; or the ranks centre their rows by their own mean."""
        yield recorded(averaged), recorded(everywhere, 2)
        yield recorded(centred), recorded(centred, 2)


REGISTER = ReplicasDisagree()
"""What the registry finds."""
