"""When the interpreter looks for garbage: not while objects are made that stay. What is left open when it ends."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


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


_aside: list[None] = []
"""Not empty in a block of `set_aside` that froze something: to count what is frozen is to walk through all of it."""


def frozen() -> bool:
    """Whether somebody froze what there is, which is thousands of objects in the emptiest of programs."""
    return bool(_aside) or gc.get_freeze_count() > _OWN


@contextmanager
def set_aside() -> Iterator[None]:
    """What exists now is not searched for garbage in this block; whatever somebody froze before stays frozen."""
    if frozen():  # whoever froze something is not to find it thawed
        yield
        return
    _aside.append(None)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        _aside.clear()


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


def write_out() -> None:
    """Flush every open file, and close those that write more when they end (compressed ones): for the end of a process.

    Python does so with what the globals of its main program hold, and only with that.
    """
    gc.unfreeze()
    files = io.IOBase.__base__ or io.IOBase
    opened: list[Any] = [one for one in gc.get_objects() if issubclass(type(one), files)]
    standard = sys.stdout, sys.stderr
    for stream in (*standard, *opened):
        with suppress(Exception):  # closed, only read, or its reader is gone
            stream.flush()
    for stream in opened:
        with suppress(Exception):
            if type(stream).__module__ != "_io" and not any(stream is one for one in standard):
                stream.close()
