"""A model cast as a whole, weights, inputs and arithmetic, is precision whatever it is made of; nothing else with it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import whydiff
from whydiff.records import Verdict


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32)
        self.skip = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x) if self.skip else self.inner(x)


class Block(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.before, self.after = norm(32), norm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.after(x))))


class WideNorm(nn.LayerNorm):
    """In float32 whatever it is given, and back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()


def language() -> nn.Module:
    return nn.Sequential(nn.Embedding(50, 32), Block(nn.RMSNorm), nn.Linear(32, 50))


VECTORS, TOKENS, IMAGES = torch.Size([4, 32]), torch.Size([2, 6, 32]), torch.Size([2, 3, 8, 8])
MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Size | None]] = {
    "residual": (Residual, VECTORS),
    "block": (Block, TOKENS),
    "block of wide norms": (lambda: Block(WideNorm), TOKENS),
    "convolutional": (convolutional, IMAGES),
    "language": (language, None),
}


def sides(name: str, dtype: torch.dtype, change: Callable[[Any], None] | None = None) -> tuple[Any, Any]:
    """The model in float32 on its input, and cast with it; another name on either side holds the input."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    wide = make()
    narrow = copy.deepcopy(wide).to(dtype)
    if change is not None:
        with torch.no_grad():
            change(narrow)
    x = torch.arange(12).reshape(2, 6) if shape is None else torch.randn(shape)
    given = x if shape is None else x.to(dtype)
    return torch.no_grad()(lambda: wide(x)), torch.no_grad()(lambda: narrow(given))


CAST = [
    ("residual", torch.bfloat16),
    ("residual", torch.float16),
    ("block", torch.bfloat16),
    ("block of wide norms", torch.float16),
    ("convolutional", torch.bfloat16),
    ("language", torch.bfloat16),
]


@pytest.mark.parametrize(("name", "dtype"), CAST)
def test_what_is_cast_as_a_whole(name: str, dtype: torch.dtype) -> None:
    found = whydiff.compare(*sides(name, dtype))
    assert found.verdict is Verdict.PRECISION, found.reason
    assert [(c.code, c.status) for c in found.causes] == [("PR002", "confirmed")]
    assert all(e.left == "nothing" for e in found.causes[0].experiments)


def test_a_part_that_is_cast() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(32, 32), Residual())
    inner, x = copy.deepcopy(wide[1]).bfloat16(), torch.randn(4, 32)
    found = whydiff.compare(lambda: wide(x), lambda: inner(wide[0](x).bfloat16()).float())
    assert found.verdict is Verdict.PRECISION, found.reason


def test_an_input_that_the_wide_side_rounds_by_itself() -> None:
    torch.manual_seed(0)
    wide, x = Residual(), torch.randn(4, 32)
    narrow, given = copy.deepcopy(wide).bfloat16(), x.bfloat16()
    found = whydiff.compare(lambda: wide(x.bfloat16().float()), lambda: narrow(given))
    assert found.verdict is Verdict.PRECISION, found.reason
    assert [(c.code, c.status) for c in found.causes] == [("PR002", "confirmed")]


def test_a_cast_is_to_be_allowed() -> None:
    found = whydiff.compare(*sides("residual", torch.bfloat16))
    remedy = found.causes[0].remedy
    assert remedy is not None and remedy.accepts and "--allow precision" in remedy.text


def test_the_reference_may_be_the_narrow_side() -> None:
    wide, narrow = sides("block", torch.bfloat16)
    found = whydiff.compare(narrow, wide)
    assert found.verdict is Verdict.PRECISION, found.reason
    assert [(c.code, c.status) for c in found.causes] == [("PR002", "confirmed")]


def test_one_table_that_is_cast_is_its_own_cause() -> None:
    torch.manual_seed(0)
    inner, table, x = nn.Linear(32, 32), torch.randn(32), torch.randn(4, 32)
    narrow = table.bfloat16()
    found = whydiff.compare(lambda: inner(x) * torch.cos(table), lambda: inner(x) * torch.cos(narrow))
    assert found.verdict is Verdict.PRECISION, found.reason
    assert [(c.code, c.status) for c in found.causes] == [("ST003", "confirmed")]


def one_weight(model: Any) -> None:
    model.inner.weight[0, 0] *= 1.01


def transposed(model: Any) -> None:
    model.inner.weight.copy_(model.inner.weight.T.clone())


def no_residual(model: Any) -> None:
    model.skip = False


def other_eps(model: Any) -> None:
    model.before.eps = 1e-2


def other_average(model: Any) -> None:
    model[1].running_mean += 0.01


def other_token(model: Any) -> None:
    model[0].weight[3] *= 1.01


IMPOSTORS = [
    ("residual", torch.bfloat16, one_weight),
    ("residual", torch.float16, transposed),
    ("residual", torch.bfloat16, no_residual),
    ("block", torch.bfloat16, other_eps),
    ("convolutional", torch.float16, other_average),
    ("language", torch.bfloat16, other_token),
]


@pytest.mark.parametrize(("name", "dtype", "change"), IMPOSTORS)
def test_what_is_cast_and_another_function(name: str, dtype: torch.dtype, change: Callable[[Any], None]) -> None:
    found = whydiff.compare(*sides(name, dtype, change))
    assert found.verdict is Verdict.SEMANTIC, found.reason
