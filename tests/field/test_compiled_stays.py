"""A compiled program gives the same bits before and after it was compared, in one process, however it is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whydiff.pipeline import compare


def louder(graph: Any, _: Any) -> Any:
    return lambda *args: [out * 1.5 if isinstance(out, torch.Tensor) else out for out in graph(*args)]


def gated(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x) * x + 1


def broken(x: torch.Tensor) -> torch.Tensor:
    y = gated(x)
    torch._dynamo.graph_break()
    return y.tanh()


def branching(x: torch.Tensor) -> torch.Tensor:
    return gated(x) if x.sum().item() > 0 else -x


def counted(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = gated(x)
    return x


def changing(x: torch.Tensor) -> torch.Tensor:
    x.mul_(0.5)
    return x + 1


def gradient(x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(gated(x.requires_grad_()).sum(), x)[0]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)

    def method(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).sin()


X = torch.linspace(-1, 2, 12).reshape(3, 4)


def of(function: Callable[..., Any], *more: Any, **options: Any) -> Callable[[], Any]:
    program = torch.compile(function, backend=louder, **options)
    return lambda: program(X.clone(), *more)


def submodule() -> Callable[[], Any]:
    block = Block()
    block.inner = torch.compile(block.inner, backend=louder)  # type: ignore[assignment]
    return lambda: block(X)


def in_place_of_the_module() -> Callable[[], Any]:
    block = Block()
    block.compile(backend=louder)
    return lambda: block(X)


def sizes() -> Callable[[], Any]:
    program = torch.compile(gated, backend=louder)
    return lambda: [program(X[:n]) for n in (1, 2, 3)]


def two_backends() -> Callable[[], Any]:
    one, other = torch.compile(gated, backend=louder), torch.compile(broken, backend="aot_eager")
    return lambda: one(X) + other(X)


def anew_at_every_call() -> Callable[[], Any]:
    return lambda: torch.compile(gated, backend=louder)(X)


PROGRAMS: dict[str, Callable[[], Callable[[], Any]]] = {
    "function": lambda: of(gated),
    "full graph": lambda: of(gated, fullgraph=True),
    "graph break": lambda: of(broken),
    "branch on a value": lambda: of(branching),
    "dynamic shapes": lambda: of(gated, dynamic=True),
    "a number as argument": lambda: of(counted, 2),
    "in place": lambda: of(changing),
    "gradient inside": lambda: of(gradient),
    "module": lambda: of(Block()),
    "method": lambda: of(Block().method),
    "submodule": submodule,
    "compiled in place": in_place_of_the_module,
    "several sizes": sizes,
    "two backends": two_backends,
    "compiled at every call": anew_at_every_call,
    "traced only": lambda: (lambda p: lambda: p(X))(torch.compile(broken, backend="eager")),
    "decomposed": lambda: (lambda p: lambda: p(X))(torch.compile(broken, backend="aot_eager_decomp_partition")),
    "inductor in bfloat16": lambda: (lambda p: lambda: p(X.bfloat16()))(torch.compile(broken)),
    "inductor, dropout": lambda: (lambda p: lambda: p(X))(torch.compile(lambda x: torch.dropout(x, 0.5, True))),
    "most tuning": lambda: (lambda p: lambda: p(X.bfloat16()))(torch.compile(gated, mode="max-autotune")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_bits_before_and_after(name: str) -> None:
    torch.manual_seed(0)
    program = PROGRAMS[name]()

    def seeded() -> Any:
        torch.manual_seed(1)
        return program()

    before = seeded()
    compare(lambda: seeded(), lambda: seeded())
    compare(lambda: gated(X), lambda: seeded())
    after = seeded()
    pairs = zip(before, after, strict=True) if isinstance(before, list) else [(before, after)]
    assert all(torch.equal(one, other) for one, other in pairs)
