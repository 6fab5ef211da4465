"""What other threads run while one is captured: counted, not recorded.

Modes belong to a thread. A thread that begins during a capture gets one that counts; module calls are counted on
every thread (`scopes`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.capturing.holes import Holes

_counting: list[Holes] = []
_start: Callable[[threading.Thread], None] = threading.Thread.start
WHY = "ran on another thread than the capture's"


class _Counts(TorchDispatchMode):
    """Counts the ops of a thread for every capture that is active."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # no wrapper that imports the compiler

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for holes in _counting:
            holes.add("thread", f"operators that {WHY}", threading.current_thread().name)
        return func(*args, **(kwargs or {}))


def count(holes: Holes) -> None:
    """Count what threads run that begin from now on."""
    global _start
    if not _counting:
        _start = threading.Thread.start
        threading.Thread.start = _started  # type: ignore[method-assign, assignment]
    _counting.append(holes)


def stop(holes: Holes) -> None:
    """Count for it no more; threads begin as they did when nobody counts."""
    _counting[:] = [held for held in _counting if held is not holes]
    if not _counting and threading.Thread.start is _started:
        threading.Thread.start = _start  # type: ignore[method-assign, assignment]


def _started(thread: threading.Thread) -> None:
    if _counting and "run" not in vars(thread):
        own = thread.run

        def run() -> None:
            del thread.run
            with _Counts():
                own()

        thread.run = run  # type: ignore[method-assign]
    _start(thread)
