"""Stored against computed weights: rounding to within half a unit in the last place, a defect beyond it."""

from __future__ import annotations

import pytest
from tests.field import folded

from whydiff.explain.implied import as_rows, implied
from whydiff.pipeline import compare

BENIGN = {"rounding", "precision"}
CASES = {
    "norm_removed": BENIGN,
    "norm_removed_wide": {"rounding", "identical"},
    "norm_removed_scaled": {"semantic"},
    "adapter_merged": BENIGN,
    "adapter_merged_wide": BENIGN,
    "adapter_merged_otherwise": {"semantic"},
    "adapter_functions": BENIGN,
}


@pytest.mark.parametrize("name", CASES)
def test_stored_weights(name: str) -> None:
    diagnosis = compare(*getattr(folded, name)())
    assert str(diagnosis.verdict) in CASES[name], diagnosis.reason
    if "semantic" not in CASES[name]:
        assert not [c for c in diagnosis.causes if c.status == "confirmed"]
        assert not [c for c in diagnosis.causes if str(c.verdict) == "semantic"]


def test_half_a_unit_in_the_last_place_is_the_limit() -> None:
    import numpy as np

    exact = np.array([1.0, 1.5, -3.0]) + 2.0**-10
    held = np.array([1.0, 1.5, -3.0])  # bfloat16 has steps of 2**-7 from 1 to 2, half of it is 2**-8
    found = implied(held, "bfloat16", lambda reads: reads[0], [exact], [None])
    assert found is not None
    assert found.worst == 0.25
    assert not found.moves
    beyond = implied(held * 1.02, "bfloat16", lambda reads: reads[0], [exact], [None])
    assert beyond is not None
    assert not beyond.is_rounding
    equal = implied(held, "bfloat16", lambda reads: reads[0], [held], [None])
    assert equal is not None
    assert not equal.is_rounding  # nothing that is stored differs


def test_only_maps_of_rows_have_a_matrix() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    x, matrix = random.standard_normal((3, 8)), random.standard_normal((8, 5))
    found = as_rows(lambda x: x @ matrix + 1.0, x, 1e-12)
    assert found is not None
    assert np.allclose(found.matrix, matrix, rtol=0, atol=1e-14)
    assert as_rows(lambda x: np.tanh(x @ matrix), x, 1e-12) is None
    assert as_rows(lambda x: (x - x.mean(0)) @ matrix, x, 1e-12) is None
