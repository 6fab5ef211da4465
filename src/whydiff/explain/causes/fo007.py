"""FO007 step-left-out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._elsewhere import at_another_place, by_another_op
from whydiff.explain.causes._explained import Array, Finding, View, causes_of, distance, out_of_range
from whydiff.explain.causes._state import converts_other_state
from whydiff.explain.causes._switched import causes_of_switches
from whydiff.explain.keys import draws
from whydiff.numbers.tolerance import SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.records import Call, Cause, Evidence, Remedy, Trace, Verdict
from whydiff.records.hole import OUTSIDE
from whydiff.report.words import listed

_OUTSIDE = "{} of the {} is written outside torch here (by numpy or a library), the other's is not"
_LEVEL = SAME_FUNCTION * UNIT_ROUNDOFF["float32"]


class StepLeftOut(CauseRule):
    """One side carries out ops that the other side does not have at all.

    What it detects:
        A value that is changed by one or more ops on one side and taken as it is on the other: the chosen
        experts' weights are not made to sum to one, a norm, a bias, a residual, a soft cap, a rotation or a
        pooling is missing (or was added).

    Why it happens:
        Steps without parameters leave no trace in a checkpoint, so that a port which forgets one loads without
        a complaint; settings such as ``norm_topk_prob`` or ``logit_softcapping`` are not read.

    Evidence required:
        Between agreeing inputs and a value, one side has ops and the other has none; carried out in float64,
        where rounding plays no part, the two values differ. What the ops do is measured and named if it is a
        division of every row by its sum, norm or root mean square, a standardisation, an addition of one vector or
        of another value of the run, or c·tanh(x / c).

    Look-alikes:
        FO008 if the other side carries the step out at another place, or another op in its stead; FO003 if the ops
        multiply by one constant; FO001 if they are a known activation; IN003 if they hide keys
        from a softmax; MD001 and MD002 if they draw random numbers. Where a setting switches them off, both
        are said: the step, and the setting.

    Example:
        The probabilities of the chosen experts are not divided by their sum.

    Remedy:
        Carry the step out on both sides, or on neither.

    How it is verified:
        By replay: the reference's ops, or its value without them, take the place on the candidate's inputs
        (``replace-op``); the outputs must become equal bit for bit. A setting that switches the step off is set
        back (``set-scalar``).

    References:
        Jiang et al., Mixtral of Experts, arXiv:2401.04088, section 2.1 (a softmax over the chosen logits); Gemma
        Team, Gemma 2, arXiv:2408.00118, section 2 (soft capping).
    """

    code = "FO007"
    name = "step-left-out"
    says = "the {side} carries out {ops}, the {other} does not"
    general = True
    yields_to = ("FO006",)

    def explain(self, view: View) -> Finding | None:
        """Ops on one side only."""
        counts = [len(calls) for calls in view.seen.calls]
        if view.origin.kind != "region" or not max(counts):
            return None
        if min(counts):
            return self._term(view)
        side = int(counts[1] > 0)
        calls = view.seen.calls[side]
        trace = view.case.traces[side]
        if any(draws(trace, call) for call in calls) or not (view.other_function or _keeps_in_range(view, calls)):
            return None
        if at_another_place(view) or by_another_op(view):
            return None
        if converts_other_state(view.case, side, calls):  # the tensor's values are the difference, not the step
            return None
        name, other = ("candidate", "reference") if side else ("reference", "candidate")
        ops = listed(dict.fromkeys(call.site.op for call in view.step))
        outside = all(call.site.op == OUTSIDE for call in calls)
        gathers = not outside and all(_gathers(trace, call) for call in calls)
        scales = view.measures and _scales(view, side)
        known = (
            "adds gradients to those of an earlier backward pass"
            if gathers
            else "scales this by a number that it measures in the run"
            if scales
            else what_it_does(view, side)
        )
        value = (view.origin.candidate_site, view.origin.site)[side]
        evidence = Evidence(
            f"the {name} carries out {ops} before {value.at('')} is taken up, the {other} takes the value as it is"
            + (f": the step {known}" if known else "")
            + (f" (in float64 the values lie {view.apart:.2g} of their size apart)" if np.isfinite(view.apart) else ""),
            {
                "side": name,
                "ops": [str(call.site) for call in view.step],
                "does": known,
                "apart_in_float64": view.apart,
            },
        )
        return Finding(
            self.code,
            (name, ops, known),
            Verdict.SEMANTIC if view.other_function else Verdict.UNSTABLE,
            (evidence,),
            view.exchange_step(),
            {
                "side": name,
                "other": other,
                "ops": ops,
                "does": "" if scales else known,
                "gathers": gathers,
                "outside": outside,
            },
            general=True,
            says=f"the {name} {known}, the {other} does not"
            if gathers or scales
            else _OUTSIDE.format(_memory(trace, calls), name)
            if outside
            else "",
        )

    def _term(self, view: View) -> Finding | None:
        """Ops of both sides, of which one side's add a tensor that it reads, and the other's do not."""
        found = _lone_term(view) if view.other_function else None
        if found is None:
            return None
        side, term = found
        name, other = ("candidate", "reference") if side else ("reference", "candidate")
        does = f"adds {term}"
        evidence = Evidence(
            f"the {name}'s result is the {other}'s with {term} added (in float64 the two lie {view.apart:.2g} of their size "
            "apart)",
            {"side": name, "term": term, "apart_in_float64": view.apart},
        )
        return Finding(
            self.code,
            (name, does),
            Verdict.SEMANTIC,
            (evidence,),
            view.replace_op(),
            {"side": name, "other": other, "term": term},
            general=True,
            says=f"the {name} {does}, the {other} does not",
        )

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side and kind of step, and per setting that switches one off."""
        yield from causes_of(case, self, _remedy)
        yield from causes_of_switches(case, self, "leaves out")

    def example(self) -> tuple[Any, Any]:
        """Experts' weights that do not sum to one."""
        import torch

        torch.manual_seed(0)
        router, experts, x = torch.nn.Linear(8, 6), torch.randn(2, 8), torch.randn(4, 8)

        def run(divided: bool) -> Any:
            chosen = torch.softmax(router(x), -1).topk(2, -1).values
            if divided:
                chosen = chosen / chosen.sum(-1, keepdim=True)
            return chosen @ experts

        return lambda: run(True), lambda: run(False)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """The step's input is not what the other side takes; the step is carried out, at another place or by another op."""
        import torch
        from torch.nn.functional import gelu, layer_norm

        torch.manual_seed(0)
        x, w = torch.randn(4, 8), torch.randn(8, 8)

        def other(taken: bool) -> Any:
            h, g = torch.tanh(x), torch.sigmoid(x @ w)
            return gelu((g if taken else layer_norm(h, (8,))) @ w) + h * g

        def moved(first: bool) -> Any:
            h = torch.tanh(x)
            return layer_norm(h, (8,)) @ w if first else layer_norm(h @ w, (8,))

        def unscaled(first: bool) -> Any:
            h = x @ w
            h = h.div_(8) if first else h
            h = h * (1 / h.norm()).clamp(max=1)
            return (h if first else h.div_(8)) @ w

        def turned(halves: bool) -> Any:
            h, cos, sin = x @ w, torch.arange(4.0).cos(), torch.arange(4.0).sin()
            if halves:
                cos, sin = torch.cat([cos, cos]), torch.cat([sin, sin])
                return (h * cos + torch.cat([-h[:, 4:], h[:, :4]], -1) * sin).tanh()
            cos, sin = cos.repeat_interleave(2), sin.repeat_interleave(2)
            pairs = torch.stack([-h[:, 1::2], h[:, ::2]], -1).flatten(-2)
            return (h * cos + pairs * sin).tanh()

        yield (lambda: other(False)), (lambda: other(True))
        for one in (moved, unscaled, turned):
            yield (lambda one=one: one(True)), (lambda one=one: one(False))
        yield (lambda: x * torch.tensor(6.6332496)), (lambda: x * torch.tensor(6.5, dtype=torch.bfloat16).float())


def _lone_term(view: View) -> tuple[int, str] | None:
    """Which side adds a tensor that it reads, and its name; None: neither does."""
    ours, theirs = view.exact
    if ours.shape != theirs.shape:
        return None
    for side, trace in enumerate(view.case.traces):
        added = (ours - theirs) * (-1 if side else 1)
        for event, read in zip(view.seen.reads[side], view.seen.operations[side].reads, strict=True):
            leaf = next((one for one in trace.leaves if one.storage == event.storage), None)
            fits = read.dtype == np.float64 and 1 < read.size <= added.size and read.shape == added.shape[-read.ndim :]
            if leaf is not None and fits and distance(np.broadcast_to(read, added.shape), added) <= _LEVEL:
                return side, leaf.name
    return None


def _gathers(trace: Trace, call: Call) -> bool:
    """Whether a backward pass writes in place into what an earlier one left: gradients that were not cleared."""
    changed = [call.reads[at].producer for at in call.mutates]
    earlier = [at < 0 or trace.calls[at].site.step != call.site.step for at in changed]
    return call.site.phase == "backward" and bool(earlier) and all(earlier)


def _memory(trace: Trace, calls: Sequence[Call]) -> str:
    """The name of what is written, where all is one leaf's that has one."""
    storages = {event.storage for call in calls for event in call.writes}
    names = [leaf.name for leaf in trace.leaves if leaf.storage in storages and leaf.role != "constant"]
    return names[0] if names and len(storages) == 1 else "memory"


def _keeps_in_range(view: View, calls: Sequence[Call]) -> bool:
    """Whether a step moves numbers, however little, of runs of which one ends in infinity or NaN: a clamp, an epsilon."""
    roles = for_framework(view.case.reference.framework).roles
    casts = all(Role.CAST in roles(call.site.op) for call in calls)
    return not casts and view.apart > 0 and out_of_range(view.case)


def _scales(view: View, side: int) -> bool:
    """Whether the side with ops gives what the other has, times one number."""
    y, x = view.exact[side].reshape(-1), view.exact[1 - side].reshape(-1)
    if x.shape != y.shape or x.size < 2 or not (power := float(x @ x)):
        return False
    return distance(y, float(x @ y) / power * x) <= _LEVEL


def what_it_does(view: View, side: int) -> str:
    """What turns the side without ops into the side with them, in words; empty if it is none of the known steps."""
    y, x = view.exact[side], view.exact[1 - side]
    if x.shape != y.shape or x.ndim == 0 or x.shape[-1] < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return ""
    for text, form in _STEPS:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            made = form(x)
        if np.isfinite(made).all() and distance(y, made) <= _LEVEL:
            return text
    added = y - x
    if x.size > x.shape[-1] and distance(np.broadcast_to(added.reshape(-1, x.shape[-1])[0], x.shape), added) <= _LEVEL:
        return f"adds one vector of {x.shape[-1]} numbers to every row"
    for operation in view.seen.operations:
        for read in operation.reads:
            if read.dtype == np.float64 and read.size == y.size and distance(read.reshape(y.shape), added) <= _LEVEL:
                return "adds another value of the run (a residual)"
    cap = _cap(x.reshape(-1), y.reshape(-1))
    return f"is a soft cap, c tanh(x / c) with c = {cap:.6g}" if cap is not None else ""


def _rows(by: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: np.asarray(x / by(x))


def _standardised(x: Array) -> Array:
    return np.asarray((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True))


_STEPS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("divides every row by its sum", _rows(lambda x: x.sum(-1, keepdims=True))),
    ("divides every row by its Euclidean norm", _rows(lambda x: np.sqrt(np.square(x).sum(-1, keepdims=True)))),
    ("divides every row by its root mean square", _rows(lambda x: np.sqrt(np.square(x).mean(-1, keepdims=True)))),
    ("gives every row the mean 0 and the variance 1", _standardised),
    ("subtracts every row's mean", lambda x: np.asarray(x - x.mean(-1, keepdims=True))),
    ("is a softmax of every row", lambda x: np.asarray(_shifted(x) / _shifted(x).sum(-1, keepdims=True))),
)


def _shifted(x: Array) -> Array:
    return np.asarray(np.exp(x - x.max(-1, keepdims=True)))


def _cap(x: Array, y: Array) -> float | None:
    """The c of y = c tanh(x / c), by bisection on the element that is largest; None if the others do not fit it."""
    at = int(np.argmax(np.abs(x)))
    large, wanted = abs(float(x[at])), abs(float(y[at]))
    if not 0 < wanted < large:
        return None
    low, high = wanted, 1e6 * large
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * np.tanh(large / middle) < wanted else (low, middle)
    return float(f"{low:.9g}") if distance(y, low * np.tanh(x / low)) <= _LEVEL else None


def _remedy(finding: Finding) -> Remedy:
    facts = finding.facts
    if "term" in facts:
        return Remedy(
            f"Add {facts['term']} on both sides or on neither: the {facts['side']} does, the {facts['other']} does not.",
            undoes="either",
        )
    if facts["gathers"]:
        return Remedy(
            "Clear the gradients (optimizer.zero_grad()) before the backward pass on both sides, or gather them on both.",
            undoes="either",
        )
    if facts["outside"]:
        return Remedy(
            "Write this memory on both sides or on neither: look for numpy(), a library that is given the address, or a "
            "buffer shared with them, between the ops around this place.",
            undoes="either",
        )
    what = f" (it {facts['does']})" if facts["does"] else ""
    return Remedy(
        f"Carry out the step{what} on both sides or on neither: the {facts['side']} has {facts['ops']} here, the "
        f"{facts['other']} does not. The right one is what the weights were trained with.",
        undoes="either",
    )


REGISTER = StepLeftOut()
