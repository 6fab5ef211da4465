"""Values that a user types."""

from __future__ import annotations

import json
import re
from typing import Any

from whydiff.errors import UsageError

_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def value(text: str) -> Any:
    """JSON where it is valid JSON, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def size_in_bytes(text: str) -> int:
    """``8GiB`` (1024³), ``500MB`` (1000²) or a plain number of bytes.

    Raises:
        UsageError: no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError("This is no size.", actual=text, expected="for example 8GiB, 500MB or 1000000")
    return int(float(match[1]) * _UNITS[match[2].lower()])
