"""A model written a second time with other ops: the number that is wrong in it is named and proven."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from whydiff.pipeline import compare
from whydiff.records import Cause, Verdict
from whydiff.report.answer import answer

WIDTH, HEADS, LENGTH = 32, 4, 6
EACH = WIDTH // HEADS


class Block(torch.nn.Module):
    """Modules, ``F.linear``, the attention kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = torch.nn.Linear(WIDTH, 64), torch.nn.Linear(64, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.before(x)
        q, k, v = (part(h).view(2, LENGTH, HEADS, EACH).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(2, LENGTH, WIDTH))
        return x + self.down(F.gelu(self.up(self.after(x))))


def by_matmul(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x @ weight.T + bias


def by_einsum(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bsi,oi->bso", x, weight) + bias


def by_mean(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * weight + bias


def by_variance(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * ((x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True, unbiased=False) + eps).rsqrt()) + bias


def by_kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, (WIDTH,), weight, bias, eps)


def exactly(u: torch.Tensor) -> torch.Tensor:
    return 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))


def by_tanh(u: torch.Tensor) -> torch.Tensor:
    return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))


def port(
    block: Block,
    linear: Callable[..., torch.Tensor],
    norm: Callable[..., torch.Tensor],
    *,
    packed: bool,
    eps: float = 1e-5,
    scale: float = EACH**-0.5,
    activation: Callable[[torch.Tensor], torch.Tensor] = exactly,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same function of the weights alone: another spelling of every step, perhaps with another number in it."""
    w = {name: value.detach() for name, value in block.named_parameters()}
    qkv = [torch.cat([w[f"{name}.{part}"] for name in "qkv"]) for part in ("weight", "bias")]

    def run(x: torch.Tensor) -> torch.Tensor:
        h = norm(x, w["before.weight"], w["before.bias"], eps)
        parts = linear(h, *qkv).chunk(3, -1) if packed else [linear(h, w[f"{n}.weight"], w[f"{n}.bias"]) for n in "qkv"]
        q, k, v = (part.view(2, LENGTH, HEADS, EACH).transpose(1, 2) for part in parts)
        scores = q @ k.transpose(-1, -2) * scale
        later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -math.inf).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).reshape(2, LENGTH, WIDTH), w["out.weight"], w["out.bias"])
        u = linear(norm(x, w["after.weight"], w["after.bias"], eps), w["up.weight"], w["up.bias"])
        return x + linear(activation(u), w["down.weight"], w["down.bias"])

    return run


SPELLINGS = [(by_matmul, by_kernel, True), (by_matmul, by_mean, False), (by_einsum, by_variance, False)]


def ported(linear: Any, norm: Any, packed: bool, **other: Any) -> list[Cause]:
    torch.manual_seed(0)
    block, x = Block().eval(), torch.randn(2, LENGTH, WIDTH)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        found = compare(block, port(block, linear, norm, packed=packed, **other), x)
    assert found.verdict is (Verdict.SEMANTIC if other else Verdict.ROUNDING), found.reason
    return [cause for cause in found.causes if cause.verdict is Verdict.SEMANTIC]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    ("other", "code", "says"),
    [
        ({"eps": 1e-6}, "FO002", "the candidate's epsilon is 1e-06, the reference's 1e-05"),
        ({"scale": WIDTH**-0.5}, "FO003", "the candidate's attention scale is 0.176777, the reference's 0.353553"),
        ({"activation": by_tanh}, "FO001", "the candidate applies GELU (tanh), the reference GELU (erf)"),
    ],
)
def test_the_wrong_number_is_named_and_proven(spelling: Any, other: Any, code: str, says: str) -> None:
    (cause,) = ported(*spelling, **other)
    assert (cause.code, cause.status, cause.says) == (code, "confirmed", says), cause
    assert [experiment.direction for experiment in cause.experiments] == ["take_away", "put_in"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_alone_is_no_other_function(spelling: Any) -> None:
    assert not ported(*spelling)


def test_a_value_that_was_exchanged_for_another_is_not_what_its_ops_gave() -> None:
    made = torch.Generator().manual_seed(1)
    x, bias, scale = torch.randn(2, 6, 16, generator=made), torch.randn(16, generator=made), torch.rand(16)
    *sides, out, up = (torch.randn(16, 16, generator=made) / 4 for _ in range(5))

    def kernels() -> torch.Tensor:
        h = F.layer_norm(x, (16,), scale, bias)
        y = x + F.linear(F.scaled_dot_product_attention(*(F.linear(h, w) for w in sides), is_causal=True), out)
        return y + F.gelu(F.linear(y, up, bias))

    def spelt() -> torch.Tensor:  # the first two layers' products are taken for each other's
        h = by_variance(x, scale, bias, 1e-5)
        q, k, v = (torch.einsum("bsi,oi->bso", h, w) for w in sides)
        scores = torch.einsum("bid,bjd->bij", q, k) / math.sqrt(16)
        shares = torch.softmax(scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf), -1)
        y = x + torch.einsum("bso,io->bsi", shares @ v, out)
        return y + exactly(y @ up.T + bias)

    assert compare(kernels, spelt).verdict is Verdict.ROUNDING


X, W, B, V = (
    torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((4, 8), (8, 8), (8,), (8, 8))
)


def before(x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, W, B)


def again(x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bi,oi->bo", x, W) + B


def told(reference: Callable[[], Any], candidate: Callable[[], Any]) -> list[tuple[str, str, str]]:
    return [(cause.code, cause.status, cause.says) for cause in compare(reference, candidate).causes]


def test_a_slope_is_named_in_whatever_ops_it_is_spelt() -> None:
    def spelt() -> torch.Tensor:
        u = again(X)
        return torch.where(u > 0, u, 0.2 * u) @ V

    found = told(lambda: F.leaky_relu(before(X), 0.01) @ V, spelt)
    assert found == [("FO008", "confirmed", "the candidate's factor is 0.2, the reference's 0.01")]


def test_an_epsilon_is_called_so_also_where_it_is_too_large_to_be_told_from_another_term() -> None:
    norm, x = torch.nn.LayerNorm(WIDTH), 0.3 * torch.randn(4, WIDTH)
    found = told(lambda: norm(x) @ x.T, lambda: by_mean(x, norm.weight, norm.bias, 1e-2) @ x.T)
    assert found == [("FO002", "confirmed", "the candidate's epsilon is 0.01, the reference's 1e-05")]


def test_a_factor_that_only_one_side_has_is_proven_both_ways() -> None:
    found = told(lambda: F.gelu(before(X)) @ V, lambda: exactly(again(X) * 2.5) @ V)
    assert found == [("FO003", "confirmed", "the candidate's result is the reference's times 2.5")]


def test_two_numbers_are_told_together() -> None:
    def spelt(x: torch.Tensor) -> torch.Tensor:
        h = by_mean(x, B, B, 1e-2)[None, None]
        return (torch.softmax(h @ h.mT / 2.0, -1) @ h)[0, 0]

    def kernel(x: torch.Tensor) -> torch.Tensor:
        h = F.layer_norm(x, (8,), B, B, 1e-5)[None, None]
        return F.scaled_dot_product_attention(h, h, h)[0, 0]

    ((code, status, says),) = told(lambda: kernel(before(X)) @ V, lambda: spelt(again(X)) @ V)
    assert (code, status) == ("FO008", "confirmed")
    assert "0.01" in says and "1e-05" in says and "2" in says


def test_a_number_that_is_measured_in_the_run_is_not_given_by_the_code() -> None:
    found = told(lambda: before(X) / before(X).abs().max() @ V, lambda: again(X) / again(X).abs().mean() @ V)
    assert not [one for one in found if one[0] in ("FO002", "FO003") and one[1] == "confirmed"], found


def test_a_number_that_mends_this_side_only_is_not_proven() -> None:
    def spelt(u: torch.Tensor) -> torch.Tensor:  # 0.049 in the place of GELU's 0.044715, which the kernel does not show
        return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.049 * u**3)))

    ((_, status, says),) = told(lambda: F.gelu(before(X), approximate="tanh") @ V, lambda: spelt(again(X)) @ V)
    assert (status, says) == ("located", "the candidate's factor is 0.049, the reference's 0.044715")


def test_numbers_that_do_not_take_each_others_place_are_not_told_as_if_they_did() -> None:
    def spelt() -> torch.Tensor:  # a further term that acts as 0.52 in the place of 0.5 would
        size = (X.square() * X.sign() * X.sign()).sqrt()
        return torch.tanh(torch.einsum("bi,oi->bo", torch.add(B, X, alpha=0.5) + size * X.sign() * 0.02, W)) @ V

    ((_, _, says),) = told(lambda: torch.tanh((X * 0.5 + B) @ W.mT) @ V, spelt)
    assert says == "the candidate's factor is 0.02, the reference's 0"


def test_what_one_side_divides_by_beside_a_count_of_nothing() -> None:
    def spelt() -> torch.Tensor:
        centred = X - X.mean(-1, keepdim=True)
        return centred / (centred.square().sum(-1, keepdim=True) / (8 - 1) + 1e-5).sqrt() @ V

    def kernel() -> torch.Tensor:
        return (X - X.mean(-1, keepdim=True)) * (X.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt() @ V

    found = compare(kernel, spelt)
    assert "FO003" in [cause.code for cause in found.causes]
    assert not [count for count in found.not_compared if "failed" in count.reason]


def test_a_bias_that_is_left_out_is_named() -> None:
    weight = torch.nn.Linear(8, 8)
    bare = weight.weight.detach()
    ((code, status, says),) = told(
        lambda: F.gelu(weight(X)) @ V, lambda: F.gelu(torch.einsum("bi,oi->bo", X, bare)) @ V
    )
    assert (code, status, says) == ("FO007", "located", "the reference adds bias, the candidate does not")


def test_a_base_is_named_although_the_other_side_holds_its_logarithm() -> None:
    def angles(base: float) -> torch.Tensor:
        return torch.arange(6.0)[:, None] / base ** (torch.arange(0, 8, 2) / 8)

    def spelt(base: float) -> torch.Tensor:
        return torch.einsum("t,f->tf", torch.arange(6.0), torch.exp(torch.arange(0, 8, 2) * (-math.log(base) / 8)))

    ((_, status, says),) = told(lambda: angles(10000.0).cos() @ V[:4], lambda: spelt(5000.0).cos() @ V[:4])
    assert status == "confirmed" and "5000" in says and "10000" in says, says


def test_where_nothing_is_proven_of_two_programs_the_answer_names_the_other_study() -> None:
    def other(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(torch.einsum("bi,oi->bo", x, W) + B).cumsum(-1).flip(-1)

    found = compare(lambda: F.gelu(before(X)), lambda: other(X))
    assert "whydiff port" in answer(found).fix


def test_the_line_is_told_with_the_op_that_it_makes() -> None:
    found = compare(lambda: F.linear(X, W, B) @ V, lambda: (X @ W.T + B * 1.5) @ V)
    where = answer(found).where
    assert "addmm" in where and "(in the candidate: add, test_rewritten_ports.py:" in where, where
