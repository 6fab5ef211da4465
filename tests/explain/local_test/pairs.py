"""Benign op pairs: the same op on the same values, carried out in another order.

Used by `test_false_alarms` (a sample) and by ``benchmarks/local_false_alarms.py`` (all of them, many seeds).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.explain.local_test import Operation, operation
from whydiff.records import Lift, Payload

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Pair:
    """A name, the op as the reference carried it out, and both outputs."""

    name: str
    op: Operation
    reference: Payload
    candidate: Payload


class Ops:
    """Turns a function of tensors that is one op into an `Operation`."""

    def __init__(self) -> None:
        self.adapter = for_framework("torch")
        self._open = ExitStack()

    def __enter__(self) -> Ops:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def recorded(self, function: Callable[..., Any], *inputs: torch.Tensor) -> Operation:
        """The one compute op that a function runs, on these inputs."""
        trace = self.adapter.run(function, inputs, {}).capture(level="op")
        (call,) = [call for call in trace.calls if call.kind == "compute"]
        plain = self.adapter.executor(trace)
        lifted = self.adapter.executor(trace, lift=Lift("float64"))
        self._open.enter_context(lifted.running())
        reads = [plain.payload(plain.read(event)) for event in call.reads]
        return operation(call, reads, 0, lifted)

    def pairs(
        self,
        name: str,
        function: Callable[..., torch.Tensor],
        inputs: tuple[torch.Tensor, ...],
        others: dict[str, torch.Tensor],
    ) -> Iterator[Pair]:
        """The op as it is against every other way of carrying it out."""
        op, reference = self.recorded(function, *inputs), to_payload(function(*inputs))
        for how, other in others.items():
            yield Pair(f"{name}: {how}", op, reference, to_payload(other))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _split(a: torch.Tensor, b: torch.Tensor, blocks: int) -> torch.Tensor:
    """A split-K product: float32 partial products, added, then one rounding (as split-K kernels do)."""
    left, right = a.float().chunk(blocks, -1), b.float().chunk(blocks, -2)
    parts = [x @ y for x, y in zip(left, right, strict=True)]
    return torch.stack(parts).sum(0).to(a.dtype)


def _one_by_one(x: torch.Tensor, dim: int) -> torch.Tensor:
    """A sequential float32 sum."""
    return torch.from_numpy(np.add.accumulate(x.float().numpy(), axis=dim)).select(dim, -1).to(x.dtype)


def _math_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


Made = tuple[str, Callable[..., torch.Tensor], tuple[torch.Tensor, ...], dict[str, torch.Tensor]]


def benign(ops: Ops, seed: int = 0) -> Iterator[Pair]:
    """Every kind of benign pair once, for each dtype and size."""
    g = torch.Generator().manual_seed(seed)
    for make in (_linear, _batched, _sums, _norms, _elementwise, _attention, _convolutions):
        for dtype in DTYPES:
            for name, function, inputs, others in make(g, dtype):
                yield from ops.pairs(f"{name} {str(dtype)[6:]}", function, inputs, others)


def _alone(function: Callable[[], torch.Tensor]) -> torch.Tensor:
    with threads(1):
        return function()


def _linear(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    shapes = (*itertools.product((64, 384, 1000), (1, 2, 8, 17)), (2048, 17))
    for k, m in shapes:
        x, b = torch.randn(32, k, generator=g).to(dtype), torch.randn(48, generator=g).to(dtype)
        w = (torch.randn(48, k, generator=g) / k**0.5).to(dtype)
        yield f"linear K={k} M={m}", F.linear, (x[:m], w, b), {"batch 32": F.linear(x, w, b)[:m]}
        a, t = x[:m], w.t()
        order = torch.randperm(k, generator=g)
        others = {
            "batch 32": torch.mm(x, t)[:m],
            "K permuted": torch.mm(a[:, order], t[order]),
            "split K": _split(a, t, 4),
            "layout": torch.mm(a.t().contiguous().t(), t.contiguous()),
            "1 thread": _alone(lambda a=a, t=t: torch.mm(a, t)),
        }
        yield f"mm K={k} M={m}", torch.mm, (a, t), others


def _batched(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    for k in (64, 777, 2048):
        a, b = torch.randn(6, 16, k, generator=g).to(dtype), torch.randn(6, k, 24, generator=g).to(dtype)
        others = {
            "one by one": torch.stack([x @ y for x, y in zip(a, b, strict=True)]),
            "batch 12": torch.bmm(torch.cat((a, a)), torch.cat((b, b)))[:6],
        }
        yield f"bmm K={k}", torch.bmm, (a, b), others
        p, q = a[:1].abs(), b[:1].abs()
        yield f"bmm of positive numbers K={k}", torch.bmm, (p, q), {"split K": _split(p, q, 2)}


def _sums(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    for n in (100, 1023, 4100):
        x, y = (shift + torch.randn(24, n, generator=g).to(dtype) for shift in (1, 0))
        for name, f in (("sum", torch.sum), ("mean", torch.mean)):
            others = {"layout": f(x.t().contiguous(), 0), "columns": f(x.t(), 0)}
            yield f"{name} n={n}", functools.partial(_over_rows, f), (x,), others
            yield (f"{name} n={n}, batch 2", functools.partial(_over_rows, f), (x[:2],), {"batch 24": f(x, 1)[:2]})
            yield f"{name} of all n={n}", f, (x,), {"1 thread": _alone(lambda f=f, x=x: f(x))}
        for values, kind in ((x, "mean 1"), (y, "mean 0")):
            others = {"sequential": _one_by_one(values, 1)}
            yield f"sum n={n} of {kind}", functools.partial(_over_rows, torch.sum), (values,), others
        yield f"std n={n}", _std, (x,), {"layout": x.t().contiguous().std(0)}


def _over_rows(function: Callable[..., torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    return function(values, 1)


def _std(values: torch.Tensor) -> torch.Tensor:
    return values.std(1)


def _norms(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    for n in (100, 1023, 4100):
        x, y = (shift + torch.randn(24, n, generator=g).to(dtype) for shift in (1, 0))
        for f in (F.softmax, F.log_softmax):
            others = {"float32 inside": f(y.float(), -1).to(dtype), "layout": f(y.t().contiguous(), 0).t()}
            yield f"{f.__name__} n={n}", functools.partial(f, dim=-1), (y,), others
        w, b = (shift + torch.randn(n, generator=g).to(dtype) / 8 for shift in (1, 0))
        wide = x.float()
        by_hand = (wide - wide.mean(-1, True)) * torch.rsqrt(wide.var(-1, correction=0, keepdim=True) + 1e-5)
        norm = functools.partial(_layer_norm, n)
        others = {
            "by hand": (by_hand * w.float() + b.float()).to(dtype),
            "batch 48": norm(torch.cat((x, x)), w, b)[:24],
        }
        yield f"layer_norm n={n}", norm, (x, w, b), others
        squares = y.float().square()  # the reduction of an RMS norm
        others = {"layout": squares.t().contiguous().mean(0), "1 thread": _alone(lambda s=squares: s.mean(-1))}
        yield f"mean of squares n={n}", functools.partial(torch.mean, dim=-1), (squares,), others


def _layer_norm(n: int, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, (n,), w, b, 1e-5)


def _elementwise(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    functions = (F.gelu, torch.rsqrt, F.silu, torch.exp, torch.tanh)
    for n, f in itertools.product((37, 4096), functions):
        x = torch.randn(n, generator=g).to(dtype)
        x = x.abs() + 0.01 if f is torch.rsqrt else x * 3
        others = {"float32 inside": f(x.float()).to(dtype), "strided": f(torch.stack((x, x), -1)[:, 0])}
        if n < 100:
            others["scalar tail"] = torch.cat([f(part) for part in x.split(1)])
        yield f"{f.__name__} n={n}", f, (x,), others


def refused(function: Callable[..., Any], *inputs: torch.Tensor) -> str:
    """Why torch does not carry out an op here; empty if it does.

    Held back to another instruction set, torch's attention in 16 bits asks for one of the processor's that it may
    not use, and raises.
    """
    try:
        function(*inputs)
    except RuntimeError as error:
        return str(error)
    return ""


def _attention(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    for length, causal, sharp in itertools.product((16, 61, 200), (False, True), (1, 3)):
        q, k, v = (torch.randn(2, 4, length, 32, generator=g).to(dtype) for _ in range(3))
        q, k = q * sharp, k * sharp
        f = functools.partial(F.scaled_dot_product_attention, is_causal=causal)
        if refused(f, q, k, v):
            continue
        twice = [torch.cat((t, t)) for t in (q, k, v)]
        others = {"math": _math_attention(q, k, v, causal), "batch 4": f(*twice)[:2]}
        yield f"sdpa L={length} x{sharp}{' causal' if causal else ''}", f, (q, k, v), others


def _convolutions(g: torch.Generator, dtype: torch.dtype) -> Iterator[Made]:
    for channels in (3, 16, 64):
        x = torch.randn(4, channels, 12, 12, generator=g).to(dtype)
        w = torch.randn(8, channels, 3, 3, generator=g).to(dtype)
        by_hand = (w.float().reshape(8, -1) @ F.unfold(x.float(), 3)).reshape(4, 8, 10, 10).to(dtype)
        others = {"channels last": F.conv2d(x.to(memory_format=torch.channels_last), w), "unfolded": by_hand}
        yield f"conv2d C={channels}", F.conv2d, (x, w), others
        yield f"conv2d C={channels} batch 1", F.conv2d, (x[:1], w), {"batch 4": F.conv2d(x, w)[:1]}
