"""Two values compared where they lie: on a GPU by one pass there, and what it does not know through host copies."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.continuing import Continuing
from whydiff.capturing.adapters.torch.device.queue import UNUSABLE
from whydiff.capturing.adapters.torch.dtypes import (
    borrowed_payload,
    dtype_name,
    from_payload,
    integer_view,
    raw,
    to_payload,
)
from whydiff.capturing.adapters.torch.held import mean_and_excess, mean_distance
from whydiff.numbers.comparison import compared
from whydiff.numbers.metrics import (
    BETWEEN,
    SMALL,
    Statistics,
    common_dtype,
    may_be_filled,
    measure,
    measure_beside_fill,
)
from whydiff.numbers.pieces import mean_and_excess as on_the_host
from whydiff.records import Comparison, Payload

_MEASURED = frozenset((torch.float32, torch.float16, torch.bfloat16))


class Comparing(Continuing):
    """A replay that compares its values."""

    def same(self, reference: torch.Tensor, candidate: torch.Tensor) -> bool:
        """True if no bit differs; across dtypes, if every value is equal."""
        if reference.shape != candidate.shape:
            return False
        if reference.device != candidate.device:
            candidate = candidate.to(reference.device)
        if reference.dtype == candidate.dtype:
            return bool(torch.equal(integer_view(reference), integer_view(candidate)))
        wide = torch.promote_types(reference.dtype, candidate.dtype)
        return bool(torch.equal(reference.to(wide), candidate.to(wide)))

    def apart(self, one: torch.Tensor, other: torch.Tensor) -> float:
        """Mean distance, computed where the tensors are."""
        return super().apart(one, other) if one.is_cpu or one.is_complex() else mean_distance(one, other)

    def mean_and_excess(self, reference: torch.Tensor, candidate: torch.Tensor, rtol: float) -> tuple[float, float]:
        """Mean distance and excess, computed where the tensors are."""
        if not reference.is_cpu:
            return mean_and_excess(reference, candidate, rtol)
        return on_the_host(borrowed_payload(reference), borrowed_payload(candidate), rtol)

    def compare(self, reference: Any, candidate: Any, of: Any) -> Comparison:
        """`compare_payloads`, by one pass on the device of both."""
        if not measurable(reference, candidate):
            return super().compare(reference, candidate, of)
        ours, theirs = ((tuple(value.shape), dtype_name(value.dtype)) for value in (reference, candidate))
        return compared(ours, theirs, lambda allowed: _beside_fill(reference, candidate, allowed.rtol, allowed.atol))

    def adopt_beside(self, payload: Payload, value: torch.Tensor) -> torch.Tensor:
        """A tensor with a payload's bits, on another one's device."""
        return from_payload(payload, value.device)

    def payload(self, value: torch.Tensor) -> Payload:
        """A host copy."""
        return to_payload(value)


def measurable(reference: Any, candidate: Any) -> bool:
    """Whether one pass on a GPU measures two values: large ones of one device, of dtypes that it knows."""
    return (
        all(isinstance(v, torch.Tensor) and v.is_cuda and v.dtype in _MEASURED for v in (reference, candidate))
        and reference.device == candidate.device
        and reference.numel() > SMALL
        and usable(reference.device)
    )


def _beside_fill(reference: torch.Tensor, candidate: torch.Tensor, rtol: float, atol: float) -> Statistics:
    """`measure_beside_fill`: on the host only where one number may be all that either side is filled with."""
    found = measured(reference, candidate, rtol, atol)
    if not may_be_filled(found) or between(reference):
        return found
    return measure_beside_fill(to_payload(reference), to_payload(candidate), rtol, atol)


def between(tensor: torch.Tensor) -> bool:
    """Whether some of its numbers are neither the largest nor nothing beside it (`BETWEEN`): it is not filled then."""
    sizes = torch.where(torch.isfinite(tensor), tensor.abs(), 0.0)
    largest = float(sizes.max())
    low, high = (share * largest for share in BETWEEN)
    return bool(((sizes > low) & (sizes < high)).any())


def measured(reference: torch.Tensor, candidate: torch.Tensor, rtol: float = 0.0, atol: float = 0.0) -> Statistics:
    """All statistics of two tensors of one shape (`measurable` ones; sums may differ from the host's in their last bits)."""
    from whydiff.capturing.adapters.torch.device.measuring import measured as pass_over

    dtype = common_dtype(*(dtype_name(value.dtype) for value in (reference, candidate)))
    ours, theirs = (raw(value.detach()).contiguous() for value in (reference, candidate))
    return pass_over(ours, theirs, str(dtype), rtol, atol)


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the pass runs on a device and is right there."""
    line = np.random.default_rng(0).standard_normal(20_001).astype(np.float32)
    other = line * np.float32(1.001)
    line[:3], other[1:4] = (0.0, math.inf, math.nan), (1.0, math.inf, -0.0)
    try:
        found = measured(torch.from_numpy(line).to(device), torch.from_numpy(other).to(device), 1e-3, 1e-6)
    except UNUSABLE:
        return False
    expected = measure(Payload(line, "float32"), Payload(other, "float32"), 1e-3, 1e-6)
    return alike(found, expected)


def alike(found: Statistics, expected: Statistics) -> bool:
    """Whether two passes found the same: counts and maxima equal, sums and the largest ratio but for their last bits."""
    product = math.sqrt(expected.sum_reference_square * expected.sum_candidate_square)
    beside = {"sum_difference": expected.sum_abs, "sum_product": product}  # what is added may cancel
    for name in Statistics.__slots__:
        one, other = getattr(found, name), getattr(expected, name)
        rounded = name.startswith("sum_") or name == "max_rel"
        if one != other and not (rounded and abs(one - other) <= 1e-11 * beside.get(name, abs(other))):
            return False
    return True
