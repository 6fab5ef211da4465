"""A lazy pool of threads for kernels that release the GIL (`whydiff.fingerprint`, `whydiff.metrics`).

Plain Python threads around serial kernels, not OpenMP or numba's ``prange``: no clash with the framework's
own OpenMP runtime, no change to the number of threads that it uses, and a forked child starts a fresh pool.
"""

from __future__ import annotations

import os
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


def spread(function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]) -> list[Result]:
    """``[function(*a) for a in arguments]``, on several threads; the caller's thread takes the first.

    ``function`` must release the GIL, must not call `spread` itself, and its result must not depend on order.
    An exception of any part is raised here.
    """
    global _pool
    first, *others = arguments
    if not others:
        return [function(*first)]
    if _pool is None:
        _pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="whydiff")
    futures = [_pool.submit(function, *part) for part in others]
    return [function(*first), *(future.result() for future in futures)]


def _forget_pool() -> None:
    """In a forked child the parent's threads do not exist."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
