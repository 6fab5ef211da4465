"""Where an origin is shown."""

from __future__ import annotations

import pytest

from whydiff.records import Comparison, Origin, Site, Verdict

START, STEP, OTHER = Site("", "uniform_"), Site("SGD", "mul_", "update", 3), Site("SGD", "sub", "update", 3)


@pytest.mark.parametrize(
    ("ours", "theirs", "region", "shown"),
    [
        (START, STEP, (STEP,), STEP),  # the candidate alone has a step; what the reference has was made at the start
        (OTHER, START, (OTHER,), OTHER),
        (OTHER, STEP, (OTHER, STEP), OTHER),
        (START, STEP, (), START),
    ],
    ids=["a step of the candidate", "a step of the reference", "both", "the same op"],
)
def test_a_place_is_where_a_step_is_and_not_where_the_value_of_the_other_side_was_made(
    ours: Site, theirs: Site, region: tuple[Site, ...], shown: Site
) -> None:
    origin = Origin(
        site=ours.at("output"),
        candidate_site=theirs.at("output"),
        kind="region",
        verdict=Verdict.SEMANTIC,
        comparison=Comparison("differs"),
        region=region,
    )
    assert origin.place.at("") == shown
