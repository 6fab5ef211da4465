"""How whydiff's own kernels are compiled (`compiled`, the one door to numba) and spread over threads (`threads`)."""

from __future__ import annotations

import importlib
from typing import Any


def kernel_of(package: str) -> Any:
    """The compiled module of a package of `whydiff.numbers`, imported at its first use and never before.

    None where numba is missing, refuses this numpy, or is switched off: plain numpy then gives the same values.
    """
    try:
        return importlib.import_module(f"whydiff.numbers.{package}._kernel")
    except ImportError:
        return None
