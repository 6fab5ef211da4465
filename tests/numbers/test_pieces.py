"""Large tensors looked at in pieces: the same numbers, and never all at once."""

from __future__ import annotations

import numpy as np
import pytest

from whydiff.numbers import pieces
from whydiff.records import Payload


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 7)


def test_every_number_is_given_once_in_float64_and_in_order() -> None:
    bits = np.arange(20, dtype=np.uint16).reshape(4, 5) + np.uint16(0x3F80)
    exact = (bits.reshape(-1).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    found = pieces.in_pieces(lambda one, other: (one, other), *[Payload(bits, "bfloat16")] * 2)
    assert [one.size for one, _ in found] == [7, 7, 6]
    assert np.array_equal(np.concatenate([one for one, _ in found]), exact)
    assert all(np.array_equal(one, other) and one.dtype == np.float64 for one, other in found)


def test_complex_numbers_are_pairs_and_nothing_is_made_of_nothing() -> None:
    whole = Payload(np.array([1 + 2j, 3 - 4j, 5j, 6]), "complex128")
    assert np.concatenate(pieces.in_pieces(np.copy, whole)).tolist() == [1, 2, 3, -4, 0, 5, 6, 0]
    assert pieces.in_pieces(np.sum, Payload(np.zeros((0, 3)), "float64")) == []


@pytest.mark.parametrize("place", [0, 30, 63])
def test_bits_are_the_same_or_not_in_whichever_piece(place: int) -> None:
    ours = np.linspace(-1, 1, 64).reshape(8, 8)
    theirs = ours.copy()
    assert pieces.same_bits(ours, theirs)
    theirs.reshape(-1)[place] = np.nextafter(theirs.reshape(-1)[place], 2)
    assert not pieces.same_bits(ours, theirs)


def test_bits_are_those_of_the_elements_whatever_their_layout() -> None:
    ours = np.arange(12.0).reshape(3, 4)
    assert pieces.same_bits(ours, np.asfortranarray(ours)) and not pieces.same_bits(ours, -ours)
    assert not pieces.same_bits(np.zeros(3), -np.zeros(3))
    assert pieces.same_bits(np.full(3, np.nan), np.full(3, np.nan)) and pieces.same_bits(np.zeros(0), np.zeros(0))
