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
from contextlib import ExitStack, contextmanager, suppress
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
        self._variables = _variables()
        self._filters, self._show = list(warnings.filters), warnings.showwarning
        self._collecting, self._threshold = gc.isenabled(), gc.get_threshold()
        self._path = list(sys.path)
        self._modules = sys.modules.copy()
        self._streams = sys.stdout, sys.stderr, sys.stdin
        self._depth = sys.getrecursionlimit()
        self._errors = np.geterr()
        self._random, self._numpy = random.getstate(), np.random.get_state()

    def restore(self) -> None:
        """Put everything back that changed."""
        if self._directory is not None and _directory() != self._directory:
            os.chdir(self._directory)
        if _variables() != self._variables:
            before = {os.fsdecode(name): os.fsdecode(value) for name, value in self._variables.items()}
            for name in set(os.environ) - set(before):
                del os.environ[name]
            os.environ.update(before)
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
        self._restore_modules()
        sys.stdout, sys.stderr, sys.stdin = self._streams
        sys.setrecursionlimit(self._depth)
        np.seterr(**self._errors)
        random.setstate(self._random)
        np.random.set_state(self._numpy)

    def _restore_modules(self) -> None:
        """Modules that were loaded; nearly always they are there, and are all that are loaded now."""
        with suppress(Exception):  # what stands for a module may be compared as it likes
            if sys.modules == self._modules or self._modules.items() <= sys.modules.items():
                return
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module


class Draws:
    """Which of Python's and numpy's global generators a block draws from as it finds them, without seeding them.

    A block that seeds one to the very state it found cannot be told from one that does not.

    Attributes:
        found: ``"python"``, ``"numpy"``; told after the block.
    """

    def __init__(self) -> None:
        self.found: tuple[str, ...] = ()
        self._before: dict[str, Any] = {}

    def __enter__(self) -> Draws:
        self._before = _generators()
        return self

    def __exit__(self, *exception: Any) -> None:
        after = _generators()
        self.found = tuple(name for name, before in self._before.items() if _went_on(before, after[name]))


_State = tuple[Any, int]
_BLOCKS = 4096
"""So many times the 624 words of a state are followed."""


def _generators() -> dict[str, _State]:
    """The words of each state, and how many of them were used."""
    words = random.getstate()[1]
    other: Any = np.random.get_state(legacy=False)
    found = {"python": (np.asarray(words[:-1], np.uint32), words[-1])}
    if other["bit_generator"] == "MT19937":
        found["numpy"] = other["state"]["key"], other["state"]["pos"]
    return found


def _went_on(before: _State, after: _State) -> bool:
    """Whether one state of a Mersenne twister follows from another by drawing, and not by seeding it anew."""
    (words, used), (wanted, now) = before, after
    if np.array_equal(words, wanted):
        return now > used
    follower: Any = np.random.MT19937()
    follower.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": len(words)}}
    first = _drawn(int(wanted[0]))
    for _ in range(_BLOCKS):
        drawn = follower.random_raw()  # to take out all words of a state takes longer than to make them
        follower.random_raw(len(words) - 1, output=False)
        if drawn == first and np.array_equal(follower.state["state"]["key"], wanted):
            return True
    return False


def _drawn(word: int) -> int:
    """What a Mersenne twister gives for a word of its state (Matsumoto and Nishimura 1998, tempering)."""
    word ^= word >> 11
    word ^= word << 7 & 0x9D2C5680
    word ^= word << 15 & 0xEFC60000
    return word ^ word >> 18


def _variables() -> dict[Any, Any]:
    """The environment's variables as they are held, encoded where the system wants them so: to decode all takes long."""
    held: Any = os.environ
    return dict(vars(held)["_data"] if isinstance(held, os._Environ) else held)


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
