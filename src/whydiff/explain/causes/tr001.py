"""TR001 loss-normalisation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of, consumers
from whydiff.explain.causes._ragged import Ragged, ragged, rows_means
from whydiff.explain.causes._uneven import Uneven, uneven, upstream
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Cause, Evidence, Intervention, Remedy, TensorSpec, Trace, Verdict

_MEANS = "the {}'s loss is a mean of rows' means, the other's one mean over all that counts"
_UPSTREAM = 16
_UNITS = 16


class LossNormalisation(CauseRule):
    """A loss is divided by another count on the two sides.

    What it detects:
        A single number (a loss) that is the other side's times a ratio of counts of the same run: tokens,
        labels that are not ignored, sequences, accumulation steps. A loss that is the plain mean of micro-batches' means
        which count unequally many rows or labels, or of rows' means under a mask, where the other side takes one mean over all.

    Why it happens:
        The mean is taken over sequences, over micro-batches or over all positions where it should be over
        the labelled tokens; a loss is summed on one side; gradients are accumulated without dividing, or
        divided twice.

    Evidence required:
        At an origin both sides write one number; their ratio equals the quotient of two counts (sizes that
        the run's tensors have, products of two of them, the labels that are not negative, or what a mask keeps) to within
        float32 rounding, and the number is returned or differentiated. A mean of means: both sides' losses, weighted by
        the labels that each counts, have one mean over as many labels; one side returns it, the other the plain mean.

    Look-alikes:
        FO003 for a constant ratio between tensors. Micro-batches of equally many labels: then both means are one.

    Example:
        The summed loss divided by sequences against by tokens.

    Remedy:
        Divide by one count on both sides: usually all labelled tokens of the whole step.

    How it is verified:
        By replay: the candidate's op gets the reference's argument (``set-argument``) if that is the count by which it
        divides, or says how it reduces; the outputs must become equal bit for bit, and the reference's the
        candidate's. Else the reference's op works on the candidate's inputs (``replace-op``), which only locates. The loss of
        every micro-batch, and the gradients that begin from it, are multiplied by its count over the mean count (``scale``).

    References:
        huggingface/transformers pull request 34191 (gradient accumulation, ``num_items_in_batch``).
    """

    code = "TR001"
    name = "loss-normalisation"
    says = "the loss is divided by another count"
    yields_to = ("IN002", "FO005")

    def explain_joint(self, view: View) -> Finding | None:
        """A mean of rows' means against one mean, whose ops are partly paired."""
        return self._of_rows(view)

    def _of_rows(self, view: View) -> Finding | None:
        found = rows_means(view)
        if found is None or not _is_final(view):
            return None
        counted = ", ".join(f"{count:g}" for count in found.counts)
        evidence = Evidence(
            f"the {found.side}'s number is the plain mean of {len(found.counts)} rows' means, which count {counted} "
            f"entries; the other's is one mean over all {sum(found.counts):g}",
            {"side": found.side, "counts": list(found.counts)},
        )
        key = (found.side, "rows")
        return Finding(self.code, key, Verdict.SEMANTIC, (evidence,), view.replace_op(), says=_MEANS.format(found.side))

    def explain(self, view: View) -> Finding | None:
        """A ratio of counts between two numbers, or a mean of rows' means."""
        return self._of_counts(view) or self._of_rows(view)

    def _of_counts(self, view: View) -> Finding | None:
        ours, theirs = (side.reshape(-1) for side in view.outputs)
        if ours.size != 1 or theirs.size != 1 or view.one_function or not _is_final(view):
            return None
        if any(payload.dtype not in UNIT_ROUNDOFF for payload in view.seen.outputs) or not ours[0]:
            return None
        ratio = float(theirs[0] / ours[0])
        if _multiplies(view):
            return None
        unit = max(UNIT_ROUNDOFF[payload.dtype] for payload in view.seen.outputs)
        counts = _counts(view)
        named = _quotient(ratio, counts, _UNITS * unit, _given(view)) or _by_entries(view, counts)
        if named is None:
            return None
        (over, above), (under, below) = named
        evidence = Evidence(
            f"the candidate's number is the reference's times {ratio:.9g} = {over} / {under}: {above} / {below}",
            {"ratio": ratio, "numerator": over, "denominator": under},
        )
        away, put = _steps(view, counts, math.copysign(over / under, ratio))
        return Finding(self.code, "counts", Verdict.SEMANTIC, (evidence,), away, put_in=put)

    def detect(self, case: Case) -> Iterator[Cause]:
        """A mean of unequal parts' means, then one cause of all other counts, whichever they are in a step."""
        parts, means = uneven(case), ragged(case)
        if parts is not None:
            yield self._of_parts(parts)
        elif means is not None:
            yield self._of_means(means)
        yield from causes_of(
            case,
            self,
            lambda finding: Remedy(
                "Divide the summed loss by one count on both sides: all labelled tokens of the whole step.",
                "total = F.cross_entropy(logits, labels, reduction='sum')\nloss = total / (labels != -100).sum()\n",
            ),
        )

    def _of_parts(self, parts: Uneven) -> Cause:
        counted = ", ".join(f"{count:g}" for count in parts.counts)
        evidence = Evidence(
            f"the {parts.side}'s losses are the other side's times the mean count over the part's own: its parts count "
            f"{counted} ({parts.counted})",
            {"side": parts.side, "counts": list(parts.counts)},
        )
        return self.cause(
            site=parts.site,
            verdict=Verdict.SEMANTIC,
            evidence=(evidence,),
            remedy=_whole_step(undoes="either"),
            interventions=parts.interventions,
            put_in=parts.put_in,
            says=f"the {parts.side}'s loss is a mean of parts' means, which count {counted}; the other's is one mean over all",
        )

    def _of_means(self, parts: Ragged) -> Cause:
        counted = ", ".join(map(str, parts.counts))
        evidence = Evidence(
            f"the {parts.side}'s loss, {parts.of_means:.9g}, is the plain mean of {len(parts.counts)} means, which count "
            f"{counted} labels; over all {sum(parts.counts)} labels both sides' losses have one mean, {parts.mean:.9g}, "
            "which is what the other side gives",
            {"side": parts.side, "counts": list(parts.counts), "mean": parts.mean, "mean_of_means": parts.of_means},
        )
        return self.cause(
            site=parts.site,
            verdict=Verdict.SEMANTIC,
            evidence=(evidence,),
            remedy=_whole_step(),
            reason="the arithmetic of both runs' losses says so; no experiment does: no step of the run weighs the parts",
        )

    def example(self) -> tuple[Any, Any]:
        """A loss by tokens and by sequences."""
        import torch

        torch.manual_seed(0)
        logits, labels = torch.randn(3, 5, 11), torch.arange(15).reshape(3, 5) % 11

        def run(count: int) -> Any:
            summed = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            return summed / count

        return lambda: run(15), lambda: run(3)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A weight of the loss that happens to be a ratio of sizes: 2 of a batch of two, 3/10 at 3 and 10."""
        import torch

        torch.manual_seed(0)

        def weighted(rows: int, classes: int, weight: float) -> Any:
            logits, labels = torch.randn(rows, classes), torch.arange(rows) % classes

            def run(factor: float) -> Any:
                return torch.nn.functional.cross_entropy(logits, labels) * factor

            return lambda: run(1.0), lambda: run(weight)

        yield weighted(2, 7, 2.0)
        yield weighted(3, 10, 0.3)


def _whole_step(**known: Any) -> Remedy:
    return Remedy(
        "Divide the summed loss of every part by the labels of the whole step, not by its own.",
        "total = F.cross_entropy(logits, labels, reduction='sum')\nloss = total / labels_of_the_step\n",
        **known,
    )


def _steps(
    view: View, counts: dict[int, str], ratio: float
) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
    """What takes it away, and what puts it in (nothing: the mirror).

    The reference's argument, if it says by what is divided; a factor that happens to be a ratio of counts does not. Where
    one side reads a count as a tensor, or Python was given other numbers before, the result is multiplied by the ratio.
    """
    roles = view.seen.operations[0].roles
    given = _given(view)
    divides = Role.ROOT in roles and len(given) > 1 and given <= {*map(float, (*counts, *_entries(view)))}
    argument = view.give_argument() if divides or Role.ELEMENTWISE not in roles else ()
    if not argument and (divides or _reads_a_count(view)):
        return _multiplied(view, ratio)
    return argument or view.replace_op(), ()


def _multiplied(view: View, ratio: float) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
    """The candidate's result divided by the ratio, the reference's multiplied by it; of no two ops alike the op is replaced."""
    ours, theirs = view.seen.results
    if view.single is None or min(ours.producer, theirs.producer) < 0:
        return view.replace_op(), ()
    away, put = (Intervention("scale", str(theirs.site), 1 / ratio), Intervention("scale", str(ours.site), ratio))
    return (away,), (put,)


def _reads_a_count(view: View) -> bool:
    """Whether both sides divide, and one of them by a whole number that is in a tensor."""
    operations = view.seen.operations
    if not all(Role.DIVIDES in operation.roles for operation in operations):
        return False
    read = [
        values.size == 1 and dtype.startswith("int")
        for operation in operations
        for values, dtype in zip(operation.reads, operation.dtypes, strict=True)
    ]
    return any(read)


def _entries(view: View) -> dict[int, str]:
    """Whole numbers that the ops divide by and that are no more than the entries of what was labelled → of what."""
    if not all(Role.DIVIDES in operation.roles for operation in view.seen.operations):
        return {}
    most: tuple[int, str] = (0, "")
    for side, trace in enumerate(view.case.traces):
        nearest = upstream(trace, view.seen.calls[side] or [trace.calls[view.origin.calls[side]]], _UPSTREAM)
        for event in (event for call in nearest for event in call.reads):
            if event.spec.dtype.startswith("int") and event.spec.numel > max(1, most[0]):
                most = event.spec.numel, f"some of the {event.spec.numel} entries of {event.spec} at {event.site}"
    return {int(value): most[1] for value in _given(view) if value <= most[0]}


def _by_entries(view: View, counts: dict[int, str]) -> tuple[tuple[int, str], tuple[int, str]] | None:
    """The two whole numbers that the ops divide by, of which one is a count and the other may be one of its entries."""
    given, some = _given(view), _entries(view)
    if len(given) != 2 or not given <= {*map(float, some)} or not given & {*map(float, counts)}:
        return None
    told = {int(value): counts.get(int(value), some[int(value)]) for value in given}
    under, over = view.changed_arguments[0][1:]
    return (int(under), told[int(under)]), (int(over), told[int(over)])


def _multiplies(view: View) -> bool:
    """Whether both sides multiply by whole numbers that they were given, or one by a number: a factor, for a count divides."""
    roles = for_framework(view.case.reference.framework).roles
    if view.step:
        return all(Role.TIMES in roles(call.site.op) for call in view.step)
    if not view.changed_arguments or not _given(view):
        return False
    return all(Role.TIMES in operation.roles for operation in view.seen.operations)


def _is_final(view: View) -> bool:
    """Whether the number is returned, or a backward pass begins from it."""
    for side, trace in enumerate(view.case.traces):
        call = trace.calls[view.origin.calls[side]]
        if call.kind == "return":
            return True
        if any(c.kind == "return" or c.site.phase == "backward" for c in consumers(view.case, side, call, 4)):
            return True
    return False


def _given(view: View) -> set[float]:
    """Numbers that the two ops were given: the likeliest counts."""
    numbers = {float(v) for _, *both in view.changed_arguments for v in both if isinstance(v, (int, float))}
    return {v for v in numbers if v >= 1 and v == round(v)}


def _counts(view: View) -> dict[int, str]:
    """Count → where it comes from: sizes upstream of the number, products of two, labels that count."""
    found: dict[int, str] = {1: "one"}
    for operation in view.seen.operations:
        for values, dtype in zip(operation.reads, operation.dtypes, strict=True):
            if dtype == "bool" and values.size > 1:
                found.setdefault(int(np.count_nonzero(values)), "entries of a mask that are kept")
            elif dtype.startswith("int") and values.size > 1:
                found.setdefault(int(np.count_nonzero(values >= 0)), "labels that are not negative")
            elif dtype.startswith("int") and values.size == 1:
                found.setdefault(int(values.reshape(-1)[0]), "a count that it reads")
    for side, trace in enumerate(view.case.traces):
        nearest = upstream(trace, view.seen.calls[side] or [trace.calls[view.origin.calls[side]]], _UPSTREAM)
        for spec, where in _looks(trace, nearest):
            sizes = [size for size in spec.shape if size > 1]
            for size in sizes:
                found.setdefault(size, f"a size of {spec} at {where}")
            for a, b in itertools.pairwise(sizes):
                found.setdefault(a * b, f"two sizes of {spec} at {where}")
    return found


def _looks(trace: Trace, calls: Sequence[Call]) -> Iterator[tuple[TensorSpec, str]]:
    """Every shape in which what the calls read and write is looked at, views and leaves included."""
    events = [event for call in calls for event in (*call.reads, *call.writes)]
    storages = {event.storage for event in events if event.storage >= 0}
    yield from ((event.spec, str(event.site)) for event in events)
    yield from ((leaf.spec, leaf.name) for leaf in trace.leaves if leaf.storage in storages)
    for call in trace.calls:
        if call.kind == "view":
            yield from ((e.spec, str(e.site)) for e in (*call.reads, *call.writes) if e.storage in storages)


def _quotient(
    ratio: float, counts: dict[int, str], within: float, given: set[float]
) -> tuple[tuple[int, str], tuple[int, str]] | None:
    """The two counts whose quotient the ratio is; those that the ops were given come first, then small ones."""
    fits = [(a, b) for a, b in itertools.permutations(counts, 2) if math.isclose(abs(ratio), a / b, rel_tol=within)]
    if not fits:
        return None
    over, under = min(fits, key=lambda pair: (-len(given & {*map(float, pair)}), min(pair), sum(pair)))
    return (over, counts[over]), (under, counts[under])


REGISTER = LossNormalisation()
