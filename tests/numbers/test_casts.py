"""What no way of rounding makes of a tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.numbers.casts import farther_than_rounding

VALUES = torch.randn(100, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_more_than_a_place_is_more_than_rounding(dtype: torch.dtype) -> None:
    wide, narrow = to_payload(VALUES), VALUES.to(dtype)
    assert not farther_than_rounding(wide, to_payload(narrow))
    one = narrow.clone()
    one[7] *= 1.25
    assert farther_than_rounding(wide, to_payload(one))


def test_every_way_of_rounding_stays_within_a_place() -> None:
    bits = VALUES.view(torch.int32)
    for low in (bits & ~0xFFFF, (bits + 0xFFFF) & ~0xFFFF):
        assert not farther_than_rounding(to_payload(VALUES), to_payload(low.view(torch.float32).bfloat16()))


def test_what_overflows_is_rounding_and_another_special_is_not() -> None:
    wide = to_payload(torch.tensor([1e6, 1.0, np.nan, np.inf]))
    for held, more in (([np.inf, 1, np.nan, np.inf], False), ([65504, 1, np.nan, np.inf], False)):
        assert farther_than_rounding(wide, to_payload(torch.tensor(held).half())) is more
    for held in ([np.inf, np.inf, np.nan, np.inf], [np.inf, 1, 0, np.inf], [np.inf, 1, np.nan, 0]):
        assert farther_than_rounding(wide, to_payload(torch.tensor(held).half()))
