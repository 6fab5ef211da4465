"""Planted defects of one op: the candidate's output was computed by another formula or with fewer bits.

Used by `test_defects` and by ``benchmarks/local_false_alarms.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pairs import Ops, Pair

from whydiff.numbers.formats import round_to


@dataclass(frozen=True)
class Defect:
    """A pair, the hypothesis that names it, and its verdict."""

    pair: Pair
    code: str
    verdict: str


def as_stored(values: torch.Tensor, name: str, truncate: bool = False) -> torch.Tensor:
    return torch.from_numpy(round_to(values.double().numpy(), name, truncate=truncate)).to(values.dtype)


def planted(ops: Ops, lengths: Sequence[int] = (256, 1024)) -> Iterator[Defect]:
    """Every defect that must be named; products with these reduction lengths."""
    g = torch.Generator().manual_seed(0)
    for k in lengths:
        yield from _products(ops, g, k)
    yield from _casts(ops, g)
    yield from _formulas(ops, g)


def _one(ops: Ops, name: str, code: str, verdict: str, function, inputs, other) -> Defect:  # type: ignore[no-untyped-def]
    (pair,) = ops.pairs(name, function, inputs, {code: other})
    return Defect(pair, code, verdict)


def _products(ops: Ops, g: torch.Generator, k: int) -> Iterator[Defect]:
    x, w = torch.randn(16, k, generator=g), torch.randn(64, k, generator=g) / k**0.5
    high = functools.partial(as_stored, name="bfloat16")
    x1, w1 = high(x), high(w)
    x2, w2 = high(x - x1), high(w - w1)
    outputs = {
        "tf32-inputs": (as_stored(x, "tf32"), as_stored(w, "tf32")),
        "tf32-inputs-truncated": (as_stored(x, "tf32", True), as_stored(w, "tf32", True)),
        "bfloat16-inputs": (x1, w1),
        "bfloat16-inputs-truncated": (as_stored(x, "bfloat16", True), as_stored(w, "bfloat16", True)),
        "float16-inputs": (x.half().float(), w.half().float()),
        "bfloat16-one-input": (x, w1),
    }
    for code, (a, b) in outputs.items():
        yield _one(ops, f"linear K={k} float32", code, "precision", F.linear, (x, w), F.linear(a, b))
    split = F.linear(x1, w1) + (F.linear(x1, w2) + F.linear(x2, w1))
    yield _one(ops, f"linear K={k} float32", "bfloat16x3", "precision", F.linear, (x, w), split)
    stored = F.linear(x, w).bfloat16().float()
    yield _one(ops, f"linear K={k} float32", "output-rounded", "precision", F.linear, (x, w), stored)
    xh, wh = x.half(), w.half()
    yield _one(
        ops,
        f"linear K={k} float16",
        "bfloat16-inputs",
        "precision",
        F.linear,
        (xh, wh),
        F.linear(as_stored(xh, "bfloat16"), as_stored(wh, "bfloat16")),
    )


def _casts(ops: Ops, g: torch.Generator) -> Iterator[Defect]:
    x = torch.randn(64, 300, generator=g) * 3
    w = torch.randn(32, 300, generator=g)
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype)[6:]
        yield _one(
            ops,
            f"cast float32 to {name}",
            "output-truncated",
            "precision",
            functools.partial(_cast, dtype=dtype),
            (x,),
            as_stored(x, name, True).to(dtype),
        )
        a, b = x.to(dtype), w.to(dtype)
        exact = F.linear(a.double(), b.double())
        yield _one(
            ops,
            f"linear {name}",
            "output-truncated",
            "precision",
            F.linear,
            (a, b),
            as_stored(exact, name, True).to(dtype),
        )


def _cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype)


def _formulas(ops: Ops, g: torch.Generator) -> Iterator[Defect]:
    x = torch.randn(64, 512, generator=g)
    w, b = 1 + torch.randn(512, generator=g) / 8, torch.randn(512, generator=g) / 8
    tanh, erf = functools.partial(F.gelu, approximate="tanh"), F.gelu
    wide = x * 3
    yield _one(ops, "erf GELU float32", "gelu-tanh", "semantic", erf, (wide,), tanh(wide))
    yield _one(ops, "tanh GELU float32", "gelu-erf", "semantic", tanh, (wide,), erf(wide))
    yield _one(ops, "erf GELU float32", "gelu-quick", "semantic", erf, (wide,), wide * torch.sigmoid(1.702 * wide))
    half = wide.half()
    yield _one(ops, "erf GELU float16", "gelu-tanh", "semantic", erf, (half,), tanh(half))
    for ours, theirs in ((1e-5, 1e-4), (1e-5, 1e-6), (1e-6, 1e-5), (1e-12, 1e-5)):
        f = functools.partial(_norm, ours)
        yield _one(
            ops, f"layer_norm eps {ours:g} float32", "other-eps", "semantic", f, (x, w, b), _norm(theirs, x, w, b)
        )
    for dtype in (torch.float32, torch.float16):
        y, name = x.to(dtype), str(dtype)[6:]
        for ours in (0, 1):
            f = functools.partial(torch.std, dim=-1, correction=ours)
            other = torch.std(y, dim=-1, correction=1 - ours)
            yield _one(ops, f"std correction {ours} {name}", "other-variance-correction", "semantic", f, (y,), other)
    q, k, v = (torch.randn(2, 4, 64, 32, generator=g) for _ in range(3))
    off = F.scaled_dot_product_attention(q, k, v, scale=33**-0.5)
    yield _one(
        ops,
        "sdpa scale 1/sqrt(d + 1) float32",
        "other-attention-scale",
        "semantic",
        F.scaled_dot_product_attention,
        (q, k, v),
        off,
    )


def _norm(eps: float, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, (x.shape[-1],), w, b, eps)
