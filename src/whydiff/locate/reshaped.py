"""Equal values in another shape: what an op makes element by element of a value that is looked at otherwise.

``t[:, None].float()`` against ``t.float()``: the op reads [5, 1] and [5], and writes the same numbers in the same order.
No difference starts there: whether the shape matters is told by the ops that read what was written.
"""

from __future__ import annotations

from whydiff.pair.lockstep import Lockstep, Look


def reshaped(step: Lockstep, look: Look) -> bool:
    """Whether two values hold the same bits in the same order, and only their shapes differ."""
    ours, theirs = look.reference_value, look.candidate_value
    specs = look.reference.spec, look.candidate.spec
    if ours is None or theirs is None or look.map is not None:
        return False
    if specs[0].dtype != specs[1].dtype or specs[0].numel != specs[1].numel or specs[0].shape == specs[1].shape:
        return False
    try:
        return step.agree(ours.reshape(-1), theirs.reshape(-1))
    except (RuntimeError, TypeError, ValueError, AttributeError):  # a kind of tensor that has no flat order
        return False
