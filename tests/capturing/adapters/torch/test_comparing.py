"""Values compared where they lie: what a pass there finds is told as a comparison of host copies tells it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters.torch import comparing
from whydiff.capturing.adapters.torch.comparing import Comparing, alike, measurable
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import measure

LINE = torch.linspace(-1, 1, 20_000)


@pytest.mark.parametrize(
    "other",
    [LINE.clone(), LINE + 1e-6, LINE.bfloat16(), LINE[:-1], LINE.reshape(2, -1)],
    ids=["equal", "apart", "dtype", "shorter", "shape"],
)
def test_a_pass_elsewhere_is_told_as_one_of_host_copies(monkeypatch: pytest.MonkeyPatch, other: torch.Tensor) -> None:
    asked = []

    def elsewhere(reference: torch.Tensor, candidate: torch.Tensor, rtol: float, atol: float):
        asked.append((rtol, atol))
        return measure(to_payload(reference), to_payload(candidate), rtol, atol)

    monkeypatch.setattr(comparing, "measurable", lambda one, two: True)
    monkeypatch.setattr(comparing, "measured", elsewhere)
    told = Comparing.compare(object(), LINE, other, None)
    assert told == compare_payloads(to_payload(LINE), to_payload(other))
    assert len(asked) == (other.shape == LINE.shape)


def test_what_a_mask_fills_with_one_number_is_found_as_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "measurable", lambda one, two: True)
    monkeypatch.setattr(
        comparing, "measured", lambda one, two, *given: measure(to_payload(one), to_payload(two), *given)
    )
    for fill in (-3.4e38, -1e9, 2.0):
        ours = torch.where(torch.arange(20_000) % 3 == 0, torch.tensor(fill), LINE)
        theirs = torch.where(torch.arange(20_000) % 3 == 0, torch.tensor(fill), LINE + 1e-5)
        assert comparing.between(ours) == (fill == 2.0)
        assert Comparing.compare(object(), ours, theirs, None) == compare_payloads(to_payload(ours), to_payload(theirs))


def test_host_memory_is_compared_as_before() -> None:
    assert not measurable(LINE, LINE)


def test_a_pass_that_counts_otherwise_is_not_taken_for_right() -> None:
    found = measure(to_payload(LINE), to_payload(LINE + 1e-3))
    assert alike(found, found)
    assert alike(replace(found, sum_abs=found.sum_abs * (1 + 1e-12)), found)
    assert not alike(replace(found, sum_abs=found.sum_abs * 1.01), found)
    assert not alike(replace(found, different=found.different - 1), found)
    assert not alike(replace(found, max_abs=float(np.nextafter(found.max_abs, 1.0))), found)
