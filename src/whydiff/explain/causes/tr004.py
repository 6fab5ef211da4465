"""TR004 update-left-out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._left_out import Missing, left_out, owners
from whydiff.explain.sides import SIDES
from whydiff.records import Cause, Evidence, Remedy, Verdict
from whydiff.report.words import listed, ordinal

_SHOWN = 3


class UpdateLeftOut(CauseRule):
    """An update that both sides make again and again is missing on one of them.

    What it detects:
        Ops on one side only that write in place into memory into which both sides write again and again: the weights,
        moments and counts of an optimizer's step, a plain update of weights in a loop, an average that is kept along.

    Why it happens:
        A condition skips a step (of warming up, of gathering gradients, of a number that is not finite), a loop leaves a
        round early, a step is taken twice, or one process takes part and another does not.

    Evidence required:
        Between agreeing inputs and values that are read later one side has ops of its own and the other has none. The
        same ops write into the same memory at other times, on both sides, and the other side never does so on its own.
        Numbers that later ops are given follow from it where they are the same on both sides, counted by updates, or
        where they stand in an optimizer's steps of the same settings, which begin with another count.

    Look-alikes:
        FO007 if the step is no repeated one; FO003 and TR003 if another factor or another learning rate is used and no op
        is missing; TR002 if the optimizer begins with other state. Ops that nothing read later depends on; an update that
        was moved, or is made by other ops.

    Example:
        The third of six updates is skipped.

    Remedy:
        Carry out the update on both sides, or on neither.

    How it is verified:
        By replay, both programs in step: what the update wrote is put into the candidate, or kept out of it, as one
        change (``insert-step``, ``remove-step``), and the numbers that follow are the reference's (``set-argument``); the
        outputs must become equal bit for bit. In the other direction the reference does without it.

    References:
        PyTorch, torch.amp.GradScaler.step (a step is skipped where a gradient is infinite); torch.optim.Adam (bias
        correction by the count of steps).
    """

    code = "TR004"
    name = "update-left-out"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side and kind of update."""
        for found in left_out(case):
            yield _cause(case, found)

    def example(self) -> tuple[Any, Any]:
        """A plain update that is skipped once."""
        return _trained(), _trained(skips=2)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Another factor, and nothing missing; ops that nobody reads beside it; the update in other ops; no gradient."""
        yield _trained(), _trained(factor=0.5)
        yield _trained(looks=True), _trained(factor=0.5)
        yield _trained(), _trained(fused=True, factor=1.5)
        yield _trained(), _trained(cleared=3)


def _cause(case: Case, found: Missing) -> Cause:
    has, lacks = SIDES[found.side], SIDES[1 - found.side]
    ops = listed(dict.fromkeys(call.site.op for call in found.rounds[0]))
    noun, step = ("updates", "the update") if found.renews else (f"calls of {ops}", ops)
    if found.gathered and not found.renews:
        noun, step = f"times that gradients are cleared ({ops})", "optimizer.zero_grad()"
    sites = [str(call.site) for calls in found.rounds for call in calls]
    evidence = [
        Evidence(
            f"the {has} carries out {ops} {found.count} times on the same memory, the {lacks} "
            f"{found.count - len(found.numbers)} times: the {lacks} has none where the {has} has "
            f"{_numbered(found.numbers)}",
            {"side": has, "numbers": list(found.numbers), "count": found.count, "ops": sites},
        )
    ]
    if found.given:
        evidence.append(
            Evidence(
                f"{len(found.given)} numbers that later ops are given follow from it: counted by updates they are the same "
                "on both sides, or they are made of an optimizer's count of steps",
                {"arguments": [item.target for item in found.given]},
            )
        )
    return Cause(
        code=UpdateLeftOut.code,
        name=UpdateLeftOut.name,
        site=str(_place(case, found)),
        verdict=Verdict.SEMANTIC,
        evidence=tuple(evidence),
        remedy=Remedy(
            f"Carry out {step} on both sides, or on neither; look for what "
            + f"skips it in the {lacks}"
            + (f", or repeats it in the {has}" if found.side else ""),
            undoes="" if found.given else "either",
        ),
        interventions=found.interventions,
        says=_says(found, noun + _owned(case, found), lacks) + _at_steps(case, found),
    )


def _place(case: Case, found: Missing) -> Any:
    """The first value that differs for want of it."""
    origin = case.localization.origins[found.origins[0]]
    return origin.place.at("")


def _owned(case: Case, found: Missing) -> str:
    """Whose updates they are, where an optimizer's step makes others too."""
    names = owners(case, found)
    return f" of {listed(names)}" if names else ""


def _at_steps(case: Case, found: Missing) -> str:
    """In which steps they are, as places name them: from 0, where the updates are counted from 1."""
    trace = case.traces[found.side]
    steps = sorted({calls[0].site.step for calls in found.rounds})
    if not any(call.site.step for call in trace.calls):
        return ""
    return f" (step{'' if len(steps) == 1 else 's'} {listed(map(str, steps))}, counted from 0)"


def _says(found: Missing, noun: str, lacks: str) -> str:
    missing = len(found.numbers)
    if missing == 1:
        return f"the {_numbered(found.numbers)} of {found.count} {noun} is missing in the {lacks}"
    return f"{missing} of {found.count} {noun} are missing in the {lacks}: {_numbered(found.numbers)}"


def _numbered(numbers: tuple[int, ...]) -> str:
    """``22nd``; ``the 3rd, 4th, 7th and 5 more``; ``the 21st to the 40th``."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return ordinal(first)
    if len(numbers) > 2 and last - first + 1 == len(numbers):
        return f"the {ordinal(first)} to the {ordinal(last)}"
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"the {', '.join(map(ordinal, numbers[:_SHOWN]))}{more}"


def _trained(
    *, skips: int = -1, factor: float = 1.0, looks: bool = False, fused: bool = False, cleared: int = -1
) -> Any:
    """A weight after six plain updates."""
    import torch

    torch.manual_seed(0)
    data, goal, start = torch.randn(8, 6), torch.randn(8, 2), torch.randn(6, 2)

    def run() -> Any:
        weight = start.clone()
        for step in range(6):
            gradient = data.T @ (torch.tanh(data @ weight) - goal)
            if looks:
                gradient.norm().add_(1.0)
            if step == cleared:
                gradient = gradient * 0
            if step == skips:
                continue
            if fused:
                weight.addcmul_(gradient, torch.full((2,), factor), value=-0.01)
            else:
                weight.sub_(gradient * (0.01 * factor))
        return torch.tanh(data @ weight)

    return run


REGISTER = UpdateLeftOut()
