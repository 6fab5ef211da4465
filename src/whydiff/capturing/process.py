"""What a process is besides its memory, as it was found, and the way back.

Frameworks keep more; an adapter's ``process`` says what, and puts it back.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from whydiff import registry
from whydiff.numbers.kernels import threads


class Process:
    """Remembers on construction, puts back in `restore` what changed since.

    Working directory, environment variables, warnings' filters, the garbage collector's switches, ``sys.path``, modules
    that were loaded, standard streams, the recursion limit, numpy's error handling, and the global generators of Python
    and numpy. Modules that were loaded since stay.
    """

    def __init__(self) -> None:
        self._directory = _directory()
        self._variables = dict(os.environ)
        self._filters, self._show = list(warnings.filters), warnings.showwarning
        self._collecting, self._threshold = gc.isenabled(), gc.get_threshold()
        self._path, self._modules = list(sys.path), dict(sys.modules)
        self._streams = sys.stdout, sys.stderr, sys.stdin
        self._depth = sys.getrecursionlimit()
        self._errors = np.geterr()
        self._random, self._numpy = random.getstate(), np.random.get_state()

    def restore(self) -> None:
        """Put everything back that changed."""
        if self._directory is not None and _directory() != self._directory:
            os.chdir(self._directory)
        if dict(os.environ) != self._variables:
            for name in set(os.environ) - set(self._variables):
                del os.environ[name]
            os.environ.update(self._variables)
        if warnings.filters != self._filters:
            filters: Any = warnings.filters
            filters[:] = self._filters
            filters_changed: Any = (
                vars(warnings).get("_filters_mutated") or vars(warnings)["_filters_mutated_lock_held"]
            )
            filters_changed()
        warnings.showwarning = self._show
        (gc.enable if self._collecting else gc.disable)()
        gc.set_threshold(*self._threshold)
        sys.path[:] = self._path
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        sys.stdout, sys.stderr, sys.stdin = self._streams
        sys.setrecursionlimit(self._depth)
        np.seterr(**self._errors)
        random.setstate(self._random)
        np.random.set_state(self._numpy)


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed: there is nothing to go back to
        return None


@contextmanager
def as_found() -> Iterator[None]:
    """A block after which the process is what it was before, also where it raised.

    Frameworks that are loaded before the block are put back too, and threads that the block started end.
    """
    loaded = [registry.get("adapters", name) for name in registry.names("adapters") if name in sys.modules]
    with ExitStack() as stack:
        if not threads.started():
            stack.callback(threads.stop)
        for adapter in loaded:
            stack.callback(adapter.process().restore)
        stack.callback(Process().restore)
        yield
