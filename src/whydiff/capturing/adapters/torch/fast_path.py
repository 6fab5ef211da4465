"""PyTorch's fused fast path of transformer layers, where it computes otherwise as soon as anybody looks.

One op stands for a whole encoder layer, or for attention. Under autocast its inner steps are rounded like ops of their own,
but below a recorder autocast is over: the same op then carries them out in the dtype of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from whydiff.capturing.adapters._outputs import same_outputs
from whydiff.numbers.comparison import compare_payloads
from whydiff.records import Output, Trace

Outputs = Sequence[Output]
_FUSED = frozenset({"_transformer_encoder_layer_fwd", "_native_multi_head_attention"})


def is_taken(trace: Trace) -> bool:
    """Whether a run took the path."""
    return any(call.site.op in _FUSED for call in trace.calls)


def blamed(anchor: Outputs, plainly: Callable[[], Outputs], looked_at: Callable[[], Outputs]) -> str:
    """That looking changes a run by this path alone, and by how much the path changes it; empty: it is not that.

    Args:
        anchor: what the program gives plainly.
        plainly, looked_at: run it once more, without and with a recorder.
    """
    if not torch.backends.mha.get_fastpath_enabled():
        return ""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        without = plainly()
        if same_outputs(anchor, without)[0] or not same_outputs(without, looked_at())[0]:
            return ""
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    pairs = [(a.payload, b.payload) for a, b in zip(anchor, without, strict=False)]
    moved = [compare_payloads(a, b).value("max_abs") or 0.0 for a, b in pairs if a is not None and b is not None]
    return (
        "PyTorch's fused fast path of transformer layers is rounded otherwise when it is looked into; "
        f"torch.backends.mha.set_fastpath_enabled(False) switches it off, which moves the outputs by at most "
        f"{max(moved, default=0.0):.2g}, and looking then changes nothing"
    )
