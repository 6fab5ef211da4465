"""Which evidence makes a scope another's counterpart."""

from __future__ import annotations

from build import Op, check, model, trace

from whydiff.pair.align import align, renamed
from whydiff.pair.align.side import Side


def sides(first: list[Op], second: list[Op]) -> tuple[Side, Side]:
    return Side(trace(first)), Side(trace(second))


def test_state_that_several_scopes_read_says_nothing() -> None:
    tied = sides([Op("a", "mm", state=1), Op("b", "mm", state=1)], [Op("x", "mm", state=1)])
    assert renamed.same_state(*tied) == renamed.same_state(*tied[::-1]) == {}
    assert renamed.same_state(*sides([Op("a", "mm", state=1)], [Op("x", "mm", state=1)])) == {"x": "a"}


def test_names_that_both_sides_have_are_not_renamed_by_structure() -> None:
    first, second = sides([Op("a", "mm"), Op("b", "relu")], [Op("b", "mm"), Op("c", "relu")])
    assert renamed.same_structure(first, second, []) == {}


def test_exchanges_are_dropped_in_a_circle_and_in_a_chain() -> None:
    for weights in ([0, 2, 1, 3], [1, 2, 3, 0], [5, 0, 2, 3]):
        found = renamed.find(*sides(model(4, weights=range(4)), model(4, weights=weights)), [])
        assert found.rules == ()
        assert all(scope == name for scope, name in found.names.items())
    found = renamed.find(*sides(model(4, weights=range(4)), model(3, weights=[0, 2, 3])), [])
    assert found.rules == (("layers.1", "layers.2"), ("layers.2", "layers.3"))


def test_a_renaming_that_pairs_less_is_not_taken() -> None:
    left = trace([Op("a", "mm", state=0), Op("a", "mul"), Op("a", "mul"), Op("b", "mm", state=1)])
    right = trace([Op("a", "mm", state=1), Op("a", "mul"), Op("a", "mul"), Op("c", "mm", state=0)])
    assert renamed.find(Side(left), Side(right), []).rules == (("a", "b"), ("c", "a"))
    found = align(left, right)
    check(found, left, right)
    assert len(found.pairs) == 3 and not found.renamed
