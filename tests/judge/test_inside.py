"""What the anchor is told of the observed runs, and that no output compared is no agreement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from whydiff.judge.anchor import anchored, inside
from whydiff.judge.outputs import Anchor, Compared
from whydiff.records import Alignment, Comparison, Count, ObserverCheck, Slot, Verdict

SLOT = Slot(0, "output")


def told(*, differs: bool = False, origins: int = 0, counts: tuple[Count, ...] = (), **sides: Any) -> Any:
    """`Inside` of a pair whose outputs differ or not, with some origins."""
    fine = {"observer": ObserverCheck(True, True), "complete": True}
    case: Any = SimpleNamespace(
        localization=SimpleNamespace(
            outputs=((SLOT, Comparison("differs" if differs else "agrees")),),
            origins=("somewhere",) * origins,
            counts=counts,
            unplaced=False,
        ),
        reference=SimpleNamespace(**{**fine, **sides.get("reference", {})}),
        candidate=SimpleNamespace(**{**fine, **sides.get("candidate", {})}),
        alignment=Alignment((), unpaired_reference=(1, 2), unpaired_candidate=(3,)),
        rows={},
        runs=(None, None),
        shared=lambda _, make: "",
    )
    return inside(case, Verdict.ROUNDING, "because")


def test_the_insides_agree_only_without_a_difference_and_without_an_origin() -> None:
    assert told().agree
    assert not told(differs=True).agree
    assert not told(origins=1).agree
    assert (told(origins=2).origins, told().unpaired) == (2, 3)


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_each_side_is_named_by_what_is_wrong_with_it(side: str) -> None:
    assert told(**{side: {"observer": ObserverCheck(False, True)}}).varying == (side,)
    assert told(**{side: {"observer": ObserverCheck(True, False)}}).changed == (side,)
    assert told(**{side: {"complete": False}}).cut == (side,)
    unknown = told(**{side: {"observer": ObserverCheck(None, None)}})
    assert (unknown.varying, unknown.changed, unknown.cut) == ((), (), ())


def test_calls_that_could_not_be_executed_again_are_not_said_to_agree() -> None:
    differing = Anchor((Compared(SLOT, "values", Comparison("differs")),))
    missed = told(counts=(Count("calls not replayed", "there is no such primitive", 3, code="not replayed"),))
    assert anchored(differing, told())[1].startswith("because every op that was observed agrees")
    verdict, reason = anchored(differing, missed)
    assert verdict is Verdict.INCONCLUSIVE and reason.startswith("because 3 calls could not be executed again")


def test_nothing_compared_is_no_agreement() -> None:
    assert not Anchor().agree and not Anchor().equal
    unread = Compared(SLOT, "unreadable", Comparison("not_compared", "why"))
    assert not Anchor((unread,)).agree
    same = Compared(SLOT, "equal", Comparison("agrees"))
    assert Anchor((same,)).equal
    assert Anchor((same, unread)).agree and not Anchor((same, unread)).equal
