"""What ops read, exactly: in float64 where somebody asks for it, and until then as it was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.metrics import as_reals, is_integer, values
from whydiff.records import Payload

Array = np.ndarray[Any, Any]

_BLOCK = 1 << 18
"""Numbers that are widened at once."""


def exact_values(payload: Payload) -> Array:
    """A payload's exact values: float64 for floats, integers and booleans as they are.

    Complex numbers are pairs of reals along a last axis of two, here and wherever the oracle looks.
    """
    payload = as_reals(payload)
    bits, dtype = payload.bits, payload.dtype
    if is_integer(dtype):
        return values(bits, dtype)
    if bits.size <= _BLOCK or not bits.flags.c_contiguous:
        return np.asarray(values(bits, dtype), dtype=np.float64)
    exact = np.empty(bits.shape)
    line, filled = bits.reshape(-1), exact.reshape(-1)

    def widen(begin: int) -> None:
        filled[begin : begin + _BLOCK] = values(line[begin : begin + _BLOCK], dtype)

    spread(widen, [(begin,) for begin in range(0, bits.size, _BLOCK)])
    return exact


class Reads(Sequence[Array]):
    """What an op reads: `exact_values` of each payload, made where they are asked for.

    A product is judged at a few outputs: of a large weight it needs some numbers, and of the other side's often none.

    Args:
        payloads: in the order of the reads.
    """

    def __init__(self, payloads: Sequence[Payload]) -> None:
        self.payloads = tuple(as_reals(payload) for payload in payloads)
        self._exact: dict[int, Array] = {}

    def __len__(self) -> int:
        return len(self.payloads)

    @overload
    def __getitem__(self, index: int) -> Array: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Array]: ...

    def __getitem__(self, index: int | slice) -> Array | Sequence[Array]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        if at not in self._exact:
            self._exact[at] = exact_values(self.payloads[at])
        return self._exact[at]


def payload_of(reads: Sequence[Array], index: int) -> Payload:
    """One of the reads as it is held: as it was recorded, or in float64."""
    if isinstance(reads, Reads):
        return reads.payloads[index]
    return Payload(reads[index], reads[index].dtype.name)
