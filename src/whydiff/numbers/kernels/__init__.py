"""How whydiff's own kernels are compiled (`compiled`, the one door to numba) and spread over threads (`threads`)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from whydiff.garbage import not_collecting

_HURRIED: ContextVar[bool] = ContextVar("whydiff_hurried", default=False)


@contextmanager
def hurried() -> Iterator[None]:
    """A block for what is told after Ctrl-C: to load numba may take longer than all of it."""
    token = _HURRIED.set(True)
    try:
        yield
    finally:
        _HURRIED.reset(token)


def worth_loading(package: str) -> bool:
    """False in a hurry, where the kernel of a package is not loaded already."""
    return not _HURRIED.get() or f"whydiff.numbers.{package}._kernel" in sys.modules


def kernel_of(package: str) -> Any:
    """The compiled module of a package of `whydiff.numbers`, imported at its first use and never before.

    None where numba is missing, refuses this numpy, or is switched off: plain numpy then gives the same values.
    """
    try:
        with not_collecting():
            return importlib.import_module(f"whydiff.numbers.{package}._kernel")
    except ImportError:
        return None
