"""A number that one side's op takes rounded to a narrower dtype, and numbers that are only near such a one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Cause, Diagnosis, Verdict

X = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
HEAD = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
LOW, LOW_HEAD = X.bfloat16(), HEAD.bfloat16()
ROOT = 48**0.5


def given(factor: Any, x: torch.Tensor = LOW) -> Callable[[], torch.Tensor]:
    return lambda: torch.tanh(x * factor) @ HEAD.to(x.dtype)


def found(reference: Any, candidate: Any) -> tuple[Diagnosis, Cause]:
    diagnosis = compare(reference, candidate)
    (cause,) = (cause for cause in diagnosis.causes if cause.status not in ("refuted",))
    return diagnosis, cause


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_constant_in_the_models_dtype_against_a_plain_number(dtype: torch.dtype, side: str) -> None:
    x = X.to(dtype)
    runs = given(torch.tensor(ROOT, dtype=dtype), x), given(ROOT, x)
    diagnosis, cause = found(*(runs if side == "reference" else runs[::-1]))
    assert diagnosis.verdict is Verdict.PRECISION
    assert (cause.code, cause.status) == ("PR006", "confirmed")
    assert cause.evidence[0].data["side"] == side
    assert cause.evidence[0].data["wide"] == ROOT
    assert cause.evidence[0].data["made"]
    assert f"the {side}'s mul" in cause.says


def test_a_constant_that_is_cast_on_its_way() -> None:
    _, cause = found(given(ROOT), lambda: torch.tanh(LOW * torch.tensor(ROOT).to(LOW.dtype)) @ LOW_HEAD)
    assert cause.code == "PR006"


def test_a_tensor_of_one_number_that_the_op_rounds() -> None:
    factor = torch.tensor(0.3)
    diagnosis, cause = found(given(0.3), lambda: torch.tanh(factor * LOW) @ LOW_HEAD)
    assert diagnosis.verdict is Verdict.PRECISION
    assert (cause.code, cause.status) == ("PR006", "located")  # what stands first is no number
    assert not cause.evidence[0].data["made"]
    assert compare(given(0.3), given(factor)).verdict is Verdict.IDENTICAL  # the kernel takes a second operand as it is


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (given(ROOT), given(torch.tensor(6.9062, dtype=torch.bfloat16))),
        (given(ROOT), given(6.9375)),
        (given(ROOT, X), given(6.9375, X)),
        (given(0.25), given(torch.tensor(0.2, dtype=torch.bfloat16))),
    ],
    ids=["the number below", "two plain numbers", "in float32", "another factor"],
)
def test_a_factor_that_is_not_the_rounded_one_is_another_factor(reference: Any, candidate: Any) -> None:
    diagnosis, cause = found(reference, candidate)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert cause.code == "FO003"


def test_one_number_that_both_sides_take_alike() -> None:
    assert compare(given(0.25), given(torch.tensor(0.25))).verdict is Verdict.IDENTICAL
