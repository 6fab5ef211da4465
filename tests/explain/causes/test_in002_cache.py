"""One token beside a cache against the whole text at once: where does it stand?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

GENERATOR = torch.Generator().manual_seed(11)
TOKENS = torch.randn(7, 12, generator=GENERATOR)
Q, K, V, OUT = (torch.randn(12, n, generator=GENERATOR) * 0.4 for n in (12, 12, 12, 5))


def turned(x: Any, places: Any) -> Any:
    angles = places.float()[:, None] / 100.0 ** (torch.arange(6.0) / 6)
    u, v = x.chunk(2, -1)
    return torch.cat([u * angles.cos() - v * angles.sin(), v * angles.cos() + u * angles.sin()], -1)


def attend(q: Any, k: Any, v: Any, first: Any) -> Any:
    keep = torch.arange(len(k))[None] <= first + torch.arange(len(q))[:, None]
    return torch.softmax((q @ k.T / 12**0.5).masked_fill(~keep, -torch.inf), -1) @ v @ OUT


def at_once() -> Any:
    places = torch.arange(7)
    return attend(turned(TOKENS @ Q, places), turned(TOKENS @ K, places), TOKENS @ V, 0)[5:]


def one_by_one(late: int, hidden: int = 0) -> Any:
    places, found = torch.arange(5), []
    keys, values = turned(TOKENS[:5] @ K, places), TOKENS[:5] @ V
    for n in range(5, 7):
        x, place = TOKENS[n : n + 1], torch.tensor([n + late])
        keys, values = torch.cat([keys, turned(x @ K, place)]), torch.cat([values, x @ V])
        found.append(attend(turned(x @ Q, place), keys, values, torch.tensor([n - hidden])))
    return torch.cat(found)


@pytest.mark.parametrize("late", [1, -2])
def test_tokens_that_stand_elsewhere_than_in_the_whole_text_are_named(late: int) -> None:
    found = compare(at_once, lambda: one_by_one(late))
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("IN002", "located")
    assert f"2 token(s) that the candidate takes beside a cache stand at the reference's places {late:+d}" in (
        found.causes[0].evidence[0].statement
    )


def test_a_place_in_a_learned_table_that_begins_anew_is_named() -> None:
    table = torch.randn(9, 12, generator=torch.Generator().manual_seed(12))

    def whole() -> Any:
        x = TOKENS + table[torch.arange(7)]
        return attend(x @ Q, x @ K, x @ V, 0)[6:]

    def stepped(place: int) -> Any:
        x, t = TOKENS[:6] + table[torch.arange(6)], TOKENS[6:] + table[torch.tensor([place])]
        return attend(t @ Q, torch.cat([x @ K, t @ K]), torch.cat([x @ V, t @ V]), 6)

    found, right = compare(whole, lambda: stepped(0)), compare(whole, lambda: stepped(6))
    assert [(c.code, c.status) for c in found.causes][:1] == [("IN002", "located")]
    assert right.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
    assert not {"IN002", "FO009"} & {cause.code for cause in right.causes}


def test_a_token_at_its_place_and_a_number_that_only_hides_keys_are_no_other_positions() -> None:
    right, hidden = compare(at_once, lambda: one_by_one(0)), compare(at_once, lambda: one_by_one(0, hidden=2))
    assert right.verdict is Verdict.ROUNDING
    assert hidden.verdict is Verdict.SEMANTIC
    assert "IN002" not in {cause.code for found in (right, hidden) for cause in found.causes}
