"""NC001 not-counterparts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.numbers.comparison import same
from whydiff.pair.lockstep import matched
from whydiff.records import Call, Cause, Event, Evidence, Intervention, Remedy, Trace, Verdict

_FAR = 16


class NotCounterparts(CauseRule):
    """Two returned values are not the same point of the computation.

    What it detects:
        A returned value whose counterpart is another value of the same run, or another part of one: both runs
        compute both values, and return one each. The typical pair is a hidden state before and after the final norm.
        Or rows that hold padding, where they are all that differs (located: nobody's answer is in them).

    Why it happens:
        ``hidden_states[-1]`` is after the final norm in most of transformers, the last layer's output is
        before it; logits are compared with probabilities, a pre-activation with an activation; hooks are
        attached to a layer on one side and to what follows it on the other.

    Evidence required:
        The value that the reference returns is computed by the candidate as well, by the paired op and with
        agreeing bits where fingerprints tell, and one op or module lies between it and the value that the
        candidate returns (or the other way round); any number of them where both runs agree everywhere inside,
        since then nothing but the choice of the value can differ.

    Look-alikes:
        A candidate that lacks the op altogether computes another function: its outputs differ at an origin.

    Example:
        The reference returns the hidden state after the norm, the candidate before it; both return the same
        logits.

    Remedy:
        Return, or hook, the same point on both sides.

    How it is verified:
        By replay: the candidate returns the value that corresponds (``read-from``); the outputs must become
        equal bit for bit. The verdict is incomparable.

    References:
        huggingface/transformers, LlamaModel.forward (the norm before the last hidden state is kept).
    """

    code = "NC001"
    name = "not-counterparts"
    says = "two outputs are not the same point of the computation"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per returned value that corresponds to another one."""
        ours, theirs = case.reference.calls, case.candidate.calls
        partner, back = case.partners
        alike = _alike(case)
        for pair in case.alignment.pairs:
            returned = ours[pair.reference], theirs[pair.candidate]
            if returned[0].kind != "return":
                continue
            for er, ec in matched(*returned, "reads"):
                found = partner.get(er.producer, -1)
                if min(er.producer, ec.producer, found) < 0 or same(er, ec):
                    continue
                if found == ec.producer:
                    yield from self._part(er, ec, _written(ours[er.producer], er, theirs[found])) if alike else ()
                    continue
                if ec.producer not in back or er.spec.numel != ec.spec.numel:
                    continue  # only one run computes it: then a step is left out
                written = _written(ours[er.producer], er, theirs[found])
                if written is None or _holds(theirs[found], ec) or _holds(ours[back[ec.producer]], er):
                    continue  # it returns the counterpart's memory, and another op wrote there since: IN005
                between = _between(case.candidate, ec.producer, found, anywhere=alike)
                if between:
                    yield self._cause(er, ec, written, between, found > ec.producer)
        if all(comparison.status == "agrees" for _, comparison in case.localization.outputs):
            yield from self._padding(case)

    def _padding(self, case: Case) -> Iterator[Cause]:
        """Rows that hold padding, where nothing else differs: what the runs were given there is nobody's answer."""
        given = [{one.slot: one.payload for one in trace.outputs or ()} for trace in case.traces]
        for slot, rows in case.localization.rows.items():
            ours, theirs = (outputs.get(slot) for outputs in given)
            if rows.asked or ours is None or theirs is None or ours.bits.shape != theirs.bits.shape:
                continue
            apart = (ours.bits != theirs.bits).reshape(*rows.keep.shape, -1).any(-1)
            if not apart.any() or (apart & rows.keep).any():
                continue
            evidence = Evidence(
                f"{rows}: {int(apart.sum())} of them differ, and every other row is bit-equal",
                {"slot": str(slot), "rows": np.argwhere(apart).tolist()[:64], "padding": rows.left_out},
            )
            yield self.cause(
                site=str(slot),
                verdict=Verdict.INCOMPARABLE,
                evidence=(evidence,),
                remedy=Remedy("Compare the rows that hold data: name them (`rows=`, the attention mask for instance)."),
                status="located",
                reason="what the rows that nobody reads were given differs, and no experiment is needed to leave them out",
                says=f"only rows of {slot} that hold padding differ",
            )

    def _part(self, er: Event, ec: Event, written: Event | None) -> Iterator[Cause]:
        """Another part of the same value."""
        looks = [(one.spec.shape, one.spec.strides, one.spec.offset) for one in (er, ec)]
        if written is None or looks[0] == looks[1]:
            return
        evidence = Evidence(
            f"the candidate's {ec.site.slot} is another part of {written.site} than the reference's {er.site.slot}, and both "
            "runs compute the same values",
            {"returned": str(ec.site), "of": str(written.site), "reference_offset": looks[0][2], "offset": looks[1][2]},
        )
        yield self.cause(
            site=str(ec.site),
            verdict=Verdict.INCOMPARABLE,
            evidence=(evidence,),
            remedy=Remedy(
                "Compare the same part of the value: return (or cut out) the same elements on both sides.",
                undoes="either",
            ),
            interventions=(Intervention("read-from", str(ec.site), (str(written.site), *looks[0])),),
        )

    def _cause(self, er: Event, ec: Event, written: Event, between: list[Call], later: bool) -> Cause:
        look = () if written.spec == er.spec else (er.spec.shape, er.spec.strides, er.spec.offset)
        where = between[0].site.scope or between[0].site.op
        word = "before" if later else "after"
        equal = same(er, written)
        evidence = Evidence(
            f"the candidate's {ec.site.slot} is its value {word} {where}; its value on the other side of it, "
            f"{written.site}, is the reference's {er.site.slot}" + (" bit for bit" if equal else ""),
            {
                "returned": str(ec.site),
                "counterpart": str(written.site),
                "equal": equal,
                "ops_between": [call.site.op for call in between],
            },
        )
        return self.cause(
            site=str(ec.site),
            verdict=Verdict.INCOMPARABLE,
            evidence=(evidence,),
            remedy=Remedy(
                f"Compare the same point of the computation: return (or hook) the value "
                f"{'after' if later else 'before'} {where} on both sides.",
                undoes="either",
            ),
            interventions=(
                Intervention("read-from", str(ec.site), (str(written.site), *look) if look else str(written.site)),
            ),
        )

    def example(self) -> tuple[Any, Any]:
        """A hidden state after the final norm against the one before it."""
        import torch

        torch.manual_seed(0)
        body, norm, head = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4)
        x = torch.randn(4, 8)

        def run(after: bool) -> Any:
            hidden = torch.tanh(body(x))
            normed = norm(hidden)
            return (normed if after else hidden), head(normed)

        return lambda: run(True), lambda: run(False)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Only one of the runs computes the step between both values: it is left out, or added."""
        import torch

        torch.manual_seed(0)
        body, x = torch.nn.Linear(8, 8), torch.randn(4, 8)
        yield (lambda: body(x)), (lambda: torch.softmax(body(x), -1))
        yield (lambda: body(x)), (lambda: x + body(x))
        yield (lambda: torch.tanh(body(x))), (lambda: body(x))


def _alike(case: Case) -> bool:
    """Whether both runs compute the same values throughout."""
    ours, theirs = case.reference.calls, case.candidate.calls
    paired = [(ours[pair.reference], theirs[pair.candidate]) for pair in case.alignment.pairs]
    computed = [pair for pair in paired if pair[0].kind == "compute"]
    lone = [*case.alignment.unpaired_reference, *case.alignment.unpaired_candidate]
    return not lone and all(same(er, ec) is not False for pair in computed for er, ec in matched(*pair, "writes"))


def _written(reference: Call, read: Event, candidate: Call) -> Event | None:
    """What the paired call wrote in the place of the value that the reference returns, perhaps as a view of it or of a part."""
    for ours, theirs in zip(reference.writes, candidate.writes, strict=False):
        inside = ours.spec.numel >= read.spec.numel and ours.spec.dtype == read.spec.dtype
        if ours.storage == read.storage and inside and ours.spec == theirs.spec and same(ours, theirs) is not False:
            return theirs
    return None


def _holds(call: Call, read: Event) -> bool:
    """Whether a read looks at the memory that a call wrote."""
    return any(event.storage == read.storage for event in call.writes)


def _between(trace: Trace, one: int, other: int, *, anywhere: bool) -> list[Call]:
    """The ops on the way between two values: a single op or all within one module, unless ``anywhere``; else empty."""
    first, last = sorted((one, other))
    if last - first > _FAR * 4 and not anywhere:
        return []
    reached, path = {first}, []
    for call in trace.calls[first + 1 : last + 1]:
        if any(event.producer in reached for event in call.reads):
            reached.add(call.index)
            if call.kind == "compute":
                path.append(call)
    if last not in reached or not path:
        return []
    if anywhere:
        return path
    scopes = {call.site.scope for call in path}
    one_module = len(scopes) == 1 and path[0].site.scope != trace.calls[first].site.scope
    return path if len(path) == 1 or (one_module and len(path) <= _FAR) else []


REGISTER = NotCounterparts()
