"""``count-on``: whole numbers of a program's own (where a token stands beside a cache) are counted on by an offset."""

from __future__ import annotations

from typing import Any

from whydiff.capturing.adapters import executor_of
from whydiff.records import Intervention, Payload, Trace

COUNT = "count-on"


def counted(trace: Trace, item: Intervention) -> Any:
    """A leaf's value plus the intervention's."""
    executor = executor_of(trace)
    leaf = next(leaf for leaf in trace.leaves if leaf.name == item.target)
    payload = executor.payload(executor.leaf_value(leaf))
    return executor.adopt_foreign(Payload(payload.bits + payload.bits.dtype.type(item.value), payload.dtype))
