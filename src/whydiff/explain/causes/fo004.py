"""FO004 layout-permuted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.explain.causes._explained import Array, Finding, PlaceRule, View, distance
from whydiff.explain.causes._looks import one_value, places
from whydiff.explain.interventions import whole_of
from whydiff.numbers.rearrangement import Rearrangement, candidates
from whydiff.numbers.tolerance import SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.pair.lockstep import matched
from whydiff.records import Event, Evidence, Intervention, Remedy, Trace, Verdict

_MOST = 1 << 24
_FEW = 64


class LayoutPermuted(PlaceRule):
    """Both sides have the same numbers in another order.

    What it detects:
        An op that reads the same memory as its counterpart in another order, or a result whose elements are
        the other side's, rearranged: heads and head width exchanged, fused query, key and value split
        differently, a weight that one side transposes, rotary pairs taken as neighbours by one side and as
        halves by the other.

    Why it happens:
        A ``view`` accepts every shape with the right number of elements, so a reshape that splits ``(h d)`` as
        ``(d h)`` raises nothing; checkpoints store projections in either layout; two rotary conventions exist
        and both are called RoPE.

    Evidence required:
        A rearrangement (axes permuted, or one axis split into two or three factors that change places) that
        turns one side's elements into the other's exactly, for every element; it is printed in einops
        notation.

    Look-alikes:
        ST001 if the stored weights differ. A rearrangement that leaves the numbers where they were (a copy to
        contiguous memory) is no difference. OR001: the same values read with other strides, summed in another
        order.

    Example:
        A projection whose last axis is split into heads and head width in the wrong order.

    Remedy:
        Split and join the axis in the same order on both sides; the pattern says which.

    How it is verified:
        By replay: the inverse rearrangement is applied to what the candidate reads or writes there
        (``permute``), or, where another op takes both orders in, the reference's op takes its place
        (``replace-op``); the outputs must become equal bit for bit.

    References:
        Rogozhnikov, Einops, ICLR 2022; Su et al., RoFormer, arXiv:2104.09864 (pairs); huggingface/transformers,
        convert_llama_weights_to_hf.py (permute).
    """

    code = "FO004"
    name = "layout-permuted"
    says = "the candidate has the same numbers in another order"
    yields_to = ("IN", "FO005", "TR001")

    def explain(self, view: View) -> Finding | None:
        """The rearrangement between both sides' reads or results."""
        if view.origin.kind == "layout":
            return self._read(view)
        if view.one_function:
            return None
        return self._written(view) or self._of_halves(view)

    def _read(self, view: View) -> Finding | None:
        if view.single is None:
            return None
        interventions: list[Intervention] = []
        patterns: list[Rearrangement] = []
        for er, ec in matched(*view.single, "reads"):
            found = of_looks(view.case.reference, er, view.case.candidate, ec)
            if found is not None:
                patterns.append(found)
                interventions.append(Intervention("permute", str(ec.site), str(found.inverse)))
        return self._finding(patterns[0], "reads", _possible(view, *interventions)) if patterns else None

    def _written(self, view: View) -> Finding | None:
        ours, theirs = view.outputs
        if ours.shape != theirs.shape or ours.size > _MOST:
            return None
        found = of_values(ours, theirs)
        if found is None:
            return self._as_made(view)
        event = view.seen.results[1]
        call = view.case.candidate.calls[event.producer if view.origin.kind == "region" else view.origin.calls[1]]
        written = next((e for e in call.writes if e.storage == event.storage and e.spec.shape == ours.shape), None)
        own = event.producer >= 0 and view.seen.calls[1] and written is not None
        interventions = view.replace_op()
        if own and written is not None:
            interventions = _possible(view, Intervention("permute", str(written.site), str(found.inverse)))
        return self._finding(found, "results", interventions)

    def explain_joint(self, view: View) -> Finding | None:
        """A rearranged result; or one function of elements in another order, as two rotary conventions compute it."""
        if view.one_function or view.exact[0].shape != view.exact[1].shape or view.exact[0].size > _MOST:
            return None
        found = of_values(*view.outputs)
        if found is not None:
            return self._finding(found, "results", view.replace_op())
        made = self._as_made(view)
        if made is not None:
            return made
        for whole, x in _wholes(view):
            for pattern in candidates(x.shape):
                if len(pattern.factors) != x.ndim + 1 or pattern.groups[-1] != 2 or 2 not in pattern.factors[-2:]:
                    continue  # pairs along the last axis, as neighbours or as halves
                other = _in_order(view, whole, x, pattern)
                if other is not None and distance(view.exact[1], other) <= SAME_FUNCTION * UNIT_ROUNDOFF["float32"]:
                    return self._finding(pattern, "ops take the elements in another order than", view.replace_op())
        return None

    def _as_made(self, view: View) -> Finding | None:
        """The result's elements, rearranged as the tensors are laid out that were made (heads not put back)."""
        ours, theirs = (side.reshape(-1) for side in view.outputs)
        shapes = []
        for side, trace in enumerate(view.case.traces):
            made = view.seen.results[side].producer
            calls = [*view.seen.calls[side], *([trace.calls[made]] if made >= 0 else [])]
            events = [event for call in calls for event in (*call.reads, *call.writes)]
            shapes.append(sorted({e.spec.shape for e in events if e.spec.numel == ours.size}))
        if not _same_numbers(ours, theirs):
            return None
        for one, other in itertools.product(*shapes):
            for pattern in candidates(one, other):
                if np.array_equal(ours[pattern.indices()], theirs) and _tells(pattern, ours):
                    return self._finding(pattern, "results", view.replace_op())
        return None

    def _of_halves(self, view: View) -> Finding | None:
        """A join of parts that either side takes in another order: its result, as if its reads were in order."""
        if any(e.spec.dtype != view.seen.results[0].spec.dtype for e in view.seen.results):
            return None
        sides = [[e for e in events if e.storage >= 0] for events in view.seen.reads]
        for er in sides[0]:
            for ec in sides[1]:
                if one_value(view.case, er, ec) and er.spec.shape == ec.spec.shape:
                    found = of_looks(view.case.reference, er, view.case.candidate, ec)
                    if found is not None:
                        return self._finding(found, "reads", view.replace_op())
        return None

    def _finding(self, found: Rearrangement, what: str, interventions: tuple[Intervention, ...]) -> Finding:
        text = spoken(found)
        evidence = Evidence(
            f"the candidate's {what} {'' if what.endswith('than') else 'are '}the reference's, rearranged: {text}",
            {"pattern": text, "exactly": str(found), "elements": int(np.prod(found.factors))},
        )
        key = tuple(sorted((moved(found), moved(found.inverse))))  # a result is undone by its reads' inverse
        return Finding(self.code, key, Verdict.SEMANTIC, (evidence,), interventions, {"pattern": text})

    def remedy(self, finding: Finding) -> Remedy:
        """Split and join in one order."""
        return Remedy(
            "Split and join the axis in the same order on both sides: the candidate's tensor is "
            f"rearrange(reference's, {finding.facts['pattern']!r}).",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """Heads and head width exchanged when a projection is split."""
        import torch

        torch.manual_seed(0)
        linear = torch.nn.Linear(16, 16)
        x = torch.randn(2, 5, 16)

        def run(swapped: bool) -> Any:
            split = linear(x).view(2, 5, 4, 4)
            heads = (split.transpose(2, 3) if swapped else split).transpose(1, 2)
            return torch.tanh(heads @ heads.mT)

        return lambda: run(False), lambda: run(True)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Masks of the other triangle, which are each other's transposition: other ops make them."""
        import torch

        torch.manual_seed(0)
        scores, values = torch.randn(6, 6), torch.randn(6, 4)

        def multiplied(upper: bool) -> Any:
            mask = torch.ones(6, 6)
            return (scores * (mask.triu() if upper else mask.tril())) @ values

        def added(upper: bool) -> Any:
            mask = torch.full((6, 6), -1e4)
            return torch.softmax(scores + (mask.tril(-1) if upper else mask.triu(1)), -1) @ values

        yield (lambda: multiplied(False)), (lambda: multiplied(True))
        yield (lambda: added(False)), (lambda: added(True))


def _possible(view: View, *interventions: Intervention) -> tuple[Intervention, ...]:
    """The interventions, or the reference's op in the candidate's place where they cannot be carried out.

    Nor where the order may have been made of numbers that left the program, which are then why.
    """
    able = view.same_numbers_left and view.case.experiments.replays(interventions)
    return interventions if able else view.replace_op()


def _wholes(view: View) -> Iterator[tuple[int, Array]]:
    """Floating reads of the reference's ops that have as many elements as the result: (position, values)."""
    operation = view.seen.operations[0]
    for i, read in enumerate(operation.reads):
        if read.dtype == np.float64 and read.size == view.exact[0].size and read.shape[-1:] == view.exact[0].shape[-1:]:
            yield i, read


def _in_order(view: View, whole: int, x: Array, pattern: Rearrangement) -> Array | None:
    """The reference's result if its input's elements stood in another order, put back into the old one."""
    events, operation = view.seen.reads[0], view.seen.operations[0]
    base = places(events[whole])
    order = np.argsort(base)
    moved = x.reshape(-1)[pattern.indices()]
    reads = list(operation.reads)
    for i, event in enumerate(events):
        if (event.storage, event.producer) != (events[whole].storage, events[whole].producer):
            continue
        at = places(event)
        found = order[np.searchsorted(base[order], at).clip(max=base.size - 1)]
        if not np.array_equal(base[found], at):
            return None
        reads[i] = moved[found].reshape(reads[i].shape)
    made = operation.run(reads, operation.arguments)
    back = np.empty_like(made).reshape(-1)
    back[pattern.indices()] = made.reshape(-1)
    return back.reshape(made.shape)


def of_looks(reference: Trace, er: Event, candidate: Trace, ec: Event) -> Rearrangement | None:
    """The order in which the candidate looks at memory that the reference looks at: its look = ours, rearranged."""
    whole, other = whole_of(reference, er), whole_of(candidate, ec)
    if whole is None or other is None or whole.shape != other.shape or whole.numel > _MOST:
        return None
    if er.spec.shape != ec.spec.shape or er.spec.numel > _MOST:
        return None
    ours, theirs = places(er) - whole.offset, places(ec) - other.offset
    if (
        not np.ptp(theirs - ours)  # the same elements, or the same look at another part (FO006)
        or min(ours.min(), theirs.min()) < 0
        or max(ours.max(), theirs.max()) >= whole.numel
    ):
        return None
    few = np.unique(np.linspace(0, ours.size - 1, _FEW).astype(np.int64))
    for pattern in candidates(whole.shape):
        if np.array_equal(pattern.at(ours[few]), theirs[few]) and np.array_equal(pattern.at(ours), theirs):
            return pattern
    return None


def of_values(ours: Array, theirs: Array) -> Rearrangement | None:
    """The rearrangement that turns one tensor into another of the same shape, bit for bit."""
    one, other = ours.reshape(-1), theirs.reshape(-1)
    if not _same_numbers(one, other):
        return None
    few = np.unique(np.linspace(0, one.size - 1, _FEW).astype(np.int64))
    for pattern in candidates(ours.shape):
        alike = np.array_equal(one[pattern.at(few)], other[few]) and np.array_equal(one[pattern.indices()], other)
        if alike and _tells(pattern, one):
            return pattern
    return None


def _same_numbers(ours: Array, theirs: Array) -> bool:
    """Whether both hold the same numbers in another order."""
    return ours.size >= 4 and not np.array_equal(ours, theirs) and np.array_equal(np.sort(ours), np.sort(theirs))


def _tells(pattern: Rearrangement, numbers: Array) -> bool:
    """Whether there are more different numbers than an axis is long that changes places: a mask's say nothing."""
    return np.unique(numbers).size > max(pattern.factors)


def spoken(found: Rearrangement) -> str:
    """The pattern with axes that nothing happens to drawn together, so that every layer says the same."""
    keep = 0
    while keep < len(found.groups) and found.groups[keep] == found.after[keep] == 1 and found.order[keep] == keep:
        keep += 1
    if keep < 1:
        return str(found)
    rest = Rearrangement(
        found.factors[keep:], found.groups[keep:], tuple(i - keep for i in found.order[keep:]), found.after[keep:]
    )
    pattern, *sizes = str(rest).split(", ")
    left, right = pattern.split(" -> ")
    return ", ".join([f"... {left} -> ... {right}", *sizes])


def moved(found: Rearrangement) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The factors that change places and their order, without what comes before them: the same for every tensor."""
    keep = 0
    while keep < len(found.order) - 1 and found.order[keep] == keep:
        keep += 1
    return found.factors[keep:], tuple(i - keep for i in found.order[keep:])


REGISTER = LayoutPermuted()
