"""A lazy pool of threads for kernels that release the GIL (`whydiff.numbers.fingerprint`, `whydiff.numbers.metrics`).

Plain Python threads around serial kernels, not OpenMP or numba's ``prange``: no clash with the framework's
own OpenMP runtime, no change to the number of threads that it uses, and a forked child starts a fresh pool.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

MOST_THREADS = 8
"""More readers than this do not raise the memory bandwidth of the machines we know."""

_pool: ThreadPoolExecutor | None = None


def usable_threads() -> int:
    """Cores that this process may use, at most `MOST_THREADS`."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    return max(1, min(MOST_THREADS, cores))


def spread(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], workers: int | None = None
) -> list[Result]:
    """``[function(*a) for a in arguments]``, on several threads, of which the caller's is one.

    Every thread takes the next part when it is done with one, so a thread that wakes up late or shares its
    core with other work delays nobody. An exception of any part is raised here.

    Args:
        function: releases the GIL for most of its time and does not call `spread`.
        arguments: one tuple per part.
        workers: threads, `usable_threads` by default.
    """
    global _pool
    parts = list(arguments)
    if len(parts) == 1:
        return [function(*parts[0])]
    results: list[Any] = [None] * len(parts)
    todo = iter(range(len(parts)))
    turn = threading.Lock()

    def work() -> None:
        while True:
            with turn:
                index = next(todo, None)
            if index is None:
                return
            results[index] = function(*parts[index])

    helpers = min(workers or usable_threads(), len(parts)) - 1
    if helpers > 0 and _pool is None:
        _pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="whydiff")
    pool, futures = _pool, []
    for _ in range(helpers):
        try:
            futures.append(pool.submit(work))  # type: ignore[union-attr]
        except RuntimeError:  # `stop` was called meanwhile: the caller's thread does the work
            break
    work()
    for future in futures:
        if not future.cancel():  # it has started: wait for its last part
            future.result()
    return results


def started() -> bool:
    """Whether threads wait for work."""
    return _pool is not None


def stop() -> None:
    """End the threads that wait for work; the next `spread` starts new ones."""
    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        pool.shutdown(wait=True)


def _forget_pool() -> None:
    """In a forked child the parent's threads do not exist."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
