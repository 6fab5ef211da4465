"""Whole numbers that wrap around in the dtype of one side."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

PIXELS = torch.arange(0, 256, 5, dtype=torch.uint8)
TOKENS = torch.arange(30_011, 40_000, 501)
STEPS = torch.arange(40, 100, 3, dtype=torch.int8)


def centred(wide: bool) -> torch.Tensor:
    return ((PIXELS.int() if wide else PIXELS) - 128).float() / 64


def doubled(wide: bool) -> torch.Tensor:
    return ((STEPS.short() if wide else STEPS) * 2).float().tanh()


def hashed(wide: bool, factor: int = 1_000_003_000_003) -> torch.Tensor:
    """Beyond what float64 counts; the low half of the factor is what 32 bits have of it."""
    low = (factor + 2**31) % 2**32 - 2**31
    made = TOKENS * factor if wide else TOKENS.int() * low
    return (made.remainder(97)).float() / 97


@pytest.mark.parametrize(("run", "dtype"), [(centred, "uint8"), (doubled, "int8"), (hashed, "int32")])
@pytest.mark.parametrize("candidate", [True, False])
def test_whole_numbers_that_wrap_around_are_named(
    run: Callable[[bool], torch.Tensor], dtype: str, candidate: bool
) -> None:
    found = compare(lambda: run(candidate), lambda: run(not candidate))
    assert found.verdict in (Verdict.UNSTABLE, Verdict.SEMANTIC)
    cause = found.causes[0]
    side = "candidate" if candidate else "reference"
    assert (cause.code, cause.status) == ("OV001", "located")
    assert cause.says == f"whole numbers wrap around in {dtype} in the {side}"


def test_other_whole_numbers_in_another_dtype_are_no_wrapping() -> None:
    found = compare(lambda: (PIXELS.int() - 128).float(), lambda: (PIXELS.short() - 129).float())
    assert "OV001" not in [cause.code for cause in found.causes]
    found = compare(lambda: hashed(True), lambda: hashed(False, 1_000_003_000_004))
    assert "OV001" not in [cause.code for cause in found.causes]
