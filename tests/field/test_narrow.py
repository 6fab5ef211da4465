"""Roundings to 16 bits: precision where they are what differs, and never where something else does."""

from __future__ import annotations

import pytest
from tests.field import narrow

from whydiff.pipeline import compare

CASES = {  # case: verdicts, the first cause's code and its status; empty: no cause of precision may be confirmed
    "timestep": ({"precision"}, "PR006", "confirmed"),
    "timestep_whole": ({"semantic"}, "", ""),
    "timestep_wide": ({"identical"}, "", ""),
    "scale_order": ({"precision"}, "PR002", "located"),
    "scale_other": ({"semantic"}, "", ""),
    "plain_half": ({"precision"}, "PR002", "confirmed"),
    "distances": ({"precision"}, "PR006", "confirmed"),
    "recomputed_outside": ({"precision"}, "PR004", "confirmed"),
}


@pytest.mark.parametrize("name", CASES)
def test_rounded_values(name: str) -> None:
    verdicts, code, status = CASES[name]
    diagnosis = compare(*getattr(narrow, name)())
    assert str(diagnosis.verdict) in verdicts, diagnosis.reason
    if code:
        assert (diagnosis.causes[0].code, diagnosis.causes[0].status) == (code, status)
    else:
        assert not [c for c in diagnosis.causes if c.code.startswith("PR") and c.status == "confirmed"]


def test_the_cast_and_what_it_changes_are_named() -> None:
    cause = compare(*narrow.timestep()).causes[0]
    assert cause.evidence[0].data["through"] == "bfloat16"
    assert (cause.evidence[0].data["changed"], cause.evidence[0].data["largest"]) == (2, 1.5)
    assert [experiment.status for experiment in cause.experiments] == ["confirmed", "confirmed"]


def test_flips_and_divergence_are_told_across_dtypes() -> None:
    metrics = {measurement.metric for measurement in compare(*narrow.plain_half()).impact}
    assert any("flip" in metric for metric in metrics)
    assert any("kl" in metric for metric in metrics)


def test_the_region_is_opened_where_the_reference_has_it_open() -> None:
    remedy = compare(*narrow.recomputed_outside()).causes[0].remedy
    assert remedy is not None
    assert "dtype=torch.bfloat16" in remedy.code
    assert "enabled=False" not in remedy.code
    reference, candidate = narrow.recomputed_outside()
    closed = compare(candidate, reference).causes[0].remedy
    assert closed is not None
    assert "enabled=False" in closed.code


def test_a_factor_made_in_fewer_bits_is_named_and_another_factor_is_another_function() -> None:
    found = compare(*narrow.normaliser())
    assert str(found.verdict) == "precision"
    assert [(c.code, c.status) for c in found.causes] == [("PR006", "located")]
    other = compare(*narrow.normaliser(6.5))
    assert str(other.verdict) == "semantic"
    assert [(c.code, c.status, c.says) for c in other.causes] == [
        ("FO003", "confirmed", "the candidate's factor is 6.5, the reference's 6.63325")
    ]
