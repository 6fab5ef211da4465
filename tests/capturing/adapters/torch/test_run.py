"""Observation changes nothing, and says so where it cannot be proven."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import whydiff
from whydiff.capturing.adapters.torch.environment import flags_now
from whydiff.capturing.adapters.torch.outputs import tensors_in
from whydiff.capturing.adapters.torch.run import Run
from whydiff.errors import TargetError
from whydiff.pipeline import Options

Subject = tuple[Callable[..., Any], tuple[Any, ...], list[Any]]
"""A target, its arguments, and everything of the user's that must stay as it is."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3)
        self.out = nn.Linear(6, 3)
        self.calls = 0
        self.seen: list[int] = []
        self.last: torch.Tensor | None = None
        self.register_buffer("total", torch.zeros(6), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x))
        hidden = self.drop(self.norm(self.inner(x)).relu())
        self.total = self.total + hidden.detach().sum(0)  # another tensor in the buffer's place
        self.last = hidden
        return self.out(hidden)  # type: ignore[no-any-return]


def plain_model() -> Subject:
    model = Net().eval()
    return model, (torch.randn(4, 6),), [model]


def training_mode() -> Subject:
    model = Net().train()
    model(torch.randn(4, 6)).sum().backward()
    return model, (torch.randn(4, 6),), [model]


def training_step(kind: str = "AdamW", warm: bool = True, **options: Any) -> Subject:
    model = Net().train()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.01, **options)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    history: list[float] = []

    def step(x: torch.Tensor, y: torch.Tensor) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(loss.item())
        return loss, list(model.parameters())

    inputs = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    if warm:
        step(*inputs)
    return step, inputs, [model, optimizer, schedule, history]


def accumulated_gradients() -> Subject:
    model = nn.Linear(6, 2)
    model(torch.ones(1, 6)).sum().backward()

    def step(x: torch.Tensor) -> Any:
        model(x).sum().backward()
        return [p.grad for p in model.parameters()]

    return step, (torch.randn(4, 6),), [model]


def inputs_changed_in_place() -> Subject:
    x = torch.randn(4, 6)
    view = x[1:, ::2]

    def program(whole: torch.Tensor, part: torch.Tensor, nested: dict[str, Any]) -> torch.Tensor:
        whole.mul_(2)
        part.add_(1)
        nested["list"].append(nested["list"][0].zero_())
        return whole.sum() + part.sum()

    nested = {"list": [torch.ones(2)]}
    return program, (x, view, nested), [x, view, nested]


def random_draws() -> Subject:
    own = torch.Generator().manual_seed(5)

    def program(x: torch.Tensor) -> torch.Tensor:
        noise = random.random() + float(np.random.rand())
        return x + torch.rand(6) + torch.rand(6, generator=own) + noise

    return program, (torch.zeros(6),), [own]


def switches() -> Subject:
    model = nn.Linear(6, 2)

    def program(x: torch.Tensor) -> Any:
        model.eval()
        model.weight.requires_grad_(False)
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        model.weight.data = torch.zeros(2, 6, dtype=torch.float32)
        return model(x)

    return program, (torch.randn(1, 6),), [model]


def cache_as_argument() -> Subject:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).eval()
    cache = transformers.DynamicCache()
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]), past_key_values=cache)

    def program(ids: torch.Tensor, cache: Any) -> torch.Tensor:
        return model(ids, past_key_values=cache, use_cache=True).logits  # type: ignore[no-any-return]

    return program, (torch.tensor([[4, 5]]), cache), [model, cache]


def cache_in_a_closure() -> Subject:
    program, (ids, cache), watched = cache_as_argument()
    return lambda ids: program(ids, cache), (ids,), watched


def nonlocal_counter() -> Subject:
    count = [0]
    total = 0

    def program(x: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += 1
        count[0] += 1
        return x + total + count[0]

    return program, (torch.zeros(2),), [count]


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "a model": plain_model,
    "training mode": training_mode,
    "AdamW": training_step,
    "AdamW, first step": lambda: training_step(warm=False),
    "AdamW, fused": lambda: training_step(fused=True),
    "SGD with momentum": lambda: training_step("SGD", momentum=0.9),
    "Adagrad": lambda: training_step("Adagrad"),
    "accumulated gradients": accumulated_gradients,
    "inputs changed in place": inputs_changed_in_place,
    "random draws": random_draws,
    "switches": switches,
    "a cache as argument": cache_as_argument,
    "a cache in a closure": cache_in_a_closure,
    "a nonlocal counter": nonlocal_counter,
}


def world(watched: list[Any]) -> list[Any]:
    """Everything of the user's, deeply, as plain comparable data; tensors with identity, memory and bits."""
    seen: set[int] = set()

    def look(value: Any) -> Any:
        if isinstance(value, torch.Generator):
            return value.get_state().tolist()
        if isinstance(value, torch.Tensor):
            grad = look(value.grad) if value.is_leaf and value.requires_grad and value.grad is not None else None
            bits = value.detach().clone().contiguous().numpy().tobytes()
            return (id(value), value.data_ptr(), str(value.dtype), value.stride(), value.requires_grad, bits, grad)
        if isinstance(value, (bool, int, float, str, type(None))):
            return value
        if callable(value) and not isinstance(value, nn.Module):
            return id(value)
        if id(value) in seen:
            return id(value)
        seen.add(id(value))
        if isinstance(value, dict):
            return [(id(k) if isinstance(k, torch.Tensor) else str(k), look(v)) for k, v in value.items()]
        if isinstance(value, (list, tuple)):
            return [id(value), *map(look, value)]
        return [id(value), look(vars(value)) if hasattr(value, "__dict__") else repr(value)]

    rng = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())
    modes = (torch.is_grad_enabled(), torch.get_default_dtype(), flags_now(), nn.Module.__call__)
    return [look(watched), rng, modes]


@pytest.mark.parametrize("level", ["op", "module"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_observation_changes_nothing(name: str, level: str) -> None:
    torch.manual_seed(0)
    target, args, watched = SUBJECTS[name]()
    everything = [*watched, *args]
    before = world(everything)
    diagnosis = whydiff.compare(target, target, *args, options=Options(level=level))
    after = world(everything)
    assert after == before
    assert diagnosis.verdict == "identical", diagnosis.reason
    for side in diagnosis.sides:
        assert (side.observer.deterministic, side.observer.unchanged) == (True, True), side.observer.note


def test_the_test_above_can_fail() -> None:
    target, args, watched = training_step()
    before = world(watched)
    target(*args)
    assert world(watched) != before


@pytest.mark.parametrize("level", ["op", "module"])
@pytest.mark.parametrize("where", ["forward", "backward", "update"])
def test_an_exception_in_the_target(where: str, level: str) -> None:
    target, args, watched = training_step()
    model: Net = watched[0]

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("planted")

    if where == "forward":
        model.out.register_forward_hook(fail)
    elif where == "backward":
        model.inner.weight.register_hook(fail)
    else:
        watched[1].register_step_post_hook(fail)
    everything = [*watched, *args]
    before = world(everything)
    with pytest.raises(TargetError, match=r"test_run\.py:\d+") as caught:
        whydiff.compare(target, target, *args, options=Options(level=level))
    assert "ZeroDivisionError: planted" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert world(everything) == before
    torch.ones(2) * 2  # no mode is left behind
    assert _get_current_dispatch_mode() is None


def test_the_error_names_the_users_line() -> None:
    with pytest.raises(TargetError) as caught:
        whydiff.compare(nn.Linear(3, 2), nn.Linear(3, 2), torch.ones(1, 4))
    assert "RuntimeError: mat1 and mat2" in str(caught.value)


COUNT = 0


def test_a_program_with_a_life_of_its_own_is_not_deterministic() -> None:
    def draws(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
        return x + torch.rand(8)

    def counts(x: torch.Tensor) -> torch.Tensor:
        global COUNT
        COUNT += 1
        return x + COUNT

    for program in (draws, counts):
        run = Run(program, (torch.zeros(8),), {})
        check = run.check(run.capture())
        assert check.deterministic is False and check.unchanged is None
        assert check.note == "two plain runs differ at output"


def test_a_program_that_notices_the_observer_is_told() -> None:
    def shy(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if _get_current_dispatch_mode() is None else x + x + 1e-6

    diagnosis = whydiff.compare(shy, shy, torch.ones(3))
    for side in diagnosis.sides:
        assert (side.observer.deterministic, side.observer.unchanged) == (True, False)
    assert any("observing changed the reference" in note for note in diagnosis.notes)


def test_the_encoders_fast_path_is_recorded_or_the_report_says_that_it_was_not() -> None:
    """An active mode turns the fast path off in some versions of torch."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    x = torch.randn(2, 4, 16)
    with torch.no_grad():
        diagnosis = whydiff.compare(encoder, encoder, x)
        run = Run(encoder, (x,), {})
        fast = any(call.site.op == "_transformer_encoder_layer_fwd" for call in run.capture().calls)
    unchanged = diagnosis.sides[0].observer.unchanged
    assert unchanged is True or (not fast and any("observing changed" in note for note in diagnosis.notes))


def test_nothing_to_compare_is_said() -> None:
    run = Run(lambda x: None, (torch.ones(1),), {})
    check = run.check(run.capture())
    assert check.deterministic is None and "nothing that can be compared" in check.note


def test_what_hides_in_slots_is_found_and_what_cannot_be_read_is_named() -> None:
    class Hidden:
        __slots__ = ("x",)

        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

    run = Run(lambda x: (x + 1, Hidden(x * 2), (x for _ in ())), (torch.ones(1),), {})
    assert [(str(o.slot), o.kind) for o in run.anchor()] == [
        ("[0]", "numbers"),
        ("[1].x", "numbers"),
        ("[2]", "unreadable"),
    ]
    check = run.check(run.capture())
    assert check.outputs == 2 and check.note == "not looked into: generator in the result"


def test_a_plain_run_comes_first_and_leaves_the_state_as_it_was() -> None:
    weight = torch.ones(3)
    through_numpy = weight.numpy()  # shares the memory: torch sees no write

    def program(x: torch.Tensor) -> float:
        through_numpy[0] += 1.0
        weight.add_(x.sum())
        return float(weight[0])

    run = Run(program, (torch.ones(2),), {})
    assert [output.payload.bits.item() for output in run.anchor() if output.payload] == [4.0]
    assert weight.tolist() == [1.0] * 3
    check = run.check(run.capture())
    assert (check.deterministic, check.unchanged, check.outputs) == (True, True, 1)
    assert weight.tolist() == [1.0] * 3


def test_inputs_keep_their_aliasing_and_layout() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    args = (base, base[:, ::2], base.t(), base)
    (whole, part, turned, again), _ = Run(lambda *a: None, args, {})._fresh()
    assert whole is again and whole is not base
    assert part.stride() == args[1].stride() and turned.stride() == args[2].stride()
    whole.zero_()
    assert not part.any() and not turned.any() and base.any()


def test_inputs_that_belong_to_a_graph_are_cut_from_it() -> None:
    weight = torch.ones(3, requires_grad=True)
    x = weight * 2

    def program(t: torch.Tensor) -> torch.Tensor:
        (t * t).sum().backward()
        return t * 1

    whydiff.compare(program, program, x)
    assert weight.grad is None
    x.sum().backward()  # the user's graph is whole


def test_modules_and_state_given_as_arguments_are_not_copied() -> None:
    model = nn.Linear(3, 2)
    (same, weight), _ = Run(lambda m, w: m, (model, model.weight), {})._fresh()
    assert same is model and weight is model.weight


def test_arguments_that_cannot_be_copied_are_shared() -> None:
    stream = (i for i in range(3))
    (shared,), _ = Run(lambda s: None, (stream,), {})._fresh()
    assert shared is stream


def test_both_sides_begin_from_the_same_random_state() -> None:
    model = nn.Dropout(0.5).train()
    diagnosis = whydiff.compare(model, copy.deepcopy(model), torch.ones(64))
    assert diagnosis.verdict == "identical"


def test_outputs_of_every_kind_are_found() -> None:
    from dataclasses import dataclass

    @dataclass
    class Result:
        logits: torch.Tensor
        extra: dict[str, Any]

    paths = [path for path, _ in tensors_in(Result(torch.ones(1), {"a": [torch.ones(1), {"b": torch.ones(1)}]}))]
    assert paths == ["logits", "extra.a[0]", "extra.a[1].b"]


def test_the_fast_path_of_transformer_layers_is_blamed_where_it_alone_changes_when_looked_into() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)

    def under_autocast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            return layer(x)

    run = Run(under_autocast, (x,), {})
    check = run.check(run.capture())
    assert check.unchanged is False and "set_fastpath_enabled(False)" in check.why
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        run = Run(under_autocast, (x,), {})
        check = run.check(run.capture())
        assert (check.unchanged, check.why) == (True, "")
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
