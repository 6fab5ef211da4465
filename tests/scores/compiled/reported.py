"""Programs after reports to PyTorch whose thread says which part of the compiler it is. Written anew, and small.

Each case gives the plain program and the compiled one. Its labels stood here before whydiff saw any of them: the component
is what the thread's bisector or a maintainer names (`by` says which), the verdict follows from the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

Pair = tuple[Callable[[], Any], Callable[[], Any]]
_BF16, _HALF, _SINGLE = torch.bfloat16, torch.float16, torch.float32


@dataclass(frozen=True)
class Case:
    """A reported program and its right answer.

    Attributes:
        issue: its number in pytorch/pytorch.
        make: gives the plain and the compiled program.
        component: ``dynamo``, ``aot``, ``decomposition``, ``inductor`` or ``random``.
        verdict: what the difference amounts to.
        by: who named the component: ``bisector``, ``maintainer`` (or a merged fix) or ``label``.
        item: the op that the bisector names; empty: none.
    """

    issue: int
    make: Callable[[], Pair]
    component: str
    verdict: str
    by: str
    item: str = ""


def compiled(
    function: Callable[..., Any], *args: Any, backend: str = "inductor", settings: dict[str, Any] | None = None
) -> Pair:
    """A function on its arguments (copied, because some change them), plain and compiled under a compiler's settings."""
    from torch._inductor import config

    other = torch.compile(function, backend=backend)

    def fresh() -> list[Any]:
        return [a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in args]

    def run() -> Any:
        with config.patch(settings or {}):
            return other(*fresh())

    return lambda: function(*fresh()), run


def seeded(*shape: int, dtype: torch.dtype = _SINGLE) -> torch.Tensor:
    """Normal numbers, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).to(dtype)


# ------------------------------------------------------------------------------------------------ code for an op


def whole_steps() -> Pair:
    """Whole numbers from a range, times a large one."""
    return compiled(lambda: torch.arange(12, dtype=torch.int64) * torch.tensor([1_000_000_000]))


def whole_steps_of_more() -> Pair:
    """The same with 1.5e9, and an offset."""
    return compiled(lambda: torch.arange(0, 9, dtype=torch.int64) * torch.tensor([1_500_000_000]) + 1)


def largest_of_a_turned_sine() -> Pair:
    """Where the largest value is, after an operation in place and a transposition."""

    def largest(x: torch.Tensor) -> torch.Tensor:
        return x.sin_().t().argmax()

    return compiled(largest, seeded(6, 8))


def sorted_into_a_view() -> Pair:
    """Positions in a list of bounds whose first one is cut off."""

    def place(bounds: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(bounds[1:], values, right=True)

    return compiled(place, torch.tensor([0, 4, 6, 11, 15]), torch.arange(15))


def largest_of_a_sum() -> Pair:
    """Values and places of the largest, of a sum of which one part is transposed."""
    return compiled(lambda a, b: (a + b).max(dim=1), seeded(8, 8).t(), seeded(8, 8) * 0.5)


def padded_by_nothing() -> Pair:
    """A padding of nothing gives a copy; what is written into the original afterwards must not show in it."""

    def kept(a: torch.Tensor) -> torch.Tensor:
        b = F.pad(a, (0, 0))
        a[0] = 1
        return torch.sort(b)[0]

    return compiled(kept, torch.zeros(3, 2))


def wrapped_sum() -> Pair:
    """A sum in 32 bits that wraps around, then used in 64."""
    return compiled(lambda x, y: (x + y).to(torch.int64), *(torch.full((4,), 2**31 - 5, dtype=torch.int32),) * 2)


def wrapped_products() -> Pair:
    """Sums of two products of matrices in 32 bits, each wrapping around, then added up."""
    big = torch.full((2, 2), 40_000, dtype=torch.int32)
    return compiled(lambda x, y, z: ((x @ y) + (x @ z)).sum(dim=1), big, big, big + 3)


def smallest_byte() -> Pair:
    """The smallest of more than 16 positive bytes."""
    return compiled(
        torch.min, torch.tensor([9, 7, 100, 5, 77, 8, 9, 13, 101, 120, 127, 6, 66, 14, 21, 12, 90, 81]).byte()
    )


def negative_to_byte() -> Pair:
    """Negative numbers become bytes."""
    return compiled(lambda x: x.to(torch.uint8), torch.tensor([1.5, -0.3, -2.2, 0.6, -1.1]))


def stacked_slices() -> Pair:
    """A slice goes through special functions, and the results are stacked."""

    def stacked(wide: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        x = wide[..., 16]
        positive, rates = F.softplus(x) + 1e-4, F.softplus(y) + 1e-4
        first = torch.special.gammaln(positive + a.view(1, -1))
        second = torch.special.erf(x * b.view(1, -1))
        return torch.stack([first, second, torch.special.xlogy(positive, rates)], dim=-1)

    return compiled(stacked, seeded(4, 8, 32), seeded(4, 8), seeded(8).abs(), seeded(8))


def sign_of_minus_zero() -> Pair:
    """The sign of a constant, minus zero."""
    return compiled(lambda x: torch.copysign(x, -0.0), seeded(6))


def condition_number() -> Pair:
    """The condition number of a matrix that has no inverse."""
    return compiled(lambda x: torch.linalg.cond(torch.arctan(x)), torch.ones(2, 2))


def permuted_keys() -> Pair:
    """Attention written out, whose keys reach the product by a permutation that is not the usual transposition."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(q, k.permute(0, 2, 3, 1)) * 0.25
        return torch.matmul(scores.softmax(-1), v)

    return compiled(attention, seeded(2, 4, 4, 16), seeded(2, 4, 4, 16) + 0.1, seeded(2, 4, 4, 16) - 0.2)


def gradient_of_two_additions() -> Pair:
    """The gradient of a function that adds to a column twice, taken inside."""

    def inner(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[:, 0] += x[:, 2].abs()
        y[:, 0] += x[:, 2].abs()
        return y.sum()

    return compiled(lambda x: torch.func.grad(inner)(x), seeded(2, 3))


# ------------------------------------------------------------------------------------------------ rounding


def instance_norm() -> Pair:
    """A normalisation over many elements."""
    return compiled(lambda x: F.instance_norm(x), seeded(1, 3, 256, 256))


def layer_norm() -> Pair:
    """A normalisation of large layers."""
    return compiled(lambda x: F.layer_norm(x, x.shape[1:]), seeded(1, 500, 200))


def rms_norm_cast_at_the_end() -> Pair:
    """A normalisation in float32 of bfloat16 values, rounded at its end; the compiler was told to keep every cast."""

    def normed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.rms_norm(x.float(), (4096,), w, 1e-5).to(_BF16)

    x, w = seeded(2, 64, 4096, dtype=_BF16), seeded(4096, dtype=_BF16)
    return compiled(normed, x, w, settings={"emulate_precision_casts": True})


def convolution() -> Pair:
    """A convolution."""
    w = seeded(1, 4, 3, 3)
    return compiled(lambda x: F.conv2d(x, w, padding=1), seeded(1, 4, 64, 64))


# ------------------------------------------------------------------------------------------------ 16 bits kept wide


def rotary() -> Pair:
    """Rotary embeddings in bfloat16."""

    def turned(q: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        half = q.shape[-1] // 2
        other = torch.cat((-q[..., half:], q[..., :half]), dim=-1)
        return q * cos.unsqueeze(1) + other * sin.unsqueeze(1)

    return compiled(turned, *(seeded(*s, dtype=_BF16) for s in ((1, 2, 7, 16), (1, 7, 16), (1, 7, 16))))


def rotary_of_positions() -> Pair:
    """Rotary embeddings in bfloat16 as language models write them, of queries and keys."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)

    def both(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return q * cos + turned(q) * sin, k * cos + turned(k) * sin

    angles = torch.outer(torch.arange(6.0), 1e4 ** (-torch.arange(0, 16, 2) / 16)).repeat(1, 2)[None]
    q, k = seeded(1, 4, 6, 16, dtype=_BF16), (seeded(1, 2, 6, 16) + 0.3).to(_BF16)
    return compiled(both, q, k, angles.cos().to(_BF16), angles.sin().to(_BF16))


def gated_projections() -> Pair:
    """One projection in bfloat16, gated by the sigmoid of another one."""

    def gated(x: torch.Tensor, p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return F.linear(x, p) * F.linear(x, g).sigmoid()

    return compiled(gated, *(seeded(*shape, dtype=_BF16) for shape in ((4, 8, 32), (16, 32), (16, 32))))


def chosen_halves() -> Pair:
    """A choice between float16 values, cast and added."""

    def chosen(x: torch.Tensor) -> torch.Tensor:
        filled = torch.where(x > 0, x, torch.full_like(x, 0.3))
        y = filled.half() * 1.7
        return (y + 0.1).float() + x

    return compiled(chosen, seeded(64))


def product_cast_then_added() -> Pair:
    """A product is cast to bfloat16, then a float32 bias is added."""
    return compiled(lambda x, w, b: (x @ w).to(_BF16) + b, seeded(2, 15, 32), seeded(32, 17), seeded(17))


def there_and_back_in_half() -> Pair:
    """float32 to float16 and back."""
    return compiled(lambda x: x.to(_HALF).to(_SINGLE) * 1.0, torch.arange(20, dtype=_SINGLE).reshape(5, 4).t() / 7)


def there_and_back_in_bfloat16() -> Pair:
    """float32 to bfloat16 and back."""
    return compiled(lambda x: x.to(_BF16).to(_SINGLE), seeded(4, 4))


def gelu_gradient() -> Pair:
    """The differentiable form of GELU's gradient in bfloat16."""
    op = torch.ops.aten.infinitely_differentiable_gelu_backward
    return compiled(lambda g, x: op(g, x), seeded(5, 6, dtype=_BF16), seeded(5, 6, dtype=_BF16) + 0.5)


def cosines() -> Pair:
    """Cosine similarity in bfloat16."""
    return compiled(
        lambda a, b: torch.cosine_similarity(a, b, dim=1, eps=1e-8),
        seeded(5, 6, 7, dtype=_BF16),
        seeded(5, 6, 7).flip(0).to(_BF16),
    )


# ------------------------------------------------------------------------------------------------ random numbers


def dropped() -> Pair:
    """Dropout, from one seed."""
    return compiled(lambda x: F.dropout(x, 0.5, training=True) + 1, torch.ones(64))


def drawn() -> Pair:
    """Normal numbers, from one seed."""
    return compiled(lambda x: x + torch.randn(32), torch.zeros(32))


# ------------------------------------------------------------------------------------------------ tracing


def growing_list() -> Pair:
    """A list grows while it is walked."""

    def grown(x: torch.Tensor) -> torch.Tensor:
        values = [x.sum()]

        def walked() -> Any:
            for item in values:
                if len(values) < 3:
                    values.append(item + 1)
                yield item

        return torch.stack(list(walked())).sum()

    return compiled(grown, torch.ones(1))


def half_used_iterator() -> Pair:
    """An iterator over a reversed list of which one was taken."""

    def rest(x: torch.Tensor) -> torch.Tensor:
        back = reversed([1, 2, 3, 4])
        next(back)
        total = x
        for number in iter(back):
            total = total * 10 + number
        return total

    return compiled(rest, torch.ones(1))


def _counting() -> tuple[Callable[..., Any], dict[str, int]]:
    state = {"n": 0}

    def count(x: torch.Tensor) -> torch.Tensor:
        class Helper:
            def touch(self) -> None:
                state["n"] += 1

        helper = Helper()
        helper.touch()
        return x + 1

    return count, state


def counted_in_a_method() -> Pair:
    """A dictionary outside is changed by a method of a class that is made inside."""

    def run(compile_it: bool) -> Any:
        count, state = _counting()
        program = torch.compile(count, backend="eager", fullgraph=True) if compile_it else count
        return program(torch.ones(2)), float(state["n"])

    return lambda: run(False), lambda: run(True)


class _Remembering(torch.nn.Module):
    items: ClassVar[list[torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> None:
        _Remembering.items.append(x)


def remembered_by_the_class() -> Pair:
    """A module appends to a list of its class."""

    def run(compile_it: bool) -> float:
        _Remembering.items.clear()
        model = _Remembering()
        if compile_it:
            model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
        model(torch.ones(2))
        model(torch.ones(2))
        return float(len(_Remembering.items))

    return lambda: run(False), lambda: run(True)


# ------------------------------------------------------------------------------------------------ graphs and their ops


def backward_without_autocast() -> Pair:
    """A product in float32 inside a region of bfloat16, and its gradient."""
    w = seeded(8, 8).requires_grad_()
    h = seeded(4, 8, dtype=_BF16).requires_grad_()

    def inner(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return x.float() @ w.float().T

    other = torch.compile(inner, backend="aot_eager")

    def run(program: Callable[..., Any]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = program(h)
        return torch.autograd.grad(out.sum() ** 2, w)[0]

    return lambda: run(inner), lambda: run(other)


def permuted_draw() -> Pair:
    """Normal numbers in the layout of a permuted tensor."""

    def like(x: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(x.permute(2, 0, 1))

    settings = {"fallback_random": True}
    return compiled(like, torch.ones(2, 4, 3), backend="aot_eager_decomp_partition", settings=settings)


def product_without_its_bias() -> Pair:
    """A product plus nothing times NaN."""
    return compiled(
        lambda x, a, b: torch.addmm(x, a, b, beta=0), torch.full((4,), float("nan")), seeded(1, 4), seeded(4, 4)
    )


def bias_without_its_product() -> Pair:
    """A bias plus nothing times a product with NaN."""
    return compiled(
        lambda x, a, b: torch.addmm(x, a, b, alpha=0), seeded(4), torch.full((1, 4), float("nan")), seeded(4, 4)
    )


def quotient_of_norms() -> Pair:
    """A quotient by what a normalisation of groups gives, of a normalised input."""

    def divided(x: torch.Tensor) -> torch.Tensor:
        y = F.group_norm(F.batch_norm(x, None, None, training=True), 2)
        return torch.addcdiv(x, x, y, value=0.5)

    return compiled(divided, seeded(4, 4, 6, 6))


def layer_norm_in_bfloat16() -> Pair:
    """A normalisation of float32 values inside a region of bfloat16."""

    def normed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(F.layer_norm(x, (32,)), w)

    return compiled(normed, seeded(16, 32), seeded(32, 32))


def gradient_of_constant_attention() -> Pair:
    """The gradient of attention whose weights are all equal."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(x @ x.transpose(0, 1) * 0.1, -1)
        (g,) = torch.autograd.grad((p @ x).sum(), x)
        return g

    def plain() -> torch.Tensor:
        return loss(torch.full((8, 16), 0.1).requires_grad_())

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ x.transpose(0, 1) * 0.1, -1) @ x

    other = torch.compile(forward)

    def run() -> torch.Tensor:
        x = torch.full((8, 16), 0.1).requires_grad_()
        return torch.autograd.grad(other(x).sum(), x)[0]

    return plain, run


CASES = (
    Case(175966, whole_steps, "inductor", "semantic", "bisector", "mul"),
    Case(183901, whole_steps_of_more, "inductor", "semantic", "bisector", "mul"),
    Case(183082, largest_of_a_turned_sine, "inductor", "semantic", "bisector", "argmax"),
    Case(182343, sorted_into_a_view, "inductor", "semantic", "bisector", "searchsorted"),
    Case(178964, largest_of_a_sum, "inductor", "semantic", "label"),
    Case(177631, padded_by_nothing, "inductor", "semantic", "label"),
    Case(108520, wrapped_sum, "inductor", "semantic", "label"),
    Case(190764, wrapped_products, "inductor", "semantic", "maintainer"),
    Case(191499, smallest_byte, "inductor", "semantic", "label"),
    Case(156788, negative_to_byte, "inductor", "semantic", "label"),
    Case(185702, stacked_slices, "inductor", "semantic", "label"),
    Case(174172, sign_of_minus_zero, "inductor", "semantic", "label"),
    Case(150114, condition_number, "inductor", "rounding", "label"),
    Case(195320, permuted_keys, "inductor", "semantic", "maintainer"),
    Case(136662, gradient_of_two_additions, "inductor", "semantic", "maintainer"),
    Case(142839, instance_norm, "inductor", "rounding", "label"),
    Case(143182, layer_norm, "inductor", "rounding", "label"),
    Case(141561, convolution, "inductor", "rounding", "label"),
    Case(182225, rotary, "inductor", "precision", "label"),
    Case(159239, rotary_of_positions, "inductor", "precision", "maintainer"),
    Case(168186, gated_projections, "inductor", "precision", "maintainer"),
    Case(183761, chosen_halves, "inductor", "precision", "maintainer"),
    Case(181568, product_cast_then_added, "inductor", "precision", "bisector"),
    Case(185337, there_and_back_in_half, "inductor", "precision", "label"),
    Case(176565, there_and_back_in_bfloat16, "inductor", "precision", "label"),
    Case(173307, gelu_gradient, "inductor", "precision", "bisector"),
    Case(141557, dropped, "random", "semantic", "maintainer"),
    Case(118735, drawn, "random", "semantic", "maintainer"),
    Case(175855, growing_list, "dynamo", "semantic", "label"),
    Case(196211, half_used_iterator, "dynamo", "semantic", "label"),
    Case(197896, counted_in_a_method, "dynamo", "semantic", "label"),
    Case(169253, remembered_by_the_class, "dynamo", "semantic", "label"),
    Case(179804, backward_without_autocast, "aot", "precision", "label"),
    Case(164546, permuted_draw, "decomposition", "semantic", "label"),
    Case(196596, product_without_its_bias, "decomposition", "semantic", "label"),
    Case(196597, bias_without_its_product, "decomposition", "semantic", "label"),
    Case(168126, layer_norm_in_bfloat16, "decomposition", "precision", "bisector"),
    Case(141727, rms_norm_cast_at_the_end, "inductor", "rounding", "maintainer"),
    Case(170684, cosines, "inductor", "precision", "label"),
    Case(181694, quotient_of_norms, "decomposition", "rounding", "bisector", "aten.native_group_norm"),
    Case(152309, gradient_of_constant_attention, "decomposition", "semantic", "maintainer"),
)
"""One row an issue (196596 reports two programs; the second stands as 196597)."""
