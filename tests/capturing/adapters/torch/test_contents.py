"""What a plain run wrote into memory is found and put back, whatever its size and where it lies."""

from __future__ import annotations

import pytest
import torch

from whydiff.capturing.adapters.torch.beginning import Contents


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 4096])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.complex128])
def test_every_byte_counts(count: int, dtype: torch.dtype) -> None:
    tensor = torch.arange(count).to(dtype)
    before = tensor.view(torch.uint8).clone()
    for place in {0, len(before) // 2, len(before) - 1}:
        contents = Contents([tensor])
        tensor.view(torch.uint8)[place] ^= 1
        contents.put_back()
        assert torch.equal(tensor.view(torch.uint8), before)


def test_zeros_of_both_signs_and_nans_are_told_apart_by_their_bits() -> None:
    tensor = torch.tensor([0.0, float("nan"), 1.0, 2.0])
    contents = Contents([tensor])
    tensor[0] = -0.0
    contents.put_back()
    assert not torch.signbit(tensor[0])
    assert contents._kept, "what changed once is watched on"
    untouched = Contents([tensor])
    untouched.put_back()
    assert not untouched._kept, "a NaN is itself"


def test_memory_that_begins_between_words() -> None:
    memory = torch.arange(65, dtype=torch.uint8).numpy()
    tensor = torch.from_numpy(memory[1:65])
    contents = Contents([tensor])
    memory[64] = 0
    contents.put_back()
    assert memory[64] == 64
