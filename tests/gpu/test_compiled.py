"""A program under CUDA graphs gives the same bits before and after it was compared, in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff


def gated(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x) * x + 1


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_the_same_bits_before_and_after(mode: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 64, device="cuda", dtype=torch.bfloat16)
    program: Any = torch.compile(gated, mode=mode)

    def run() -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return program(x).clone()

    with torch.no_grad():
        for _ in range(3):  # recorded at the second call
            before = run()
        whydiff.compare(lambda: gated(x), run)
        assert torch.equal(run(), before)
        assert torch.equal(run(), before)
