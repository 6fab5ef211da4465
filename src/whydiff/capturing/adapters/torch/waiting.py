"""While a program waits for a collective, what the library does to end it is no part of the program.

Gloo, for one, ends a reduce-scatter by copying a part of a buffer of its own, in the thread that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

_listening = 0
_wait: Callable[..., Any] | None = None


def begin() -> None:
    """From now on, ops inside of ``Work.wait`` are nobody's."""
    global _listening, _wait
    _listening += 1
    if _listening == 1 and torch.distributed.is_available():
        _wait = torch.distributed.Work.wait
        torch.distributed.Work.wait = _waited  # type: ignore[method-assign, assignment]


def end() -> None:
    """As it was, once nobody listens any more."""
    global _listening, _wait
    _listening -= 1
    if _listening == 0 and _wait is not None:
        torch.distributed.Work.wait = _wait  # type: ignore[method-assign]
        _wait = None


def _waited(work: Any, *args: Any, **kwargs: Any) -> Any:
    wait = _wait
    with _disable_current_modes():
        return wait(work, *args, **kwargs) if wait is not None else work.wait(*args, **kwargs)
