"""Values compared where they lie: what a pass there finds is told as a comparison of host copies tells it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters.torch import comparing, held
from whydiff.capturing.adapters.torch.comparing import Comparing, alike, measurable
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.capturing.adapters.torch.held import mean_and_excess
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import measure
from whydiff.numbers.pieces import mean_and_excess as in_numpy
from whydiff.numbers.pieces import same_bits

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("transposed", [False, True])
def test_mean_and_excess_are_those_of_host_copies(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, transposed: bool
) -> None:
    monkeypatch.setattr(held, "_PIECE", 1000)
    torch.manual_seed(0)
    ours = torch.randn(300, 257, dtype=dtype if dtype.itemsize > 1 and dtype.itemsize != 2 else torch.float32)
    theirs = ours + 1e-3 * torch.randn_like(ours)
    ours[0, 0], theirs[7, 7], theirs[1, 1], ours[2, 2], theirs[2, 2] = torch.inf, torch.nan, 3.0, torch.inf, torch.inf
    ours = ours.to(dtype)
    if transposed:
        ours, theirs = ours.mT, theirs.mT
    before = to_payload(ours), to_payload(theirs)
    mean, excess = mean_and_excess(ours, theirs, 1e-2)
    assert all(same_bits(one.bits, to_payload(now).bits) for one, now in zip(before, (ours, theirs), strict=True))
    expected = in_numpy(to_payload(ours), to_payload(theirs), 1e-2)
    assert mean == pytest.approx(expected[0], rel=1e-12) and excess == expected[1] > 0
    assert Comparing.mean_and_excess(object(), ours, theirs, 1e-2) == expected


def test_nothing_lies_nowhere_and_what_is_never_finite_is_not_far() -> None:
    assert mean_and_excess(torch.zeros(0, 3), torch.zeros(0, 3), 1e-6) == (0.0, 0.0)
    assert mean_and_excess(torch.full((4,), torch.nan), torch.zeros(4), 1e-6) == (0.0, 0.0)
