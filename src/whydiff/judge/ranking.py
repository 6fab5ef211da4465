"""In which order the causes are told."""

from __future__ import annotations

from typing import Any, get_args

from whydiff.numbers.tolerance import LOCATED_FIRST
from whydiff.records import Cause, Status


def rank(cause: Cause) -> tuple[Any, ...]:
    """By the effect on the outputs; what was proven goes before a place that does not move them much more."""
    status = get_args(Status).index(cause.status)
    if cause.status not in ("confirmed", "located"):
        return (cause.inert, 1 + status, -cause.size, cause.code, cause.site)
    size = cause.size * (LOCATED_FIRST if cause.status == "confirmed" else 1.0)
    return (cause.inert, 0, -size, status, cause.code, cause.site)
