"""The last returns of runs with other numbers of steps correspond, and nothing else is taken for a last return."""

from __future__ import annotations

import pytest
from build import Op, trace

from whydiff.pair.align import align
from whydiff.pair.align.ends import join_ends
from whydiff.records import Alignment


def joined(first: list[Op], second: list[Op]) -> tuple[Alignment, Alignment]:
    """As aligned, and with the ends joined."""
    sides = trace(first), trace(second)
    before = align(*sides)
    return before, join_ends(before, *sides)


def steps(count: int, *, last: int | None = None) -> list[Op]:
    """One call a step, and a return in the last one."""
    return [*(Op("m", "mm", step=n) for n in range(count)), Op("", "return", kind="return", step=last or count - 1)]


def test_the_one_return_at_either_end_is_paired_whatever_the_steps() -> None:
    before, after = joined(steps(1), steps(3))
    assert [(pair.reference, pair.candidate, pair.how) for pair in after.pairs][-1] == (1, 3, "last return")
    assert len(after.pairs) == len(before.pairs) + 1
    assert set(after.unpaired_reference) == set(before.unpaired_reference) - {1}
    assert set(after.unpaired_candidate) == set(before.unpaired_candidate) - {3}


@pytest.mark.parametrize(
    "other",
    [
        [*steps(2), Op("m", "mm", step=3), Op("", "return", kind="return", step=3)],
        [*steps(2), Op("m", "mm", step=3)],
        steps(2)[:-1],
    ],
    ids=["two returns", "a return in the middle", "no return"],
)
def test_anything_else_stays_unpaired(other: list[Op]) -> None:
    for sides in ((steps(1), other), (other, steps(1))):
        before, after = joined(*sides)
        assert after == before


def test_returns_that_are_paired_stay_as_they_are() -> None:
    before, after = joined(steps(2), steps(2))
    assert after == before and before.pairs[-1].how == "same path"
