"""When the interpreter looks for garbage: not while objects are made that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_collecting() -> Iterator[None]:
    """Garbage is not looked for meanwhile: for work that makes many records and no cycles.

    Looking through them all takes a third of the time of making them, and more of that of pairing them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_OWN = 1_000
"""Frozen objects that can be the interpreter's own: Python 3.12 begins with some hundreds, other versions with none."""


def frozen() -> bool:
    """Whether somebody froze what there is, which is thousands of objects in the emptiest of programs."""
    return gc.get_freeze_count() > _OWN


@contextmanager
def lasting() -> Iterator[None]:
    """`not_collecting`, for many records that are kept: when it ends they count as old, and are not looked through.

    What is garbage before is found before, as far as it is young.
    """
    if not gc.isenabled() or frozen():  # whoever froze something is not to find it thawed
        with not_collecting():
            yield
        return
    gc.collect(1)
    with not_collecting():
        yield
        gc.freeze()
        gc.unfreeze()


__all__ = ["frozen", "lasting", "not_collecting"]
