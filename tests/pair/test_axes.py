"""A batch against one of its rows: however a program lays them out, the rows are found; or it is said that they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from whydiff.pipeline import compare
from whydiff.records import Verdict

torch.manual_seed(0)
ROWS, LENGTH, WIDTH, HEADS = 4, 4, 32, 4
"""As many rows as positions and heads: a size alone does not say which axis it is of."""
X = torch.randn(ROWS, LENGTH, WIDTH)
LINEAR, OUT = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
AFTER, FIRST = (nn.MultiheadAttention(WIDTH, HEADS, batch_first=first).eval() for first in (False, True))


def heads(x: Any, merged: bool) -> Any:
    """Attention written by hand, over [rows, heads, …] or [rows · heads, …]."""
    rows, length, _ = x.shape
    parts = LINEAR(x).reshape(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts.flatten(1, 2) if merged else parts
    mixed = torch.softmax(q @ k.mT / 3, -1) @ v
    return OUT(mixed.reshape(rows, HEADS, length, -1).transpose(1, 2).reshape(rows * length, -1))


def flattened(x: Any) -> Any:
    return torch.tanh(OUT(x))


def positions_first(x: Any) -> Any:
    return x.transpose(0, 1).contiguous()


def folded(x: Any) -> Any:
    """[positions · rows, …]: the rows of one are every so-manieth."""
    return positions_first(x).flatten(0, 1)


def along_both(x: Any) -> Any:
    """Over [columns · rows, …] and then [positions · rows, …]; alone, it need not copy what it looks at."""
    x = x.unflatten(1, (2, 2))
    for _ in range(2):
        x = x.permute(2, 0, 1, 3)
        flat = x.flatten(0, 1)
        x = (torch.softmax(OUT(flat) @ flat.mT / 3, -1) @ flat).reshape(x.shape).permute(1, 2, 0, 3)
    return OUT(x)


def attention(module: nn.MultiheadAttention) -> Callable[[Any], Any]:
    return lambda x: OUT(module(x, x, x)[0])


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize(
    ("run", "laid_out"),
    [
        (attention(FIRST), torch.clone),
        (attention(AFTER), positions_first),
        (lambda x: attention(AFTER)(x.transpose(0, 1)), torch.clone),
        (lambda x: heads(x, False), torch.clone),
        (lambda x: heads(x, True), torch.clone),
        (along_both, torch.clone),
        (flattened, folded),
    ],
    ids=[
        "rows first",
        "positions first",
        "transposed inside",
        "heads apart",
        "heads merged",
        "along two axes",
        "folded by the caller",
    ],
)
def test_only_ops_that_give_a_row_other_bits_are_named(run: Any, laid_out: Any, row: int, turned: bool) -> None:
    """What the outputs are says which: those of a row that lie nowhere in the batch's differ."""
    with torch.no_grad():
        batch, alone = laid_out(X), laid_out(X[row : row + 1])
        whole, part = run(batch).reshape(-1, WIDTH), run(alone).reshape(-1, WIDTH)
        equal = all((whole == one).all(-1).any() for one in part)
        pair = (lambda: run(batch)), (lambda: run(alone))
        found = compare(*(pair[::-1] if turned else pair))
    assert found.verdict is (Verdict.IDENTICAL if equal else Verdict.ROUNDING)
    assert bool(found.origins) is not equal
    told = [*found.notes, *(cause.remedy.text for cause in found.causes)]
    assert sum("whydiff sweep" in text for text in told) == 1


@pytest.mark.parametrize("laid_out", [torch.clone, folded])
@pytest.mark.parametrize("turned", [False, True])
def test_a_row_of_no_batch_is_incomparable_and_no_op_is_named(laid_out: Any, turned: bool) -> None:
    batch, alone = laid_out(X), laid_out(torch.randn(1, LENGTH, WIDTH))
    pair = (lambda: flattened(batch)), (lambda: flattened(alone))
    found = compare(*(pair[::-1] if turned else pair))
    assert found.verdict is Verdict.INCOMPARABLE and "is not known" in found.reason
    assert not found.origins and not [cause for cause in found.causes if cause.status in ("confirmed", "located")]


def test_a_table_of_another_size_is_no_other_input() -> None:
    """Both runs are given the same rows, and weigh them with windows of other lengths: a difference of theirs."""
    tables = [torch.hann_window(size) for size in (16, 24)]
    found = compare(*((lambda table=table: torch.tanh(X).sum() * torch.exp(table)) for table in tables))
    assert found.verdict is not Verdict.IDENTICAL and "is not known" not in found.reason
