"""The rounding of `whydiff.numbers.casts` is the framework's, and what is no rounding is no cast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.numbers.casts import proven_cast, share_equal_to_rounding
from whydiff.numbers.formats import FORMATS, round_to

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
floats = st.lists(st.floats(width=32), min_size=1, max_size=40)


def cast(reference: torch.Tensor, candidate: torch.Tensor) -> Any:
    return proven_cast(to_payload(reference), to_payload(candidate))


def table(n: int = 64) -> torch.Tensor:
    return 1e4 ** -(torch.arange(n) / n)


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    nan = np.isnan(one) & np.isnan(other)
    return bool(np.all(nan | (one.view(np.int64) == other.view(np.int64))))


@given(floats)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e5m2"])
def test_rounding_is_torchs_for_every_float32(dtype: str, numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    assert same(round_to(x.double().numpy(), dtype), x.to(getattr(torch, dtype)).double().numpy())


@given(st.lists(st.floats(min_value=-240, max_value=240, width=32), min_size=1, max_size=40))
@pytest.mark.parametrize("dtype", NARROW)
def test_rounding_is_torchs_in_range(dtype: str, numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    assert same(round_to(x.double().numpy(), dtype), x.to(getattr(torch, dtype)).double().numpy())


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_a_cast_is_proven_in_both_directions(dtype: str, wide: torch.dtype) -> None:
    x = table().to(wide) * 100
    y = x.to(getattr(torch, dtype))
    found, reverse = cast(x, y), cast(y, x)
    assert (found.rounded, found.narrow, found.elements) == ("candidate", dtype, 64)
    assert (reverse.rounded, reverse.wide) == ("reference", found.wide)
    assert found.changed == int((x != y.to(wide)).sum()) > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_table_that_was_cast_back_is_recognised(dtype: str) -> None:
    x = table()
    y = x.to(getattr(torch, dtype)).float()
    found, reverse = cast(x, y), cast(y, x)
    assert (found.rounded, found.narrow, found.stored) == ("candidate", dtype, "float32")
    assert (reverse.rounded, reverse.narrow) == ("reference", dtype)


def test_complex_tables_are_pairs() -> None:
    x = torch.polar(torch.ones(32), table(32))
    y = torch.view_as_complex(torch.view_as_real(x).bfloat16().float())
    assert cast(x, y).narrow == "bfloat16"


def test_float64_by_way_of_float32_is_recognised() -> None:
    x = torch.tensor([1 + 2**-8 + 2**-40, 0.1], dtype=torch.float64)  # the two ways round the first differently
    y = x.float().bfloat16()
    assert cast(x, y).via == "float32"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: torch.nextafter(x, torch.full_like(x, 2.0)),
        lambda x: x * 1.01,
        lambda x: x.flip(0),
        lambda x: -x,
        lambda x: x.clone(),
        lambda x: x.bfloat16().float() * (1 + 2**-20),
        lambda x: torch.where(torch.arange(64) == 5, torch.nextafter(x, x + 1), x).bfloat16().roll(1),
    ],
)
def test_other_changes_are_no_cast(change: Any) -> None:
    assert cast(table(), change(table())) is None


@pytest.mark.parametrize("value", [1.0, 1.003, 0.5])
def test_one_changed_number_among_representable_ones_is_no_cast(value: float) -> None:
    x, y = torch.ones(64), torch.ones(64)
    y[3] = value if value != 1.0 else float(torch.nextafter(x[3], x[3] + 1))
    assert cast(x, y) is None
    assert cast(y, x) is None


def test_one_ulp_of_a_single_number_is_no_cast() -> None:
    x = torch.tensor([0.5])
    assert cast(torch.nextafter(x, x + 1), x) is None


def test_one_wrong_element_of_a_cast_is_seen_and_counted() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    y = x.bfloat16()
    y[77_777] += 1
    assert cast(x, y) is None
    assert share_equal_to_rounding(to_payload(x), to_payload(y)) == (99_999, 100_000)


def test_shapes_integers_and_empty_tensors_are_no_cast() -> None:
    assert cast(torch.ones(3), torch.ones(4).bfloat16()) is None
    assert cast(torch.ones(3), torch.ones(3, dtype=torch.int32)) is None
    assert cast(torch.ones(0), torch.ones(0).bfloat16()) is None


def test_formats_are_ordered_from_wide_to_narrow() -> None:
    precisions = [kind.precision for kind in FORMATS.values()]
    assert precisions == sorted(precisions, reverse=True)
