"""The one-pass comparison compiled with numba; imported by `whydiff.numbers.metrics._one_pass` at first use.

Blocks of 512 elements are loaded from raw memory as float64 values and int64 codes, whatever the dtype (so
there is one compiled version for all of them), and stay in the level-1 cache while several short loops, each
of which the compiler turns into SIMD code, read them. Blocks without a different bit take a shorter way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.numbers.kernels.compiled import (
    compiled,
    f64,
    i64,
    load_f32,
    load_f64,
    load_i64,
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    nb,
    u64,
)
from whydiff.numbers.metrics._layout import COUNTS, KINDS, POWERS, SUMS

BLOCK = 512
_INF = np.inf
_C = {name: index for index, name in enumerate(COUNTS)}
_S = {name: index for index, name in enumerate(SUMS)}
_ELEMENTS, _FINITE, _DIFFERENT, _MISMATCHED = (_C[n] for n in ("elements", "finite", "different", "mismatched"))
_FLIPS, _OVER_ZERO, _INF_MISMATCH = (_C[n] for n in ("sign_flips", "over_zero", "inf_mismatch"))
_NAN_R, _NAN_C, _NAN_BOTH = (_C[n] for n in ("nan_reference", "nan_candidate", "nan_both"))
_FIRST, _ARGMAX = _C["first_mismatch"], _C["argmax"]
_ABS, _D, _DD = (_S[n] for n in ("sum_abs", "sum_difference", "sum_square"))
_RR, _CC, _RC = (_S[n] for n in ("sum_reference_square", "sum_candidate_square", "sum_product"))
_MAX_ABS, _MAX_REL = _S["max_abs"], _S["max_rel"]
_SUMS, _COUNTS, _POWERS = len(SUMS), len(COUNTS), POWERS
_FLOAT32, _FLOAT64, _BFLOAT16, _TABLE16, _TABLE8, _INT64, _UINT64 = range(len(KINDS))
_TOP_BIT = np.uint64(1 << 63)
_NEARLY = 1 - 2**-50
_REASSOCIATE = {"reassoc", "nsz", "contract"}


@compiled()
def _load(address: Any, first: Any, n: Any, kind: Any, table: Any, codes: Any, words: Any, values: Any) -> None:
    """Elements from ``first``: ``codes`` (bits, or integers in the order of values) and ``values``."""
    if kind == _FLOAT64:
        for i in range(n):
            codes[i] = load_i64(address, first + i)
            values[i] = load_f64(address, first + i)
        return
    if kind == _INT64:
        for i in range(n):
            codes[i] = load_i64(address, first + i)
            values[i] = np.float64(codes[i])
        return
    if kind == _UINT64:
        for i in range(n):
            codes[i] = np.int64(load_u64(address, first + i) ^ _TOP_BIT)
            values[i] = np.float64(load_u64(address, first + i))
        return
    if kind == _FLOAT32:
        for i in range(n):
            codes[i] = np.int64(load_u32(address, first + i))
            values[i] = np.float64(load_f32(address, first + i))
        return
    if kind == _BFLOAT16:  # the upper half of a float32
        for i in range(n):
            codes[i] = np.int64(load_u16(address, first + i))
            words[i] = np.uint32(codes[i]) << np.uint32(16)
    elif kind == _TABLE16:
        for i in range(n):
            codes[i] = np.int64(load_u16(address, first + i))
            words[i] = load_u32(table, codes[i])
    else:
        for i in range(n):
            codes[i] = np.int64(load_u8(address, first + i))
            words[i] = load_u32(table, codes[i])
    floats = words.view(np.float32)
    for i in range(n):
        values[i] = np.float64(floats[i])


@compiled(fastmath=_REASSOCIATE)
def _equal_block(x: Any, n: Any, sums: Any, counts: Any) -> None:
    """All bits equal: only what the reference alone decides."""
    square = 0.0
    nans = finite = 0
    for i in range(n):
        ok = abs(x[i]) < _INF
        nans += x[i] != x[i]
        finite += ok
        square += x[i] * x[i] if ok else 0.0
    sums[_RR] += square
    sums[_CC] += square
    sums[_RC] += square
    counts[_FINITE] += finite
    counts[_NAN_R] += nans
    counts[_NAN_C] += nans
    counts[_NAN_BOTH] += nans


@compiled()
def _distances(kr: Any, kc: Any, x: Any, y: Any, n: Any, sign: Any, integer: Any, ulp: Any, d: Any, powers: Any) -> Any:
    """Fills ``ulp`` and ``d`` = candidate - reference (0 unless both are finite); returns the largest ULP."""
    for i in range(n):
        a = -(kr[i] & ~sign) if kr[i] & sign else kr[i]
        b = -(kc[i] & ~sign) if kc[i] & sign else kc[i]
        # unsigned, because the compiler takes it for granted that a signed difference does not overflow
        distance = np.uint64(b) - np.uint64(a) if b >= a else np.uint64(a) - np.uint64(b)
        distance = np.uint64(0) if (x[i] != x[i]) | (y[i] != y[i]) else distance
        ulp[i] = distance
        exact = np.float64(distance) if b >= a else -np.float64(distance)
        delta = exact if integer else y[i] - x[i]
        d[i] = delta if (abs(x[i]) < _INF) & (abs(y[i]) < _INF) else 0.0
    top = np.uint64(0)
    for i in range(n):
        top = max(ulp[i], top)
    for k in range(_POWERS):
        power = np.uint64(1) << np.uint64(2 * k)
        if power > top:
            break
        reached = 0
        for i in range(n):
            reached += ulp[i] >= power
        powers[k] += reached
    return top


@compiled(fastmath=_REASSOCIATE)
def _add_sums(x: Any, y: Any, d: Any, n: Any, sums: Any) -> Any:
    """Sums over pairs of finite values; returns how many there are."""
    s_abs = s_d = s_dd = s_rr = s_cc = s_rc = 0.0
    finite = 0
    for i in range(n):
        ok = (abs(x[i]) < _INF) & (abs(y[i]) < _INF)
        a = x[i] if ok else 0.0
        b = y[i] if ok else 0.0
        finite += ok
        s_abs += abs(d[i])
        s_d += d[i]
        s_dd += d[i] * d[i]
        s_rr += a * a
        s_cc += b * b
        s_rc += a * b
    sums[_ABS] += s_abs
    sums[_D] += s_d
    sums[_DD] += s_dd
    sums[_RR] += s_rr
    sums[_CC] += s_cc
    sums[_RC] += s_rc
    return finite


@compiled()
def _add_counts(x: Any, y: Any, d: Any, n: Any, rtol: Any, atol: Any, best: Any, counts: Any) -> Any:
    """Counts over pairs of finite values; returns (over the tolerance, may exceed the ratio ``best``)."""
    flips = over_zero = mismatched = promising = 0
    bound = best * _NEARLY
    for i in range(n):
        a = abs(x[i])
        flips += ((x[i] < 0.0) & (y[i] > 0.0)) | ((x[i] > 0.0) & (y[i] < 0.0))
        over_zero += (a == 0.0) & (d[i] != 0.0)
        mismatched += (abs(d[i]) > atol + rtol * a) & (a < _INF)
        promising += (abs(d[i]) > bound * a) & (a > 0.0) & (a < _INF)
    counts[_FLIPS] += flips
    counts[_OVER_ZERO] += over_zero
    return mismatched, promising


@compiled()
def _add_specials(x: Any, y: Any, n: Any, counts: Any) -> Any:
    """NaN and infinities of a block that has any; returns the unequal pairs (two NaN are equal)."""
    unequal = 0
    for i in range(n):
        nan_x = x[i] != x[i]
        nan_y = y[i] != y[i]
        counts[_NAN_R] += nan_x
        counts[_NAN_C] += nan_y
        counts[_NAN_BOTH] += nan_x & nan_y
        special = not ((abs(x[i]) < _INF) & (abs(y[i]) < _INF))
        unequal += special & (x[i] != y[i]) & (not (nan_x & nan_y))
        counts[_INF_MISMATCH] += special & (x[i] != y[i]) & (not (nan_x | nan_y))
    return unequal


@compiled()
def _largest(d: Any, n: Any, best: Any) -> Any:
    """Index of the first largest abs(d) if it exceeds ``best``, else -1 (bits order like absolute values)."""
    bits = d.view(np.int64)
    top = np.int64(0)
    for i in range(n):
        top = max(bits[i] & np.int64(0x7FFFFFFFFFFFFFFF), top)
    for i in range(n):
        if bits[i] & np.int64(0x7FFFFFFFFFFFFFFF) == top:
            return i if abs(d[i]) > best else -1
    return -1


@compiled(nb.types.Tuple((f64[::1], i64[::1], i64[::1], u64))(u64, u64, i64, i64, u64, i64, f64, f64))
def one_pass(reference: Any, candidate: Any, size: Any, kind: Any, table: Any, sign: Any, rtol: Any, atol: Any) -> Any:
    """Statistics of one share; see `whydiff.numbers.metrics._layout` for what is where.

    Args:
        reference: address of its first element.
        candidate: address of its first element.
        size: elements.
        kind: position in ``KINDS``.
        table: address of the float32 value per code, for the two table kinds.
        sign: mask of the sign bit; 0 for integers.
        rtol: relative tolerance, times abs(reference).
        atol: absolute tolerance.

    Returns:
        (sums float64, counts int64, ULP histogram int64, largest ULP distance uint64); indices within the
        share.
    """
    sums = np.zeros(_SUMS, np.float64)
    counts = np.zeros(_COUNTS, np.int64)
    powers = np.zeros(_POWERS, np.int64)
    max_ulp = np.uint64(0)
    kr, kc = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    x, y = np.empty(BLOCK, np.float64), np.empty(BLOCK, np.float64)
    ulp, d = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.float64)
    words = np.empty(BLOCK, np.uint32)
    counts[_ELEMENTS] = size
    counts[_FIRST] = counts[_ARGMAX] = -1
    for first in range(0, size, BLOCK):
        n = min(BLOCK, size - first)
        _load(reference, first, n, kind, table, kr, words, x)
        _load(candidate, first, n, kind, table, kc, words, y)
        different = 0
        for i in range(n):
            different += kr[i] != kc[i]
        if different == 0:
            _equal_block(x, n, sums, counts)
            continue
        counts[_DIFFERENT] += different
        top = _distances(kr, kc, x, y, n, sign, (kind == _INT64) | (kind == _UINT64), ulp, d, powers)
        max_ulp = max(top, max_ulp)
        finite = _add_sums(x, y, d, n, sums)
        counts[_FINITE] += finite
        mismatched, promising = _add_counts(x, y, d, n, rtol, atol, sums[_MAX_REL], counts)
        if finite < n:
            mismatched += _add_specials(x, y, n, counts)
        counts[_MISMATCHED] += mismatched
        if promising > 0:
            for i in range(n):
                if (x[i] != 0.0) & (abs(x[i]) < _INF):
                    sums[_MAX_REL] = max(sums[_MAX_REL], abs(d[i]) / abs(x[i]))
        peak = _largest(d, n, sums[_MAX_ABS])
        if peak >= 0:
            sums[_MAX_ABS] = abs(d[peak])
            counts[_ARGMAX] = first + peak
        if mismatched > 0 and counts[_FIRST] < 0:
            for i in range(n):
                special = not ((abs(x[i]) < _INF) & (abs(y[i]) < _INF))
                same = (x[i] == y[i]) | ((x[i] != x[i]) & (y[i] != y[i]))
                if (special & (not same)) | ((not special) & (abs(d[i]) > atol + rtol * abs(x[i]))):
                    counts[_FIRST] = first + i
                    break
    return sums, counts, powers, max_ulp
