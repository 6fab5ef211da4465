"""Longest common subsequences against an exhaustive oracle."""

from __future__ import annotations

from build import longest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.pair.align import sequence

tokens = st.lists(st.integers(0, 2), max_size=7)


def every_best(first: list[int], second: list[int]) -> list[frozenset[tuple[int, int]]]:
    """All longest common subsequences, as sets of matched positions, by brute force."""
    found: set[frozenset[tuple[int, int]]] = set()

    def extend(j: int, i: int, path: tuple[tuple[int, int], ...]) -> None:
        found.add(frozenset(path))
        for a in range(j, len(first)):
            for b in range(i, len(second)):
                if first[a] == second[b]:
                    extend(a + 1, b + 1, (*path, (a, b)))

    extend(0, 0, ())
    most = max(len(path) for path in found)
    return [path for path in found if len(path) == most]


@given(tokens, tokens)
def test_certain_pairs_are_those_of_every_best_alignment(first: list[int], second: list[int]) -> None:
    best = every_best(first, second)
    outer = sequence.extremes(first, second)
    assert all(frozenset(path) in best for path in outer)
    assert set(sequence.certain(*outer)) == frozenset.intersection(*best)


@given(st.lists(st.integers(0, 30), max_size=150), st.lists(st.integers(0, 30), max_size=150))
def test_length_is_that_of_the_textbook_recurrence(first: list[int], second: list[int]) -> None:
    for path in sequence.extremes(first, second):
        assert len(path) == longest(first, second)
        assert path == sorted(set(path)) and all(first[j] == second[i] for j, i in path)


def test_gaps_are_what_a_path_leaves_on_both_sides() -> None:
    where = (range(10, 20), range(5, 12))
    assert sequence.gaps([(12, 5), (13, 8), (19, 11)], where) == [(range(14, 19), range(9, 11))]
    assert sequence.gaps([], where) == [where]
    assert sequence.gaps([], (range(3), range(0))) == []


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_anchors_are_a_longest_chain(first: list[int], second: list[int]) -> None:
    assert len(sequence.anchors(first, second)) == longest(first, second)


def test_anchors_are_unique_on_both_sides_and_known() -> None:
    assert sequence.anchors(["a", "x", "b", "x", None], [None, "x", "a", "b", "b"]) == [(0, 2)]
