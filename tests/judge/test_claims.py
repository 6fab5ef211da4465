"""Which origins are a cause's own: what it changes is what they read, where they are, or inside that."""

from __future__ import annotations

from typing import Any

import pytest

from whydiff.judge.claims import Claims
from whydiff.records import Comparison, Intervention, Origin, Site, Verdict

SITE = Site(scope="block.1", op="mul", occurrence=2)


def origin(leaves: tuple[str, ...] = (), site: Site = SITE, candidate: Site = SITE) -> Origin:
    fields: dict[str, Any] = {"calls": (0, 0), "evidence": ()}
    return Origin(
        site=site,
        candidate_site=candidate,
        kind="arguments",
        verdict=Verdict.SEMANTIC,
        comparison=Comparison("differs"),
        leaves=leaves,
        **fields,
    )


@pytest.mark.parametrize(
    ("target", "one", "expected"),
    [
        (str(SITE.at("")), origin(), True),
        (f"{SITE.at('')}.0", origin(), True),  # an argument or a read of the call
        (f"{SITE.at('')}0", origin(), False),  # another occurrence that begins with the same digits
        (str(SITE.at(""))[:-1], origin(), False),
        ("block.1", origin(), False),
        ("weight", origin(("weight",)), True),
        ("weight.0", origin(("weight",)), False),
        (str(SITE.at("")), origin(candidate=Site(scope="other", op="mul")), True),
        ("", origin(), False),
    ],
)
def test_what_a_cause_changes(target: str, one: Origin, expected: bool) -> None:
    assert Claims([Intervention("edit", target)]).holds(one) is expected
    assert Claims([], [target]).holds(one) is expected


def test_only_at_the_sites_that_are_asked_for() -> None:
    other = Site(scope="other", op="mul")
    claims = Claims([Intervention("edit", str(SITE.at("")))])
    assert not claims.holds(origin(candidate=other), [other])
    assert claims.holds(origin(candidate=other), [SITE])
