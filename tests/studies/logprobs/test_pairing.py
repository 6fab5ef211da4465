"""Which tokens correspond, and what is never agreement."""

from __future__ import annotations

from typing import Any

import pytest

import whydiff
from whydiff.errors import UsageError
from whydiff.records import Verdict


def side(*rows: tuple[Any, list[int], list[float]], **extra: list[Any]) -> dict[str, Any]:
    ids, tokens, values = zip(*rows, strict=True)
    return {"id": list(ids), "token_ids": list(tokens), "logprobs": list(values), **extra}


ROWS = [(f"r{n}", [n, n + 1, n + 2], [-0.5 - n, -1.0, -1.5]) for n in range(8)]


def test_sequences_are_paired_by_id_in_any_order() -> None:
    assert whydiff.compare_logprobs(side(*ROWS), side(*ROWS[::-1])).verdict is Verdict.IDENTICAL


def test_sequences_on_one_side_only_are_never_agreement() -> None:
    found = whydiff.compare_logprobs(side(*ROWS), side(*ROWS[:5]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert [(one.reason, one.count) for one in found.not_paired] == [("only the reference has them", 3)]


def test_several_samples_of_one_prompt_are_paired_in_order() -> None:
    rows = [("p", [1, n], [-1.0, -float(n + 1)]) for n in range(3)]
    assert whydiff.compare_logprobs(side(*rows), side(*rows)).verdict is Verdict.IDENTICAL
    found = whydiff.compare_logprobs(side(*rows, ("q", [5], [-1.0])), side(*rows))
    assert found.sequences == 3


def test_no_common_token_is_an_error() -> None:
    with pytest.raises(UsageError, match="No token is common"):
        whydiff.compare_logprobs(side(("a", [1, 2], [-1, -2])), side(("a", [3, 4], [-1, -2])))


def test_a_shift_is_not_seen_across_tokens_that_one_side_lacks() -> None:
    tokens = list(range(100, 160))
    values = [-0.1 - 0.37 * (n * 7 % 11) for n in range(60)]
    late = [-9.0, *values[:-1]]
    cut = side(("a", [*tokens[:30], *tokens[35:]], [*late[:30], *late[35:]]))
    found = whydiff.compare_logprobs(side(("a", tokens, values)), cut)
    assert sorted(one.test for one in found.found) == ["shift", "tokenisation"]
    assert found.result("noise").size == 0  # type: ignore[attr-defined]
