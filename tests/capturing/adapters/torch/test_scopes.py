"""Scopes, phases, steps and occurrences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from whydiff.capturing.adapters.torch import scopes
from whydiff.records import Site, Trace

Captured = Callable[..., Trace]


class Block(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.lin, self.act = linear, nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.lin(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    """``a`` is entered twice; ``a`` and ``b`` share their linear layer."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.Linear(4, 4)
        self.a, self.b, self.drop = Block(shared), Block(shared), nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.b(self.a(self.a(x))))  # type: ignore[no-any-return]


def sites(trace: Trace, op: str = "") -> list[Site]:
    return [c.site for c in trace.calls if c.kind == "compute" and op in ("", c.site.op)]


def test_shared_and_reentered_modules(captured: Captured) -> None:
    trace = captured(Net(), torch.randn(2, 4))
    assert [str(site) for site in sites(trace)][:6] == [
        "a.lin:addmm#0",
        "a.act:gelu#0",
        "a.lin:addmm#1",
        "a.act:gelu#1",
        "b.lin:addmm#0",
        "b.act:gelu#0",
    ]
    assert set(trace.ties) == {("a.lin.weight", "b.lin.weight"), ("a.lin.bias", "b.lin.bias")}


def test_modules_that_are_made_while_running_are_named_by_class(captured: Captured) -> None:
    class Maker(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.ReLU()(x)  # type: ignore[no-any-return]

    assert str(sites(captured(Maker(), torch.randn(3)))[0]) == "ReLU:relu#0"


def test_several_roots_share_a_step(captured: Captured) -> None:
    encoder, decoder = nn.Linear(4, 3), nn.Linear(3, 4)

    def program(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(decoder(encoder(x))) * 2

    assert [str(site) for site in sites(captured(program, torch.randn(2, 4)))] == [
        "encoder:addmm#0",
        "decoder:addmm#0",
        ":relu#0",
        ":mul#0",
    ]


def test_roots_of_one_class_get_different_names(captured: Captured) -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        return nn.Linear(4, 4)(nn.Linear(4, 4)(nn.Linear(4, 4)(x)))  # type: ignore[no-any-return]

    found = [site.scope for site in sites(captured(program, torch.randn(2, 4)), "addmm")]
    assert found == ["", "Linear", "Linear#1"]


@pytest.mark.parametrize(("updated", "step"), [(True, 1), (False, 0)])
def test_a_copy_that_is_entered_after_an_update_begins_a_step(updated: bool, step: int, captured: Captured) -> None:
    """A run that goes on with a copy; a teacher beside its pupil."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)

    def program(x: torch.Tensor) -> torch.Tensor:
        first(x).sum().backward()
        if updated:
            optimizer.step()
        return second(x)

    assert sites(captured(program, torch.randn(2, 4)), "addmm")[-1].step == step


def test_functional_code_needs_no_module(captured: Captured) -> None:
    trace = captured(lambda x: (x.sin() + x.sin()).sum(), torch.randn(3))
    assert [str(site) for site in sites(trace)] == [":sin#0", ":sin#1", ":add#0", ":sum#0"]


def test_a_loop_over_a_root_counts_steps(captured: Captured) -> None:
    cell = nn.Linear(4, 4)

    def program(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = cell(x)
        return x

    assert [(s.step, s.occurrence) for s in sites(captured(program, torch.randn(2, 4)), "addmm")] == [
        (0, 0),
        (1, 0),
        (2, 0),
    ]


def backward_scopes(trace: Trace, op: str) -> list[str]:
    return [site.scope for site in sites(trace, op) if site.phase == "backward"]


def test_backward_ops_carry_the_forward_scope(captured: Captured) -> None:
    net = Net()

    def program(x: torch.Tensor) -> torch.Tensor:
        loss = net(x).pow(2).mean()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    trace = captured(program, torch.randn(2, 4))
    assert backward_scopes(trace, "gelu_backward") == ["b.act", "a.act", "a.act"]
    assert set(backward_scopes(trace, "mm")) == {"a.lin", "b.lin"}
    assert backward_scopes(trace, "pow") == [""]
    assert {s.phase for s in sites(trace, "addmm")} == {"forward"}


def test_backward_after_two_forwards_keeps_both_scopes(captured: Captured) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.GELU())

    def program(x: torch.Tensor) -> list[torch.Tensor | None]:
        net.zero_grad()
        (net(x).sum() + net(x * 2).sum()).backward()
        return [p.grad for p in net.parameters()]

    assert backward_scopes(captured(program, torch.randn(2, 4)), "gelu_backward") == ["1", "1"]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputed_forwards_belong_to_the_backward_of_their_scope(use_reentrant: bool, captured: Captured) -> None:
    net = Net()

    def program(x: torch.Tensor) -> list[torch.Tensor | None]:
        net.zero_grad()
        x = x.clone().requires_grad_()
        checkpoint(net, x, use_reentrant=use_reentrant).sum().backward()
        return [x.grad, *(p.grad for p in net.parameters())]

    trace = captured(program, torch.randn(2, 4))
    assert backward_scopes(trace, "addmm") == ["a.lin", "a.lin", "b.lin"]
    assert backward_scopes(trace, "gelu_backward") == ["b.act", "a.act", "a.act"]


def test_optimizer_steps_are_updates(captured: Captured) -> None:
    net = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def program(x: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(x).sum()
        loss.backward()
        optimizer.step()
        return net(x)  # type: ignore[no-any-return]

    trace = captured(program, torch.randn(2, 4))
    assert {site.scope for site in sites(trace) if site.phase == "update"} == {"SGD"}
    assert [s.phase for s in sites(trace, "addmm")] == ["forward", "forward"]


def test_a_closure_in_an_optimizer_step_is_forward_and_backward(captured: Captured) -> None:
    net = nn.Linear(4, 1)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2)

    def program(x: torch.Tensor) -> torch.Tensor:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = net(x).pow(2).sum()
            loss.backward()
            return loss  # type: ignore[no-any-return]

        optimizer.step(closure)
        return net.weight

    phases = {(s.op, s.phase) for s in sites(captured(program, torch.randn(8, 4)))}
    assert ("addmm", "forward") in phases and ("addmm", "update") not in phases
    assert ("mm", "backward") in phases
    assert any(phase == "update" for _, phase in phases)


def test_the_original_call_comes_back(captured: Captured) -> None:
    original = nn.Module.__call__
    captured(nn.Linear(2, 2), torch.ones(1, 2))
    assert nn.Module.__call__ is original
    with scopes.Scopes(), scopes.Scopes():
        assert nn.Module.__call__ is scopes._call_and_tell
    assert nn.Module.__call__ is original


def test_somebody_elses_patch_is_kept() -> None:
    original = nn.Module.__call__
    seen = []

    def patched(self: nn.Module, *args: object, **kwargs: object) -> object:
        seen.append(type(self).__name__)
        return original(self, *args, **kwargs)

    nn.Module.__call__ = patched
    try:
        with scopes.Scopes() as followed:
            nn.ReLU()(torch.ones(1))
        assert nn.Module.__call__ is patched and seen == ["ReLU"] and not followed.stack
    finally:
        nn.Module.__call__ = original
