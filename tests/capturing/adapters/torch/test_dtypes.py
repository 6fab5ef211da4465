"""Host payloads keep every dtype bit for bit."""

from __future__ import annotations

import pytest
import torch

from whydiff.capturing.adapters.torch.dtypes import _NAMES, dtype_name, dtype_of, from_payload, integer_view, to_payload
from whydiff.errors import PayloadError


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)])
@pytest.mark.parametrize("name", _NAMES)
def test_payloads_round_trip(name: str, shape: tuple[int, ...]) -> None:
    dtype = dtype_of(name)
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if name == "bool" else 256, (count,), generator=torch.Generator().manual_seed(1))
    tensor = raw.to(torch.uint8).view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    payload = to_payload(tensor)
    assert payload.dtype == name == dtype_name(dtype) and payload.bits.shape == shape
    back = from_payload(payload)
    assert back.dtype == dtype and back.shape == tensor.shape
    assert torch.equal(integer_view(back), integer_view(tensor))


def test_layout_does_not_matter() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[:, :, ::2]
    assert torch.equal(from_payload(to_payload(tensor)), tensor)


def test_a_payload_is_a_copy() -> None:
    tensor = torch.ones(3)
    payload = to_payload(tensor)
    tensor.zero_()
    assert payload.bits.tolist() == [1, 1, 1]


def test_a_dtype_of_the_future_is_refused() -> None:
    with pytest.raises(PayloadError):
        dtype_of("float2_e1m0")
