"""One pass over raw memory: extremes, zeros, NaNs and the histogram of exponents, compiled with numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.fingerprint._numba import compiled, loader, nb

_u64 = nb.types.uint64
_load8, _load16, _load32, _load64 = (
    loader(t) for t in (nb.types.uint8, nb.types.uint16, nb.types.uint32, nb.types.uint64)
)
_SIGNATURE = "void(uint64, int64, int64, int64, int64, uint64, int64[:, :], uint64[:])"


@compiled(_SIGNATURE)
def scan(address: Any, first: Any, n: Any, width: Any, fraction: Any, top: Any, histogram: Any, extremes: Any) -> None:
    """Add ``n`` elements from index ``first`` to four interleaved histograms and two extremes.

    Args:
        address: of the first element of the tensor.
        first, n: element range.
        width: bytes per element (1, 2, 4, 8).
        fraction: fraction bits of the format.
        top: the first pattern (without the sign) that is not finite.
        histogram: int64 ``(4, 2 ** exponent_bits)``, added to; the row is the element's index modulo 4.
        extremes: uint64 ``[largest, smallest non-zero, zeros, above top, from top]`` of the bits without the sign;
            the last three are counts.
    """
    mask = (_u64(1) << _u64(width * 8 - 1)) - _u64(1)
    shift = _u64(fraction)
    largest, smallest = extremes[0], extremes[1]
    zeros, above, special = _u64(0), _u64(0), _u64(0)
    for i in range(n):
        if width == 4:
            bits = _u64(_load32(address, first + i)) & mask
        elif width == 2:
            bits = _u64(_load16(address, first + i)) & mask
        elif width == 8:
            bits = _load64(address, first + i) & mask
        else:
            bits = _u64(_load8(address, first + i)) & mask
        histogram[i & 3, np.int64(bits >> shift)] += 1
        zeros += bits == _u64(0)
        above += bits > top
        special += bits >= top
        if bits < top and bits > largest:
            largest = bits
        if bits != _u64(0) and bits < smallest:
            smallest = bits
    extremes[0], extremes[1] = largest, smallest
    extremes[2] += zeros
    extremes[3] += above
    extremes[4] += special
