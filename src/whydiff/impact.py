"""What the user sees: differences of the outputs in their own terms."""

from __future__ import annotations

from whydiff.localize import Localization
from whydiff.records import Measurement

_METRICS = ("max_abs", "mean_abs", "rel_l2", "different")


def impact(local: Localization) -> tuple[Measurement, ...]:
    """The largest of each metric over the returned tensors; ``per`` names the tensor."""
    found = []
    for metric in _METRICS:
        values = [
            (value, slot) for slot, comparison in local.outputs
            if (value := comparison.value(metric)) is not None
        ]  # fmt: skip
        if values:
            value, slot = max(values)
            found.append(Measurement(metric, value, slot))
    return tuple(found)
