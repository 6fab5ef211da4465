"""IN004 stale-cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._flow import read_from, readers_of
from whydiff.records import Call, Cause, Evidence, Remedy, Trace, Verdict

_FAR = 12


class StaleCache(CauseRule):
    """A later op reads what an earlier run of the same op wrote, instead of the latest.

    What it detects:
        A value that is kept from one step to a later one (keys and values, a running state) where the
        candidate reads another run's value of the same op than the reference does.

    Why it happens:
        A cache is not reset between prompts or is given to the wrong request; a beam is not reordered; a
        prefix is taken for another one's; a recurrent state is kept over a sequence's end.

    Evidence required:
        Where the difference begins, no op differs: both sides read what the same op of the same module
        wrote, but of another step, or of another occurrence with the same weights, and each side has a
        counterpart of what the other reads.

    Look-alikes:
        FO004 if one value is looked at in another layout. FO006 if the value is another projection's, made with
        other weights in the same step. IN002 if the positions of the cached tokens differ.

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
        ours, theirs = case.reference.calls[origin.calls[0]], case.candidate.calls[origin.calls[1]]
        one, other = ours.site, theirs.site
        if (one.op, case.rename(other.scope)) != (other.op, one.scope) or one == other:
            return None
        partner = {pair.reference: pair.candidate for pair in case.alignment.pairs}
        counterpart = partner.get(ours.index)
        if counterpart is None or theirs.index not in partner.values():
            return None
        wanted = case.candidate.calls[counterpart]
        if any((call.target, call.arguments) != (theirs.target, theirs.arguments) for call in (ours, wanted)):
            return None  # not one op that ran twice
        if theirs.site.step == wanted.site.step and not _one_module(case.candidate, theirs, wanted):
            return None  # two projections, not two runs of one: FO006
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

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per pair of steps that are mistaken for each other."""
        return causes_of(
            case,
            self.code,
            self.name,
            lambda finding: Remedy(
                "Let the op read what this run wrote: reset the cache before the sequence begins, or give every sequence "
                "its own.",
                undoes="either",
            ),
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
        """Another projection of the same prompt; two draws used in another order; a result of an earlier round returned."""
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

        yield lambda: after(1), lambda: after(2)
        yield lambda: attended(values, keys), lambda: attended(keys, values)
        yield lambda: noisy(False), lambda: noisy(True)


def _one_module(trace: Trace, one: Call, other: Call) -> bool:
    """Whether two values are made with the same weights: the nearest tensors that are no inputs of the run."""
    return bool(_nearest(trace, one) & _nearest(trace, other))


def _nearest(trace: Trace, call: Call) -> set[Any]:
    inputs = {leaf.storage for leaf in trace.leaves if leaf.role == "input"}
    waiting = [call]
    for _ in range(_FAR):
        leaves = {(e.storage, e.spec) for c in waiting for e in c.reads if e.producer == -1 and e.storage not in inputs}
        if leaves:
            return leaves
        waiting = [trace.calls[e.producer] for c in waiting for e in c.reads if e.producer >= 0]
    return set()


REGISTER = StaleCache()
