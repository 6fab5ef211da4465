"""Where tensors lie: what is known from the step before holds only of a tensor that lies as it did."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from whydiff.capturing.adapters.torch.training.spots import Spots, form


@pytest.fixture
def known():
    """Spots that know a parameter from the step before, and the spot."""
    spots, parameter = Spots(), torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    _, (spot,) = spots.of(parameter)
    spots.begin()
    return spots, parameter, spot


def test_a_tensor_that_stays_is_found_once(known) -> None:
    spots, parameter, spot = known
    with torch.no_grad():
        parameter.mul_(2)  # other numbers, at the same place
    assert spots.of(parameter)[1][0] is spot
    spots.begin()
    assert spots.of(parameter)[1][0] is spot, "and so on, step after step"


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clone(),
        lambda data: data.t(),
        lambda data: data[:2],
        lambda data: data.view(torch.int32).view(torch.float32)[:, 1:],
        lambda data: data.double(),
    ],
)
def test_a_tensor_that_was_given_other_memory_or_another_look_at_it_is_found_again(known, change) -> None:
    spots, parameter, spot = known
    with torch.no_grad():
        parameter.data = change(parameter.data)
    _, (fresh,) = spots.of(parameter)
    assert fresh is not spot
    assert form([fresh]) == f"{str(parameter.dtype).removeprefix('torch.')}{list(parameter.shape)}"
    assert (fresh.span is None) == (not parameter.is_contiguous())
    if fresh.span is not None:
        low, high = fresh.span
        assert high - low == parameter.nbytes and low == parameter.storage_offset() * parameter.element_size()


def test_what_is_known_does_not_hold_a_tensor_and_is_forgotten_with_the_step() -> None:
    spots, tensor = Spots(), torch.ones(3)
    (spot,) = spots.of(tensor)[1]
    there = weakref.ref(tensor)
    del tensor
    gc.collect()
    assert there() is None
    assert not spot.holds(torch.ones(3))
    for _ in range(2):
        spots.begin()
    assert not spots._before and not spots._now


def test_what_cannot_be_looked_at_is_held_in_no_piece() -> None:
    assert Spots().of(torch.ones(2, device="meta")) == ([], [])
