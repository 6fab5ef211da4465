"""Replays that go together give, bit for bit, what each gives alone, and cost one draw and one template a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.torch import rounded_at_random, widening
from whydiff.errors import PayloadError
from whydiff.pair.replay import replay, replay_together
from whydiff.records import Lift, RecordedTrace

SEEDS = (1, 2, 3)


def by_products(x: torch.Tensor) -> torch.Tensor:
    """Layer norms give two statistics that nobody reads; half of them in bfloat16."""
    for _ in range(3):
        x = F.layer_norm(x, (x.shape[-1],))
        x = F.layer_norm(x.bfloat16(), (x.shape[-1],)).float()
    return x


def specials(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Infinities, NaN, signs, a number alone, what is in place, complex numbers and whole ones."""
    y = x / x.clone().zero_()
    z = (x * 3).add_(1.5)
    pair = torch.complex(x, z) * 2
    return y, torch.cat([y, z]), z.sum(), pair, z.argmax(), z.t()[::2] * 0.1


def looked_at(x: torch.Tensor) -> torch.Tensor:
    """A result that later calls change in part."""
    y = x * 0.3
    y[:, 1] *= 0.7
    return y.chunk(2, dim=1)[0] + y.mean()


def captured(target: Callable[..., Any]) -> RecordedTrace:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    return for_framework("torch").run(target, (x,), {}).capture()


def executors(trace: RecordedTrace, dtype: Any) -> list[Any]:
    return [for_framework("torch").executor(trace, lift=Lift(dtype, "kept", seed=seed)) for seed in SEEDS]


def bits(outputs: Any) -> dict[Any, bytes]:
    return {slot: payload.bits.tobytes() for slot, payload in outputs.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [by_products, specials, looked_at])
@pytest.mark.parametrize("small", [1 << 16, 0], ids=["at once", "one by one"])
def test_together_as_alone(monkeypatch: pytest.MonkeyPatch, target: Any, dtype: Any, small: int) -> None:
    trace = captured(target)
    alone = [bits(replay(one).outputs) for one in executors(trace, dtype)]
    monkeypatch.setattr(rounded_at_random, "_SMALL", small)
    together = [bits(found.outputs) for found in replay_together(executors(trace, dtype))]
    assert together == alone
    assert dtype == "float32" or len({str(found) for found in alone}) == len(SEEDS)  # and each seed is its own


def test_replays_with_and_without_a_seed_go_together() -> None:
    trace = captured(by_products)

    def three() -> list[Any]:
        lifts = (Lift("float64", "kept", seed=1), Lift("float64", "kept"), Lift("float64", "kept", seed=2))
        return [for_framework("torch").executor(trace, lift=lift) for lift in lifts]

    alone = [bits(replay(one).outputs) for one in three()]
    assert [bits(found.outputs) for found in replay_together(three())] == alone


def test_a_call_costs_one_draw_a_replay_and_one_template(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = captured(lambda x: F.layer_norm(F.layer_norm(x, (16,)), (16,)))
    drawn, decoded = [], []
    randint, arguments = torch.randint, widening.Arguments.__init__
    monkeypatch.setattr(torch, "randint", lambda *a, **k: drawn.append(a) or randint(*a, **k))
    monkeypatch.setattr(widening.Arguments, "__init__", lambda *a: decoded.append(a) or arguments(*a))
    replay_together(executors(trace, "float64"))
    calls = sum(call.kind == "compute" for call in trace.calls)
    assert len(drawn) == calls * len(SEEDS)  # of three results each
    assert len(decoded) == calls


def test_a_failure_is_the_replay_s_own() -> None:
    """The others go on, and it does not take their value for its own."""
    trace = captured(lambda x: torch.tanh(x * 2))
    team = executors(trace, "float64")
    last = max(call.index for call in trace.calls if call.kind == "compute")
    apply = team[1].carried_out

    def failing(call: Any, reads: Any) -> Any:
        if call.index == last:
            raise RuntimeError("no kernel")
        return apply(call, reads)

    team[1].carried_out = failing
    with pytest.raises(PayloadError, match="was not executed"):
        replay_together(team)
    one, other, third = (executors(trace, "float64")[n] for n in range(3))
    other.carried_out = failing
    for executor in (other, third):
        executor.share_leaves(one)
    with one.running(), other.running(), third.running():
        whys = [one.execute_together([other, third], call) for call in trace.calls if call.kind == "compute"]
    assert [bool(why) for why in whys[-1]] == [False, True, False]
