"""The cheap pass: what a step's sample holds, however the parameters lie in memory."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from whydiff.capturing.adapters.torch.training.spots import Spots
from whydiff.capturing.adapters.torch.training.watching import sampled

Shape = tuple[int, int, int]


@given(shape=st.tuples(*[st.integers(1, 40)] * 3), permuted=st.booleans(), first=st.integers(0, 3), grad=st.booleans())
def test_a_sample_is_every_nth_element_in_row_major_order(shape: Shape, permuted: bool, first: int, grad: bool) -> None:
    number = shape[0] * shape[1] * shape[2]
    tensor = torch.arange(first + number, dtype=torch.float32)[first:].reshape(shape)
    tensor = tensor.permute(2, 0, 1) if permuted else tensor
    tensor = tensor.detach().requires_grad_(grad)
    held = Spots().of(tensor)
    found, share = sampled([held], [held])
    stride = max(1, number // 1024)
    assert not found.requires_grad
    assert torch.equal(found, tensor.detach().contiguous().view(-1)[::stride])
    assert share == number / len(found)


def test_a_sample_stands_in_the_order_of_the_tensors_and_says_where_there_is_no_value() -> None:
    tensors = [torch.ones(3), torch.arange(2.0), torch.full((2,), 7, dtype=torch.bfloat16)]
    first, second, third = map(Spots().of, tensors)
    found, _ = sampled([first, second, third], [first, None, third])
    assert found[:3].tolist() == [1, 1, 1] and found[5:].tolist() == [7, 7]
    assert found[3:5].isnan().all()
