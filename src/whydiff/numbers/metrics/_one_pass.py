"""One pass over two tensors: every number that a metric needs, memory bounded by the block size.

Conventions: d = candidate - reference; only ``abs(reference)`` is ever a denominator. Complex numbers are
pairs of reals. Values of two different dtypes are widened exactly to a common dtype first (the difference of
the *specs* is judged by `whydiff.numbers.comparison`, never here). Arithmetic is float64 whatever the dtype: squares
neither overflow nor vanish for float32 and narrower inputs. Sums and maxima run over pairs of finite values;
every other pair is counted instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.errors import UsageError
from whydiff.numbers.formats import MINIFLOATS, minifloat_table
from whydiff.numbers.kernels import kernel_of, threads, worth_loading
from whydiff.numbers.metrics import _dtypes
from whydiff.numbers.metrics._layout import COUNTS, KINDS, POWERS, SUMS
from whydiff.records import Payload

Array = np.ndarray[Any, Any]
Share = tuple[Array, Array, Array, int]

SHARE = 1 << 18
"""Elements per share: the unit of work of a thread, and of the order of summation."""
_STEPS = np.array([1 << (2 * k) for k in range(POWERS)], np.uint64)

SMALL = 1 << 13
"""Numbers up to which plain numpy does the work: to load numba takes longer than a program of such tensors. It is
chosen by size alone, so that a result does not depend on what the process did before."""
_HURRIED = 1 << 22
"""The same after Ctrl-C: half a second in plain numpy, where numba takes twice that to load."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one pass collects; see the module docstring for the conventions.

    Attributes:
        dtype: in which both were compared (their own, or the common one).
        elements: real numbers compared (a complex number counts twice).
        finite: pairs in which both are finite: the population of all sums and maxima.
        different: pairs whose bits differ after exact widening (so +0 and -0 differ).
        mismatched: pairs over the tolerance: abs(d) > atol + rtol * abs(reference), or unequal and not both
            finite (two NaN are equal here).
        sign_flips: pairs of opposite sign; zeros have none.
        over_zero: finite pairs with reference == 0 and candidate != 0, which `max_rel` cannot count.
        inf_mismatch: pairs without NaN in which at least one is infinite and they are not equal.
        nan_reference: NaN in the reference.
        nan_candidate: NaN in the candidate.
        nan_both: NaN in both.
        first_mismatch: flat index of the first pair over the tolerance; -1: none.
        argmax: flat index of the (first) largest abs(d); -1: no finite pair differs.
        max_abs: largest abs(d).
        max_rel: largest abs(d) / abs(reference) where the reference is not 0.
        sum_abs: sum of abs(d).
        sum_difference: sum of d.
        sum_square: sum of d**2.
        sum_reference_square: sum of reference**2.
        sum_candidate_square: sum of candidate**2.
        sum_product: sum of reference * candidate.
        max_ulp: largest ULP distance: steps between the two on the number line of `dtype` (key u if the
            sign bit is clear, else -(u without it); +0 and -0 are one); for integers abs(d). Pairs with NaN
            count 0. Huge near zero: read it with `ulp_at_least`.
        ulp_at_least: how many pairs are at least 4**k steps apart, k = 0 .. 31.
    """

    dtype: str
    elements: int
    finite: int
    different: int
    mismatched: int
    sign_flips: int
    over_zero: int
    inf_mismatch: int
    nan_reference: int
    nan_candidate: int
    nan_both: int
    first_mismatch: int
    argmax: int
    max_abs: float
    max_rel: float
    sum_abs: float
    sum_difference: float
    sum_square: float
    sum_reference_square: float
    sum_candidate_square: float
    sum_product: float
    max_ulp: int
    ulp_at_least: tuple[int, ...]

    @property
    def nan_mismatch(self) -> int:
        """Pairs of which exactly one is NaN."""
        return self.nan_reference + self.nan_candidate - 2 * self.nan_both


def measure(reference: Payload, candidate: Payload, rtol: float = 0.0, atol: float = 0.0) -> Statistics:
    """All statistics of two payloads of one shape, in one pass, on all usable cores.

    The result does not depend on the number of threads. Memory-mapped payloads are read block by block.

    Args:
        reference: the trusted one.
        candidate: same shape, any dtype that has a common exact dtype with the reference's.
        rtol: tolerated part of abs(reference), for `Statistics.mismatched` only.
        atol: tolerated absolute difference, likewise.

    Raises:
        UsageError: shapes differ, a dtype is unknown, or no dtype holds the values of both exactly.
    """
    if reference.bits.shape != candidate.bits.shape:
        raise UsageError(
            "Only tensors of one shape can be measured.",
            actual=f"{list(candidate.bits.shape)}",
            expected=f"{list(reference.bits.shape)}",
        )
    r = _dtypes.flat(reference.bits, reference.dtype)
    c = _dtypes.flat(candidate.bits, candidate.dtype)
    return measure_shares(
        lambda start, stop: (r[start:stop], c[start:stop]), r.size, reference.dtype, candidate.dtype, rtol, atol
    )


def measure_shares(
    load: Callable[[int, int], tuple[Array, Array]],
    numbers: int,
    reference: str,
    candidate: str,
    rtol: float = 0.0,
    atol: float = 0.0,
    share: int = SHARE,
) -> Statistics:
    """The same statistics of two lines of numbers that are loaded share by share (from files, say).

    Args:
        load: (start, stop) → the bits of these real numbers on both sides, as 1-D arrays; called on several
            threads at once; what it returns is used until the same thread calls it again.
        numbers: how many there are; a complex number is two.
        reference: true dtype of the trusted line (a complex one: of the whole number).
        candidate: true dtype of the other.
        rtol: as for `measure`.
        atol: as for `measure`.
        share: numbers per call of ``load``; sums are rounded in the order of the shares.

    Raises:
        UsageError: a dtype is unknown, or no dtype holds the values of both exactly.
    """
    dtype = _dtypes.common_dtype(reference, candidate)
    if dtype is None:
        raise UsageError("No dtype holds the values of both exactly.", actual=candidate, expected=reference)
    part = _dtypes.real_part_dtype(dtype)
    owns = [_dtypes.real_part_dtype(own) for own in (reference, candidate)]

    small = SMALL if worth_loading("metrics") else _HURRIED
    way = numpy_share if numbers <= small else _implementation()

    def one(start: int) -> Share:
        lines = load(start, min(start + share, numbers))
        pieces = [_widen(line, own, part) for line, own in zip(lines, owns, strict=True)]
        found = way(pieces[0], pieces[1], part, float(rtol), float(atol))
        indices = found[1][-2:]
        indices[indices >= 0] += start
        return found

    return _merge(dtype, threads.spread(one, [(start,) for start in range(0, numbers, share)]))


def implementation() -> str:
    """``"numba"`` or ``"numpy"`` (numba missing or unusable: slower, same numbers up to summation order)."""
    return "numpy" if _implementation() is numpy_share else "numba"


@functools.cache
def _implementation() -> Callable[[Array, Array, str, float, float], Share]:
    return numba_share if kernel_of("metrics") else numpy_share


def _widen(line: Array, own: str, part: str) -> Array:
    """Exactly, from one real dtype to another; not copied if they are the same."""
    with np.errstate(invalid="ignore"):  # signalling NaN become quiet
        return line if own == part else _dtypes.values(line, own).astype(part)


def numba_share(r: Array, c: Array, part: str, rtol: float, atol: float) -> Share:
    """The compiled kernel on one share."""
    kernel = kernel_of("metrics").one_pass
    if _dtypes.is_integer(part) and part != "uint64":
        r, c, part = r.astype(np.int64, copy=False), c.astype(np.int64, copy=False), "int64"
    table = _code_table(part)
    kind = KINDS.index(part if part in KINDS else f"table{8 * r.itemsize}")
    sign = _dtypes.sign_bit(part)
    sign -= (sign >> 63) << 64  # as int64
    addresses = [line.__array_interface__["data"][0] for line in (r, c, table)]
    return kernel(*addresses[:2], r.size, kind, addresses[2], sign, rtol, atol)  # type: ignore[no-any-return]


@functools.cache
def _code_table(part: str) -> Array:
    """float32 value per code; empty where the kernel needs none."""
    if part == "float16":
        return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return minifloat_table(part) if part in MINIFLOATS else np.zeros(0, np.float32)


def numpy_share(r: Array, c: Array, part: str, rtol: float, atol: float) -> Share:
    """The same statistics in plain numpy."""
    different, kr, kc = _keys(r, c, part)
    ulp = np.maximum(kr, kc).view(np.uint64) - np.minimum(kr, kc).view(np.uint64)
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN, squares
        x, y = (_dtypes.values(line, part).astype(np.float64) for line in (r, c))
        flips = np.count_nonzero(np.sign(x) * np.sign(y) < 0)
        finite = np.isfinite(x) & np.isfinite(y)
        number, special, unequal = r.size, (0, 0, 0, 0), None
        if not finite.all():
            special, unequal = _not_finite(x, y, finite)
            ulp[np.isnan(x) | np.isnan(y)] = 0
            number, x, y = int(np.count_nonzero(finite)), np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        d = np.where(kc >= kr, 1.0, -1.0) * ulp.astype(np.float64) if _dtypes.is_integer(part) else y - x
        distance, size = np.abs(d), np.abs(x)
        counted = np.count_nonzero(x) == x.size
        ratio = distance / size if counted else np.divide(distance, size, out=np.zeros_like(d), where=x != 0)
        mismatched = distance > atol + rtol * size
        if unequal is not None:
            mismatched |= unequal
        sums = [distance.sum(), d.sum(), (d * d).sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
    max_abs = float(distance.max(initial=0.0))
    wrong = np.count_nonzero(mismatched)
    counts = [
        r.size,
        number,
        different,
        wrong,
        flips,
        0 if counted else np.count_nonzero((x == 0) & (y != 0)),
        *special,
        int(mismatched.argmax()) if wrong else -1,
        int(distance.argmax()) if max_abs > 0 else -1,
    ]
    powers, top = _powers(ulp)
    return np.array([*sums, max_abs, ratio.max(initial=0.0)]), np.array(counts, np.int64), powers, top


def _keys(r: Array, c: Array, part: str) -> tuple[int, Array, Array]:
    """How many bits differ, and where both stand on the number line of their dtype."""
    width = r.itemsize
    if part == "uint64":
        kr, kc = ((line ^ np.uint64(1 << 63)).view(np.int64) for line in (r, c))
        return int(np.count_nonzero(kr != kc)), kr, kc
    if _dtypes.is_integer(part):
        kr, kc = r.astype(np.int64), c.astype(np.int64)
        return int(np.count_nonzero(kr != kc)), kr, kc
    different = int(np.count_nonzero(r.view(f"u{width}") != c.view(f"u{width}")))
    if not _dtypes.sign_bit(part):
        return different, r.view(f"u{width}").astype(np.int64), c.view(f"u{width}").astype(np.int64)
    lowest = np.int64(-1 << (8 * width - 1))  # the sign is the highest bit: a negative number's bits count from here
    kr, kc = (line.view(f"i{width}").astype(np.int64) for line in (r, c))
    return different, np.where(kr < 0, lowest - kr, kr), np.where(kc < 0, lowest - kc, kc)


def _not_finite(x: Array, y: Array, finite: Array) -> tuple[tuple[int, int, int, int], Array]:
    """Pairs with infinity on one side, NaN in the first, in the second, in both; and which are not equal."""
    nan_x, nan_y = np.isnan(x), np.isnan(y)
    both = nan_x & nan_y
    infinite = ~finite & ~nan_x & ~nan_y & (x != y)
    counts = [int(np.count_nonzero(found)) for found in (infinite, nan_x, nan_y, both)]
    return (counts[0], counts[1], counts[2], counts[3]), ~finite & ~((x == y) | both)


def _powers(ulp: Array) -> tuple[Array, int]:
    """How many distances are at least 4**k, and the largest."""
    top = int(ulp.max(initial=0))
    reached = _STEPS[: 1 + (top.bit_length() - 1) // 2] if top else _STEPS[:0]
    powers = np.zeros(POWERS, np.int64)
    powers[: reached.size] = [np.count_nonzero(ulp >= step) for step in reached]
    return powers, top


def _merge(dtype: str, shares: list[Share]) -> Statistics:
    """Shares in the order of their elements, so that sums never depend on the threads."""
    if len(shares) == 1:  # of nearly every tensor
        numbers, counted, powers, top = shares[0]
        named: dict[str, Any] = dict(zip(COUNTS, counted.tolist(), strict=True))
        named |= {name: 0.0 + number for name, number in zip(SUMS, numbers.tolist(), strict=True)}
        return Statistics(dtype=dtype, max_ulp=int(top), ulp_at_least=tuple(powers.tolist()), **named)
    widths = len(SUMS), len(COUNTS), POWERS
    sums, counts, powers = (
        np.array([share[k] for share in shares]).reshape(len(shares), width) for k, width in enumerate(widths)
    )
    return merged(dtype, sums, counts, powers, np.array([share[3] for share in shares], np.uint64))


def merged(dtype: str, sums: Array, counts: Array, powers: Array, tops: Array) -> Statistics:
    """The statistics of pieces of two lines, in the order of their elements.

    Args:
        dtype: in which both are compared.
        sums: float64 ``[pieces, 8]``, by `SUMS`.
        counts: int64 ``[pieces, 12]``, by `COUNTS`; indices are those of the whole lines.
        powers: int64 ``[pieces, n]``, of each how many distances are at least 4**k; n up to `POWERS`.
        tops: ``[pieces]``, the largest ULP distances.
    """
    if not len(sums):
        sums, counts = np.zeros((1, len(SUMS))), np.array([[0] * (len(COUNTS) - 2) + [-1, -1]])
    added = np.cumsum(sums[:, :-2], axis=0)[-1].tolist()  # one after the other
    counted = counts[:, :-2].sum(axis=0).tolist()
    steps = powers.sum(axis=0, dtype=np.int64).tolist()
    mismatches = counts[counts[:, -2] >= 0, -2]
    largest = int(sums[:, -2].argmax())  # the first of equals
    return Statistics(
        dtype=dtype,
        **dict(zip(SUMS[:-2], added, strict=True)),
        **dict(zip(COUNTS[:-2], counted, strict=True)),
        first_mismatch=int(mismatches[0]) if mismatches.size else -1,
        argmax=int(counts[largest, -1]),
        max_abs=float(sums[largest, -2]),
        max_rel=float(sums[:, -1].max()),
        max_ulp=int(tops.max(initial=0)),
        ulp_at_least=tuple(steps) + (0,) * (POWERS - len(steps)),
    )
