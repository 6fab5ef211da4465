"""What two lifted programs compute alike is carried out once, and every value is what it is where both carry it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.pair.align import align
from whydiff.pair.in_common import InCommon
from whydiff.pair.lockstep import Lockstep, matched
from whydiff.records import Lift, Trace

torch.manual_seed(0)
X = torch.randn(6, 8)
W, V = torch.randn(8, 8) / 3, torch.randn(8, 8) / 3
Program = Callable[[torch.Tensor], Any]


def layers(factor: float, weight: torch.Tensor = W) -> Program:
    """Ten calls, of which the fifth has a factor."""

    def run(x: torch.Tensor) -> torch.Tensor:
        x = (x @ weight).tanh().exp() + x
        x = x * factor
        return ((x @ V).sigmoid() @ V).sin().sum(-1)

    return run


def in_place(factor: float) -> Program:
    def run(x: torch.Tensor) -> torch.Tensor:
        y = (x @ W).tanh()
        z = y.exp()
        y.mul_(factor)
        return z.add_(1.0) @ V + y

    return run


def choosing(factor: float) -> Program:
    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.stack([x.sum(), x.flip(0).sum(), (x * 3).sum() / 3])
        return y.argmax(), (y * factor).bfloat16().argmax()

    return run


def flagged(precision: str) -> Program:
    def run(x: torch.Tensor) -> torch.Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return (x @ W).exp()
        finally:
            torch.set_float32_matmul_precision(before)

    return run


def expanded(factor: float) -> Program:
    def run(x: torch.Tensor) -> torch.Tensor:
        y = (x[:, :1] * factor).expand(6, 8)
        return (y + x).exp() * y.cos()

    return run


def drawing(factor: float) -> Program:
    def run(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return (x + torch.rand(6, 8)) * factor + torch.randn(6, 8)

    return run


def walked(kind: Any, traces: list[Trace], casts: Any) -> tuple[Lockstep, list[np.ndarray[Any, Any]]]:
    """All that both sides write and return, the candidate going on with the reference's value where one differs."""
    lift = Lift("float64", casts)
    step = kind(*(for_framework("torch").executor(trace, lift=lift) for trace in traces), align(*traces))
    found = []
    for ours, theirs in step.walk():
        step.execute(ours, theirs)
        for er, ec in matched(ours, theirs, "reads" if ours.kind == "return" else "writes"):
            sides = (step.reference, er), (step.candidate, ec)
            both = [executor.payload(executor.read(event)).bits for executor, event in sides]
            found += both
            if not np.array_equal(*both):
                step.substitute(er, ec)
    return step, found


def captured(*programs: Program) -> list[Trace]:
    return [for_framework("torch").run(program, (X,), {}).capture() for program in programs]


@pytest.mark.parametrize("casts", ["kept", "lifted"])
@pytest.mark.parametrize(
    ("reference", "candidate", "taken"),
    [
        (layers(1.0), layers(1.5), 9),
        (layers(1.0), layers(1.0, W + 0), 10),  # another tensor of the same bits
        (layers(1.0), layers(1.0, W + 1), 9),
        (layers(1.0), lambda x: layers(1.0)(x).clone(), 10),
        (in_place(2.0), in_place(3.0), 1),
        (choosing(1.0), choosing(1.0 + 2**-20), 10),
        (flagged("highest"), flagged("medium"), 0),
        (expanded(1.0), expanded(2.0), 4),
        (drawing(1.0), drawing(2.0), 0),
    ],
    ids=["argument", "equal", "state", "longer", "in place", "choices", "switches", "expanded", "drawn"],
)
def test_every_value_is_as_if_both_were_carried_out(
    reference: Program, candidate: Program, taken: int, casts: str
) -> None:
    traces = captured(reference, candidate)
    (plain, expected), (step, found) = (walked(kind, traces, casts) for kind in (Lockstep, InCommon))
    assert len(found) == len(expected) and all(map(np.array_equal, found, expected))
    assert step.reference.counts() == plain.reference.counts() and step.candidate.counts() == plain.candidate.counts()
    assert step.failed == plain.failed
    assert step.taken == taken  # type: ignore[attr-defined]
    assert step.executed["candidate"] == plain.executed["candidate"] - taken
    assert step.executed["reference"] == plain.executed["reference"]


def test_what_both_hold_is_given_to_one_alone() -> None:
    traces = captured(layers(1.0), layers(1.0))
    executors = [for_framework("torch").executor(trace, lift=Lift("float64")) for trace in traces]
    step = InCommon(*executors, align(*traces))
    for ours, theirs in step.walk():
        step.execute(ours, theirs)
        if ours.kind == "compute":
            (er,), (ec,) = ours.writes, theirs.writes
            before = step.reference.read(er).clone()
            assert step.taken and step.candidate.read(ec) is step.reference.read(er)
            assert step.candidate.overwrite(ec, torch.zeros_like(before))
            assert step.reference.read(er).equal(before) and not step.candidate.read(ec).any()
            break


def test_a_replay_takes_nothing_of_one_that_is_lifted_otherwise() -> None:
    trace = captured(layers(1.0))[0]
    adapter = for_framework("torch")
    call = trace.calls[0]
    lifts = [Lift("float64"), Lift("float32"), Lift("float64", "kept"), Lift("float64", "kept", seed=1), None]
    for one in lifts:
        for other in lifts:
            mine, made = adapter.executor(trace, lift=one), adapter.executor(trace, lift=other)
            with mine.running(), made.running():
                assert not mine.take_over(call, made, call)  # nothing is there yet
                made.execute(call)
                assert mine.take_over(call, made, call) == (one == other and one is not None and one.seed is None)
