"""Small programs, one per difficulty of capturing and replaying; each takes a float32 [4, 6] tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

PROGRAMS: dict[str, Callable[[torch.Tensor], Any]] = {}
Program = Callable[[torch.Tensor], Any]


def program(function: Program) -> Program:
    PROGRAMS[function.__name__] = function
    return function


@program
def in_place(x: torch.Tensor) -> Any:
    doubled = x * 2
    before = doubled.relu()
    doubled.add_(5)
    return before + doubled, doubled


@program
def out_arguments(x: torch.Tensor) -> Any:
    fits, grows = torch.empty(4, 6), torch.empty(0)
    torch.add(x, 1, out=fits)
    torch.mul(x, 2, out=grows)
    return fits, grows


@program
def many_outputs(x: torch.Tensor) -> Any:
    values, indices = x.max(1)
    return values, indices, torch.split(x, 2, 1), torch.sort(x, 1), torch.linalg.svd(x), torch.topk(x, 2)


@program
def foreach(x: torch.Tensor) -> Any:
    tensors = [x.clone(), x * 2]
    torch._foreach_add_(tensors, 1.0)
    return tensors, torch._foreach_mul(tensors, tensors), torch._foreach_norm(tensors)


@program
def indexed_writes(x: torch.Tensor) -> Any:
    z = x.clone()
    z[torch.tensor([0, 2])] = 0.5
    z.index_put_((torch.tensor([1, 1]),), torch.ones(2, 6), accumulate=True)
    z.scatter_(1, torch.tensor([[0], [1], [2], [3]]), 9.0)
    z.masked_fill_(z > 1, 0)
    z.index_add_(0, torch.tensor([0, 1]), torch.ones(2, 6))
    return z, z[z < 0]


@program
def cache_slices(x: torch.Tensor) -> Any:
    cache = torch.zeros(2, 8, 6)
    cache[:, 0:4] = x
    early = cache[:, :4].sum()
    cache[:, 4:5].copy_(x[:1])
    return early, cache[:, :5].sum(), cache


@program
def data_and_detach(x: torch.Tensor) -> Any:
    z = x.clone()
    z.data.add_(3)
    first = z * 1
    z.data = torch.ones(2)
    z.add_(1)
    return first, z, x.detach() * 2


@program
def strided_looks(x: torch.Tensor) -> Any:
    z = x.clone()
    window = torch.as_strided(z, (3, 3), (1, 2), 1) * 2
    z.as_strided((2,), (3,), 2).fill_(7)
    z.t()[0].zero_()
    z[1:3, ::2].mul_(2)
    z.diagonal().add_(1)
    return window, z, z + 0, z.unfold(1, 2, 1) * 2


@program
def expanded(x: torch.Tensor) -> Any:
    wide = x[:1].expand(4, 6)
    return wide * 2, wide + x, wide.contiguous(), torch.einsum("ij,jk->ik", wide, wide.t())


@program
def layouts(x: torch.Tensor) -> Any:
    image = torch.arange(96.0).reshape(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    convolved = F.conv2d(image, torch.ones(4, 3, 3, 3))
    return x.t() * 2, x.t() @ x, convolved, F.relu(convolved), F.max_pool2d(image, 2), image.clone()


@program
def upsampled(x: torch.Tensor) -> Any:
    image = torch.arange(96.0).reshape(2, 3, 4, 4).sin()
    return F.interpolate(image, scale_factor=2.0, mode="bilinear"), F.interpolate(image, scale_factor=2.0)


@program
def empty_tensors(x: torch.Tensor) -> Any:
    none = x[:0]
    return none * 2, none.sum(), torch.cat([none, x]), torch.empty(0, 3).mm(torch.empty(3, 2)), torch.zeros(0)


@program
def scalars(x: torch.Tensor) -> Any:
    total = x.sum()
    total.add_(1)
    return (total * 2, x * total, torch.tensor(3.0) * x, x * x.sum().item(), torch.full((2,), 1.5), torch.eye(3))


@program
def complex_numbers(x: torch.Tensor) -> Any:
    c = torch.complex(x, x * 2)
    lazily = c.conj()
    changed = lazily.clone().mul_(1j)
    return (lazily * 2, lazily.imag + 1, lazily, torch.view_as_real(c), torch.fft.fft(c), changed, c.H @ c, c.real)


@program
def negated_lazily(x: torch.Tensor) -> Any:
    c = torch.complex(x, x)
    negative = c.conj().imag
    before = negative.clone()
    negative.add_(1)
    return negative, before, c


@program
def eight_bits(x: torch.Tensor) -> Any:
    a, b = x.to(torch.float8_e4m3fn), x.to(torch.float8_e5m2)
    return a, b, a.float() * 2, a.t(), a.view(torch.uint8)


@program
def sixteen_bits(x: torch.Tensor) -> Any:
    half, brain = x.half(), x.bfloat16()
    return half * 2, half @ half.t(), F.softmax(brain, -1), brain[:, 2:] * 2


@program
def integers_and_booleans(x: torch.Tensor) -> Any:
    whole, mask = (x * 10).int(), x > 0
    return (whole // 2, mask & ~mask, whole.to(torch.int8), whole.long().bitwise_xor(3), (x.abs() * 9).to(torch.uint8))


@program
def other_dtype_looks(x: torch.Tensor) -> Any:
    bits = x.clone().view(torch.int32)
    bits.add_(1)
    halves = x.bfloat16()
    halves.view(torch.int32).add_(1)
    return bits.view(torch.float32) * 1, halves * 2, halves.view(torch.int16)[:, 1:] + 1


@program
def random_numbers(x: torch.Tensor) -> Any:
    own = torch.Generator().manual_seed(3)
    return (
        torch.rand(3),
        x.clone().normal_(),
        F.dropout(x, 0.5),
        torch.randperm(5),
        torch.multinomial(x.abs(), 2),
        torch.randn_like(x),
        x.clone().uniform_(),
        torch.rand(3, generator=own),
        torch.rand(3, generator=own),
        torch.zeros(4).bernoulli_(0.3),
        torch.randint(0, 5, (3,)),
    )


@program
def resized(x: torch.Tensor) -> Any:
    z = x.clone()
    z.resize_(2, 3)
    z.add_(1)
    grown = torch.empty(0)
    grown.resize_(3).fill_(2)
    return z, grown


@program
def rebound(x: torch.Tensor) -> Any:
    z, shifted = torch.empty(2), torch.empty(0)
    z.set_(x)
    shifted.set_(x.untyped_storage(), 1, (2, 2), (2, 1))
    return z * 2, shifted + 1


@program
def data_dependent(x: torch.Tensor) -> Any:
    return x.nonzero(), torch.unique((x * 2).int()), x[x > 0], torch.where(x > 0)


@program
def attention(x: torch.Tensor) -> Any:
    q = x.reshape(1, 2, 2, 6)
    mask = torch.ones(2, 2, dtype=torch.bool)
    return (
        F.scaled_dot_product_attention(q, q, q),
        F.scaled_dot_product_attention(q, q, q, is_causal=True),
        F.scaled_dot_product_attention(q, q, q, attn_mask=mask),
    )


@program
def batch_statistics(x: torch.Tensor) -> Any:
    mean, variance = torch.zeros(6), torch.ones(6)
    return F.batch_norm(x, mean, variance, training=True), F.batch_norm(x, mean, variance), mean, variance


@program
def losses(x: torch.Tensor) -> Any:
    target = torch.tensor([0, 1, 2, 3])
    return (F.cross_entropy(x, target), F.gelu(x), F.group_norm(x[None], 2), F.one_hot(target, 4), torch.cdist(x, x))


@program
def autocasted(x: torch.Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.t(), (x @ x.t()).softmax(-1), F.layer_norm(x, (6,))


@program
def filled_in_parts(x: torch.Tensor) -> Any:
    z = torch.empty(4, 6)
    z[:2] = x[:2]
    z[2:].fill_(1)
    return z


@program
def caught_error(x: torch.Tensor) -> Any:
    try:
        x @ x
    except RuntimeError:
        return x + 1
    return x


@program
def last_of_an_alias(x: torch.Tensor) -> Any:
    x.mul_(2)
    return x, x.t()
