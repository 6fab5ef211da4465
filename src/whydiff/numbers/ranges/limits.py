"""Formats whose range is measured, and which of them are narrower than another."""

from __future__ import annotations

from whydiff.errors import UsageError
from whydiff.numbers.formats import FORMATS, Format

LIMITS = {name: FORMATS[name] for name in ("float64", "float32", "bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")}
"""Formats by name, widest range first."""


def limits(dtype: str) -> Format:
    """A format that is known here.

    Raises:
        UsageError: not a floating format that is known here.
    """
    if dtype not in LIMITS:
        raise UsageError("The range of this dtype is not known.", actual=dtype, expected=", ".join(LIMITS))
    return LIMITS[dtype]


def narrower(dtype: str) -> tuple[str, ...]:
    """Formats with a smaller range than a format's own, widest first."""
    own = limits(dtype)
    return tuple(
        name
        for name, other in LIMITS.items()
        if (other.largest, -other.smallest) < (own.largest, -own.smallest) and other.largest <= own.largest
    )
