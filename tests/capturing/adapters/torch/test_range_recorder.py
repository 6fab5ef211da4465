"""The range recorder's hot path: what it measures is what was written, and it holds on to nothing."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from whydiff.capturing.adapters.torch.range_recorder import RangeRecorder
from whydiff.capturing.adapters.torch.run import Run
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.numbers.ranges import LIMITS, measure_array
from whydiff.numbers.ranges.audit import Alarm, Audit


class _Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.payloads: dict[str, Any] = {}

    def add_calls(self, calls: Sequence[Any]) -> None:
        self.calls += calls

    ended, leaves_taken, contexts_taken = False, 0, 0

    def add_leaves(self, leaves: Sequence[Any]) -> None: ...

    def add_contexts(self, contexts: Sequence[Any]) -> None: ...

    def about_to_exchange(self, call: Any) -> None: ...

    def add_payload(self, key: str, payload: Any) -> bool:
        self.payloads[key] = replace(payload, bits=payload.bits.copy())
        return True

    def end_step(self) -> None: ...

    def mark(self) -> None: ...


def llama() -> Callable[[], Any]:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
    )
    model = transformers.LlamaForCausalLM(config)
    return lambda: model(torch.arange(12).reshape(1, 12), labels=torch.arange(12).reshape(1, 12)).loss.backward()


def training() -> Callable[[], Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3)
    ).to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.rand(4, 1, 8, 8, dtype=torch.bfloat16)

    def run() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(x).float().square().mean().backward()
            optimizer.step()

    return run


def layouts() -> Callable[[], Any]:
    x = torch.linspace(-3, 3, 60).reshape(3, 4, 5)

    def run() -> torch.Tensor:
        turned = x.permute(2, 0, 1).contiguous(memory_format=torch.contiguous_format).double()
        out = torch.empty(5, 3, 4, dtype=torch.float64)
        torch.mul(turned, 2.0, out=out)
        out[1:3, :, ::2].mul_(1e-310)  # a part, with gaps
        out.transpose(0, 2).add_(1.0)
        low, high = out.aminmax(dim=0)
        return torch.stack([low, high, torch.nan_to_num(torch.log(low.clamp(min=0)))])

    return run


@pytest.mark.parametrize("program", [llama, training, layouts])
def test_every_number_written_is_measured_at_its_site(program: Callable[[], Callable[[], Any]]) -> None:
    run = Run(program(), (), {})
    sink = _Kept()
    run.record(sink, payloads="all", check=False)
    audit, _ = run.audit()
    measured = {(s.site.scope, s.site.op, s.site.phase, s.site.occurrence): s for s in audit.sites}
    seen = 0
    for call in sink.calls:
        floats = [e for e in call.writes if e.spec.dtype in LIMITS and e.payload]
        if call.kind != "compute" or len(floats) != 1:
            continue
        site = measured[call.site.scope, call.site.op, call.site.phase, call.site.occurrence]
        payload = sink.payloads[floats[0].payload]
        found = measure_array(payload.bits, payload.dtype)
        if site.calls == 1:
            assert site.range == found, call.site
            seen += 1
        else:
            assert found.max_abs in [largest for _, largest in site.growth], call.site
    assert seen > (40 if program is llama else 4)


def test_no_tensor_is_kept_and_what_is_known_stays_bounded() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    recorder = RangeRecorder(Scopes())
    gc.disable()  # nothing may wait for it
    try:
        with recorder:
            x = torch.ones(4)
            for _ in range(4500):
                x = x * 0.999
                alive.append(weakref.ref(x))
        del x
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()
    assert len(recorder._values.known) <= 4096
    assert len(recorder.audit().sites) == 4501


def audited(program: Callable[[], Any]) -> Audit:
    recorder = RangeRecorder(Scopes())
    with recorder, torch.no_grad():
        program()
    return recorder.audit()


def kinds(alarms: Sequence[Alarm]) -> list[tuple[str, str]]:
    return [(alarm.kind, alarm.site.op) for alarm in alarms]


def test_an_infinite_weight_is_no_overflow_of_the_op_that_reads_it() -> None:
    weight = torch.tensor([[1.0, math.inf]])
    assert audited(lambda: weight @ torch.ones(2, 1)).alarms == ()
    assert kinds(audited(lambda: torch.full((2,), 3e38) * 2).alarms) == [("overflow", "mul")]


def test_a_weight_that_is_changed_in_place_is_looked_at_before() -> None:
    infinite, finite = torch.tensor([math.inf, 1.0]), torch.tensor([3e38, 1.0])
    assert audited(lambda: infinite.mul_(2.0)).alarms == ()
    assert kinds(audited(lambda: finite.mul_(2.0)).alarms) == [("overflow", "mul_")]


def test_what_only_takes_a_shape_hides_no_overflow() -> None:
    def program() -> Any:
        x = torch.full((2,), 3e38) * 2
        return torch.ones_like(x), x.new_zeros(2), x.zero_(), torch.isfinite(x)

    assert kinds(audited(program).alarms) == [("overflow", "mul")]


def test_an_overflow_in_several_results_at_once() -> None:
    def program() -> Any:
        values = [torch.full((2,), 3e38), torch.ones(2)]
        torch._foreach_mul_(values, 2.0)
        return torch.relu(values[0] * -1)

    found = audited(program)
    assert kinds(found.alarms) == [("overflow", "_foreach_mul_"), ("hidden", "relu")]
    assert [site.site.slot for site in found.sites if site.site.op == "_foreach_mul_"] == ["output", "output.1"]


def test_what_cannot_be_measured_is_counted() -> None:
    def program() -> Any:
        sparse = torch.eye(3).to_sparse() * 2
        return sparse, torch.complex(torch.ones(2), torch.ones(2)) * 2

    skipped = audited(program).skipped
    assert any("sparse" in reason for reason in skipped)
    assert skipped["dtype complex64"] >= 2
