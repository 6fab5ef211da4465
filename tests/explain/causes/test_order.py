"""In which order causes are asked: as their relations say, general ones last, else by code.

And what none is heard with: a cause that a rule proposes under another one's code.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest

from whydiff.errors import UsageError, collecting
from whydiff.explain.causes import asked, by_code, proposed
from whydiff.explain.causes._rule import in_order
from whydiff.records import Cause, Verdict


def rule(code: str, **relations: Any) -> Any:
    return SimpleNamespace(code=code, **{"yields_to": (), "precedes": (), "general": False, **relations})


def order(*rules: Any) -> list[str]:
    """The order of some causes, which must not depend on how they were registered."""
    (one,) = {
        tuple(found.code for found in in_order({r.code: r for r in registered})) for registered in permutations(rules)
    }
    return list(one)


def test_without_relations_it_is_by_code() -> None:
    assert order(rule("ST002"), rule("FO001"), rule("ST001")) == ["FO001", "ST001", "ST002"]


def test_a_cause_that_yields_comes_after_the_other_or_its_whole_family() -> None:
    assert order(rule("AA001", yields_to=("ZZ001",)), rule("ZZ001")) == ["ZZ001", "AA001"]
    assert order(rule("AA001", yields_to=("ZZ",)), rule("ZZ002"), rule("ZZ001")) == ["ZZ001", "ZZ002", "AA001"]


def test_a_cause_that_precedes_comes_before() -> None:
    assert order(rule("AA001"), rule("ZZ001", precedes=("AA001",))) == ["ZZ001", "AA001"]
    assert order(rule("AA001"), rule("ZZ001", precedes=("AA",)), rule("AA002")) == ["ZZ001", "AA001", "AA002"]


def test_general_ones_come_last() -> None:
    assert order(rule("AA001", general=True), rule("BB001"), rule("AA002", general=True)) == ["BB001", "AA001", "AA002"]


def test_a_circle_is_named() -> None:
    with pytest.raises(UsageError, match="circle"):
        order(rule("AA001", yields_to=("BB001",)), rule("BB001", yields_to=("AA001",)))


def test_the_registered_ones_follow_their_relations() -> None:
    codes = [one.code for one in asked()]
    place = {code: number for number, code in enumerate(codes)}
    for one in asked():
        for other in asked():
            if other is not one and {other.code, other.code[:2]} & {*one.yields_to}:
                assert place[other.code] < place[one.code]
    general = [one.general for one in asked()]
    assert general == sorted(general)
    assert by_code(codes[0]) is asked()[0]


def test_a_rule_proposes_under_its_own_code_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHYDIFF_RAISE")
    rule = by_code("ST001")
    own, foreign = (Cause(code=code, name="x", site="a", verdict=Verdict.SEMANTIC) for code in (rule.code, "ST002"))
    monkeypatch.setattr(type(rule), "detect", lambda self, case: iter((own, foreign, own)))
    nothing: Any = None
    with collecting() as failures:
        assert proposed(rule, nothing) == [replace(own, says=rule.sentence())]
    (failure,) = failures.found
    assert "ST001" in failure.error
