"""Lifting: exact, of modules and closures alike, and the user's tensors stay untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.torch.fingerprints import content_lanes
from whydiff.capturing.adapters.torch.formulas import FORMULAS, filled
from whydiff.capturing.adapters.torch.lifting import LiftedExecutor
from whydiff.errors import ReplayError
from whydiff.records import Lift, RecordedTrace, TensorSpec


def captured(target: Callable[..., Any], *args: Any) -> RecordedTrace:
    return for_framework("torch").run(target, args, {}).capture()


def replayed(trace: RecordedTrace, lift: Lift, **options: Any) -> tuple[list[torch.Tensor], LiftedExecutor]:
    executor = for_framework("torch").executor(trace, lift=lift, **options)
    outputs: list[torch.Tensor] = []
    with executor.running():
        for call in trace.calls:
            assert executor.execute(call) == "", call.site
            if call.kind == "return":
                outputs = [executor.read(event).clone() for event in call.reads]
            executor.release(call)
    assert not executor._held  # freed after last use
    return outputs, executor


def network(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(24, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 8), nn.Softmax(-1))
    return nn.Sequential(*layers).to(dtype).eval()


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(*layers).bfloat16().eval()


@pytest.mark.parametrize("casts", ["kept", "lifted"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_the_model_converted_by_the_user(dtype: Any, casts: Any) -> None:
    for model, x in ((network(), torch.randn(5, 24)), (convolutions(), torch.randn(2, 3, 9, 9))):
        x = x.bfloat16()
        with torch.no_grad():
            [lifted], executor = replayed(captured(model, x), Lift(dtype, casts))
            wide = getattr(torch, dtype)
            expected = copy.deepcopy(model).to(wide)(x.to(wide))
        assert lifted.dtype is wide
        assert torch.equal(lifted, expected)
        assert executor.counts() == ()


def test_a_closure_is_lifted_like_a_module() -> None:
    weight = torch.randn(24, 6).bfloat16()
    [lifted], _ = replayed(
        captured(lambda x: (x @ weight).tanh() * 0.3, x := torch.randn(3, 24).bfloat16()), Lift("float64")
    )
    assert torch.equal(lifted, (x.double() @ weight.double()).tanh() * 0.3)


def test_a_call_that_takes_the_place_of_another_has_its_own_arguments() -> None:
    trace = captured(lambda x: x.sum(0), torch.randn(3, 3))
    executor = for_framework("torch").executor(trace, lift=Lift("float64"))
    call = next(call for call in trace.calls if call.writes and call.kind == "compute")
    other = replace(call, arguments=[[call.arguments[0][0], [1]], call.arguments[1]])
    x = torch.arange(9.0).reshape(3, 3)
    for one, axis in ((call, 0), (other, 1), (call, 0)):
        [found] = executor.apply(one, [x])
        assert torch.equal(found, x.double().sum(axis))


def test_nothing_of_the_user_changes() -> None:
    model, x = network(), torch.randn(5, 24).bfloat16()
    counter = torch.zeros(5)

    def target(x: torch.Tensor) -> torch.Tensor:
        counter.add_(1)  # state outside the model, changed in place
        x.mul_(2)
        return model(x) + counter[:, None]

    leaves = {"x": x, "counter": counter, **model.state_dict()}
    before = {name: (content_lanes(t), t.dtype, t.data_ptr(), t._version) for name, t in leaves.items()}
    modes = torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_rng_state()
    with torch.no_grad():
        trace = captured(target, x)
        after_capture = {n: (content_lanes(t), t.dtype, t.data_ptr()) for n, t in leaves.items()}
        versions = {name: t._version for name, t in leaves.items()}
        for dtype in ("float32", "float64"):
            replayed(trace, Lift(dtype, "kept"))
            replayed(trace, Lift("float32", "kept", seed=3))
    assert {n: entry[:3] for n, entry in before.items()} == after_capture
    assert after_capture == {n: (content_lanes(t), t.dtype, t.data_ptr()) for n, t in leaves.items()}
    assert versions == {name: t._version for name, t in leaves.items()}  # not even written and put back
    assert modes[:2] == (torch.get_default_dtype(), torch.get_float32_matmul_precision())
    assert torch.equal(modes[2], torch.get_rng_state())


def test_memory_is_not_doubled_at_once() -> None:
    blocks = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(8))).bfloat16()
    trace = captured(blocks, torch.randn(2, 64).bfloat16())
    executor = for_framework("torch").executor(trace, lift=Lift("float64"))
    largest = 0
    with executor.running():
        for call in trace.calls:
            executor.execute(call)
            executor.release(call)
            held = {h.storage.data_ptr(): h.storage.nbytes() for h in executor._held.values()}
            largest = max(largest, sum(held.values()))
    assert largest < 2 * 64 * 64 * 8


def test_casts_are_kept_or_lifted() -> None:
    x = torch.randn(64, dtype=torch.float32)
    trace = captured(lambda x: x.bfloat16().float() * 3, x)
    [kept], _ = replayed(trace, Lift("float64", "kept"))
    [lifted], _ = replayed(trace, Lift("float64", "lifted"))
    assert torch.equal(kept, x.bfloat16().double() * 3)
    assert torch.equal(lifted, x.double() * 3)


def test_a_widening_cast_does_not_leave_a_float32_floor() -> None:
    x = torch.randn(4, 32).bfloat16()
    trace = captured(lambda x: torch.softmax(x.float(), -1, dtype=torch.float32), x)
    [lifted], _ = replayed(trace, Lift("float64", "kept"))
    assert torch.equal(lifted, torch.softmax(x.double(), -1))


def test_numbers_and_integers_become_wide_floats() -> None:
    trace = captured(lambda n: (n / 7, torch.arange(5) * 0.1, n.float().rsqrt()), torch.arange(1, 4))
    outputs, executor = replayed(trace, Lift("float64", "lifted"))
    n = torch.arange(1, 4)
    for lifted, expected in zip(
        outputs, (n.double() / 7, torch.arange(5).double() * 0.1, n.double().rsqrt()), strict=True
    ):
        assert lifted.dtype is torch.float64
        assert torch.equal(lifted, expected)
    assert executor.counts() == ()


def test_integers_keep_their_meaning_and_flips_are_counted() -> None:
    close = torch.tensor([[1.0, 1.0009765625]]).half()

    def choose(x: torch.Tensor) -> torch.Tensor:
        return (x * 1e-4).half().argmax(-1)  # a tie in float16, none when lifted

    trace = captured(choose, close)
    [kept], executor = replayed(trace, Lift("float32", "lifted"))
    assert kept.dtype is torch.int64
    assert len(executor.flips) == int((choose(close) != kept).sum())
    lifted_again, none = replayed(captured(lambda x: x.argmax(-1), close), Lift("float64"))
    assert torch.equal(lifted_again[0], close.argmax(-1))
    assert none.flips == []


def test_a_number_that_leaves_the_program_is_counted() -> None:
    _, executor = replayed(captured(lambda x: x * x.sum().item(), torch.randn(4).bfloat16()), Lift("float64"))
    assert len(executor.exported) == 1


def test_random_ops_draw_the_recorded_numbers() -> None:
    x = torch.randn(64).bfloat16()
    drop = nn.Dropout(0.5)
    trace = captured(drop, x)
    [lifted], executor = replayed(trace, Lift("float64"))
    plain, _ = replayed(trace, Lift("float32"))
    kept = lifted != 0
    assert torch.equal(kept, plain[0] != 0)
    assert 0 < kept.sum() < 64
    assert torch.equal(lifted[kept], x.double()[kept] * 2)
    assert executor.not_lifted == {}


def test_training_is_lifted() -> None:
    model, x = network(), torch.randn(5, 24).bfloat16()

    def gradients(x: torch.Tensor) -> list[Any]:
        model.zero_grad()
        model(x).float().square().sum().backward()
        return [p.grad for p in model.parameters()]

    lifted, executor = replayed(captured(gradients, x), Lift("float64"))
    wide = copy.deepcopy(model).double()
    wide.zero_grad()
    wide(x.double()).square().sum().backward()
    assert executor.counts() == ()
    for gradient, parameter in zip(lifted, wide.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, rtol=1e-12, atol=1e-15)  # type: ignore[arg-type]


def test_an_op_without_a_wide_kernel_is_executed_as_recorded_and_counted() -> None:
    x = torch.randn(8, 8)

    def quantised(x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)

    trace = captured(lambda x: quantised(x) + 1, x)
    _, executor = replayed(trace, Lift("float64"))
    [lifted], _ = replayed(trace, Lift("float64"))
    if executor.not_lifted:  # as recorded, and counted
        assert torch.equal(lifted, (quantised(x) + 1).double())
        assert sum(count.count for count in executor.counts()) >= 1
    else:
        assert torch.equal(lifted, quantised(x.double()) + 1)


def test_attention_kernels_without_float64_have_a_formula() -> None:
    from whydiff.capturing.adapters.torch.formulas import attention, attention_backward

    q, k, v = (torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    for causal in (False, True):
        out, logsumexp = attention(q, k[:, :2], v[:, :2], None, 0.0, causal, None)
        expected = nn.functional.scaled_dot_product_attention(q, k[:, :2], v[:, :2], is_causal=causal, enable_gqa=True)
        assert torch.allclose(out, expected, atol=1e-14)
        assert logsumexp.shape == (2, 4, 6)
        out, _ = attention(q, k, v, None, 0.0, causal, 0.3)
        grad = torch.randn_like(out)
        expected_grads = torch.autograd.grad(out, (q, k, v), grad)
        for mine, theirs in zip(attention_backward(grad, q, k, v, None, causal, 0.3), expected_grads, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)
    with pytest.raises(ReplayError):
        attention(q, k, v, None, 0.1, False, None)


@pytest.mark.parametrize("heads", [4, 2], ids=["a head each", "shared heads"])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_backward_passes_of_attention_kernels_have_formulas(heads: int, causal: bool) -> None:
    q, k, v = (torch.randn(2, h, 6, 8, dtype=torch.float64, requires_grad=True) for h in (4, heads, heads))
    bias = torch.randn(6, 6, dtype=torch.float64)
    for given in (None, bias):
        hidden = torch.ones(6, 6, dtype=torch.bool).tril() if causal else torch.ones(6, 6, dtype=torch.bool)
        mask = torch.where(hidden, 0.0 if given is None else given, -torch.inf)
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True)
        grad = torch.randn_like(out)
        expected = torch.autograd.grad(out, (q, k, v), grad)
        lse, seed = torch.zeros(2, 4, 6), torch.zeros((), dtype=torch.int64)
        of = {
            "_scaled_dot_product_efficient_attention_backward": (
                (grad, q, k, v, given, out, lse, seed, seed, 0.0, [True, True, True, False], causal)
            ),
            "_scaled_dot_product_cudnn_attention_backward": (
                (grad, q, k, v, out, lse, seed, seed, given, None, None, 6, 6, 0.0, causal)
            ),
        }
        if given is None:
            of["_scaled_dot_product_flash_attention_backward"] = (
                grad,
                q,
                k,
                v,
                out,
                lse,
                None,
                None,
                6,
                6,
                0.0,
                causal,
                seed,
                seed,
            )
        for name, arguments in of.items():
            for mine, theirs in zip(FORMULAS[name](*arguments, scale=0.3), expected, strict=True):
                assert torch.allclose(mine, theirs, atol=1e-12), name
    with pytest.raises(ReplayError, match="bias"):
        FORMULAS["_scaled_dot_product_efficient_attention_backward"](
            grad, q, k, v, bias, out, lse, seed, seed, 0.0, [True] * 4, causal
        )
    with pytest.raises(ReplayError, match="Dropout"):
        FORMULAS["_scaled_dot_product_cudnn_attention_backward"](
            grad, q, k, v, out, lse, seed, seed, bias, None, None, 6, 6, 0.1, causal
        )


def test_what_a_formula_gives_has_the_shapes_of_what_the_kernel_gave() -> None:
    out, lse = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6)
    whole, seeds = TensorSpec((2, 4, 6, 8), "float32"), (TensorSpec((), "int64"), TensorSpec((2,), "uint64"))
    for shape in ((2, 4, 6), (2, 4, 6, 1), (2, 4, 32), (2, 4, 0)):
        found = filled([out, lse], [whole, TensorSpec(shape, "float32"), *seeds])
        assert [tuple(one.shape) for one in found] == [(2, 4, 6, 8), shape, (), (2,)]
        kept = min(6, shape[2])
        assert torch.equal(found[1].flatten(2)[..., :kept], lse[..., :kept])
        assert found[1].flatten(2)[..., kept:].isinf().all()
        assert [one.dtype for one in found[2:]] == [torch.int64, torch.uint64]
    assert torch.equal(filled([out], [whole])[0], out)


@pytest.mark.parametrize(
    ("a", "b", "ends"),
    [((6, 4), (3, 4, 5), [2, 2, 6]), ((3, 4, 4), (4, 9), [2, 5, 9]), ((6, 8), (8, 5), [3, 3, 8])],
    ids=["rows", "columns", "terms"],
)
def test_grouped_products_have_a_formula(a: tuple[int, ...], b: tuple[int, ...], ends: list[int]) -> None:
    left, right = torch.randn(a).double(), torch.randn(b).double()
    found = FORMULAS["_grouped_mm"](left, right, torch.tensor(ends, dtype=torch.int32))
    begins = [0, *ends[:-1]]
    for group, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if len(a) == 2 and len(b) == 3:
            assert torch.equal(found[begin:end], left[begin:end] @ right[group])
        elif len(a) == 3:
            assert torch.equal(found[:, begin:end], left[group] @ right[:, begin:end])
        else:
            assert torch.equal(found[group], left[:, begin:end] @ right[begin:end])


def test_stochastic_rounding_is_unbiased_seeded_and_keeps_what_fits() -> None:
    x = torch.full((20000,), 1 + 2.0**-10)  # an eighth of a bfloat16 unit above 1
    trace = captured(lambda x: (x * 1.0).bfloat16(), x)
    [one], _ = replayed(trace, Lift("float32", "kept", seed=1))
    [again], _ = replayed(trace, Lift("float32", "kept", seed=1))
    [other], _ = replayed(trace, Lift("float32", "kept", seed=2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert set(one.tolist()) == {1.0, 1 + 2.0**-7}
    assert 0.115 < (one > 1).double().mean() < 0.135  # 1/8; four standard deviations are 0.009
    [fits], _ = replayed(
        captured(lambda x: (x * 2).bfloat16(), torch.tensor([1.0, 0.5, -2.0])), Lift("float32", seed=5)
    )
    assert fits.tolist() == [2.0, 1.0, -4.0]


def test_float64_programs_are_carried_out_in_float32_if_asked() -> None:
    x = torch.randn(9, dtype=torch.float64)
    trace = captured(lambda x: x * 2, x)
    assert replayed(trace, Lift("float32"))[0][0].dtype is torch.float64
    assert torch.equal(replayed(trace, Lift("float32", everything=True))[0][0], x.float() * 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_attention_is_lifted_although_its_kernel_could_draw(dtype: Any) -> None:
    """The op is marked as random for its dropout; without dropout nothing stays at the recorded precision."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 9, 16).bfloat16() for _ in range(3))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    trace = captured(attend, q, k, v)
    assert any("attention" in call.site.op for call in trace.calls)
    [lifted], executor = replayed(trace, Lift(dtype, "kept"))
    wide = getattr(torch, dtype)
    expected = attend(q.double(), k.double(), v.double())
    assert (lifted.double() - expected).abs().max() < 16 * torch.finfo(wide).eps
    assert executor.counts() == ()


def test_what_is_executed_as_recorded_is_never_silent() -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 4, 9, 16).bfloat16()
    trace = captured(lambda q: nn.functional.rrelu(q, training=True), q)
    _, executor = replayed(trace, Lift("float64"))
    assert sum(count.count for count in executor.counts()) == 1
