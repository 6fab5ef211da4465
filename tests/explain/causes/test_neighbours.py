"""Mistakes that no example shows: small programs, each with the code that must be confirmed and no other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whydiff.pipeline import compare
from whydiff.records import Verdict

BF16 = torch.bfloat16
Pair = tuple[Any, Any, tuple[torch.Tensor, ...]]
NAMED: dict[str, tuple[str, Callable[[], Pair]]] = {}
SILENT: dict[str, Callable[[], Pair]] = {}


def named(code: str) -> Callable[[Callable[[], Pair]], Callable[[], Pair]]:
    def register(make: Callable[[], Pair]) -> Callable[[], Pair]:
        NAMED[make.__name__] = code, make
        return make

    return register


def silent(make: Callable[[], Pair]) -> Callable[[], Pair]:
    SILENT[make.__name__] = make
    return make


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


W, V, FUSED = randn(16, 16, seed=7) / 4, randn(16, 16, seed=8) / 4, randn(48, 16, seed=3) / 4
LATER = torch.ones(10, 10, dtype=torch.bool).triu(1)


def qkv(length: int = 10, width: int = 8, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return tuple(randn(1, 2, length, width, seed=seed, dtype=dtype) for seed in range(3))


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return torch.softmax(scores if hidden is None else scores.masked_fill(hidden, -math.inf), -1) @ v


def rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:])


# --------------------------------------------------------------------------- formulas


@named("FO001")
def gelus_that_share_their_first_and_last_ops() -> Pair:
    def run(inner: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        return lambda x: (0.5 * (x @ W) * (1 + inner(x @ W))) @ V

    def by_tanh(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))

    return run(lambda x: torch.erf(x / math.sqrt(2))), run(by_tanh), (randn(5, 16),)


@named("FO004")
def rotary_pairs_before_attention() -> Pair:
    frequencies, weight = 1e2 ** -(torch.arange(4) / 4), randn(8, 8, seed=4) / 3

    def halves(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(6.0)[:, None] * frequencies
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        one, two = x.chunk(2, -1)
        return x * cos + torch.cat([-two, one], -1) * sin

    def neighbours(x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(6.0)[:, None] * frequencies
        one, two = x[..., ::2], x[..., 1::2]
        turned = one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()
        return torch.stack(turned, -1).flatten(-2)

    def run(rotary: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        return lambda q, k, v: F.scaled_dot_product_attention(rotary(q @ weight), rotary(k @ weight), v)

    return run(halves), run(neighbours), qkv(6)


@named("FO004")
def heads_joined_without_going_back() -> Pair:
    def run(back: bool) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out = F.scaled_dot_product_attention(q, k, v)
            return (out.transpose(1, 2) if back else out).reshape(1, 6, 16) @ W

        return attend

    return run(True), run(False), qkv(6)


@named("FO006")
def residual_from_after_the_norm() -> Pair:
    def run(after: bool) -> Any:
        def block(x: torch.Tensor) -> torch.Tensor:
            hidden = torch.tanh(x)
            normed = norm(hidden)
            return F.linear(torch.relu(F.linear(normed, W)) + (normed if after else hidden), V)

        return block

    return run(False), run(True), (randn(5, 16),)


@named("FO006")
def keys_and_values_of_two_projections_exchanged() -> Pair:
    def run(exchanged: bool) -> Any:
        def attend(x: torch.Tensor) -> torch.Tensor:
            q, k, v = (F.linear(x, part)[:, None] for part in FUSED.chunk(3))
            return F.scaled_dot_product_attention(q, *((v, k) if exchanged else (k, v)))

        return attend

    return run(False), run(True), (randn(2, 6, 16),)


@named("FO006")
def fused_projection_in_another_order() -> Pair:
    def run(order: tuple[int, int, int]) -> Any:
        def attend(x: torch.Tensor) -> torch.Tensor:
            parts = F.linear(x, FUSED).chunk(3, -1)
            return attention(*(parts[i] for i in order))

        return attend

    return run((0, 1, 2)), run((2, 0, 1)), (randn(2, 10, 16),)


@named("FO006")
def halves_exchanged_before_their_difference() -> Pair:
    def run(exchanged: bool) -> Any:
        def guided(x: torch.Tensor) -> torch.Tensor:
            free, bound = F.linear(x, W).chunk(2)
            free, bound = (bound, free) if exchanged else (free, bound)
            return free + 7.5 * (bound - free)

        return guided

    return run(False), run(True), (randn(4, 16),)


@named("FO007")
def a_part_of_a_derivative_left_out() -> Pair:
    def run(whole: bool) -> Any:
        class Swish(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(x)
                return x * torch.sigmoid(x)

            @staticmethod
            def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
                (x,) = ctx.saved_tensors
                s = torch.sigmoid(x)
                return g * (s + x * s * (1 - s)) if whole else g * s

        def gradient(x: torch.Tensor) -> torch.Tensor:
            weight = W.clone().requires_grad_()
            Swish.apply(F.linear(x, weight)).pow(2).mean().backward()
            assert weight.grad is not None
            return weight.grad

        return gradient

    return run(True), run(False), (randn(5, 16),)


def swish_derivative(whole: bool, last: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def product(x: torch.Tensor) -> torch.Tensor:
        h, g = torch.tanh(x @ W), torch.cos(x @ V)
        s = torch.sigmoid(h)
        return (g * (s + h * s * (1 - s)) if whole else g * s) * last(x)

    return product


@named("FO007")
def a_term_left_out_between_products() -> Pair:
    return swish_derivative(True, torch.sin), swish_derivative(False, torch.sin), (randn(5, 16),)


@named("FO007")
def soft_cap_left_out() -> Pair:
    return (
        lambda x: torch.softmax(3 * torch.tanh(F.linear(x, 4 * W) / 3), -1),
        lambda x: torch.softmax(F.linear(x, 4 * W), -1),
        (randn(5, 16),),
    )


@named("FO007")
def norm_left_out() -> Pair:
    return (lambda x: F.linear(norm(F.linear(x, W)), V)), (lambda x: F.linear(F.linear(x, W), V)), (randn(5, 16),)


@named("FO007")
def residual_left_out() -> Pair:
    def run(added: bool) -> Any:
        return lambda x: F.linear(torch.relu(F.linear(x, W)) + (x if added else 0), V)

    return run(True), (lambda x: F.linear(torch.relu(F.linear(x, W)), V)), (randn(5, 16),)


@named("FO007")
def rotary_left_out_for_keys() -> Pair:
    angles = torch.arange(6.0)[:, None] * 1e2 ** -(torch.arange(4) / 4)
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)

    def rotary(x: torch.Tensor) -> torch.Tensor:
        one, two = x.chunk(2, -1)
        return x * cos + torch.cat([-two, one], -1) * sin

    return (
        lambda q, k, v: F.scaled_dot_product_attention(rotary(q), rotary(k), v),
        lambda q, k, v: F.scaled_dot_product_attention(rotary(q), k, v),
        qkv(6),
    )


@named("FO008")
def epsilon_outside_the_root() -> Pair:
    return (
        lambda x: (x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)) @ W,
        lambda x: (x / (torch.sqrt(x.pow(2).mean(-1, keepdim=True)) + 1e-3)) @ W,
        (0.1 * randn(5, 16),),
    )


@named("FO008")
def sigmoid_for_softmax() -> Pair:
    return (
        (lambda x: torch.softmax(F.linear(x, W), -1) @ V),
        (lambda x: torch.sigmoid(F.linear(x, W)) @ V),
        (randn(5, 16),),
    )


@named("FO008")
def slope_of_a_leaky_relu() -> Pair:
    return (lambda x: F.leaky_relu(x @ W, 0.01) @ V), (lambda x: F.leaky_relu(x @ W, 0.2) @ V), (randn(5, 16),)


# --------------------------------------------------------------------------- masks


@named("IN003")
def causal_mask_left_out() -> Pair:
    return (lambda q, k, v: attention(q, k, v, LATER)), attention, qkv()


@named("IN003")
def causal_flag_left_out() -> Pair:
    return (
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        (lambda q, k, v: F.scaled_dot_product_attention(q, k, v)),
        qkv(),
    )


@named("IN003")
def window_ignored() -> Pair:
    at = torch.arange(10)
    keep = (at[:, None] >= at) & (at[:, None] - at < 3)
    return (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=keep),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        qkv(),
    )


@named("IN003")
def spelt_out_causal_against_a_fused_op_without() -> Pair:
    return (lambda q, k, v: attention(q, k, v, LATER), lambda q, k, v: F.scaled_dot_product_attention(q, k, v), qkv())


# --------------------------------------------------------------------------- precision


@named("PR003")
def residual_added_before_the_cast() -> Pair:
    weight = randn(32, 32, seed=1) / 6
    return (
        lambda x: (x + F.linear(x.float(), weight).to(BF16)) * 2.5,
        lambda x: (x.float() + F.linear(x.float(), weight)).to(BF16) * 2.5,
        (randn(6, 32, dtype=BF16),),
    )


@named("PR003")
def norm_weight_before_the_cast() -> Pair:
    weight = (1 + 0.1 * randn(64, seed=1)).to(BF16)
    return (
        lambda x: weight * rms(x.float()).to(BF16),
        lambda x: (weight.float() * rms(x.float())).to(BF16),
        (randn(8, 64, dtype=BF16),),
    )


@named("PR003")
def probabilities_rounded_before_the_product() -> Pair:
    def run(early: bool) -> Any:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            chances = torch.softmax(q.float() @ k.float().mT / 4, -1)
            return chances.to(BF16) @ v if early else (chances @ v.float()).to(BF16)

        return attend

    return run(False), run(True), qkv(16, 16, BF16)


# --------------------------------------------------------------------------- nothing is wrong


@silent
def factor_before_or_after_the_product() -> Pair:
    return (
        (lambda q, k, v: torch.softmax((q * 0.3) @ k.mT, -1)),
        (lambda q, k, v: torch.softmax((q @ k.mT) * 0.3, -1)),
        qkv(),
    )


@silent
def softmax_before_or_after_the_choice() -> Pair:
    def renormalised(x: torch.Tensor) -> torch.Tensor:
        chosen = torch.softmax(x @ W, -1).topk(2, -1).values
        return (chosen / chosen.sum(-1, keepdim=True)) @ V[:2]

    return renormalised, (lambda x: torch.softmax((x @ W).topk(2, -1).values, -1) @ V[:2]), (randn(5, 16),)


@silent
def norm_weight_inside_or_outside() -> Pair:
    weight = 1 + 0.1 * randn(16, seed=3)
    return (lambda x: (norm(x) * weight) @ W), (lambda x: F.layer_norm(x, (16,), weight) @ W), (randn(5, 16),)


@silent
def hidden_by_a_large_number_or_by_infinity() -> Pair:
    return (
        lambda q, k, v: attention(q, k, v, LATER),
        lambda q, k, v: torch.softmax(q @ k.mT / 8**0.5 + torch.zeros(10, 10).masked_fill(LATER, -1e9), -1) @ v,
        qkv(),
    )


class Scaled(torch.nn.Module):
    """A factor before or after the product, and a weight that may be changed."""

    def __init__(self, late: bool, more: float) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.linear.weight.data.copy_(randn(8, 8, seed=5))
        self.linear.bias.data.zero_()
        self.linear.weight.data[0, 0] += more
        self.forward = self.after if late else self.before  # type: ignore[method-assign]

    def before(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax((self.linear(q) * 0.3) @ k.mT, -1)

    def after(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax((self.linear(q) @ k.mT) * 0.3, -1)


@pytest.mark.parametrize("name", NAMED)
def test_it_is_confirmed_and_nothing_else_is(name: str) -> None:
    code, make = NAMED[name]
    reference, candidate, inputs = make()
    diagnosis = compare(reference, candidate, *inputs)
    proven = [cause for cause in diagnosis.causes if cause.status in ("confirmed", "located") and not cause.inert]
    found = {cause.code for cause in proven}
    assert found == {code}, [(c.code, c.status, c.reason) for c in diagnosis.causes]


@pytest.mark.parametrize("name", SILENT)
def test_nothing_is_blamed_where_nothing_is_wrong(name: str) -> None:
    reference, candidate, inputs = SILENT[name]()
    diagnosis = compare(reference, candidate, *inputs)
    blamed = {Verdict.SEMANTIC, Verdict.PRECISION, Verdict.UNSTABLE}
    assert not [(c.code, c.site) for c in diagnosis.causes if c.verdict in blamed]


def test_an_op_that_may_be_the_counterpart_of_another_reads_no_other_value() -> None:
    for one, other in ((True, False), (False, True)):
        diagnosis = compare(swish_derivative(one, torch.sin), swish_derivative(other, torch.relu), randn(5, 16))
        assert "FO006" not in {cause.code for cause in diagnosis.causes}
        assert diagnosis.verdict is Verdict.SEMANTIC


def test_a_factor_that_is_elsewhere_is_not_blamed_for_a_weight() -> None:
    diagnosis = compare(Scaled(False, 0.0), Scaled(True, 0.3), *qkv())
    assert [(c.code, c.status) for c in diagnosis.causes if c.verdict is Verdict.SEMANTIC] == [("ST001", "confirmed")]


def test_what_a_step_does_is_measured() -> None:
    texts = []
    for name in ("soft_cap_left_out", "norm_left_out", "residual_left_out"):
        reference, candidate, inputs = NAMED[name][1]()
        texts += [c.evidence[0].statement for c in compare(reference, candidate, *inputs).causes]
    assert "c tanh(x / c) with c = 3 " in texts[0]
    assert "adds another value of the run" in texts[2]
