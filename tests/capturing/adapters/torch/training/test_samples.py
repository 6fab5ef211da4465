"""What a step's sample holds, however the parameters lie in memory."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from whydiff.capturing.adapters.torch.training.samples import Numbers, Plan, Sample
from whydiff.capturing.adapters.torch.training.spots import Spots

Shape = tuple[int, int, int]


def sampled(tensors: list[torch.Tensor], slopes: dict[int, torch.Tensor]) -> tuple[Numbers, Numbers, float]:
    """Of tensors and of the gradients of some of them, and how many each stands for."""
    weights, given = Spots().of(tensors), Spots().of(list(slopes.values()))
    plan = Plan(weights.layout, given.layout, list(slopes))
    assert plan.fits(weights.layout, given.layout, list(slopes)) and not plan.fits(weights.layout, given.layout, [-1])
    return (*Sample(plan, weights, given).read(), plan.share)


@given(shape=st.tuples(*[st.integers(1, 40)] * 3), permuted=st.booleans(), first=st.integers(0, 3), grad=st.booleans())
def test_a_sample_is_every_nth_element_in_row_major_order(shape: Shape, permuted: bool, first: int, grad: bool) -> None:
    number = shape[0] * shape[1] * shape[2]
    tensor = torch.arange(first + number, dtype=torch.float32)[first:].reshape(shape)
    tensor = tensor.permute(2, 0, 1) if permuted else tensor
    tensor = tensor.detach().requires_grad_(grad)
    found, slopes, share = sampled([tensor], {0: -tensor.detach()})
    stride = max(1, number // 1024)
    assert np.array_equal(found, tensor.detach().contiguous().view(-1)[::stride].numpy())
    assert np.array_equal(slopes, -found)
    assert share == number / len(found)


def test_a_sample_stands_in_the_order_of_the_tensors_and_says_where_there_is_no_value() -> None:
    tensors = [torch.ones(3), torch.arange(2.0), torch.full((2,), 7, dtype=torch.bfloat16), torch.arange(3)]
    slopes = {2: torch.full((2,), 8.0, dtype=torch.float64), 0: torch.full((3,), 2.0), 1: torch.zeros(5)}
    found, given, share = sampled(tensors, slopes)
    assert found.tolist() == [1, 1, 1, 0, 1, 7, 7]
    assert given[:3].tolist() == [2, 2, 2] and given[5:].tolist() == [8, 8]
    assert np.isnan(given[3:5]).all(), "a gradient of another size is none at these places"
    assert share == 1


def test_numbers_of_eight_bits_are_sampled_too() -> None:
    found, given, _ = sampled([torch.ones(3).to(torch.float8_e4m3fn), torch.zeros(2)], {})
    assert found.tolist() == [1, 1, 1, 0, 0] and np.isnan(given).all()


def test_nothing_is_sampled_of_nothing() -> None:
    found, given, share = sampled([torch.arange(3), torch.empty(0)], {})
    assert len(found) == len(given) == 0 and share == 1


def test_a_sample_does_not_follow_what_is_written_later() -> None:
    weights, slopes = [torch.ones(2)], [torch.ones(2)]
    looks = Spots().of(weights), Spots().of(slopes)
    sample = Sample(Plan(looks[0].layout, looks[1].layout, [0]), *looks)
    weights[0].zero_()
    slopes[0].zero_()
    assert [part.tolist() for part in sample.read()] == [[1, 1], [1, 1]]
