"""IN004 stale-cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from whydiff.explain.causes._explained import Finding, PlaceRule, View
from whydiff.explain.causes._flow import read_from, readers_of, reads_of
from whydiff.records import Call, Evidence, Leaf, Remedy, TensorSpec, Trace, Verdict

_FAR = 12


class StaleCache(PlaceRule):
    """A later op reads what an earlier run of the same op wrote, instead of the latest.

    What it detects:
        A value that is kept from one step to a later one (keys and values, a running state) where the
        candidate reads another run's value of the same op than the reference does.

    Why it happens:
        A cache is not reset between prompts or is given to the wrong request; a beam is not reordered; a
        prefix is taken for another one's; a recurrent state is kept over a sequence's end.

    Evidence required:
        Where the difference begins, no op differs: both sides read what the same op of the same module
        wrote, but of another run of it, and each side has a counterpart of what the other reads. Within a step another
        run is known by the same weights, which a module says it holds; in another step nothing but the run's inputs
        and what is written in place may be others. No reader takes the two values the other way round.

    Look-alikes:
        FO004 if one value is looked at in another layout. FO006 if the value is another projection's, made with
        other weights, or if two values are exchanged: each is read where the other was. IN002 if the positions of the
        cached tokens differ.

    Example:
        Two prompts are projected to keys; the second query attends to the first prompt's keys.

    Remedy:
        Reset the cache, or give each sequence its own.

    How it is verified:
        By replay: the candidate's op reads the value that corresponds to the reference's (``read-from``); the
        outputs must become equal bit for bit.

    References:
        huggingface/transformers, ``past_key_values`` and ``Cache.reorder_cache``; vLLM, automatic prefix
        caching.
    """

    code = "IN004"
    name = "stale-cache"
    says = "an op reads what an earlier run wrote instead of the latest"
    yields_to = ("MD002",)

    def explain(self, view: View) -> Finding | None:
        """Two runs of one op that are mistaken for each other."""
        case, origin = view.case, view.origin
        if origin.kind != "region" or origin.region:
            return None
        ours, theirs = case.calls_at(origin.calls)
        one, other = ours.site, theirs.site
        if (one.op, case.rename(other.scope)) != (other.op, one.scope) or one == other:
            return None
        partner, back = case.partners
        counterpart = partner.get(ours.index)
        if counterpart is None or theirs.index not in back:
            return None
        wanted = case.candidate.calls[counterpart]
        if any((call.target, call.arguments) != (theirs.target, theirs.arguments) for call in (ours, wanted)):
            return None  # not one op that ran twice
        if not _ran_again(case.candidate, theirs, wanted):
            return None  # two projections, not two runs of one: FO006
        if any(reads_of(case, (back[theirs.index], wanted.index))):
            return None  # each is read where the other was: FO006
        older = "an older" if theirs.index < counterpart else "a later"
        readers = list(readers_of(case, ours.index, theirs.index))
        returned = {event.site for call in case.candidate.calls if call.kind == "return" for event in call.reads}
        if all(event.site in returned for event in readers):
            return None  # what is returned is another point of the computation: NC001
        evidence = Evidence(
            f"{readers[0].site} reads {older} value: {theirs.site} wrote it, and {wanted.site} is the counterpart of "
            f"what the reference reads ({ours.site}); ops and arguments agree",
            {
                "reads": str(theirs.site),
                "should_read": str(wanted.site),
                "reference_reads": str(ours.site),
                "calls_apart": counterpart - theirs.index,
            },
        )
        return Finding(
            self.code,
            (one.step, other.step),
            Verdict.SEMANTIC,
            (evidence,),
            tuple(read_from(wanted, event) for event in readers),
        )

    def remedy(self, finding: Finding) -> Remedy:
        """Reset the cache."""
        return Remedy(
            "Let the op read what this run wrote: reset the cache before the sequence begins, or give every sequence its own.",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """Keys of the first prompt instead of the second's."""
        import torch

        torch.manual_seed(0)
        keys, prompts = torch.nn.Linear(8, 8), torch.randn(2, 5, 8)
        query = torch.randn(1, 8)

        def run(which: int) -> Any:
            cache = [torch.tanh(keys(prompt)) for prompt in prompts]
            return torch.softmax(query @ cache[which].T, -1)

        return lambda: run(1), lambda: run(0)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Another projection of the same prompt, operands exchanged; draws in another order; an earlier round returned."""
        import torch

        torch.manual_seed(0)
        keys, values = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        prompt, query = torch.randn(5, 8), torch.randn(1, 8)

        def attended(one: Any, other: Any) -> Any:
            made = {one: one(prompt), other: other(prompt)}
            return torch.softmax(query @ made[keys].T, -1) @ made[one]

        def noisy(swapped: bool) -> Any:
            generator = torch.Generator().manual_seed(3)
            one, other = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
            return keys(other if swapped else one)

        def after(rounds: int) -> Any:
            state, kept = prompt, []
            for _ in range(3):
                state = torch.tanh(keys(state)) + state
                kept.append(state)
            return kept[rounds], state.sum(-1)

        up, down, head = torch.randn(6, 8), torch.randn(6, 8), torch.randn(4, 12)

        def joined(exchanged: bool) -> Any:
            halves = torch.tanh(prompt @ up.T), torch.tanh(prompt @ down.T)
            return torch.cat(halves[::-1] if exchanged else halves, -1) @ head.T

        def scored(exchanged: bool) -> Any:
            key, value = prompt @ up.T, prompt @ down.T
            if exchanged:
                key, value = value, key
            return torch.softmax((query @ up.T) @ key.T, -1) @ value

        def compared(exchanged: bool) -> Any:
            one, other = torch.tanh(keys(prompt)), torch.tanh(keys(-prompt))
            return (other - one if exchanged else one - other) @ head[:, :8].T

        yield from ((lambda run=run: run(False), lambda run=run: run(True)) for run in (joined, scored, compared))
        yield lambda: after(1), lambda: after(2)
        yield lambda: attended(values, keys), lambda: attended(keys, values)
        yield lambda: noisy(False), lambda: noisy(True)


def _ran_again(trace: Trace, one: Call, other: Call) -> bool:
    """Whether two values are made by one code: with the same weights or, in other steps, with nothing that is another."""
    kept = _kept(trace)
    nearest = [_nearest(trace, call, kept) for call in (one, other)]
    weights = [{leaf for leaf in found if kept[leaf[0]].is_registered} for found in nearest]
    if any(weights):
        return weights[0] == weights[1]
    return one.site.step != other.site.step and nearest[0] == nearest[1]


def _kept(trace: Trace) -> dict[int, Leaf]:
    """What is there before a run and stays as it is, by its storage: neither an input nor a cache."""
    written = {event.storage for call in trace.calls for event in call.writes}
    return {
        leaf.storage: leaf
        for leaf in trace.leaves
        if leaf.role == "parameter" or (leaf.role != "input" and leaf.storage not in written)
    }


def _nearest(trace: Trace, call: Call, kept: Mapping[int, Leaf]) -> set[tuple[int, TensorSpec]]:
    waiting = {call.index: call}
    for _ in range(_FAR):
        read = [event for call in waiting.values() for event in call.reads]
        leaves = {(event.storage, event.spec) for event in read if event.producer == -1 and event.storage in kept}
        if leaves:
            return leaves
        waiting = {event.producer: trace.calls[event.producer] for event in read if event.producer >= 0}
    return set()


REGISTER = StaleCache()
