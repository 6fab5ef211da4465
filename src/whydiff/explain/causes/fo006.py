"""FO006 other-value-read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._other_leaf import OtherLeaf, advice_of, other_leaves, says_of, stale
from whydiff.explain.causes._settings import enough
from whydiff.explain.causes._state import alone_while_few
from whydiff.explain.causes._written import elements, other_parts, written_elsewhere
from whydiff.pair.lockstep import matched
from whydiff.records import Call, Cause, Event, Evidence, Intervention, Remedy, Trace, Verdict


class OtherValueRead(CauseRule):
    """An op reads another value of the run than its counterpart does, or another part of the same tensor.

    What it detects:
        Equal ops with equal arguments whose operands are connected differently: the gate takes the half of a
        fused projection that is meant for the other factor, keys and values change places, a residual is taken
        from after the norm instead of before it, a slice begins one row later. Or the same tensor, into which a value was
        written at another place (a cache, one place too late).

    Why it happens:
        Fused projections have no names inside, and checkpoints order query, key, value, gate and up
        differently; ``chunk`` and slices accept any order; two variables of one shape are easily exchanged.

    Evidence required:
        The value that the reference's op reads exists on the candidate's side as well: it is made by the
        paired op and agrees bit for bit, and the candidate reads another one, or other elements of it. Both ops
        are named, or the elements that each reads. In float64 the results differ. No op that one side alone has reads
        there what the op in question reads: that one might be its counterpart, and nothing exchanged.

    Look-alikes:
        FO004 if the elements are the same in another order; IN004 if the value is of an earlier run of the same
        op; NC001 if the value is returned, not read by an op; FO007 if the value that is read on one side is
        not computed at all on the other.

    Example:
        A fused gate-and-up projection whose halves are taken in the other order.

    Remedy:
        Read the same value on both sides.

    How it is verified:
        By replay: the candidate's op reads the value that corresponds to the reference's (``read-from``), or
        the reference's op takes its place (``replace-op``); the outputs must become equal bit for bit.

    References:
        Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202 (which factor is gated); Xiong et al., On
        Layer Normalization in the Transformer Architecture, arXiv:2002.04745 (where the residual begins).
    """

    code = "FO006"
    name = "other-value-read"
    says = "an op reads another value than its counterpart does"
    general = True

    def explain(self, view: View) -> Finding | None:
        """Another part of one tensor, or a value that is not the counterpart."""
        if not view.other_function:
            return None
        return self._part(view) if view.origin.kind == "layout" else self._value(view)

    def _part(self, view: View) -> Finding | None:
        if view.single is None:
            return None
        texts, interventions, makers, taken = [], [], [], []
        for er, ec, ours, theirs in other_parts(view):
            makers.append(_maker(view.case.candidate, ec))
            texts.append(f"{ec.site} is {theirs} of {makers[-1]}, the reference's is {ours}")
            taken.append((_made(view.case.candidate, ec), theirs, ours))
            if ec.producer >= 0:
                interventions.append(_read_from(view.case, er, ec))
        if not texts:
            return _written(view)
        evidence = Evidence("; ".join(texts), {"reads": texts, "apart_in_float64": view.apart})
        what, theirs, ours = taken[0]
        # a leaf is made by no call; where to look may be made of numbers that left the program
        made = len(interventions) == len(texts) and view.same_numbers_left
        return Finding(
            self.code,
            ("part", makers[0]),
            Verdict.SEMANTIC,
            (evidence,),
            tuple(interventions) if made else view.replace_op(),
            {"what": "part", "of": what, "parts": (theirs, ours)},
            general=True,
            says=f"the candidate reads {theirs} of {what}, the reference {ours}",
        )

    def _value(self, view: View) -> Finding | None:
        case, origin = view.case, view.origin
        if origin.kind != "region" or origin.region:
            return None
        ours, theirs = case.calls_at(origin.calls)
        partner = case.partners[0]
        if theirs.index not in partner.values() or ours.index not in partner:
            return None
        wanted = case.candidate.calls[partner[ours.index]]
        found = [
            (er, ec)
            for both in case.paired()
            for er, ec in matched(*both, "reads")
            if er.producer == ours.index
            and ec.producer == theirs.index
            and both[0].kind != "return"  # what is returned is NC001's
            and not _in_anothers_place(case, both, (er, ec))
        ]
        if not found or wanted.index == theirs.index:
            return None
        reader = found[0][1].site
        evidence = Evidence(
            f"{reader} is what {theirs.site} made; in the reference it is what {ours.site} made, whose counterpart "
            f"{wanted.site} the candidate computes as well",
            {
                "reads": str(theirs.site),
                "should_read": str(wanted.site),
                "reference_reads": str(ours.site),
                "readers": [str(ec.site) for _, ec in found],
                "apart_in_float64": view.apart,
            },
        )
        return Finding(
            self.code,
            ("value", reader.at("")),
            Verdict.SEMANTIC,
            (evidence,),
            tuple(_read_from(case, er, ec) for er, ec in found),
            {"what": "value"},
            general=True,
        )

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per tensor of which other parts are read, and per op that reads another value; one for many leaves."""
        yield from causes_of(case, self, _remedy)
        if not enough(case):
            others = [one for one in other_leaves(case) if one not in stale(case)]
            yield from (self._of_leaves(case, few) for few in alone_while_few(others))

    def _of_leaves(self, case: Case, found: Sequence[OtherLeaf]) -> Cause:
        return self.cause(
            site=str(found[0].origin.site.at("")),
            verdict=Verdict.SEMANTIC,
            evidence=tuple(one.evidence for one in found),
            remedy=Remedy(advice_of(case, found), undoes="either"),
            interventions=tuple(one.give for one in found),
            says=says_of(case, found),
        )

    def example(self) -> tuple[Any, Any]:
        """Gate and up exchanged."""
        import torch

        torch.manual_seed(0)
        fused, down = torch.nn.Linear(8, 32), torch.nn.Linear(16, 8)
        x = torch.randn(4, 8)

        def run(exchanged: bool) -> Any:
            gate, up = fused(x).chunk(2, -1)
            if exchanged:
                gate, up = up, gate
            return down(torch.nn.functional.silu(gate) * up)

        return lambda: run(False), lambda: run(True)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A value that was overwritten in place, and positions (read, written) that the program takes from its numbers."""
        import torch

        torch.manual_seed(0)
        x, w, lengths = torch.randn(6, 8), torch.randn(8, 8), torch.tensor([5.0, 3.0])

        def overwritten(in_place: bool) -> Any:
            h = torch.tanh(x @ w)
            y = h.add_(1.0) if in_place else h + 1.0
            return (y @ w) * torch.sigmoid(h @ w)

        def last(rule: Any) -> Any:
            return torch.tanh(x @ w)[int(rule(lengths).item()) - 1] @ w

        def kept(rule: Any) -> Any:
            cache = torch.zeros(6, 8)
            cache[int(rule(lengths).item())] = torch.tanh(x[0])
            return cache @ w

        yield (lambda: overwritten(False)), (lambda: overwritten(True))
        yield (lambda: last(torch.max)), (lambda: last(torch.min))
        yield (lambda: kept(torch.max)), (lambda: kept(torch.min))


def _written(view: View) -> Finding | None:
    """The tensor that both sides look at alike was written into in other places."""
    assert view.single is not None
    pairs = matched(*view.single, "reads")
    found = [one for er, ec in pairs for one in written_elsewhere(view.case, er, ec, view.single[1].index)]
    if not found:
        return None
    shown = [[elements(look, whole) for look, whole in zip(w.looks, w.wholes, strict=True)] for w in found]
    texts = [
        f"{one.calls[1].site} writes into {theirs} of its tensor, in the reference into {ours}"
        for one, (ours, theirs) in zip(found, shown, strict=True)
    ]
    # where to write may be made of numbers that left the program
    steps = tuple(step for one in found for step in one.write_there(view.case)) if view.same_numbers_left else ()
    return Finding(
        OtherValueRead.code,
        "written",
        Verdict.SEMANTIC,
        (Evidence("; ".join(texts), {"writes": texts, "apart_in_float64": view.apart}),),
        steps if len(steps) == len(found) else view.replace_op(),
        {"what": "written"},
        general=True,
        says="a value is written into other places of a tensor than in the reference",
    )


def _maker(trace: Trace, event: Event) -> str:
    if event.producer >= 0:
        return str(trace.calls[event.producer].site)
    return next((leaf.name for leaf in trace.leaves if leaf.storage == event.storage), "a leaf")


def _in_anothers_place(case: Case, pair: tuple[Call, Call], reads: tuple[Event, Event]) -> bool:
    """Whether an op of one side alone may be the counterpart of one of a pair: it reads there what that one reads."""
    traces = case.traces
    lone = case.alignment.unpaired_reference, case.alignment.unpaired_candidate
    for side, alone in enumerate(lone):
        call, read = pair[1 - side], reads[1 - side]
        place = call.reads.index(read)
        for other in (traces[side].calls[index] for index in alone):
            alike = _called(other) == _called(call)
            if alike and case.partners[side].get(other.reads[place].producer) == read.producer:
                return True
    return False


def _called(call: Call) -> tuple[str, str, int]:
    return call.target, call.site.phase, len(call.reads)


def _made(trace: Trace, event: Event) -> str:
    """The tensor that a read looks at, in plain words: a leaf by its name, else by the op that makes it."""
    if event.producer < 0:
        return _maker(trace, event)
    site = trace.calls[event.producer].site
    return f"what {site.op.lstrip('_')} makes" + (f" in {site.scope}" if site.scope else "")


def _read_from(case: Case, er: Event, ec: Event) -> Intervention:
    """The candidate's read looks, as the reference's does, at the counterpart of what that one reads."""
    partner = case.partners[0]
    written = case.reference.calls[er.producer].writes
    slot = next((i for i, event in enumerate(written) if event.storage == er.storage), 0)
    theirs = case.candidate.calls[partner[er.producer]].writes[slot]
    look = (er.spec.shape, er.spec.strides, er.spec.offset) if theirs.spec == written[slot].spec else ()
    return Intervention("read-from", str(ec.site), (str(theirs.site), *look))


def _remedy(finding: Finding) -> Remedy:
    if finding.facts["what"] == "part":
        theirs, ours = finding.facts["parts"]
        text = f"Take the same part of {finding.facts['of']} on both sides: the candidate takes {theirs}, the reference {ours}."
        return Remedy(text, undoes="either")
    if finding.facts["what"] == "written":
        text = "Write into the same places on both sides: a cache is written where the tokens in it end."
        return Remedy(text, undoes="either")
    return Remedy("Connect the op to the same value on both sides.", undoes="either")


REGISTER = OtherValueRead()
