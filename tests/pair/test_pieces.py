"""One pass over a prompt against a pass over its beginning and then token by token, as two captured runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import whydiff
from whydiff.capturing.store import open_trace
from whydiff.pair.align import align
from whydiff.pair.pieces import pieces
from whydiff.records import Verdict

Past = tuple[torch.Tensor, torch.Tensor] | None
Run = Callable[[], None]


class Model(nn.Module):
    """One layer of causal attention with positions, which hands on the keys and values that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Embedding(16, 16)
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 20)

    def forward(self, ids: torch.Tensor, past: Past = None, at: int = 0) -> tuple[torch.Tensor, Past]:
        x = self.tokens(ids) + self.places(torch.arange(at, at + ids.shape[1]))
        q, k, v = self.qkv(x).chunk(3, -1)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        later = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(1 + k.shape[1] - q.shape[1])
        shares = (q @ k.mT / 4).masked_fill(later, float("-inf")).softmax(-1)
        return self.head(x + shares @ v), (k, v)


def begin() -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    return Model().eval(), torch.randint(0, 20, (1, 9))


def at_once() -> None:
    model, ids = begin()
    model(ids)


def token_by_token(*, shift: int = 0, other: bool = False, joined: bool = True) -> Run:
    """``shift``: a wrong position behind the prompt; ``other``: another last token; ``joined``: what is returned is joined."""

    def run() -> None:
        model, ids = begin()
        logits, past = model(ids[:, :5])
        given = [logits]
        for at in range(5, 9):
            token = ids[:, at - 1 : at] if other and at == 8 else ids[:, at : at + 1]
            logits, past = model(token, past, at + shift)
            given.append(logits)
        if joined:
            torch.cat(given, 1)

    return run


@pytest.fixture
def sides(tmp_path: Path) -> Callable[[Run, Run], list[Path]]:
    def make(*runs: Run) -> list[Path]:
        for name, run in zip(("one", "other"), runs, strict=True):
            with torch.no_grad(), whydiff.capture(tmp_path / name):
                run()
        return [tmp_path / "one", tmp_path / "other"]

    return make


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("turned", [False, True])
def test_a_correct_cache_is_rounding(sides, joined: bool, turned: bool) -> None:  # type: ignore[no-untyped-def]
    runs = at_once, token_by_token(joined=joined)
    found = whydiff.compare(*sides(*(runs[::-1] if turned else runs)))
    assert found.verdict is Verdict.ROUNDING, found.reason
    assert all(not comparison.only for _, comparison in found.outputs)
    assert len(found.outputs) == 15  # logits, keys and values of five passes


@pytest.mark.parametrize("turned", [False, True])
def test_a_wrong_position_behind_the_prompt_is_another_function(sides, turned: bool) -> None:  # type: ignore[no-untyped-def]
    runs = at_once, token_by_token(shift=1)
    assert whydiff.compare(*sides(*(runs[::-1] if turned else runs))).verdict is Verdict.SEMANTIC


def test_passes_over_something_else_are_no_pieces(sides) -> None:  # type: ignore[no-untyped-def]
    paths = sides(at_once, token_by_token(other=True))
    ours, theirs = (open_trace(path) for path in paths)
    assert pieces(ours, theirs, align(ours, theirs)) == ()
    assert whydiff.compare(*paths).verdict is Verdict.INCOMPARABLE


def test_each_piece_has_its_rows_and_a_cache_all_until_then(sides) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = (open_trace(path) for path in sides(at_once, token_by_token()))
    found = pieces(ours, theirs, align(ours, theirs))
    assert [[look.spec.shape[1] for look in one.looks] for one in found] == [[1, n, n] for n in (6, 7, 8, 9)]
    assert [one.looks[0].spec.offset for one in found] == [20 * at for at in (5, 6, 7, 8)]
