"""Which numbers of two programs are tried in each other's place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from whydiff.explain.local_test.numbers_given import Number, _fitted, _pairs


def having(*numbers: tuple[float, str]) -> Any:
    return SimpleNamespace(numbers=[Number(value, (), kind) for value, kind in numbers])


def test_a_count_and_a_limit_take_the_place_of_their_like_alone() -> None:
    ours = having((0.0, "correction"), (0.5, "factor"), (30.0, "limit"))
    theirs = having((1.0, "correction"), (16.0, "divisor"), (20.0, "limit"))
    tried = {(one.kind, other.kind) for one, other in _pairs([ours, theirs])}
    assert tried == {("correction", "correction"), ("limit", "limit"), ("factor", "divisor")}


def test_a_count_is_not_fitted() -> None:
    count = Number(0.0, (), "correction")
    assert _fitted(having(), [count], np.zeros(3)) == (1.0,)
    assert _fitted(having(), [count, Number(2.0, (), "factor")], np.zeros(3)) is None


def test_nothing_is_what_a_divisor_cannot_take() -> None:
    assert list(_pairs([having((16.0, "divisor")), having((0.0, "epsilon"))]))
