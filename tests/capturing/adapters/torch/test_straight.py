"""The straight way writes down what the general way writes down, for whatever an op is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from whydiff.capturing.adapters.torch.recorder import Recorder
from whydiff.capturing.adapters.torch.session import Session
from whydiff.records import ObserverCheck, Payload

PROGRAMS: list[Callable[[], Any]] = []


def program(run: Callable[[], Any]) -> Callable[[], Any]:
    PROGRAMS.append(run)
    return run


@program
def training() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        F.cross_entropy(model(torch.randn(6, 8)), torch.arange(6) % 4).backward()
        optimizer.step()
        optimizer.zero_grad()


@program
def changed_in_place() -> None:
    state, weight = torch.zeros(4, 6), torch.randn(6, 6)
    for _ in range(2):
        given = state @ weight
        state.add_(given)
        state[1:3].mul_(2)
        given = (state.t() @ state).relu_()
        torch.add(given, 1, out=given)
        given.data = given.data * 2
        given[::2].zero_()
        grown = torch.empty(3).fill_(2)
        grown.resize_(5)
        given + 1, grown[:3] * 2, state.t().contiguous()
        given.set_(torch.ones(2, 2))
        given * 3


@program
def lazy_views() -> None:
    value = torch.randn(4, 4, dtype=torch.complex64)
    turned = value.conj()
    turned @ value, turned.imag * 2, turned.imag + 1, turned.real - 1
    zero = torch._efficientzerotensor((3, 3))
    zero + torch.ones(3, 3), zero * torch.ones(3, 3)


@program
def without_plain_storage() -> None:
    torch.eye(4).to_sparse() @ torch.ones(4, 2)
    torch.eye(4).to_sparse_csr() @ torch.ones(4, 2)
    torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)]) * 2
    torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.quint8).dequantize() + 1
    torch.empty(3, device="meta") + 1
    torch.ones(4, 4).to_mkldnn().to_dense() * 2


@program
def uninitialised_and_empty() -> None:
    torch.empty(0) + 1
    memory = torch.empty(4)
    memory.view(2, 2), torch.empty_like(memory)
    memory.copy_(torch.ones(4))
    memory + 1, torch.zeros(0, 3).t() * 2


@program
def many_outputs_and_lists() -> None:
    line = torch.arange(10.0)
    torch.topk(line, 3), line.sum().item(), (line > 3).nonzero(), line.chunk(3), line[torch.tensor([1, 2])]
    wide = line.unsqueeze(0).expand(3, 10)
    high = torch.cat([wide, wide + 1])
    high.max(1), high.to(torch.bfloat16).view(torch.int16), torch.stack(list(line[:4].split(2)))
    torch.cat([line.narrow(0, i % 3, 1) for i in range(40)])
    torch.ones(3).tolist(), torch.full((3,), 2.0), torch.einsum("ij,kj->ik", high, high)


@program
def transposed_results() -> None:
    value = torch.randn(3, 4, 5).transpose(0, 2)
    (value + 1) * value.sigmoid(), value.permute(1, 2, 0) * 2, torch.randn(200, 300).t().exp()
    value.to(torch.complex64).exp(), value.double().abs()


@program
def transforms() -> None:
    torch.func.vmap(torch.func.grad(lambda w, x: (x @ w).sin().sum()), (None, 0))(torch.randn(3, 2), torch.randn(5, 3))


@program
def subclasses_and_modes() -> None:
    class Named(torch.Tensor):
        pass

    named = torch.ones(3).as_subclass(Named)
    named * 2, nn.Parameter(torch.ones(2)) + 1


@program
def switches() -> None:
    line = torch.ones(3, 3)
    line @ line
    torch.set_float32_matmul_precision("high")
    line @ line
    torch.set_float32_matmul_precision("highest")
    with torch.autocast("cpu", torch.bfloat16):
        line @ line
    with torch.inference_mode():
        F.linear(line, line) + 1
    with torch.no_grad():
        line + 1
    for _ in range(2):
        with pytest.raises(RuntimeError):
            line + torch.ones(2)


def recorded(run: Callable[[], Any], keep: str) -> list[str]:
    torch.manual_seed(0)
    kept: list[str] = []
    with Session(level="op") as session:
        if keep:

            def sink(key: str, payload: Payload) -> bool:
                kept.append(f"{key} {payload.bits.tobytes().hex()}")
                return True

            session.recorder.keep, session.recorder.sink = (lambda site: keep in site), sink
        run()
    trace = session.trace(ObserverCheck(deterministic=None, unchanged=None, outputs=0, note=""))
    return [*map(repr, trace.calls), *map(repr, trace.leaves), repr(trace.holes), repr(trace.contexts), *kept]


@pytest.mark.parametrize("keep", ["", ":", "mm"])
@pytest.mark.parametrize("run", PROGRAMS, ids=lambda run: run.__name__)
def test_both_ways_record_the_same(run: Callable[[], Any], keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = recorded(run, keep)
    ways = []

    def general(self: Recorder, func: Any, operator: Any, args: Any, kwargs: Any) -> Any:
        ways.append(func)
        return self._met_op(func, args, kwargs)

    monkeypatch.setattr(Recorder, "straight", general)
    assert straight == recorded(run, keep)
    assert ways or run is transforms


def test_an_op_that_the_recorder_fails_on_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("before")

    with Session(level="op") as session:
        monkeypatch.setattr(session.recorder, "_given", broken)
        before = torch.ones(3) + torch.ones(3)
        monkeypatch.undo()
        monkeypatch.setattr(session.recorder, "_result", broken)
        after = torch.ones(3) * 3
        monkeypatch.undo()
        last = before + after
    assert last.tolist() == [5, 5, 5]
    ops = [call.site.op for call in session.calls]
    assert ops[-1] == "add" and "mul" not in ops and [call.index for call in session.calls] == list(range(len(ops)))
    assert {hole.kind for hole in session.recorder.holes.all()} == {"failed"}
