"""Other rows beside those that two runs have in common, in a live program's own tensors; put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from whydiff.records import Intervention

OTHER_ROWS = "other-rows"
"""Its value: the first common row, how many there are, and what the others become.

That is ``"zeros"``, ``"copies"`` of the common ones, or their ``"opposites"`` (whole numbers stay copies).
"""


@contextmanager
def other_rows(tensor: torch.Tensor, intervention: Intervention) -> Iterator[None]:
    """The rows of a tensor that are not common ones are others for the length of the block."""
    start, count, how = intervention.value
    held = tensor.detach()
    with torch.inference_mode(held.is_inference()), torch.no_grad():
        before = held.clone()
        common = slice(start, start + count)
        changed = before[start + (torch.arange(len(before), device=before.device) - start) % count]
        if how == "zeros":
            changed = torch.zeros_like(before)
        elif how == "opposites" and (before.is_floating_point() or before.is_complex()):
            changed = -changed
        changed[common] = before[common]
        held.copy_(changed)
    try:
        yield
    finally:
        with torch.inference_mode(held.is_inference()), torch.no_grad():
            held.copy_(before)
