"""What is allowed between numbers that both sides computed: last bits of large terms, and nothing that scales them all."""

from __future__ import annotations

import numpy as np
import pytest

from whydiff.numbers.metrics import measure
from whydiff.numbers.tolerance import ARTIFACT_UNITS, UNIT_ROUNDOFF, artifact_tolerance
from whydiff.records import Payload
from whydiff.studies.artifacts.items import rounded_tolerance

UNIT = UNIT_ROUNDOFF["bfloat16"]
LINE = np.random.default_rng(0).standard_normal(3000)


@pytest.mark.parametrize(
    ("other", "units", "within"),
    [
        (LINE + 3 * UNIT * (np.arange(3000) % 100 == 0), ARTIFACT_UNITS, True),
        (LINE + 3 * UNIT * (np.arange(3000) % 100 == 0), 0.0, False),
        (LINE * 1.02, ARTIFACT_UNITS, False),
        (LINE + 20 * UNIT * (np.arange(3000) == 7), ARTIFACT_UNITS, False),
    ],
    ids=["last bits of large terms", "of files", "all scaled", "one number"],
)
def test_numbers_computed_twice(other: np.ndarray, units: float, within: bool) -> None:
    sides = Payload(LINE, "float64"), Payload(other, "float64")
    strict = artifact_tolerance("bfloat16")
    found = measure(*sides, strict.rtol, strict.atol)
    assert found.mismatched
    wider = rounded_tolerance(strict, found, UNIT, units)
    assert (measure(*sides, wider.rtol, wider.atol).mismatched == 0) is within
