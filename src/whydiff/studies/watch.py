"""Who listens to `whydiff.assert_same`: a test's marker says what is allowed, its report hears what was found.

Imports nothing, so that a plugin can wrap every test without loading what only few of them use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Watch:
    """One listener.

    Attributes:
        allow: word of the worst verdict that passes where an assertion does not say; empty: nobody says.
        seen: diagnoses that passed, in order.
        failed: the diagnosis (or what a sweep found) that did not; the last one.
    """

    allow: str = ""
    seen: list[Any] = field(default_factory=list)
    failed: Any = None


_WATCH: ContextVar[Watch | None] = ContextVar("whydiff_watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[Watch]:
    """A block whose assertions use a `Watch`."""
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def current() -> Watch:
    """The innermost listener; one that nobody reads if there is none."""
    return _WATCH.get() or Watch()
