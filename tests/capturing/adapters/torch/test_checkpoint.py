"""What is read of PyTorch's own files, and which of it lies in pages of the file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from whydiff.capturing.adapters.torch.checkpoint import KEPT, checkpoint


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what a process maps is told by Linux")
def test_tensors_of_a_large_file_lie_in_its_pages_and_copies_of_them_do_not(tmp_path: Path) -> None:
    large = torch.arange(KEPT // 4, dtype=torch.float32).reshape(-1, 8)
    torch.save({"plain": large, "turned": large.t(), "step": 3}, tmp_path / "large.pt")
    tensors, values, skipped = checkpoint(tmp_path / "large.pt")
    assert {name: mapped for name, (_, mapped) in tensors.items()} == {"plain": True, "turned": False}
    assert (tensors["turned"][0].bits == large.t().numpy()).all()
    assert (values, skipped) == ({"step": 3}, {})


def test_where_a_small_file_lies_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump has thousands of them, and each that is open makes the system's answer longer."""
    monkeypatch.setattr(sys.modules[checkpoint.__module__], "_mapped_ranges", lambda path: pytest.fail("asked"))
    torch.save(torch.ones(3), tmp_path / "small.pt")
    ((payload, mapped),) = checkpoint(tmp_path / "small.pt")[0].values()
    assert payload.bits.tolist() == [1.0] * 3 and not mapped
